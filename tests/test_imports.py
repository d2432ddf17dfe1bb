"""Which module imports which: no circles, and packages only import from packages below them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import networkx as nx

SOURCE = Path(__file__).parents[1] / "src"
MODULES = {
    ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in SOURCE.rglob("*.py")
}


def imports_of(tree: ast.Module, module: str) -> Iterator[str]:
    """The modules of this project that importing `module` imports: not those under TYPE_CHECKING or in functions."""
    pending: list[ast.stmt] = list(tree.body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending += node.orelse
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            for name in node.names:
                whole = f"{node.module}.{name.name}"
                yield whole if whole in MODULES else str(node.module)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            pending += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]
            pending += [each for handler in getattr(node, "handlers", []) for each in handler.body]


def import_graph() -> nx.DiGraph:
    graph = nx.DiGraph()
    for module, path in MODULES.items():
        for name in imports_of(ast.parse(path.read_text(encoding="utf-8")), module):
            if name not in MODULES or name == module:
                continue
            graph.add_edge(module, name)
            # Importing a module runs its packages first, unless this module is inside of them and they run already.
            for parent in parents(name):
                if not f"{module}.".startswith(f"{parent}."):
                    graph.add_edge(module, parent)
    return graph


def parents(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]


def test_no_module_imports_itself_through_others():
    circles = [sorted(circle) for circle in nx.strongly_connected_components(import_graph()) if len(circle) > 1]
    assert circles == []
