"""What this engine can run where: refused before anything is loaded."""

from __future__ import annotations

from tokenwatt.architecture import Architecture, GroupedAttention, LatentAttention, MixtureOfExperts
from tokenwatt.engines.native.memory import quantised_weights
from tokenwatt.engines.native.options import NativeOptions
from tokenwatt.engines.native.parallel import share_of
from tokenwatt.errors import UserError
from tokenwatt_kernels.attention.heads import MIN_PART, is_key_dim, key_parts, value_block
from tokenwatt_kernels.fused.norm.tiles import MAX_WIDTH
from tokenwatt_kernels.fused.top_k.call import MAX_VOCABULARY
from tokenwatt_kernels.moe.route.options import Choice
from tokenwatt_kernels.number_formats.int4 import GROUP as INT4_GROUP
from tokenwatt_kernels.number_formats.mxfp4 import GROUP as MXFP4_GROUP
from tokenwatt_kernels.targets import TARGETS

LEAST_CAPABILITY = min(TARGETS)
FLOAT8_CAPABILITY = 89
MIXED_FLOAT8_CAPABILITY = 90
"""Queries of 16 bits with keys of 8."""


def check_runs(architecture: Architecture, dtype: str, options: NativeOptions, capability: int | None) -> None:
    """Raise UserError unless there are kernels for this model in these formats.

    dtype: of activations. capability: of the GPU, as major * 10 + minor; None for a processor.
    """
    if capability is not None:
        _check_gpu(architecture, dtype, options, capability)
    _check_sizes(architecture)
    _check_head_dims(architecture)
    _check_quantisation(architecture, dtype, options)
    if architecture.checkpoint_format == "mxfp4_experts":
        _check_mxfp4(architecture, options.tensor_parallel)


def _check_gpu(architecture: Architecture, dtype: str, options: NativeOptions, capability: int) -> None:
    if capability < LEAST_CAPABILITY:
        raise UserError(
            f"engine 'native' needs a GPU of sm_{LEAST_CAPABILITY} or newer, for its bfloat16 tensor cores, this GPU"
            f' is sm_{capability}; use device = "cpu"'
        )
    if options.quantization == "fp8" and capability < FLOAT8_CAPABILITY:
        raise UserError(
            f"quantization = fp8 needs a GPU of sm_{FLOAT8_CAPABILITY} or newer, this GPU is sm_{capability}; allowed"
            " here: none, int4"
        )
    if options.kv_cache_dtype == "float8_e4m3fn" and capability < MIXED_FLOAT8_CAPABILITY:
        raise UserError(
            f"kv_cache_dtype = float8_e4m3fn needs a GPU of sm_{MIXED_FLOAT8_CAPABILITY} or newer, this GPU is"
            f" sm_{capability}; allowed here: auto"
        )
    if architecture.checkpoint_format == "mxfp4_experts" and dtype != "bfloat16":
        raise UserError(f"{architecture.name}: mxfp4 experts take dtype bfloat16 on a GPU, got {dtype!r}")
    if options.quantization == "int4" and dtype == "float32":
        raise UserError("quantization = int4 takes dtype float16 or bfloat16 on a GPU, got 'float32'")


def _check_quantisation(architecture: Architecture, dtype: str, options: NativeOptions) -> None:
    if options.quantization == "fp8" and dtype != "bfloat16":
        raise UserError(f"quantization = fp8 takes dtype bfloat16, which its products have, got {dtype!r}")
    if options.quantization != "int4":
        return
    if any(isinstance(layer.mlp, MixtureOfExperts) for layer in architecture.layers):
        raise UserError(f"{architecture.name}: experts have no int4 kernel; allowed: quantization = none, fp8")
    for weight in quantised_weights(share_of(architecture, options.tensor_parallel)):
        if weight.terms % INT4_GROUP:
            raise UserError(
                f"{architecture.name}: int4 takes widths in multiples of {INT4_GROUP}, {weight.name} has"
                f" {weight.terms}; allowed: quantization = none, fp8"
            )


def _check_sizes(architecture: Architecture) -> None:
    """What norms, the choice of tokens and routing have kernels for."""
    for name, found, most in (
        ("hidden_size", architecture.hidden_size, MAX_WIDTH),
        ("vocab_size", architecture.vocab_size, MAX_VOCABULARY),
    ):
        if found > most:
            raise UserError(f"{architecture.name}: {name} {found} has no kernel; allowed: up to {most}")
    for mlp in {layer.mlp for layer in architecture.layers}:
        if isinstance(mlp, MixtureOfExperts):
            choice = Choice(mlp.top_k, mlp.score, mlp.renormalize, mlp.groups, mlp.top_groups, mlp.scale)
            try:
                choice.check(mlp.num_experts)
            except ValueError as error:
                raise UserError(f"{architecture.name}: its experts have no kernel: {error}") from None


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
            f"{architecture.name}: kv_lora_rank {attention.kv_lora_rank} has no attention kernel beside a rotary part"
            f" of {attention.qk_rope_head_dim}; allowed: the largest power of two in their sum, {main}"
        )


def _check_mxfp4(architecture: Architecture, size: int) -> None:
    """Experts of which `size` GPUs have an equal share each, in whole groups."""
    for layer in architecture.layers:
        mlp = layer.mlp
        if not isinstance(mlp, MixtureOfExperts):
            continue
        for name, width in (("hidden_size", architecture.hidden_size), ("intermediate_size", mlp.intermediate_size)):
            if width % MXFP4_GROUP:
                raise UserError(
                    f"{architecture.name}: mxfp4 experts take widths in multiples of {MXFP4_GROUP}, {name} is {width}"
                )
        if mlp.intermediate_size // MXFP4_GROUP % size:
            raise UserError(
                f"{architecture.name}: {mlp.intermediate_size // MXFP4_GROUP} groups of an expert's mxfp4 weights"
                f" cannot be shared by {size} GPUs"
            )
