"""Settings of this engine alone: `options = { ... }` of a `[[bench]]`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from tokenwatt.spec import Spec

Quantization = Literal["none", "fp8", "int4"]


class NativeOptions(Spec):
    """How the engine keeps its numbers and fills its steps."""

    quantization: Quantization = "none"
    """Format of projections and MLPs, made at load. fp8: e4m3 with a scale for each channel, activations with one for
    each token; of dtype bfloat16, which its products have. int4: weights alone, symmetric, in groups of 128."""
    kv_cache_dtype: Literal["auto", "float8_e4m3fn"] = "auto"
    """Format of keys and values; auto is that of the activations."""
    max_step_tokens: PositiveInt = 8192
    """Token budget of a step: longer prompts are computed in chunks, beside the sequences that decode. Each of those
    takes a token in every step, so a budget below the concurrency counts as the concurrency."""
    page_size: Literal[16, 32, 64, 128] = 64
    """Tokens of a page of the KV cache."""
    num_pages: PositiveInt | None = None
    """Pages of the KV cache; by default as many as fit, but no more than the concurrency can fill."""
    prefix_caching: bool = False
    """Whether prompts that begin alike share their pages. A measurement that uses it says its hit rate."""
    cuda_graphs: bool = True
    """Whether steps without prompts are launched as one graph, on a GPU."""
    overlap: bool | None = None
    """Whether a step is scheduled and launched before the tokens of the one before are on the host. By default on a GPU
    alone: a processor computes a step while it is launched, and tokens would only come a step later."""
    tensor_parallel: Annotated[int, Field(ge=1, le=64)] = 1
    """GPUs (or, on a CPU, processes) that share the model."""
