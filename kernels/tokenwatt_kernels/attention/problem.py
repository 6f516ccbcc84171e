"""What an attention kernel is asked for: a batch of sequences with queries and keys, heads, and options."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from tokenwatt_kernels.attention.heads import MIN_FLOAT8_PART, is_key_dim
from tokenwatt_kernels.targets import target_for

FLOAT8 = "float8_e4m3fn"
SHARED_BYTES_OF_FP32_LATENTS = 120_000


@dataclass(frozen=True, slots=True)
class AttentionProblem:
    """A batch of sequences. `queries` and `contexts` hold each one's new tokens and keys, the new ones included.

    value_dim: None means head_dim.
    page_size: 0 means keys packed one sequence after another, without a block table.
    spare_pages: pages in the pool that belong to no sequence; they push the live ones to high page numbers.
    has_sinks: every query head has a sink.
    kv_dtype: torch name of the keys' and values' dtype; None means that of the queries.
    scales: whether float8 tensors have one factor each or one for each KV head.
    is_latent: keys are latents whose first value_dim elements are the values (MLA).
    checks_lse: the gate holds the log-sum-exp against the truth too.
    """

    name: str
    queries: tuple[int, ...]
    contexts: tuple[int, ...]
    query_heads: int
    kv_heads: int
    head_dim: int
    value_dim: int | None = None
    page_size: int = 0
    spare_pages: int = 3
    causal: bool = True
    window: int | None = None
    softcap: float | None = None
    has_sinks: bool = False
    kv_dtype: str | None = None
    scales: Literal["tensor", "head"] = "tensor"
    is_latent: bool = False
    checks_lse: bool = False

    @property
    def group(self) -> int:
        """Query heads that share a KV head."""
        return self.query_heads // self.kv_heads

    @property
    def values(self) -> int:
        """Dimensions of a value."""
        return self.head_dim if self.value_dim is None else self.value_dim

    @property
    def terms(self) -> int:
        """Terms in the longest sum: over a context in p.v, or over the head dimension in q.k.

        A softcap c rounds every score by some c * 2^-24, as much as a sum of c^2 terms.
        """
        return max(*self.contexts, self.head_dim, math.ceil((self.softcap or 0.0) ** 2))

    @property
    def passes_int32(self) -> bool:
        """Whether pages of the sequences begin 2^31 elements or more behind the first page."""
        return self.spare_pages * self.page_size * self.kv_heads * self.head_dim >= 2**31

    @property
    def options_text(self) -> str:
        """The options that differ from plain causal attention, such as "window=128 sinks"; empty for none."""
        texts = (
            "" if self.causal else "not causal",
            "" if self.window is None else f"window={self.window}",
            "" if self.softcap is None else f"softcap={self.softcap:g}",
            "sinks" if self.has_sinks else "",
        )
        return " ".join(filter(None, texts))

    def visible_keys(self) -> int:
        """Meetings of a query with a key that it sees, over the batch, for one query head."""
        return sum(
            _visible_keys(queries, context, causal=self.causal, window=self.window)
            for queries, context in zip(self.queries, self.contexts, strict=True)
        )

    def needed_keys(self) -> tuple[int, ...]:
        """Keys of each sequence that at least one of its queries sees, for one KV head."""
        return tuple(
            _needed_keys(queries, context, self.window)
            for queries, context in zip(self.queries, self.contexts, strict=True)
        )


def _visible_keys(queries: int, context: int, *, causal: bool, window: int | None) -> int:
    total = 0
    for position in range(context - queries, context):
        last = min(position + 1, context) if causal else context
        first = 0 if window is None else max(0, position - window + 1)
        total += max(0, last - first)
    return total


def _needed_keys(queries: int, context: int, window: int | None) -> int:
    if queries == 0:
        return 0
    return context if window is None else min(context, queries + window - 1)


def takes(problem: AttentionProblem, dtype_name: str, capability: int | None) -> bool:
    """Whether the kernels take the problem in a dtype on a GPU of `capability`; None stands for the interpreter."""
    has_float8 = FLOAT8 in (dtype_name, problem.kv_dtype)
    is_mixed = has_float8 and dtype_name != FLOAT8
    if dtype_name == FLOAT8 and not is_key_dim(problem.head_dim, MIN_FLOAT8_PART):
        return False
    if dtype_name == "float32" and problem.passes_int32:  # 16 GB
        return False
    if capability is None:
        return True
    if has_float8 and capability < (90 if is_mixed else 89):  # sm_89 turns float8 into 16 bits only with triton 3.9
        return False
    # fp32 latents fill the shared memory of the larger GPUs alone.
    is_small = target_for(capability).shared_limit_bytes < SHARED_BYTES_OF_FP32_LATENTS
    return not (problem.is_latent and dtype_name == "float32" and is_small)
