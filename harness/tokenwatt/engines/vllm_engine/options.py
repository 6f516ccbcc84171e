"""Settings of this engine alone: `options = { ... }` of a `[[bench]]`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field, PositiveInt

from tokenwatt.spec import Spec


class VllmOptions(Spec):
    """How vLLM runs the model; what is left out is the choice that vLLM's server makes on this machine."""

    tensor_parallel: PositiveInt = 1
    """GPUs that share each product."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of a GPU's memory that vLLM takes."""
    enable_prefix_caching: bool | None = None
    """Whether prompts that begin alike share what is computed of them. Each run begins with an empty cache."""
    quantization: str | None = None
    """Format of the weights by vLLM's name; by default what the weights' config.json says, and none for random ones."""
    kv_cache_dtype: str | None = None
    """Format of keys and values by vLLM's name, such as fp8; by default the dtype."""
    attention_backend: str | None = None
    """Attention by vLLM's name, such as FLASH_ATTN; TOKENWATT is that of this project."""
    enforce_eager: bool | None = None
    """Whether there are neither CUDA graphs nor compilation."""
    max_num_seqs: PositiveInt | None = None
    """Most requests of a step; more of them wait."""
    max_num_batched_tokens: PositiveInt | None = None
    """Token budget of a step."""
    engine_args: dict[str, Any] = Field(default_factory=dict)
    """Any other argument of vLLM's AsyncEngineArgs, by its name there."""

    @property
    def label(self) -> str:
        """Every setting that is no default, in one line; attention is told apart.

        >>> VllmOptions(max_num_seqs=64, engine_args={"block_size": 32}).label
        'max_num_seqs=64 block_size=32'
        """
        named = self.model_dump(exclude={"attention_backend", "engine_args"}, exclude_defaults=True)
        return " ".join(f"{name}={value}" for name, value in (named | self.engine_args).items())


def other_attention(wanted: str | None, found: Sequence[str]) -> str | None:
    """Why vLLM's attention is not the one that was asked for; None if it is. On a processor vLLM takes only its own.

    >>> other_attention("tokenwatt", ["TOKENWATT"]), other_attention(None, ["FLASH_ATTN"])
    (None, None)
    >>> other_attention("TOKENWATT", ["CPU_ATTN"])
    "attention_backend = 'TOKENWATT' was asked for, vLLM took CPU_ATTN on this machine"
    """
    if wanted is None or wanted.upper() in ("AUTO", *found):
        return None
    return f"attention_backend = {wanted!r} was asked for, vLLM took {'+'.join(found)} on this machine"
