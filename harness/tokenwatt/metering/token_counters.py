"""What servers call their token counters on their Prometheus pages, and how many tokens passed between two looks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tokenwatt.power.external.prometheus import Labels, Samples


@dataclass(frozen=True, slots=True)
class TokenCounters:
    """The counters of one kind of server."""

    server: str
    output: str
    """Counter of generated tokens."""
    input: str
    """Counter of prompt tokens."""
    counts_at_end: bool
    """Whether a request's tokens are counted all at once when it ends, so that those of requests in flight at the
    window's edges fall to one side."""
    source: str
    """Where the names are documented."""


KNOWN: tuple[TokenCounters, ...] = (
    TokenCounters(
        "vLLM",
        "vllm:generation_tokens_total",
        "vllm:prompt_tokens_total",
        counts_at_end=False,
        source="https://docs.vllm.ai/en/latest/usage/metrics.html",
    ),
    TokenCounters(
        "SGLang",
        "sglang:generation_tokens_total",
        "sglang:prompt_tokens_total",
        counts_at_end=True,
        source="https://docs.sglang.io/references/production_metrics.html",
    ),
    TokenCounters(
        "TGI",
        "tgi_request_generated_tokens_sum",
        "tgi_request_input_length_sum",
        counts_at_end=True,
        source="https://huggingface.co/docs/text-generation-inference/reference/metrics",
    ),
    TokenCounters(
        "llama.cpp",
        "llamacpp:tokens_predicted_total",
        "llamacpp:prompt_tokens_total",
        counts_at_end=True,
        source="https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md",
    ),
    TokenCounters(
        "TensorRT-LLM",
        "trtllm_generation_tokens_total",
        "trtllm_prompt_tokens_total",
        counts_at_end=True,
        source="https://github.com/NVIDIA/TensorRT-LLM/blob/main/tensorrt_llm/metrics/collector.py",
    ),
)
"""Servers whose counters are known. SGLang wants --enable-metrics, llama.cpp --metrics."""


def recognise(page: Samples) -> TokenCounters | None:
    """The first known server whose counter of generated tokens is on the page."""
    return next((counters for counters in KNOWN if counters.output in page), None)


def growth(before: Mapping[Labels, float], after: Mapping[Labels, float]) -> int | None:
    """Tokens counted between two looks at one counter, all its time series together (one per model or replica).

    A series that is new has counted from 0. None where one went back or is gone: that server was started anew.

    >>> growth({(("engine", "0"),): 5.0}, {(("engine", "0"),): 9.0, (("engine", "1"),): 2.0})
    6
    >>> growth({(): 5.0}, {(): 3.0}) is None
    True
    """
    if any(labels not in after or after[labels] < value for labels, value in before.items()):
        return None
    return round(sum(value - before.get(labels, 0.0) for labels, value in after.items()))
