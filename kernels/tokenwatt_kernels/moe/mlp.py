"""The experts of one layer: both products and what lies between them."""

from __future__ import annotations

from torch import Tensor

from tokenwatt_kernels.matmul.packed.weights import PackedWeight
from tokenwatt_kernels.moe.grouped.call import (
    grouped_matmul,
    grouped_matmul_combine,
    packed_grouped_matmul,
    packed_grouped_matmul_combine,
)
from tokenwatt_kernels.moe.routing import Routing


def moe_mlp(
    hidden: Tensor,
    routing: Routing,
    gate_up: Tensor | PackedWeight,
    down: Tensor | PackedWeight,
    gate_up_bias: Tensor | None = None,
    down_bias: Tensor | None = None,
    residual: Tensor | None = None,
    *,
    activation: str = "swiglu",
    validate: bool = False,
) -> Tensor:
    """For each token the weighted sum of its experts' answers, down(activation(gate_up(hidden))), plus residual.

    hidden: [T, H], float32, float16 or bfloat16. routing: of the same T tokens, from `route_top_k`.
    gate_up: [E, 2 I, H], gate and up in turns (`matmul.activations.interleave`); down: [E, H, I]; each a tensor or
        mxfp4, packed by `matmul.packed.weights.arrange_mxfp4`.
    gate_up_bias: [E, 2 I]; down_bias: [E, H]; residual: [T, H].

    Three launches: rows are gathered as they are read, activated as they are stored, and weighted on their way back to
    the tokens. Nothing waits for the GPU unless `validate` asks for it. Returns [T, H] in the dtype of hidden.
    Raises TypeError or ValueError for arguments other than these, as grouped_matmul does.
    """
    offsets, order, weights = routing.offsets, routing.order, routing.weights
    if isinstance(gate_up, PackedWeight):
        inner = packed_grouped_matmul(
            hidden, gate_up, offsets, order, gate_up_bias, activation=activation, validate=validate
        )
    else:
        inner = grouped_matmul(hidden, gate_up, offsets, order, gate_up_bias, activation=activation, validate=validate)
    if isinstance(down, PackedWeight):
        return packed_grouped_matmul_combine(
            inner, down, offsets, order, weights, down_bias, residual, validate=validate
        )
    return grouped_matmul_combine(inner, down, offsets, order, weights, down_bias, residual, validate=validate)
