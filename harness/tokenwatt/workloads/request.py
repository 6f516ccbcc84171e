"""One request: a prompt, its output budget, and how its tokens are chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import numpy as np
from pydantic import Field, FiniteFloat, field_validator

from tokenwatt.spec import Spec

TokenId = Annotated[int, Field(ge=0, lt=2**31)]


class Sampling(Spec):
    """How the tokens of a request are chosen. Filters come in this order, each on what the one before it left."""

    repetition_penalty: Annotated[FiniteFloat, Field(gt=0)] = 1.0
    """Logits of tokens in prompt or output are divided by it where positive, else multiplied by it."""
    temperature: Annotated[FiniteFloat, Field(ge=0)] = 0.0
    """Logits are divided by it; 0 takes the most probable token."""
    top_k: int = Field(default=0, ge=0, lt=2**31)
    """Only so many of the most probable tokens are left; 0 leaves all."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Only the fewest most probable tokens that reach this probability together are left."""
    min_p: float = Field(default=0.0, ge=0, lt=1)
    """Only tokens at least so probable, as a share of the most probable one, are left."""
    stop_token_ids: tuple[TokenId, ...] = ()
    """Tokens that end the request; without any, it ends with its budget."""

    @field_validator("stop_token_ids", mode="before")
    @classmethod
    def _array(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value


GREEDY = Sampling()


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """One prompt with its output budget."""

    index: int
    """Number in the workload, which no other request of it has: the conversation's, where each has one turn."""
    prompt: np.ndarray
    """Token ids, int32 [isl]."""
    max_tokens: int
    """Tokens to generate (osl); only `sampling.stop_token_ids` stop a request earlier."""
    sampling: Sampling = GREEDY
    """How its tokens are chosen; greedily if nothing is said."""
    seed: int = 0
    """Seed of its draws, from 0 to 2^63 - 1."""
    conversation: int = 0
    """Whose turn it is: conversations are numbered like the requests of a workload without turns."""
    turn: int = 0
    """Position in its conversation."""
    shared_tokens: int = 0
    """Leading tokens of the prompt that another request of the run may have had before: a shared prefix, blocks of a
    trace, what the conversation has said so far. The rest is unique."""
    answers: tuple[tuple[int, int], ...] = ()
    """Where in the prompt earlier answers of its conversation stand: begin and end of each, in order."""


class FollowUp(NamedTuple):
    """The next turn of a conversation."""

    request: Request
    think_s: float
    """How long after the answer it is asked."""
