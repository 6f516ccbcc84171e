"""The part of a layer that knows no other token: a gated MLP, or experts behind a router."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from tokenwatt.architecture import MixtureOfExperts
from tokenwatt.engines.native.linear import Float8, Linear, Weight
from tokenwatt_kernels.matmul.call import matmul
from tokenwatt_kernels.moe.grouped.call import grouped_matmul, grouped_matmul_combine
from tokenwatt_kernels.moe.mlp import moe_mlp
from tokenwatt_kernels.moe.route.call import route_top_k
from tokenwatt_kernels.moe.routing import Routing


@dataclass(frozen=True, slots=True)
class GatedMlp:
    """down(activation(gate_up(x)))."""

    gate_up: Linear
    down: Linear

    @property
    def takes_float8(self) -> bool:
        """Whether its input may come in float8."""
        return self.gate_up.takes_float8

    def __call__(self, x: Tensor | Float8, residual: Tensor | None) -> Tensor:
        """[T, H] for x [T, H]; residual is added."""
        return self.down(self.gate_up(x), residual)


@dataclass(frozen=True, slots=True)
class Experts:
    """For each token the weighted sum of what its experts answer, beside the MLP that all tokens share, if any."""

    shape: MixtureOfExperts
    router: Tensor
    """[E, H], fp32 where scores are sigmoids: they are compared with a bias, in DeepSeek-V3 as in its gate."""
    router_bias: Tensor | None
    correction_bias: Tensor | None
    """fp32 [E], added to what is ranked."""
    gate_up: Weight
    """[E, 2 I, H], gate and up in turns."""
    down: Weight
    """[E, H, I]."""
    gate_up_bias: Tensor | None
    down_bias: Tensor | None
    shared: GatedMlp | None
    activation: str

    @property
    def takes_float8(self) -> bool:
        """The router wants more digits than float8 has."""
        return False

    def __call__(self, x: Tensor | Float8, residual: Tensor | None) -> Tensor:
        """[T, H] for x [T, H]; residual is added."""
        assert isinstance(x, Tensor)
        if self.shared is not None:
            residual = self.shared(x, residual)
        routing = self.route(x)
        if isinstance(self.gate_up, Float8) and isinstance(self.down, Float8):
            return self._in_float8(x, routing, self.gate_up, self.down, residual)
        assert not isinstance(self.gate_up, Float8)
        assert not isinstance(self.down, Float8)
        return moe_mlp(
            x, routing, self.gate_up, self.down, self.gate_up_bias, self.down_bias, residual, activation=self.activation
        )

    def route(self, x: Tensor) -> Routing:
        """Who answers which token of x [T, H]."""
        shape = self.shape
        logits = matmul(x.to(self.router.dtype), self.router, self.router_bias)
        return route_top_k(
            logits, shape.top_k, self.correction_bias, score=shape.score, renormalize=shape.renormalize,
            groups=shape.groups, top_groups=shape.top_groups, scale=shape.scale,
        )  # fmt: skip

    def _in_float8(self, x: Tensor, routing: Routing, gate_up: Float8, down: Float8, residual: Tensor | None) -> Tensor:
        rows = Float8.of_tokens(x)
        inner = grouped_matmul(
            rows.codes, gate_up.codes, routing.offsets, routing.order, self.gate_up_bias, rows.scales, gate_up.scales,
            activation=self.activation,
        )  # fmt: skip
        rows = Float8.of_tokens(inner)
        return grouped_matmul_combine(
            rows.codes, down.codes, routing.offsets, routing.order, routing.weights, self.down_bias, residual,
            rows.scales, down.scales,
        )  # fmt: skip
