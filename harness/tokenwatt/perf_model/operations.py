"""Operations of one GPU in one step: what each is, how large it is, and the load of a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "matmul",
    "grouped_matmul",
    "attention.decode",
    "attention.prefill",
    "latent.decode",
    "latent.prefill",
    "recurrence.decode",
    "recurrence.prefill",
    "elementwise",
    "all_reduce",
    "all_gather",
    "all_to_all",
    "send",
]
COLLECTIVES: frozenset[Kind] = frozenset({"all_reduce", "all_gather", "all_to_all", "send"})

Sizes = tuple[tuple[str, float], ...]
ACTIVATION_BYTES = 2
STATE_BYTES = 4
"""Engines keep recurrent states in float32."""
SCORE_BYTES = 4
"""And the scores of a sparse index."""


@dataclass(frozen=True, slots=True)
class Load:
    """What one step carries, for one attention rank."""

    decode_tokens: float = 0.0
    queries: float = 1.0
    """Of decode_tokens those that belong to one sequence: more than one where drafted tokens are verified."""
    context: float = 0.0
    """Keys that a decoding token sees, its own included."""
    prefill_tokens: float = 0.0
    prompt: float = 0.0
    """Length of the prompts that prefill_tokens are of."""

    @property
    def tokens(self) -> float:
        """Tokens that pass through the layers."""
        return self.decode_tokens + self.prefill_tokens

    @property
    def yielding(self) -> float:
        """Tokens whose logits are needed."""
        prompts = self.prefill_tokens / self.prompt if self.prompt else 0.0
        return self.decode_tokens + prompts


@dataclass(frozen=True, slots=True)
class Operation:
    """`count` equal operations of one GPU in one step."""

    name: str
    """Where it stands, as `--what-if` names it: `attention.decode`, `mlp.up`, `moe.experts`, `comm.all_reduce`."""
    kind: Kind
    """What runs it, as `operator_time` knows it."""
    dtype: str
    """Of the weights, or of the cache (key of `PRECISIONS`)."""
    count: float
    flop: float = 0.0
    bytes: float = 0.0
    """To and from memory; of a collective what one GPU holds of its input."""
    ranks: int = 1
    """GPUs of a collective."""
    shape: tuple[tuple[str, float], ...] = ()
    """Sizes by the names of `operator_time`: m, n, k of a matmul; batch, context, heads ... of attention."""

    def times(self, count: float) -> Operation:
        """As many of it. Built field by field: `replace` took a third of the time of planning."""
        return Operation(self.name, self.kind, self.dtype, count, self.flop, self.bytes, self.ranks, self.shape)

    def size(self, name: str) -> float:
        """One of its sizes."""
        return dict(self.shape)[name]

    @property
    def is_collective(self) -> bool:
        """Whether its bytes go over links, not to memory."""
        return self.kind in COLLECTIVES
