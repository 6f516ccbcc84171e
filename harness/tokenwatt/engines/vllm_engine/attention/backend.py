"""What the kernels can and what they lack, for vLLM to choose by; it says so itself where a model needs something else.

Refused by vLLM's own answers: multi-head latent attention, encoders, queries that see what comes after them, ALiBi,
block-sparse attention, context parallelism, caches whose halves other software reads (KV connectors).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from vllm.config.cache import CacheDType
from vllm.platforms.interface import DeviceCapability
from vllm.v1.attention.backend import AttentionBackend, MultipleOf
from vllm.v1.kv_cache_interface import KVCacheLayout

from tokenwatt.engines.vllm_engine.attention.layer import TokenwattAttention
from tokenwatt.engines.vllm_engine.attention.metadata import StepMetadataBuilder
from tokenwatt.engines.vllm_engine.attention.registration import NAME
from tokenwatt_kernels.attention.heads import is_key_dim

LONGEST_HEAD = 256
"""Of keys that are not latents."""
PAGE_SIZE = 64
"""Tokens: tiles of so many keys are copied by hardware, and engine `native` has as many."""
LEAST_CAPABILITY, LEAST_FLOAT8_CAPABILITY = 80, 90
"""sm_80 has the tensor cores that the kernels need; of sm_89 it depends on triton whether it turns float8 into fp16."""
OWN_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
"""Names of cache dtypes that must be the model's."""


class TokenwattBackend(AttentionBackend):
    """Grouped-query attention over a paged cache."""

    forward_includes_kv_cache_update = False
    supported_dtypes: ClassVar[list[torch.dtype]] = [torch.float16, torch.bfloat16, torch.float32]
    supported_kv_cache_dtypes: ClassVar[list[CacheDType]] = ["auto", "float16", "bfloat16", "fp8", "fp8_e4m3"]

    @staticmethod
    def get_name() -> str:
        """As it is chosen."""
        return NAME

    @staticmethod
    def get_impl_cls() -> type[TokenwattAttention]:
        """Attention of a layer."""
        return TokenwattAttention

    @staticmethod
    def get_builder_cls() -> type[StepMetadataBuilder]:
        """What a step is for the layers."""
        return StepMetadataBuilder

    @staticmethod
    def get_supported_kernel_block_sizes(kv_cache_spec: object = None) -> list[int | MultipleOf]:
        """Tokens of a block."""
        return [MultipleOf(PAGE_SIZE)]

    @classmethod
    def supported_kv_cache_layouts(cls) -> tuple[KVCacheLayout, ...]:
        """Those in which a layer's blocks lie side by side; the order within a block is this backend's own."""
        return (KVCacheLayout.LBNHC, KVCacheLayout.LBHNC)

    @classmethod
    def supports_head_size(cls, head_size: int) -> bool:
        """A power of two or the sum of two, such as 96."""
        return head_size <= LONGEST_HEAD and is_key_dim(head_size)

    @classmethod
    def supports_sliding_window(cls) -> bool:
        """Yes."""
        return True

    @classmethod
    def supports_sink(cls) -> bool:
        """Yes."""
        return True

    @classmethod
    def supports_kv_connector(cls) -> bool:
        """No: others would look for keys and values elsewhere in a block."""
        return False

    @classmethod
    def supports_device_cpu_query_lens_mismatch(cls) -> bool:
        """No: decodes are told from chunks by what the host knows."""
        return False

    @classmethod
    def supports_compute_capability(cls, capability: DeviceCapability) -> bool:
        """From Ampere on."""
        return capability.to_int() >= LEAST_CAPABILITY

    @classmethod
    def supports_combination(
        cls,
        head_size: int,
        dtype: torch.dtype,
        kv_cache_dtype: CacheDType | None,
        block_size: int | None,
        use_mla: bool,
        has_sink: bool,
        use_sparse: bool,
        use_mm_prefix: bool,
        device_capability: DeviceCapability,
    ) -> str | None:
        """Why not, or None: the cache has the model's dtype, or float8 where the GPU turns it into 16 bits."""
        own = OWN_DTYPES.get(kv_cache_dtype or "auto", dtype)
        if own != dtype:
            return f"kv_cache_dtype {kv_cache_dtype} is neither the model's {dtype} nor float8"
        if (kv_cache_dtype or "").startswith("fp8") and device_capability.to_int() < LEAST_FLOAT8_CAPABILITY:
            return f"a float8 cache needs sm_{LEAST_FLOAT8_CAPABILITY}, got sm_{device_capability.to_int()}"
        return None
