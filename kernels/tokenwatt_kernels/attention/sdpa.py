"""PyTorch's scaled_dot_product_attention, one contender per backend."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from tokenwatt_kernels.contests import Contender

BACKENDS = {
    "sdpa_cudnn": SDPBackend.CUDNN_ATTENTION,
    "sdpa_flash": SDPBackend.FLASH_ATTENTION,
    "sdpa_efficient": SDPBackend.EFFICIENT_ATTENTION,
    "sdpa_math": SDPBackend.MATH,
}


def sdpa_contenders(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool, in_our_layout: Callable[[Tensor], Tensor], names: tuple[str, ...]
) -> dict[str, Contender]:
    """The named backends on q [B, Hq, Sq, D] and k, v [B, Hkv, Skv, D]."""

    def contender(backend: SDPBackend) -> Contender:
        def run() -> Tensor:
            with sdpa_kernel(backend):
                return scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)

        return Contender(run, in_our_layout)

    return {name: contender(BACKENDS[name]) for name in names}
