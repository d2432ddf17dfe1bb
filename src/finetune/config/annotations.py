"""Annotations read from source text, and whether a config's value fits them."""

from __future__ import annotations

import ast
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Optional, Union, get_args, get_origin

from finetune.config import types as config_types
from finetune.config.examples import example
from finetune.config.static_source import DEEPEST, Import, Module, NotThere, Opaque, load
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
}


def evaluate(expression: ast.expr | None, scope: Module, depth: int = 0) -> Any:  # noqa: PLR0911
    """The type that an annotation's text names; `Any` for whatever the source text does not tell."""
    if depth > DEEPEST:
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
            return Union[evaluate(left, scope, depth + 1), evaluate(right, scope, depth + 1)]  # noqa: UP007
        case ast.Subscript():
            return _subscript(expression, scope, depth)
    return Any


def complaint(value: object, annotation: Any) -> str | None:
    """Half a sentence that says what was expected and what was found; None if the value fits."""
    if fits(value, annotation):
        return None
    return f"expected {describe(annotation)}, found {show(value)}"


def narrow(value: object, annotation: Any, key: str) -> tuple[object, Any, str]:
    """The innermost value of a mapping that does not fit, what it should be, and its key."""
    for member in _members(annotation):
        of_key, of_value = get_args(member) if _kind(member) in (dict, Mapping) and get_args(member) else (Any, Any)
        for name, inner in value.items() if isinstance(value, dict) else ():
            if fits(name, of_key) and not fits(inner, of_value):
                return narrow(inner, of_value, f"{key}.{name}")
    return value, annotation, key


def hint(value: object, annotation: Any, key: str) -> str:
    """Advice for a value of `key` that does not fit: the nearest word, or how a text or number is written."""
    if value == "None" and fits(None, annotation):
        return f"None is a text here; write {key}=null."
    if shown := example(value, key):
        return shown
    if isinstance(value, float) and value.is_integer() and fits(int(value), annotation):
        return f"Write {key}={int(value)}."
    if not isinstance(value, str):
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return f"As a text: '{key}=\"{value}\"' (both quotes)." if is_number and fits(str(value), annotation) else ""
    words = [str(word) for word in _literals(annotation)]
    number = _number(value)
    if number is not None and fits(number, annotation):
        return f"Write the number without quotes: {number if isinstance(number, int) else _yaml_float(number)}."
    return did_you_mean(value, words)


def fits(value: object, annotation: Any) -> bool:  # noqa: PLR0911
    """Whether a plain value (from YAML) is of this type; what is unknown fits."""
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
        return isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
    if kind is Path:
        return isinstance(value, str)
    return isinstance(value, kind) if kind in (bool, str, type(None)) else True


def describe(annotation: Any) -> str:
    """What a value of this type is, in words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        rules = [str(rule) for rule in annotation.__metadata__ if hasattr(rule, "holds")]
        return " ".join([describe(annotation.__origin__), *rules])
    if origin in (Union, types.UnionType):
        return _either(describe(member) for member in arguments)
    if origin is Literal:
        return _either(map(show, arguments))
    kind = origin or annotation
    if kind in (list, Sequence, tuple):
        length = f" of {len(arguments)}" if kind is tuple and arguments and arguments[-1] is not ... else ""
        return f"a list{length} (each: {_either(map(describe, arguments))})" if arguments else "a list"
    if kind in (dict, Mapping):
        return "a mapping"
    return _KINDS.get(kind) or str(getattr(kind, "__name__", kind))


def show(value: object) -> str:
    """A value as YAML shows it, shortened."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = _shown(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {show(inner)}" for name, inner in value.items()) + "}"
    return f"[{', '.join(map(show, value))}]" if isinstance(value, list) else repr(value)


def _members(annotation: Any) -> list[Any]:
    """The alternatives of a union, without their rules."""
    if get_origin(annotation) is Annotated:
        return _members(annotation.__origin__)
    if get_origin(annotation) in (Union, types.UnionType):
        return [member for part in get_args(annotation) for member in _members(part)]
    return [annotation]


def _kind(annotation: Any) -> Any:
    return get_origin(annotation) or annotation


def _either(words: Iterable[str]) -> str:
    *first, last = dict.fromkeys(words)
    return f"{', '.join(first)} or {last}" if first else last


def _evaluate_text(text: str, scope: Module, depth: int) -> Any:
    try:
        return evaluate(ast.parse(text, mode="eval").body, scope, depth + 1)
    except SyntaxError:
        return Any


def _named(name: str, scope: Module, depth: int) -> Any:
    symbol = scope.symbols.get(name)
    if isinstance(symbol, ast.expr):
        return evaluate(symbol, scope, depth + 1)  # an alias such as Pooling = Literal["auto", "mean"]
    if isinstance(symbol, Import) and symbol.name and symbol.name not in _NAMES:
        try:
            return _named(symbol.name, load(symbol.module), depth + 1) if depth < DEEPEST else Any
        except (NotThere, Opaque):
            return Any
    return _NAMES.get(symbol.name if isinstance(symbol, Import) else name, Any)


def _subscript(expression: ast.Subscript, scope: Module, depth: int) -> Any:
    base = evaluate(expression.value, scope, depth + 1)
    parts = expression.slice.elts if isinstance(expression.slice, ast.Tuple) else [expression.slice]
    try:
        if base is Literal:
            return Literal[tuple(ast.literal_eval(part) for part in parts)]
        if base is Annotated:
            rules = [rule for part in parts[1:] if (rule := _rule(part)) is not None]
            inner = evaluate(parts[0], scope, depth + 1)
            return Annotated[(inner, *rules)] if rules else inner
        members = tuple(_ellipsis(part) or evaluate(part, scope, depth + 1) for part in parts)
        return members[0] | None if base is Optional else base[members]
    except (TypeError, ValueError):
        return Any  # an annotation that is wrong in itself is not the user's mistake


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
    return f"{mantissa}{'' if '.' in mantissa else '.0'}{e}{exponent}" if e else mantissa
