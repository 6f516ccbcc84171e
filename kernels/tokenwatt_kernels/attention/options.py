"""What the softmax of an attention call does besides q.k: scale, mask, cap, sinks, and the scales of 8-bit inputs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenwatt_kernels.arguments import check_device, check_tensor

LOG2_E = math.log2(math.e)


@dataclass(frozen=True, slots=True)
class Options:
    """The options of one call, usually the same for every call of a layer.

    The score of a query at position p for a key at position j is scale * q_scale * k_scale * q.k, then, with a softcap
    c, c * tanh(score / c). Keys with j > p are hidden if `causal`, those with j <= p - window if there is a window.

    scale: > 0; None means 1/sqrt(D).
    sinks: [Hq] fp32, one more score per query head that joins the sum of the softmax and has no value.
    q_scale, k_scale, v_scale: [1] or [Hkv] fp32, factors of float8 tensors.
    """

    scale: float | None = None
    causal: bool = True
    window: int | None = None
    softcap: float | None = None
    sinks: Tensor | None = None
    q_scale: Tensor | None = None
    k_scale: Tensor | None = None
    v_scale: Tensor | None = None

    def resolved_scale(self, head_dim: int) -> float:
        """`scale`, or 1/sqrt(head_dim) where it is None."""
        return head_dim**-0.5 if self.scale is None else self.scale

    def factor(self, head_dim: int) -> float:
        """What q.k is multiplied by in the kernels: to log2 units, or to twice tanh's argument in log2 units."""
        in_log2 = self.resolved_scale(head_dim) * LOG2_E
        return in_log2 if self.softcap is None else 2 * in_log2 / self.softcap

    @property
    def cap(self) -> float:
        """The softcap in log2 units; 0 for none."""
        return 0.0 if self.softcap is None else self.softcap * LOG2_E


DEFAULT = Options()


def check(options: Options, q: Tensor, kv_heads: int) -> None:
    """Raise TypeError or ValueError unless the options fit queries [..., Hq, D] and kv_heads.

    The message names the option, what was found and what is allowed.
    """
    for name, number in (("scale", options.scale), ("softcap", options.softcap)):
        if number is not None and not (number > 0 and math.isfinite(number)):
            raise ValueError(f"{name} must be a finite number > 0, got {number}")
    if options.window is not None and options.window < 1:
        raise ValueError(f"window must be >= 1 key, the query's own position included, got {options.window}")
    for name, vector, sizes in (
        ("sinks", options.sinks, (q.shape[-2],)),
        ("q_scale", options.q_scale, (1, kv_heads)),
        ("k_scale", options.k_scale, (1, kv_heads)),
        ("v_scale", options.v_scale, (1, kv_heads)),
    ):
        if vector is not None:
            check_tensor(name, vector, ("heads",), (torch.float32,))
            check_device(name, vector, "q", q)
            if vector.numel() not in sizes:
                allowed = " or ".join(dict.fromkeys(map(str, sizes)))
                raise ValueError(f"{name} must have {allowed} elements, got {vector.numel()}")


def scale_stride(scale: Tensor | None) -> int:
    """The distance from one head's factor to the next: 0 where all heads share one."""
    return 0 if scale is None or scale.numel() == 1 else scale.stride(0)
