"""Public functions as operators of torch: torch.compile and torch.export take each as a whole, without looking inside.

An operator has a schema, which torch reads from the annotations, and a fake implementation, which gives an answer's
shape and dtype from those of the arguments. Outside a compiler the function is called as it is, because the way through
torch's dispatcher takes several microseconds.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import torch

NAMESPACE = "tokenwatt"

P = ParamSpec("P")
R = TypeVar("R")

OPERATORS: dict[str, Any] = {}
"""Every operator of the modules that have been imported, by the name of its function."""


def operator(fake: Callable[P, R], *, writes: Sequence[str] = ()) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a function torch.ops.tokenwatt.NAME as well.

    fake: what the function answers, without values: empty tensors of the right shape and dtype. It checks its arguments
        as the function does.
    writes: names of the arguments that the function writes to.

    The function's annotations must be of Tensor, int, float, bool, str or None and sequences of them, and its tensors
    not keyword-only (torch.library.infer_schema); it returns new tensors, never its arguments.
    """

    def wrap(function: Callable[P, R]) -> Callable[P, R]:
        name = function.__name__
        made = torch.library.custom_op(f"{NAMESPACE}::{name}", function, mutates_args=tuple(writes))
        made.register_fake(fake)
        OPERATORS[name] = made

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            return made(*args, **kwargs) if torch.compiler.is_compiling() else function(*args, **kwargs)

        return call

    return wrap
