"""Signatures of functions and classes, read from source text without importing them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache

from finetune.config.static_source import MAX_DEPTH, Definition, Module, Opaque, base_classes, base_of, last_name

_Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Parameter:
    """One parameter that can be passed by keyword."""

    annotation: ast.expr | None
    scope: Module  # where the annotation's names are looked up
    required: bool


@dataclass(frozen=True)
class Signature:
    """Parameters by name; `is_open`: other keywords are accepted too (**kwargs)."""

    parameters: dict[str, Parameter]
    is_open: bool = False


def signature(definition: Definition, depth: int = 0) -> Signature:
    """Return the keyword parameters of a function, or of a class's own or inherited `__init__`.

    They include the parameters of base classes to which an `__init__` passes its **kwargs.
    Raises Opaque if a base class cannot be analyzed.
    """
    node = definition.node
    if not isinstance(node, ast.ClassDef):
        return _from_function(node.args, definition.module, skip=0)
    if depth > MAX_DEPTH:
        raise Opaque(definition.name)
    if _constructor(node) is None and _is_dataclass(node):
        bases = [base_of(expression, definition) for expression in node.bases]
        return _from_fields(node, definition.module, [signature(base, depth + 1) for base in bases if base is not None])
    return _along(_order(definition))


def method_parameters(definition: Definition, name: str, depth: int = 0) -> Signature:
    """Return the keyword parameters of a method of a class, its own or an inherited one.

    Raises Opaque if there is none, or a base class cannot be analyzed.
    """
    if depth > MAX_DEPTH:
        raise Opaque(definition.name)
    for statement in definition.node.body:
        if isinstance(statement, ast.FunctionDef) and statement.name == name:
            return _from_function(statement.args, definition.module, skip=1)
    for base in base_classes(definition):
        with suppress(Opaque):
            return method_parameters(base, name, depth + 1)
    raise Opaque(definition.name)


def _order(definition: Definition, depth: int = 0) -> list[Definition]:
    """Return the class and the base classes that receive its arguments, in method resolution order."""
    if depth > MAX_DEPTH:
        raise Opaque(definition.name)
    node, found = definition.node, [definition]
    own = _constructor(node)
    passes_on = _forwarding_call(own) is not None if own else not _is_dataclass(node)
    if isinstance(node, ast.ClassDef) and passes_on:
        for expression in node.bases:
            base = base_of(expression, definition)
            if base is not None:
                found += _order(base, depth + 1)
    # A common base class comes after all of its subclasses.
    names = [each.name for each in found]
    return [each for i, each in enumerate(found) if each.name not in names[i + 1 :]]


def _along(order: list[Definition]) -> Signature:
    if not order:
        return Signature({})  # `object` has no parameters
    first, *rest = order
    own = _constructor(first.node)
    if own is None:
        return signature(first) if _is_dataclass(first.node) else _along(rest)
    known = _from_function(own.args, first.module, skip=1)
    call = _forwarding_call(own)
    if call is None:
        return known
    inherited, read = _along(rest), dict(_read(own))
    # Arguments that the class itself passes to its bases cannot be set.
    positional = sum(not isinstance(argument, ast.Starred) for argument in call.args)
    passed = {*list(inherited.parameters)[:positional], *(word.arg for word in call.keywords)}
    further = {name: each for name, each in inherited.parameters.items() if name not in passed}
    from_kwargs = {name: Parameter(None, first.module, required) for name, required in read.items()}
    return Signature({**known.parameters, **from_kwargs, **further, **known.parameters}, inherited.is_open)


@cache
def _forwarding_call(own: _Function) -> ast.Call | None:
    """Return the call that passes **kwargs to the base class; None if there is none, or if kwargs have other uses."""
    if own.args.kwarg is None:
        return None
    name = own.args.kwarg.arg
    uses = sum(isinstance(node, ast.Name) and node.id == name for node in ast.walk(own))
    asked = sum(isinstance(node, ast.Compare) and _is_name(node.comparators[0], name) for node in ast.walk(own))
    for node in ast.walk(own):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Call(func=ast.Name(id="super")), attr="__init__")):
                if any(word.arg is None and _is_name(word.value, name) for word in node.keywords):
                    known_uses = 1 + asked + len(list(_read(own)))
                    return node if uses == known_uses else None
    return None


def _read(own: _Function) -> Iterator[tuple[str, bool]]:
    """Yield the keywords that an `__init__` reads from its **kwargs, and whether each is required."""
    name = own.args.kwarg.arg if own.args.kwarg else ""
    for node in ast.walk(own):
        match node:
            case ast.Subscript(value=ast.Name(id=kwargs), slice=ast.Constant(value=str(word))) if kwargs == name:
                yield word, True
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id=kwargs), attr="get" | "pop" | "setdefault"),
                args=[ast.Constant(value=str(word)), *_],
            ) if kwargs == name:
                yield word, False


def _is_name(expression: ast.expr, name: str) -> bool:
    return isinstance(expression, ast.Name) and expression.id == name


def _constructor(node: ast.AST) -> _Function | None:
    for name in ("__init__", "__new__"):
        for statement in getattr(node, "body", []):
            if isinstance(statement, ast.FunctionDef) and statement.name == name:
                return statement
    return None


def _is_dataclass(node: ast.AST) -> bool:
    return any(last_name(decorator) == "dataclass" for decorator in getattr(node, "decorator_list", []))


def _from_function(arguments: ast.arguments, scope: Module, skip: int) -> Signature:
    positional = [*arguments.posonlyargs, *arguments.args]
    first_default = len(positional) - len(arguments.defaults)
    parameters = {
        argument.arg: Parameter(argument.annotation, scope, required=place < first_default)
        for place, argument in enumerate(positional)
        if place >= max(skip, len(arguments.posonlyargs))
    }
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        parameters[argument.arg] = Parameter(argument.annotation, scope, required=default is None)
    return Signature(parameters, is_open=arguments.kwarg is not None)


def _from_fields(node: ast.ClassDef, scope: Module, inherited: list[Signature]) -> Signature:
    parameters = {name: parameter for base in reversed(inherited) for name, parameter in base.parameters.items()}
    for statement in node.body:
        match statement:
            case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation, value=value):
                if last_name(annotation) != "ClassVar" and _is_argument(value):
                    parameters[name] = Parameter(annotation, scope, required=not _has_default(value))
    return Signature(parameters)


def _is_argument(value: ast.expr | None) -> bool:
    return not (
        isinstance(value, ast.Call)
        and any(word.arg == "init" and getattr(word.value, "value", True) is False for word in value.keywords)
    )


def _has_default(value: ast.expr | None) -> bool:
    if isinstance(value, ast.Call) and last_name(value.func) == "field":
        return any(word.arg in ("default", "default_factory") for word in value.keywords)
    return value is not None
