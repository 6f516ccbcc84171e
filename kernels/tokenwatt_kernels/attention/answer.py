"""The tensor that an attention call answers with, and what a compiler knows of it before there are values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tokenwatt_kernels.arguments import FLOAT8
from tokenwatt_kernels.attention.keys import Keys


def new_answer(q: Tensor, value_dim: int) -> Tensor:
    """An empty answer [..., Hq, Dv] to queries [..., Hq, D], in the dtype of q, bfloat16 for float8."""
    dtype = torch.bfloat16 if q.dtype == FLOAT8 else q.dtype
    return torch.empty(*q.shape[:-1], value_dim, dtype=dtype, device=q.device)


def without_values(check: Callable[..., Keys]) -> Callable[..., Tensor]:
    """The fake implementation of a call of which `check` checks every argument but `validate`."""

    def fake(*, validate: bool, **arguments: Any) -> Tensor:
        keys = check(**arguments)
        return new_answer(arguments["q"], keys.value_dim)

    return fake
