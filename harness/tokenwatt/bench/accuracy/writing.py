"""Short answers to texts, written by the engine as it serves any request, for tasks that look at what it says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from tokenwatt.clock import RunClock
from tokenwatt.engines.protocol import Engine
from tokenwatt.errors import EngineError, UserError
from tokenwatt.load import Listed, Load
from tokenwatt.spec import validate
from tokenwatt.workloads import GREEDY, Request, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

AT_ONCE = 64
"""Requests in flight."""
MOST_WRITTEN = 256
"""Tokens of an answer where its task does not say, as lm-eval's own models have it."""
SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
"""Settings of a task that say how its answers are drawn."""
NEUTRAL = (("num_beams", 1), ("num_return_sequences", 1), ("use_cache", True), ("early_stopping", False))
"""Settings of a task that change nothing."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """An answer that is to be written after a text."""

    text: str
    until: tuple[str, ...] = ()
    """The answer ends before the first of these."""
    most_tokens: int = MOST_WRITTEN
    sampling: Sampling = GREEDY

    @classmethod
    def of(cls, text: str, settings: Mapping[str, Any]) -> Wanted:
        """As a task says it, in the words to which lm-eval's `normalize_gen_kwargs` brings all others.

        Raises:
            UserError: a setting that the engines do not have.
        """
        left = dict(settings)
        until, most, is_drawn = left.pop("until"), left.pop("max_gen_toks"), left.pop("do_sample")
        drawn = {name: left.pop(name) for name in SAMPLING if left.get(name) is not None}
        unknown = [name for name, value in left.items() if value is not None and (name, value) not in NEUTRAL]
        if unknown:
            raise UserError(f"lm_eval asks for {unknown[0]} = {left[unknown[0]]!r}; allowed: {', '.join(SAMPLING)}")
        return cls(text, tuple(until), most, validate(drawn, Sampling, "lm_eval") if is_drawn else GREEDY)


def ends_of(tokenizer: PreTrainedTokenizerBase, weights: str) -> tuple[int, ...]:
    """Tokens with which answers end, by the tokenizer and by the checkpoint's generation_config.json, if it has one."""
    from transformers import GenerationConfig

    try:
        ids = GenerationConfig.from_pretrained(weights).eos_token_id
    except OSError:  # transformers has no other way to say that there is none
        ids = None
    own = ids if isinstance(ids, list) else [ids]
    return tuple(sorted({int(token) for token in (*own, tokenizer.eos_token_id) if isinstance(token, int)}))


@dataclass(frozen=True, slots=True)
class Writer:
    """An engine that answers texts with text."""

    engine: Engine
    tokenizer: PreTrainedTokenizerBase
    ends: tuple[int, ...]
    """Tokens that end an answer."""
    longest_context: int
    """Tokens for which the engine is loaded."""
    cut: Counter[str] = field(default_factory=Counter)
    """How many were too long and lost their beginning, of what."""

    def write(self, wanted: Sequence[Wanted]) -> list[str]:
        """Answers, served in a closed loop.

        Raises:
            EngineError: an answer may be longer than a context, a request failed, or the engine tells no token ids.
        """
        requests = tuple(self._request(place, one) for place, one in enumerate(wanted))
        load = Load.closed(Listed(requests), AT_ONCE)
        load.reads_output = True
        tokens: list[list[int]] = [[] for _ in requests]
        for event in self.engine.serve(load, RunClock()):
            if event.failure is not None:
                raise EngineError(f"question {event.request_index} has no answer: {event.failure.detail}")
            if len(event.token_ids) != event.tokens:
                raise EngineError(
                    "answers to lm_eval tasks need an engine that tells token ids; a server, return_token_ids and"
                    ' counting = "auto" or "token_ids"'
                )
            tokens[event.request_index] += event.token_ids
        return [self._text(ids, one.until) for ids, one in zip(tokens, wanted, strict=True)]

    def _request(self, place: int, wanted: Wanted) -> Request:
        room = self.longest_context - wanted.most_tokens
        if room < 1:
            raise EngineError(
                f"an answer may have {wanted.most_tokens} tokens, the engine is loaded for contexts of"
                f" {self.longest_context}"
            )
        tokens = self.tokenizer.encode(wanted.text)
        self.cut["questions"] += len(tokens) > room
        known = self.tokenizer.get_added_vocab()
        ends = {*self.ends, *(known[end] for end in wanted.until if end in known)}
        sampling = wanted.sampling.model_copy(update={"stop_token_ids": tuple(sorted(ends))})
        return Request(place, np.array(tokens[-room:], dtype=np.int32), wanted.most_tokens, sampling, seed=place)

    def _text(self, ids: list[int], until: Sequence[str]) -> str:
        """What comes before the end of an answer, which may be a special token; others are left out."""
        text = str(self.tokenizer.decode(ids, skip_special_tokens=False))
        for end in until:
            text = text.split(end)[0] if end else text
        for special in self.tokenizer.all_special_tokens:
            text = text.replace(special, "")
        return text
