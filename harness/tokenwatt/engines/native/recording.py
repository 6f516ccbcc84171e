"""The kernels that one step launches, recorded by family, so that a family can be run again without the others.

What is recorded are the very calls that the step made: operators of `tokenwatt_kernels`, whose group is their family,
and torch's own. Layers share their activations in a recording: of an argument of one shape the first is kept, as its
numbers are as good as any, and a recording would else hold those of all layers. Weights and cache are each layer's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, get_args

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tokenwatt.engines.protocol import Family
from tokenwatt_kernels import operators

PRODUCTS = ("aten::bmm", "aten::mm", "aten::addmm")
"""Of torch's own operators those that multiply matrices. The others are small, and count as fused."""
WITHOUT_KERNEL = (
    "aten::empty",
    "aten::empty_like",
    "aten::empty_strided",
    "aten::new_empty",
    "aten::new_empty_strided",
    "aten::_unsafe_view",
)
"""They launch nothing, like every view."""


@dataclass(frozen=True, slots=True)
class Call:
    """A function with its arguments."""

    name: str
    function: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __call__(self) -> Any:
        """Run it again."""
        return self.function(*self.args, **self.kwargs)


@dataclass(slots=True)
class Recording:
    """The calls of one family, in order."""

    family: Family
    calls: list[Call] = field(default_factory=list)

    @torch.inference_mode()
    def __call__(self) -> None:
        """Run all of them. What one answers is dropped before the next: the others have their arguments already."""
        for call in self.calls:
            call()


@contextmanager
def recorded(family: Family) -> Iterator[Recording]:
    """Record the calls of `family` that are made within the block."""
    tape = _Tape(Recording(family))
    with operators.watched(tape.kernel), tape:
        yield tape.recording


class _Tape(TorchDispatchMode):
    """Looks on at the operators of torch, and at those of `tokenwatt_kernels`, which do not pass torch's dispatcher."""

    def __init__(self, recording: Recording) -> None:
        super().__init__()
        self.recording = recording
        self._is_inside = False
        self._made: set[int] = set()
        """Where storages begin that were made within the block; none of those before it can be there, as all live."""
        self._kept: dict[Any, Tensor] = {}

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        answer = func(*args, **kwargs)
        if self._is_inside:
            return answer
        name, is_mutable = func._schema.name, func._schema.is_mutable
        is_view = not is_mutable and not _storages(answer).isdisjoint(_storages((*args, *kwargs.values())))
        if not is_view and name not in WITHOUT_KERNEL:
            self._note("matmul" if name in PRODUCTS else "fused", Call(name, func, args, kwargs))
        if not is_view and not is_mutable:
            self._made |= _storages(answer)
        return answer

    def kernel(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """An operator of ours; what it calls is part of it."""
        if self._is_inside:
            return function(*args, **kwargs)
        self._is_inside = True
        try:
            answer = function(*args, **kwargs)
        finally:
            self._is_inside = False
        group = function.__module__.split(".")[1]
        assert group in get_args(Family), f"{function.__module__} belongs to no family"
        self._note(group, Call(function.__name__, function, args, kwargs))
        self._made |= _storages(answer)
        return answer

    def _note(self, family: str, call: Call) -> None:
        if family == self.recording.family:
            args = tuple(self._shared((call.name, place), value) for place, value in enumerate(call.args))
            kwargs = {key: self._shared((call.name, key), value) for key, value in call.kwargs.items()}
            self.recording.calls.append(Call(call.name, call.function, args, kwargs))

    def _shared(self, place: tuple[Any, ...], value: Any) -> Any:
        """An argument as it is kept: the first of its shape at its place, if it was made within the block."""
        if type(value) in (list, tuple):
            return type(value)(self._shared((*place, index), each) for index, each in enumerate(value))
        if not isinstance(value, Tensor) or value.untyped_storage().data_ptr() not in self._made:
            return value
        return self._kept.setdefault((place, value.shape, value.stride(), value.dtype), value)


def _storages(value: Any) -> set[int]:
    """Where the storages of all tensors in arguments or an answer begin. (Of `to` and `reshape` only this tells whether
    they have copied.)"""
    if isinstance(value, list | tuple):
        return {begin for each in value for begin in _storages(each)}
    return {value.untyped_storage().data_ptr()} if isinstance(value, Tensor) and value.numel() else set()
