"""The experts of each token and rows sorted by expert, without waiting for the GPU."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenwatt_kernels import device, tables
from tokenwatt_kernels.arguments import check_device, check_size, check_tensor
from tokenwatt_kernels.moe.route.options import Choice
from tokenwatt_kernels.moe.route.reference import Tensors, route_reference
from tokenwatt_kernels.moe.route.tiles import FAMILY, RouteTile, make_key
from tokenwatt_kernels.moe.routing import Routing
from tokenwatt_kernels.operators import operator


def route_top_k(
    router_logits: Tensor,
    top_k: int,
    correction_bias: Tensor | None = None,
    *,
    score: str = "softmax",
    renormalize: bool = True,
    groups: int = 1,
    top_groups: int = 1,
    scale: float = 1.0,
) -> Routing:
    """The top_k experts of each token, their weights, and the rows (token, slot) sorted by expert.

    router_logits: [T, E], float32, float16 or bfloat16, contiguous along E; E up to 512, top_k up to 16.
    correction_bias: [E] fp32, added to the scores that are ranked, not to the weights (DeepSeek-V3's
        e_score_correction_bias), or None.
    score, renormalize, groups, top_groups, scale: as in `options.Choice`.

    Equal scores go to the lower index, and the order is stable: the same bits in every run. Grids depend on T, E and
    top_k alone and nothing is read back, so a CUDA graph may capture the call. A NaN logit makes a token's weights NaN,
    but its experts stay within range.
    Raises TypeError or ValueError, before any launch, for arguments other than these.
    """
    return Routing(
        *moe_route(
            router_logits, correction_bias, top_k=top_k, score=score, renormalize=renormalize, groups=groups,
            top_groups=top_groups, scale=scale,
        )
    )  # fmt: skip


def tile_for(logits: Tensor) -> RouteTile:
    """The tile for logits [T, E] on a GPU."""
    key = make_key(logits.shape[1])
    return tables.tile_on(FAMILY, device.name(logits.device), device.capability(logits.device), key)


def _fake(
    router_logits: Tensor,
    correction_bias: Tensor | None = None,
    *,
    top_k: int,
    score: str = "softmax",
    renormalize: bool = True,
    groups: int = 1,
    top_groups: int = 1,
    scale: float = 1.0,
) -> Tensors:
    check_tensor("router_logits", router_logits, ("T", "E"))
    tokens, experts = router_logits.shape
    Choice(top_k, score, renormalize, groups, top_groups, scale).check(experts)
    if correction_bias is not None:
        check_tensor("correction_bias", correction_bias, ("E",), (torch.float32,))
        check_size("correction_bias", "E", correction_bias.shape[0], experts)
        check_device("correction_bias", correction_bias, "router_logits", router_logits)
    device.check_supported(router_logits.device)
    rows, integers = tokens * top_k, {"dtype": torch.int32}
    return (
        router_logits.new_empty((tokens, top_k), dtype=torch.float32),
        router_logits.new_empty((tokens, top_k), **integers),
        router_logits.new_empty(rows, **integers),
        router_logits.new_empty(rows, **integers),
        router_logits.new_empty(experts + 1, **integers),
    )


@operator(_fake)
def moe_route(
    router_logits: Tensor,
    correction_bias: Tensor | None = None,
    *,
    top_k: int,
    score: str = "softmax",
    renormalize: bool = True,
    groups: int = 1,
    top_groups: int = 1,
    scale: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The tensors of `Routing` in its order; everything else is as in route_top_k."""
    choice = Choice(top_k, score, renormalize, groups, top_groups, scale)
    answer = _fake(
        router_logits, correction_bias, top_k=top_k, score=score, renormalize=renormalize, groups=groups,
        top_groups=top_groups, scale=scale,
    )  # fmt: skip
    if router_logits.device.type == "cpu":
        return route_reference(router_logits.float(), correction_bias, choice)

    from tokenwatt_kernels.moe.route.kernel import launch

    launch(router_logits, correction_bias, choice, *answer, tile_for(router_logits))
    return answer
