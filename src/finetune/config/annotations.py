"""Type annotations read from source text, and the check of a config's values against them."""

from __future__ import annotations

import ast
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Optional, Union, get_args, get_origin

from finetune.config import types as config_types
from finetune.config.examples import example
from finetune.config.static_source import MAX_DEPTH, Import, Module, NotFound, Opaque, load_module
from finetune.config.suggest import did_you_mean

_BUILTINS = {kind.__name__: kind for kind in (bool, int, float, str, list, dict, tuple)}
_TYPING = {
    name: getattr(typing, name)
    for name in ("Any", "Annotated", "Literal", "Optional", "Union", "List", "Dict", "Tuple")
}
_NAMES: dict[str, Any] = {
    **_BUILTINS,
    **_TYPING,
    "Sequence": Sequence,
    "Iterable": Sequence,  # YAML has lists only
    "Mapping": Mapping,
    "Path": Path,
    **{name: value for name, value in vars(config_types).items() if value.__class__ is type(Annotated[int, 1])},
}
_RULES = {rule.__name__: rule for rule in (config_types.Range, config_types.FolderName, config_types.NotEmpty)}
_KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    Path: "a path",
    type(None): "null",
    Any: "an object",
}


def evaluate_annotation(expression: ast.expr | None, scope: Module, depth: int = 0) -> Any:  # noqa: PLR0911
    """Return the type of an annotation's expression; `Any` if the source text does not determine it."""
    if depth > MAX_DEPTH:
        return Any
    match expression:
        case ast.Constant(value=None):
            return type(None)
        case ast.Constant(value=str(text)):
            return _evaluate_text(text, scope, depth)
        case ast.Name(id=name):
            return _named(name, scope, depth)
        case ast.Attribute(attr=name):
            return _NAMES.get(name, Any) if name not in _BUILTINS else Any
        case ast.BinOp(op=ast.BitOr(), left=left, right=right):
            return Union[evaluate_annotation(left, scope, depth + 1), evaluate_annotation(right, scope, depth + 1)]  # noqa: UP007
        case ast.Subscript():
            return _subscript(expression, scope, depth)
    return Any


def mismatch(value: object, annotation: Any) -> str | None:
    """Return "expected ..., found ..." if the value does not fit the annotation, else None."""
    if fits(value, annotation):
        return None
    return f"expected {describe_type(annotation)}, found {format_value(value)}"


def innermost_mismatch(value: object, annotation: Any, key: str) -> tuple[object, Any, str]:
    """Return the innermost value of a mapping that does not fit, its annotation, and its key."""
    if not isinstance(value, dict):
        return value, annotation, key
    for member in _members(annotation):
        of_key, of_value = Any, Any
        if _kind(member) in (dict, Mapping) and get_args(member):
            of_key, of_value = get_args(member)
        for name, inner in value.items():
            if fits(name, of_key) and not fits(inner, of_value):
                return innermost_mismatch(inner, of_value, f"{key}.{name}")
    return value, annotation, key


def advice_for(value: object, annotation: Any, key: str) -> str:
    """Return advice for a value of `key` that does not fit: the nearest valid word, or the right syntax."""
    if value == "None" and fits(None, annotation):
        return f"None is a text here; write {key}=null."
    shown = example(value, key)
    if shown:
        return shown
    if isinstance(value, float) and value.is_integer() and fits(int(value), annotation):
        return f"Write {key}={int(value)}."
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and fits(str(value), annotation):
        return f"As a text: '{key}=\"{value}\"' (both quotes)."
    if isinstance(value, str):
        return _advice_for_text(value, annotation)
    return ""


def _advice_for_text(value: str, annotation: Any) -> str:
    number = _number(value)
    if number is not None and fits(number, annotation):
        shown = str(number) if isinstance(number, int) else _yaml_float(number)
        return f"Write the number without quotes: {shown}."
    return did_you_mean(value, [str(word) for word in _literals(annotation)])


def fits(value: object, annotation: Any) -> bool:  # noqa: PLR0911
    """Return whether a plain value (from YAML) is of this type; true for an unknown type."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        rules = [rule for rule in annotation.__metadata__ if hasattr(rule, "holds")]
        return fits(value, annotation.__origin__) and all(rule.holds(value) for rule in rules)
    if origin in (Union, types.UnionType):
        return any(fits(value, member) for member in arguments)
    if origin is Literal:
        return any(value == word and type(value) is type(word) for word in arguments)
    kind = origin or annotation
    if kind in (list, Sequence, tuple):
        return isinstance(value, list) and _items_fit(value, kind, arguments)
    if kind in (dict, Mapping):
        of_key, of_value = arguments or (Any, Any)
        return isinstance(value, dict) and all(fits(k, of_key) and fits(v, of_value) for k, v in value.items())
    if kind in (int, float):
        numbers = int if kind is int else int | float
        return isinstance(value, numbers) and not isinstance(value, bool)
    if kind is Path:
        return isinstance(value, str)
    return kind not in (bool, str, type(None)) or isinstance(value, kind)


def describe_type(annotation: Any) -> str:
    """Return a description of this type, for an error message."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        rules = [str(rule) for rule in annotation.__metadata__ if hasattr(rule, "holds")]
        return " ".join([describe_type(annotation.__origin__), *rules])
    if origin in (Union, types.UnionType):
        return _either(describe_type(member) for member in arguments)
    if origin is Literal:
        return _either(map(format_value, arguments))
    kind = origin or annotation
    if kind in (list, Sequence, tuple):
        return _describe_list(kind, arguments)
    if kind in (dict, Mapping):
        return "a mapping"
    return _KINDS.get(kind) or str(getattr(kind, "__name__", kind))


def _describe_list(kind: type, arguments: tuple[Any, ...]) -> str:
    if not arguments:
        return "a list"
    length = f" of {len(arguments)}" if kind is tuple and arguments[-1] is not ... else ""
    return f"a list{length} (each: {_either(map(describe_type, arguments))})"


def format_value(value: object) -> str:
    """Return a value as in YAML, at most 80 characters."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = _shown(value)
    if len(text) > 80:
        return f"{text[:77]}..."
    return text


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {format_value(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(format_value, value))}]"
    return repr(value)


def _members(annotation: Any) -> list[Any]:
    """Return the members of a union, without their rules."""
    if get_origin(annotation) is Annotated:
        return _members(annotation.__origin__)
    if get_origin(annotation) in (Union, types.UnionType):
        return [member for part in get_args(annotation) for member in _members(part)]
    return [annotation]


def _kind(annotation: Any) -> Any:
    return get_origin(annotation) or annotation


def _either(words: Iterable[str]) -> str:
    *first, last = dict.fromkeys(words)
    if first:
        return f"{', '.join(first)} or {last}"
    return last


def _evaluate_text(text: str, scope: Module, depth: int) -> Any:
    try:
        return evaluate_annotation(ast.parse(text, mode="eval").body, scope, depth + 1)
    except SyntaxError:
        return Any


def _named(name: str, scope: Module, depth: int) -> Any:
    symbol = scope.symbols.get(name)
    if isinstance(symbol, ast.expr):
        return evaluate_annotation(symbol, scope, depth + 1)  # an alias such as Pooling = Literal["auto", "mean"]
    if isinstance(symbol, Import) and symbol.name and symbol.name not in _NAMES:
        try:
            return _named(symbol.name, load_module(symbol.module), depth + 1) if depth < MAX_DEPTH else Any
        except (NotFound, Opaque):
            return Any
    if isinstance(symbol, Import):
        name = symbol.name
    return _NAMES.get(name, Any)


def _subscript(expression: ast.Subscript, scope: Module, depth: int) -> Any:
    base = evaluate_annotation(expression.value, scope, depth + 1)
    parts = expression.slice.elts if isinstance(expression.slice, ast.Tuple) else [expression.slice]
    try:
        if base is Literal:
            return Literal[tuple(ast.literal_eval(part) for part in parts)]
        if base is Annotated:
            rules = [rule for rule in map(_rule, parts[1:]) if rule is not None]
            inner = evaluate_annotation(parts[0], scope, depth + 1)
            return Annotated[(inner, *rules)] if rules else inner
        members = tuple(_ellipsis(part) or evaluate_annotation(part, scope, depth + 1) for part in parts)
        return members[0] | None if base is Optional else base[members]
    except (TypeError, ValueError):
        return Any  # an invalid annotation is not the user's mistake


def _ellipsis(part: ast.expr) -> Any:
    return ... if isinstance(part, ast.Constant) and part.value is ... else None


def _rule(part: ast.expr) -> object | None:
    if not (isinstance(part, ast.Call) and ast.unparse(part.func).rpartition(".")[2] in _RULES):
        return None
    words = {word.arg: ast.literal_eval(word.value) for word in part.keywords if word.arg}
    return _RULES[ast.unparse(part.func).rpartition(".")[2]](*map(ast.literal_eval, part.args), **words)


def _items_fit(value: list[object], kind: type, arguments: tuple[Any, ...]) -> bool:
    if kind is tuple and arguments and arguments[-1] is not ...:
        return len(value) == len(arguments) and all(map(fits, value, arguments))
    return not arguments or all(fits(item, arguments[0]) for item in value)


def _literals(annotation: Any) -> list[object]:
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    return [word for member in get_args(annotation) for word in _literals(member)]


def _number(text: str) -> int | float | None:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return None


def _yaml_float(number: float) -> str:
    mantissa, e, exponent = repr(number).partition("e")
    if e and "." not in mantissa:  # YAML reads 1e-05 as a text
        mantissa += ".0"
    return f"{mantissa}{e}{exponent}"
