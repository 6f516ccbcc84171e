"""What this engine can run where: refused before anything is loaded."""

from __future__ import annotations

import torch

from tokenwatt.architecture import Architecture, GroupedAttention, LatentAttention, MixtureOfExperts
from tokenwatt.engines.native.options import NativeOptions
from tokenwatt.errors import UserError
from tokenwatt_kernels.attention.heads import MIN_PART, is_key_dim, key_parts, value_block

FLOAT8_CAPABILITY = 89
MIXED_FLOAT8_CAPABILITY = 90
"""Queries of 16 bits with keys of 8."""


def check_runs(architecture: Architecture, dtype: str, options: NativeOptions, device: torch.device) -> None:
    """Raise UserError unless there are kernels for this model in these formats on this device."""
    _check_head_dims(architecture)
    has_experts = any(isinstance(layer.mlp, MixtureOfExperts) for layer in architecture.layers)
    is_mxfp4 = architecture.checkpoint_format == "mxfp4_experts"
    if has_experts and options.quantization == "int4":
        raise UserError(f"{architecture.name}: experts have no int4 kernel; allowed: quantization = none, fp8")
    if is_mxfp4 and options.tensor_parallel > 1:
        _check_mxfp4_share(architecture, options.tensor_parallel)
    if device.type == "cpu":
        return
    if is_mxfp4 and dtype != "bfloat16":
        raise UserError(f"{architecture.name}: mxfp4 experts take bfloat16 on a GPU, got dtype {dtype!r}")
    if options.quantization == "int4" and dtype == "float32":
        raise UserError("quantization = int4 takes float16 or bfloat16 on a GPU, got dtype 'float32'")
    capability = 10 * torch.cuda.get_device_capability(device)[0] + torch.cuda.get_device_capability(device)[1]
    if options.quantization == "fp8" and capability < FLOAT8_CAPABILITY:
        raise UserError(f"quantization = fp8 needs sm_{FLOAT8_CAPABILITY} or newer, this GPU is sm_{capability}")
    if options.quantization == "fp8" and dtype != "bfloat16":
        raise UserError(f"quantization = fp8 gives bfloat16 activations, got dtype {dtype!r}")
    if options.kv_cache_dtype == "float8_e4m3fn" and capability < MIXED_FLOAT8_CAPABILITY:
        raise UserError(
            f"kv_cache_dtype = float8_e4m3fn needs sm_{MIXED_FLOAT8_CAPABILITY} or newer, this GPU is sm_{capability}"
        )


def _check_head_dims(architecture: Architecture) -> None:
    attention = architecture.attention
    rule = f"powers of two from {MIN_PART}, or the sum of two"
    if isinstance(attention, GroupedAttention):
        if not is_key_dim(attention.head_dim):
            raise UserError(
                f"{architecture.name}: head_dim {attention.head_dim} has no attention kernel; allowed: {rule}"
            )
        return
    for name, dim in (("qk_nope + qk_rope", attention.qk_head_dim), ("kv_lora_rank + qk_rope", attention.cached_size)):
        if not is_key_dim(dim):
            raise UserError(f"{architecture.name}: {name} = {dim} has no attention kernel; allowed: {rule}")
    _check_latent(architecture, attention)


def _check_latent(architecture: Architecture, attention: LatentAttention) -> None:
    main, _ = key_parts(attention.cached_size)
    if value_block(attention.kv_lora_rank) != main:
        raise UserError(
            f"{architecture.name}: kv_lora_rank {attention.kv_lora_rank} has no attention kernel beside a rotary part of"
            f" {attention.qk_rope_head_dim}; allowed: the largest power of two in their sum, {main}"
        )


def _check_mxfp4_share(architecture: Architecture, size: int) -> None:
    for layer in architecture.layers:
        mlp = layer.mlp
        if isinstance(mlp, MixtureOfExperts) and mlp.intermediate_size // 32 % size:
            raise UserError(
                f"{architecture.name}: {mlp.intermediate_size // 32} groups of an expert's mxfp4 weights cannot be shared"
                f" by {size} GPUs"
            )
