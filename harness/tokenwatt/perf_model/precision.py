"""What the parts of a served model are stored in, by the format that its weights are said to have.

As published checkpoints have it (their `quantization_config` or `hf_quant_config.json`):

- fp8: every projection and expert; with a scale for each 128 x 128 weights where a mixture of experts is published so.
- fp4 (NVFP4): dense models and Qwen3's mixtures every product; others keep attention and recurrent mixers in bfloat16,
  those with recurrent mixers their shared experts too. Such checkpoints ask for a cache in fp8.
- mxfp4 and int4: the experts alone of a mixture of experts, every product of a dense model.

Routers, embedding and output head stay in bfloat16. The cache is what the engine takes by default: bfloat16, and fp8
for TensorRT-LLM.
"""

from __future__ import annotations

from dataclasses import dataclass

from tokenwatt.architecture import GroupedAttention
from tokenwatt.perf_model.operator_time.precision import precision
from tokenwatt.perf_model.shape import ModelShape


def weight_bytes_of(dtype: str) -> float:
    """Bytes of a stored element with its share of the scales (`operator_time.precision`)."""
    return precision(dtype).weight_bytes


@dataclass(frozen=True, slots=True)
class Precision:
    """Names of `operator_time.precision.PRECISIONS` for each part of a model."""

    attention: str
    """Projections of attention and of recurrent mixers."""
    mlp: str
    """MLPs that every token goes through."""
    experts: str
    kv: str
    """Keys and values of a token."""
    head: str = "bf16"


def precision_of(weight_dtype: str, shape: ModelShape, engine: str = "") -> Precision:
    """Precision of a model whose weights are said to be bfloat16, float16, fp8, fp4, mxfp4, int4 or int8.

    engine: who serves it, `trtllm` among them; any other keeps the cache in bfloat16 unless the checkpoint asks.
    """
    kv = "fp8" if engine == "trtllm" and weight_dtype in ("fp8", "fp4") else "bf16"
    has_experts = shape.has_experts
    match weight_dtype:
        case "fp8" | "int8":
            stored = "fp8_block" if has_experts else "fp8"
            return Precision(stored, stored, stored, kv)
        case "fp4":
            return _nvfp4(shape, has_experts)
        case "mxfp4" | "int4":
            rest = "bf16" if has_experts else weight_dtype
            return Precision(rest, rest, weight_dtype, kv)
        case _:
            return Precision("bf16", "bf16", "bf16", kv)


def _nvfp4(shape: ModelShape, has_experts: bool) -> Precision:
    mixers = {type(block.mixer) for block in shape.blocks if block.mixer is not None}
    is_plain = mixers == {GroupedAttention} and (not has_experts or shape.name.startswith("Qwen3"))
    has_recurrence = any(block.is_recurrent for block in shape.blocks)
    return Precision(
        attention="nvfp4" if is_plain else "bf16",
        mlp="bf16" if has_recurrence and has_experts else "nvfp4",
        experts="nvfp4",
        kv="fp8",
    )
