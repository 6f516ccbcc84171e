"""Log-probabilities of given tokens, by the steps that a run is made of: prompts in chunks, then token by token.

The first half of each prompt is computed in chunks and the other half one token a step, together with the other
prompts, so that the kernels of both phases, and the graphs of the second, are seen by whoever compares.
"""

from __future__ import annotations

from collections.abc import Sequence as Listed

import numpy as np

from tokenwatt.engines.native.pages import pages_for
from tokenwatt.engines.native.scheduler import Step
from tokenwatt.engines.native.sequence import Sequence
from tokenwatt.engines.native.serving import Loaded
from tokenwatt.errors import EngineError
from tokenwatt.workloads import Request

SCORED_BYTES = 2**28
"""Memory for the logits of a chunk, in float32 and once more as log-probabilities, beside what steps have reserved."""
BYTES_PER_LOGIT = 10
"""As the model makes it (2 or 4), and twice in float32; of float32 models a little more."""


def prompt_logprobs(loaded: Loaded, prompts: Listed[np.ndarray]) -> list[np.ndarray]:
    """Natural-log probability of each token of each prompt given those before it, float32 [isl - 1].

    The engine must not be serving; what its cache held is lost, which no run would have found.

    Raises:
        EngineError: a prompt that the engine was not loaded for.
    """
    sequences = [Sequence(Request(place, prompt, 1)) for place, prompt in enumerate(prompts)]
    for place, sequence in enumerate(sequences):
        why = loaded.refusal(sequence.request)
        if why is not None:
            raise EngineError(f"prompt {place} cannot be scored: {why}")
    scores: list[np.ndarray] = []
    while sequences:
        count = _fitting(loaded, sequences)
        scores += _score(loaded, sequences[:count])
        sequences = sequences[count:]
    return scores


def _fitting(loaded: Loaded, sequences: Listed[Sequence]) -> int:
    """How many of the first have rows and pages together; one has both, or it would not be refused."""
    pages = np.cumsum([pages_for(sequence.prompt_len, loaded.options.page_size) for sequence in sequences])
    return max(1, min(int(np.searchsorted(pages, loaded.num_pages, side="right")), loaded.table.rows))


def _score(loaded: Loaded, sequences: Listed[Sequence]) -> list[np.ndarray]:
    """Of prompts that have rows and pages together."""
    free = iter(range(loaded.num_pages))
    for sequence in sequences:
        sequence.pages = [next(free) for _ in range(pages_for(sequence.prompt_len, loaded.options.page_size))]
        loaded.table.seat(sequence, 0)
    scores = [np.empty(sequence.prompt_len - 1, dtype=np.float32) for sequence in sequences]
    try:
        for sequence, score in zip(sequences, scores, strict=True):
            _score_in_chunks(loaded, sequence, score)
        _score_by_token(loaded, sequences, scores)
    finally:
        for sequence in sequences:
            loaded.table.free(sequence)
    return scores


def _half(sequence: Sequence) -> int:
    """Tokens of a prompt that are computed in chunks."""
    return (sequence.prompt_len + 1) // 2


def _score_in_chunks(loaded: Loaded, sequence: Sequence, score: np.ndarray) -> None:
    """The first half of a prompt."""
    at_once = SCORED_BYTES // (BYTES_PER_LOGIT * loaded.architecture.vocab_size)
    at_once = max(1, min(at_once, loaded.max_step_tokens))
    end = min(_half(sequence), sequence.prompt_len - 1)
    for start in range(0, end, at_once):
        count = min(at_once, end - start)
        step = Step(
            rows=_integers([sequence.row]), starts=_integers([start]), counts=_integers([count]), decodes=0,
            chunks=[sequence], sampled=_integers([0]), sequences=[],
        )  # fmt: skip
        following = sequence.tokens(start + 1, start + count + 1)
        score[start : start + count] = loaded.runner.score(step, _integers([]), following)


def _score_by_token(loaded: Loaded, sequences: Listed[Sequence], scores: Listed[np.ndarray]) -> None:
    """The other halves, all prompts together."""
    place = 0
    while running := [
        (sequence, score, _half(sequence) + place)
        for sequence, score in zip(sequences, scores, strict=True)
        if _half(sequence) + place < sequence.prompt_len - 1
    ]:
        starts = [start for _, _, start in running]
        rows, count = _integers([sequence.row for sequence, _, _ in running]), len(running)
        step = Step(
            rows=rows, starts=_integers(starts), counts=np.ones(count, dtype=np.int32), decodes=count,
            chunks=[], sampled=np.arange(count, dtype=np.int32), sequences=[],
        )  # fmt: skip
        tokens = np.array([sequence.tokens(start, start + 2) for sequence, _, start in running])
        found = loaded.runner.score(step, tokens[:, 0], tokens[:, 1])
        for (_, score, start), logprob in zip(running, found, strict=True):
            score[start] = logprob
        place += 1


def _integers(values: list[int]) -> np.ndarray:
    return np.array(values, dtype=np.int32)
