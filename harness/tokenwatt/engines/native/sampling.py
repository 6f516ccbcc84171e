"""Chooses the next token of every row: filters in the order of transformers, then a draw that its request alone keys.

A row's token depends on its logits, sampling, seed and position, to the bit, whatever the other rows are: its `Way` is
its own, and what is computed across a row is exact on any device (largest, order, sums of whole numbers).
"""

from __future__ import annotations

import torch
from torch import Tensor

from tokenwatt.engines.native.noise import exponential, random_bits
from tokenwatt.engines.native.sampling_batch import CANDIDATES, RowGroup, SamplingBatch, Way
from tokenwatt_kernels.fused.top_k.call import top_k

WEIGHT_OF_LARGEST = 2.0**42
"""Probabilities are summed as whole numbers; V of them, at most 2^20, stay below 2^63."""
NO_TOKEN = 2**62
FLOAT32 = torch.finfo(torch.float32)
RULED_OUT = float("-inf")


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
    """Scores [R, N], tokens [R, N] or [1, N] of a group. Scores are log p but for a constant, -inf where removed."""
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
