"""Public functions as operators of torch: torch.compile and torch.export take each as a whole, without looking inside.

An operator has a schema, made from the function's annotations, and a fake implementation, which gives an answer's shape
and dtype from those of the arguments. Outside a compiler the function is called as it is, because the way through
torch's dispatcher takes several microseconds.

A schema has neither tensors that are keyword-only nor dataclasses. So the operator takes a dataclass as its fields, and
all that is no tensor and may be keyword-only behind the tensors; the function keeps its own signature.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, fields, is_dataclass
from inspect import Parameter, Signature
from types import NoneType
from typing import Any, ParamSpec, TypeVar, get_args, get_type_hints

import torch
from torch import Tensor

NAMESPACE = "tokenwatt"

P = ParamSpec("P")
R = TypeVar("R")

OPERATORS: dict[str, Any] = {}
"""Every operator of the modules that have been imported, by the name of its function."""

Watcher = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]
"""Gets a function and its arguments, calls it, and gives back what it answers."""

_watchers: list[Watcher] = []


@contextmanager
def watched(watcher: Watcher) -> Iterator[None]:
    """Within the block every call of an operator goes through `watcher`, so that somebody can tell which were made.

    Calls that a compiler has taken up are not seen. One block at a time; it is that of the whole process.
    """
    if _watchers:
        raise RuntimeError("operators are watched already; leave that block before the next begins")
    _watchers.append(watcher)
    try:
        yield
    finally:
        _watchers.clear()


def operator(fake: Callable[..., R], *, writes: Sequence[str] = ()) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a function torch.ops.tokenwatt.NAME as well.

    fake: what the function answers, without values: empty tensors of the right shape and dtype. It is given every
        argument by name and checks it as the function does; sizes may be symbols.
    writes: names of the arguments that the function writes to. A compiler is given torch.ops.tokenwatt.NAME_pure where
        all of them are None.

    The function's annotations must be of Tensor, int, float, bool, str or None and sequences of them
    (torch.library.infer_schema), or dataclasses of such; it returns new tensors, never its arguments.
    """

    def wrap(function: Callable[P, R]) -> Callable[P, R]:
        name = function.__name__
        signature, records = _with_types(function)
        flat = _without_defaults(_flat(signature, records), writes)
        by_position = [name for name, p in flat.parameters.items() if p.kind is Parameter.POSITIONAL_OR_KEYWORD]

        def made_as(name: str, writes: Sequence[str]) -> Any:
            made = torch.library.custom_op(
                f"{NAMESPACE}::{name}", _with_records(function, flat, records), mutates_args=tuple(writes)
            )
            made.register_fake(_with_records(fake, flat, records))
            return made

        made = OPERATORS[name] = made_as(name, writes)
        # Inductor (torch 2.11 to 2.13) cannot lower a call that might write to a tensor, but is given none.
        pure = made_as(f"{name}_pure", ()) if writes else made

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            if not torch.compiler.is_compiling():
                return _watchers[0](function, args, kwargs) if _watchers else function(*args, **kwargs)
            given = signature.bind(*args, **kwargs)
            given.apply_defaults()
            named = _without_records(given.arguments, records)
            chosen = made if any(named[name] is not None for name in writes) else pure
            return chosen(*[named.pop(name) for name in by_position], **named)

        return call

    return wrap


Records = Mapping[str, tuple[type, tuple[str, ...]]]
"""The dataclasses among a function's parameters, and the names of their fields."""


def _with_types(function: Callable[..., Any]) -> tuple[Signature, Records]:
    """A function's signature, its annotations evaluated, and the dataclasses in it."""
    signature, types = inspect.signature(function), get_type_hints(function)
    parameters = [parameter.replace(annotation=types[name]) for name, parameter in signature.parameters.items()]
    records = {
        parameter.name: (parameter.annotation, tuple(field.name for field in fields(parameter.annotation)))
        for parameter in parameters
        if is_dataclass(parameter.annotation)
    }
    answer = None if types["return"] is NoneType else types["return"]
    return Signature(parameters, return_annotation=answer), records


def _flat(signature: Signature, records: Records) -> Signature:
    """The signature of the operator: fields in place of dataclasses, and no tensor that is keyword-only."""
    flat: list[Parameter] = []
    for name, parameter in signature.parameters.items():
        flat += _fields(parameter) if name in records else [parameter]
    flat = [p.replace(kind=Parameter.POSITIONAL_OR_KEYWORD) if _has_tensors(p.annotation) else p for p in flat]
    return signature.replace(parameters=sorted(flat, key=lambda parameter: parameter.kind))


def _without_defaults(signature: Signature, written: Sequence[str]) -> Signature:
    """Without defaults up to the last argument that is written to.

    Torch 2.11 looks for those by position, after its dispatcher has left out what equals its default at the end.
    """
    names = list(signature.parameters)
    last = max((names.index(name) for name in written), default=-1)
    parameters = [
        parameter.replace(default=Parameter.empty) if place <= last else parameter
        for place, parameter in enumerate(signature.parameters.values())
    ]
    return signature.replace(parameters=parameters)


def _fields(parameter: Parameter) -> list[Parameter]:
    """The fields of a dataclass as parameters. Their defaults are those of the parameter's, if it has one."""
    record = parameter.annotation
    types = get_type_hints(record)
    found = []
    for field in fields(record):
        default = field.default if parameter.default is Parameter.empty else getattr(parameter.default, field.name)
        found.append(
            Parameter(
                field.name,
                Parameter.KEYWORD_ONLY,
                default=Parameter.empty if default is MISSING else default,
                annotation=types[field.name],
            )
        )
    return found


def _has_tensors(annotation: Any) -> bool:
    return annotation is Tensor or any(_has_tensors(part) for part in get_args(annotation))


def _without_records(arguments: Mapping[str, Any], records: Records) -> dict[str, Any]:
    """A function's arguments as its operator takes them."""
    given = dict(arguments)
    for name, (_, parts) in records.items():
        record = given.pop(name)
        given |= {part: getattr(record, part) for part in parts}
    return given


def _with_records(function: Callable[..., Any], flat: Signature, records: Records) -> Callable[..., Any]:
    """The function with the signature of its operator."""
    names = tuple(flat.parameters)
    # torch's dispatcher leaves out what equals its default.
    defaults = {name: p.default for name, p in flat.parameters.items() if p.default is not Parameter.empty}

    def call(*args: Any, **kwargs: Any) -> Any:
        given = {**defaults, **dict(zip(names, args, strict=False)), **kwargs}
        for name, (record, parts) in records.items():
            given[name] = record(**{part: given.pop(part) for part in parts})
        return function(**given)

    vars(call)["__signature__"] = flat  # of which torch makes the schema
    return call
