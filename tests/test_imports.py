"""Which module imports which: no circles, and packages only import from packages below them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import networkx as nx
import pytest

SOURCE = Path(__file__).parents[1] / "src"
MODULES = {
    ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in SOURCE.rglob("*.py")
}


# From top to bottom: a package imports only from those below it, and those on its own line.
LAYERS = [
    ["__main__", "cli"],
    ["api", "doctor"],
    ["sweep"],
    ["executors"],
    ["runner", "formats"],
    ["preflight", "training"],
    ["export", "report", "analysis"],
    ["mining"],
    ["embed"],
    ["inference"],
    ["encoding"],
    ["models", "losses", "evaluation"],
    ["metrics"],
    ["data"],
    ["runs"],
    ["config"],
]
# The script that processes of a run are started from is an entry point, like the command line.
ENTRY_POINTS = {"finetune.runner.__main__"}


def imports_of(tree: ast.AST, *, in_functions: bool) -> Iterator[str]:
    """The modules of this project that a module imports, apart from those for annotations only (TYPE_CHECKING)."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not in_functions:
            continue
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import of {node.module}"
            for name in node.names:
                whole = f"{node.module}.{name.name}"
                yield whole if whole in MODULES else str(node.module)
        yield from imports_of(node, in_functions=in_functions)


def import_graph(*, in_functions: bool) -> nx.DiGraph:
    graph = nx.DiGraph()
    for module, path in MODULES.items():
        for name in imports_of(ast.parse(path.read_text(encoding="utf-8")), in_functions=in_functions):
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


@pytest.mark.parametrize("in_functions", [False, True], ids=["at the import", "also in functions"])
def test_no_module_imports_itself_through_others(in_functions):
    graph = import_graph(in_functions=in_functions)
    assert [sorted(circle) for circle in nx.strongly_connected_components(graph) if len(circle) > 1] == []


def test_every_module_that_is_imported_exists():
    # mypy does not say so: it ignores missing imports, for libraries without types.
    for module, path in MODULES.items():
        names = list(imports_of(ast.parse(path.read_text(encoding="utf-8")), in_functions=True))
        missing = [name for name in names if name.split(".")[0] == "finetune" and name not in MODULES]
        assert [name for name in missing if name != "finetune.conf"] == [], module


def test_packages_import_only_from_packages_below_them():
    layer = {package: number for number, packages in enumerate(LAYERS) for package in packages}
    upwards = []
    for module, name in import_graph(in_functions=True).edges:
        if module in ENTRY_POINTS or name == "finetune":
            continue
        # What belongs to no package (errors, console) is below all of them.
        here, there = (layer.get(each.split(".")[1], len(LAYERS)) for each in (module, name))
        if there < here:
            upwards.append(f"{module} imports {name}")
    assert upwards == []


def test_encoding_does_not_import_lightning():
    for module, path in MODULES.items():
        if module.startswith("finetune.encoding"):
            assert "pytorch_lightning" not in path.read_text(encoding="utf-8"), module
