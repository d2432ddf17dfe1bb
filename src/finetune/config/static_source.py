"""Finds the definition of a dotted name in source text, without importing it."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from finetune.config.suggest import nearest

MAX_DEPTH = 30  # re-exports and base classes that are followed; only a cycle is longer


class NotFound(Exception):
    """The name does not exist; `near`: similar dotted names."""

    def __init__(self, what: str, near: Iterable[str] = ()) -> None:
        super().__init__(what)
        self.near = list(near)


class Opaque(Exception):
    """Source text does not determine the definition (compiled, assigned, created at run time) of the dotted `name`."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


@dataclass(frozen=True)
class Import:
    """`from module import name`, or `import module` where name is empty."""

    module: str
    name: str = ""


Symbol = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef | Import | ast.expr


@dataclass(frozen=True, eq=False)
class Module:
    """The top-level names of one source file."""

    name: str
    symbols: dict[str, Symbol] = field(default_factory=dict)
    stars: tuple[str, ...] = ()  # modules of `from x import *`
    submodules: frozenset[str] = frozenset()


@dataclass(frozen=True, eq=False)
class Definition:
    """A class or function, and the module that defines it."""

    module: Module
    node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef

    @property
    def name(self) -> str:
        """The dotted name under which it is defined."""
        return f"{self.module.name}.{self.node.name}"


def find_definition(dotted: str, depth: int = 0) -> Definition:
    """Return the definition of a dotted name, following re-exports.

    Raises NotFound if there is no such name, Opaque if the source does not determine it.
    """
    module, rest = _longest_module(dotted)
    if not rest:
        raise NotFound(f"{dotted} is a module, not a class", _below(module, _classes(module)))
    return _member(module, rest, depth)


def class_attribute(definition: Definition, name: str, depth: int = 0) -> object:
    """Return the literal value of a class attribute, own or inherited; None if there is none."""
    node = definition.node
    if not isinstance(node, ast.ClassDef) or depth > MAX_DEPTH:
        return None
    values = [value for statement in node.body for symbol, value in _meanings(statement, "", []) if symbol == name]
    if values:
        if not isinstance(values[-1], ast.expr):
            return None
        try:
            return ast.literal_eval(values[-1])
        except ValueError:  # not a literal
            return None
    for expression in node.bases:
        with suppress(Opaque):
            base = base_of(expression, definition)
            inherited = class_attribute(base, name, depth + 1) if base else None
            if inherited is not None:
                return inherited
    return None


def base_of(expression: ast.expr, definition: Definition) -> Definition | None:
    """Return the definition of a base class; None for those without parameters. Raises Opaque if it is not found."""
    name = last_name(expression)
    if name in ("object", "Generic", "Protocol", "ABC"):
        return None
    dotted = ast.unparse(expression.value if isinstance(expression, ast.Subscript) else expression)
    try:
        return _member(definition.module, dotted.split("."), 0)
    except NotFound as answer:
        raise Opaque(definition.name) from answer


def base_classes(definition: Definition) -> list[Definition]:
    """Return the definitions of the base classes of a class. Raises Opaque if one is not found."""
    if not isinstance(definition.node, ast.ClassDef):
        return []
    found = [base_of(expression, definition) for expression in definition.node.bases]
    return [base for base in found if base is not None]


def derives_from(definition: Definition, name: str, depth: int = 0) -> bool:
    """Return whether a class is the one of this dotted name, or derives from it.

    Raises Opaque if the source does not determine it.
    """
    if definition.name == name:
        return True
    if depth > MAX_DEPTH:
        raise Opaque(definition.name)
    return any(derives_from(base, name, depth + 1) for base in base_classes(definition))


def last_name(expression: ast.expr) -> str:
    """Return the last part of a dotted name, also of one that is called or subscripted."""
    if isinstance(expression, ast.Call):
        return last_name(expression.func)
    if isinstance(expression, ast.Subscript):
        return last_name(expression.value)
    return ast.unparse(expression).rpartition(".")[2]


@cache
def load_module(name: str) -> Module:
    """Return the module of this name; raises NotFound or Opaque."""
    file, folders = _find(name)
    submodules = frozenset(child.stem for folder in folders for child in folder.glob("[!_]*.py"))
    if file is None:
        return Module(name, submodules=submodules)
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError) as error:
        raise Opaque(name) from error
    symbols: dict[str, Symbol] = {}
    stars: list[str] = []
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    for statement, is_nested in _statements(tree.body):
        for symbol, meaning in _meanings(statement, package, stars):
            # Of the branches of an `if` or `try`, the first one is used.
            if not (is_nested and symbol in symbols):
                symbols[symbol] = meaning
    return Module(name, symbols, tuple(stars), submodules)


def _find(name: str) -> tuple[Path | None, list[Path]]:
    # find_spec of a dotted name would import the parent packages; of a top-level package it imports nothing.
    top, *rest = name.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        raise NotFound(f"there is no package {top}")
    file = Path(spec.origin) if spec.origin else None
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    for part in rest:
        file, folders = _child(part, folders, name)
    if file is not None and file.suffix != ".py":
        raise Opaque(name)
    return file, folders


def _child(part: str, folders: list[Path], name: str) -> tuple[Path | None, list[Path]]:
    for folder in folders:
        if (folder / part / "__init__.py").is_file():
            return folder / part / "__init__.py", [folder / part]
        if (folder / f"{part}.py").is_file():
            return folder / f"{part}.py", []
        if part.isidentifier() and any(folder.glob(f"{part}.*.so")):
            raise Opaque(name)
    namespaces = [folder / part for folder in folders if part.isidentifier() and (folder / part).is_dir()]
    if namespaces:
        return None, namespaces
    raise NotFound(f"there is no module {name}")


def _longest_module(dotted: str) -> tuple[Module, list[str]]:
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        try:
            return load_module(".".join(parts[:length])), parts[length:]
        except NotFound as answer:
            missing = answer
    raise missing


def _member(module: Module, rest: list[str], depth: int) -> Definition:
    name, *inner = rest
    if depth > MAX_DEPTH:
        raise Opaque(f"{module.name}.{name}")
    symbol = module.symbols.get(name)
    if symbol is None:
        return _through_stars(module, rest, depth)
    if isinstance(symbol, Import):
        return find_definition(".".join(filter(None, [symbol.module, symbol.name, *inner])), depth + 1)
    if isinstance(symbol, ast.Name) and symbol.id != name:
        return find_definition(".".join([module.name, symbol.id, *inner]), depth + 1)
    if isinstance(symbol, ast.expr):
        raise Opaque(f"{module.name}.{name}")
    if inner:
        raise NotFound(
            f"{'.'.join(rest)} is not a class or function of {module.name} itself", _below(module, _classes(module))
        )
    return Definition(module, symbol)


def _through_stars(module: Module, rest: list[str], depth: int) -> Definition:
    for star in module.stars:
        try:
            return _member(load_module(star), rest, depth + 1)
        except NotFound:
            continue
    if "__getattr__" in module.symbols:
        raise Opaque(module.name)
    name, *inner = rest
    # With further parts after the name, it is a misspelled module.
    near = _below(module, nearest(name, module.submodules), *inner) if inner else _below(module, _classes(module))
    raise NotFound(f"{module.name} has no '{name}'", near)


def _below(module: Module, names: Iterable[str], *inner: str) -> list[str]:
    return [".".join([module.name, name, *inner]) for name in names]


def _classes(module: Module) -> list[str]:
    kinds = (ast.ClassDef, ast.FunctionDef, Import)
    return [name for name, symbol in module.symbols.items() if isinstance(symbol, kinds) and not name.startswith("_")]


def _statements(body: list[ast.stmt], is_nested: bool = False) -> Iterator[tuple[ast.stmt, bool]]:
    for statement in body:
        yield statement, is_nested
        if isinstance(statement, ast.If | ast.Try | ast.With):
            handlers = [inner for handler in getattr(statement, "handlers", []) for inner in handler.body]
            branches = [*statement.body, *getattr(statement, "orelse", []), *handlers]
            yield from _statements(branches, is_nested=True)


def _meanings(statement: ast.stmt, package: str, stars: list[str]) -> Iterator[tuple[str, Symbol]]:
    match statement:
        case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
            yield name, statement
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            yield name, value
        case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
            yield name, value
        case ast.Import(names=names):
            for alias in names:
                # `import a.b` binds a; `import a.b as c` binds a.b.
                top = alias.name.partition(".")[0]
                yield (alias.asname, Import(alias.name)) if alias.asname else (top, Import(top))
        case ast.ImportFrom(module=module, names=names, level=level):
            origin = _absolute(module or "", level, package)
            stars += [origin for alias in names if alias.name == "*"]
            yield from (
                (alias.asname or alias.name, Import(origin, alias.name)) for alias in names if alias.name != "*"
            )


def _absolute(module: str, level: int, package: str) -> str:
    if not level:
        return module
    parts = package.split(".")
    return ".".join(filter(None, [*parts[: len(parts) - level + 1], module]))
