"""Chooses the next token of every row: filters in the order of transformers, then a draw that its request alone keys.

A row's token depends on its logits, sampling, seed and position, to the bit, whatever the other rows are: its `Way` is
its own, and what is computed across a row is exact on any device (largest, order, sums of whole numbers).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from tokenwatt.engines.native.noise import exponential, random_bits
from tokenwatt.workloads import Sampling
from tokenwatt_kernels.fused.top_k.call import top_k

CANDIDATES = 128
WEIGHT_OF_LARGEST = 2.0**42
"""Probabilities are summed as whole numbers; V of them, at most 2^20, stay below 2^63."""
FLOAT32 = torch.finfo(torch.float32)
RULED_OUT = float("-inf")
NO_TOKEN = 2**62


class Way(Enum):
    """How the tokens are found that a row may take."""

    CANDIDATES = "the 128 largest: greedy rows, which are top-k of 1, and top-k up to 128"
    WHOLE = "all, by their ids: neither top-k nor top-p"
    BOUNDED = "all, by their ids, that reach the k-th largest: top-k beyond 128, no top-p"
    SORTED = "all, the largest first: top-p without a small top-k"

    @classmethod
    def of(cls, sampling: Sampling) -> Way:
        """The way of a row."""
        if sampling.temperature == 0 or 1 <= sampling.top_k <= CANDIDATES:
            return cls.CANDIDATES
        if sampling.top_p < 1:
            return cls.SORTED
        return cls.BOUNDED if sampling.top_k else cls.WHOLE


@dataclass(frozen=True, slots=True)
class RowGroup:
    """The R rows of a step that go one way. rows: int64 [R], their places in the step; None where they are all."""

    way: Way
    rows: Tensor | None
    stream: Tensor
    """int64 [R, 1], made of the seed."""
    temperature: Tensor
    """fp32 [R, 1], > 0."""
    top_k: Tensor
    """int64 [R, 1], >= 1; NO_TOKEN keeps all."""
    largest_top_k: int
    top_p: Tensor
    """fp64 [R, 1]; 2 keeps all, where 1 would lose weights that round to 0."""
    log_min_p: Tensor
    """fp32 [R, 1]; -inf keeps all."""

    @classmethod
    def of(cls, way: Way, rows: Tensor | None, mine: Sequence[tuple[Sampling, int]], device: torch.device) -> RowGroup:
        """Tensors on `device` for the samplings and seeds of R rows."""
        samplings, seeds = zip(*mine, strict=True)
        top_ks = [1 if s.temperature == 0 else s.top_k or NO_TOKEN for s in samplings]
        # What fp32 has no number for acts as its ends do: the largest logits alone, or all alike.
        temperatures = [min(max(s.temperature or 1.0, FLOAT32.tiny), FLOAT32.max) for s in samplings]
        return cls(
            way=way,
            rows=rows,
            stream=random_bits(_column(seeds, torch.int64, device), 0),
            temperature=_column(temperatures, torch.float32, device),
            top_k=_column(top_ks, torch.int64, device),
            largest_top_k=max(top_ks),
            top_p=_column([s.top_p if s.top_p < 1 else 2.0 for s in samplings], torch.float64, device),
            log_min_p=_column([math.log(s.min_p) if s.min_p else RULED_OUT for s in samplings], torch.float32, device),
        )


@dataclass(frozen=True, slots=True)
class SamplingBatch:
    """How the B rows of a step are sampled: tensors on the device of the logits, made once per change of the batch."""

    size: int
    is_greedy: bool
    """Whether every row is."""
    penalty: Tensor | None
    """fp32 [B, 1]; None where every row's is 1."""
    groups: tuple[RowGroup, ...]
    places: Tensor | None
    """int64 [B], where each row is once the groups' rows are put behind each other; None if they are in order."""

    @classmethod
    def of(cls, samplings: Sequence[Sampling], seeds: Sequence[int], device: torch.device) -> SamplingBatch:
        """The batch of B samplings and as many seeds, each from 0 to 2^63 - 1."""
        every = list(zip(samplings, seeds, strict=True))
        ways = [Way.of(sampling) for sampling in samplings]
        split = {way: [row for row, its in enumerate(ways) if its is way] for way in Way if way in ways}
        rows = {way: _column(mine, torch.int64, device)[:, 0] if len(split) > 1 else None for way, mine in split.items()}
        penalties = [sampling.repetition_penalty for sampling in samplings]
        return cls(
            size=len(every),
            is_greedy=all(sampling.temperature == 0 for sampling in samplings),
            penalty=None if set(penalties) <= {1.0} else _column(penalties, torch.float32, device),
            groups=tuple(RowGroup.of(way, rows[way], [every[r] for r in mine], device) for way, mine in split.items()),
            places=torch.cat([r for r in rows.values() if r is not None]).argsort() if len(split) > 1 else None,
        )


def sample(logits: Tensor, batch: SamplingBatch, positions: Tensor, seen: Tensor | None = None) -> Tensor:
    """The token of each row, int64 [B]. Nothing in it waits for the device.

    logits: [B, V], fp32, bf16 or fp16, contiguous along V, which is at most 2^20. NaN rules a token out as -inf does; a
        row that has nothing else takes token 0.
    positions: int64 [B], the place in its sequence that the token will have.
    seen: bool [B, V], tokens that occur in prompt or output; needed where a repetition penalty is not 1.

    Of equal logits, those with lower ids come first. Top-k leaves k, where transformers leaves all that equal the last.
    Raises ValueError for another number of rows than the batch has, and where `seen` is needed but missing.
    """
    if logits.shape[0] != batch.size:
        raise ValueError(f"logits must have as many rows as the batch, {batch.size}, got {logits.shape[0]}")
    logits = _penalised(logits, batch.penalty, seen)
    if batch.is_greedy:
        return top_k(logits, 1)[1][:, 0].long()
    drawn = [_draw(*_filtered(logits, group), group, positions) for group in batch.groups]
    return _at(torch.cat(drawn), batch.places)


def _penalised(logits: Tensor, penalty: Tensor | None, seen: Tensor | None) -> Tensor:
    if penalty is None:
        return logits
    if seen is None:
        raise ValueError("a repetition penalty other than 1 needs `seen`, the tokens of each row's prompt and output")
    wide = logits.float()
    return torch.where(seen, torch.where(wide > 0, wide / penalty, wide * penalty), wide)


def _filtered(logits: Tensor, group: RowGroup) -> tuple[Tensor, Tensor]:
    """Scores [R, N] and tokens [R, N] or [1, N] of a group: log-probabilities, but for a constant, -inf where removed."""
    logits = _at(logits, group.rows)  # [R, V]
    if group.way is Way.CANDIDATES:
        found, tokens, _ = top_k(logits, min(CANDIDATES, logits.shape[1]))
        return _filtered_in_order(_scores(_numbers(found), group), group), tokens.long()
    numbers = _numbers(logits)
    if group.way is Way.SORTED:
        found, tokens = numbers.sort(dim=1, descending=True, stable=True)
        return _filtered_in_order(_scores(found, group), group), tokens
    scores = _scores(numbers, group)
    is_left = scores >= group.log_min_p
    if group.way is Way.BOUNDED:
        is_left = is_left & _is_among_largest(numbers, group)
    return scores.masked_fill(~is_left, RULED_OUT), torch.arange(logits.shape[1], device=logits.device)[None]


def _numbers(logits: Tensor) -> Tensor:
    """In fp32, without NaN and +inf."""
    return logits.float().nan_to_num(nan=RULED_OUT, posinf=FLOAT32.max, neginf=RULED_OUT)


def _scores(numbers: Tensor, group: RowGroup) -> Tensor:
    """[R, N], 0 for the largest: exactly so with any N, and at a temperature however small."""
    return (numbers - numbers.amax(1, keepdim=True).clamp(min=FLOAT32.min)) / group.temperature


def _filtered_in_order(scores: Tensor, group: RowGroup) -> Tensor:
    """Scores [R, N], the largest first, with -inf for what top-k, top-p and min-p remove."""
    in_top_k = torch.arange(scores.shape[1], device=scores.device) < group.top_k
    weights = (torch.where(in_top_k, scores, RULED_OUT).exp() * WEIGHT_OF_LARGEST).long()
    before = weights.cumsum(1) - weights
    limit = (weights.sum(1, keepdim=True) * group.top_p).ceil().long()  # [R, 1]
    is_left = in_top_k & (before < limit) & (scores >= group.log_min_p)
    return scores.masked_fill(~is_left, RULED_OUT)


def _is_among_largest(numbers: Tensor, group: RowGroup) -> Tensor:
    """bool [R, V], true for the top_k largest of each row."""
    bound = min(group.largest_top_k, numbers.shape[1])
    last = numbers.topk(bound, dim=1).values.gather(1, group.top_k.clamp(max=bound) - 1)  # [R, 1]
    level = numbers == last
    return (numbers > last) | (level & (level.cumsum(1) <= group.top_k - (numbers > last).sum(1, keepdim=True)))


def _draw(scores: Tensor, tokens: Tensor, group: RowGroup, positions: Tensor) -> Tensor:
    """int64 [R], each token with the probability of its score: the first in a race of times E / p (Gumbel-max)."""
    keys = random_bits(group.stream, _at(positions, group.rows)[:, None])  # [R, 1]
    leads = scores - exponential(random_bits(keys, tokens)).log()
    return torch.where(leads == leads.amax(1, keepdim=True), tokens, NO_TOKEN).amin(1)


def _at(rows: Tensor, places: Tensor | None) -> Tensor:
    return rows if places is None else rows.index_select(0, places)


def _column(values: Sequence[float], dtype: torch.dtype, device: torch.device) -> Tensor:
    """[R, 1] on a device; the copy does not wait for what runs there."""
    made = torch.tensor(values, dtype=dtype)[:, None]
    return made.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else made.to(device)
