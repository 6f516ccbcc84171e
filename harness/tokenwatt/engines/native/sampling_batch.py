"""Turns the samplings of one step into the tensors that `sampling` reads, grouped by the way that a row goes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from tokenwatt.engines.native.noise import random_bits
from tokenwatt.workloads import Sampling

CANDIDATES = 128
"""Tokens that are looked at where top-k leaves no more."""
ALL = 2**62
"""Top-k of a row that has none."""
FLOAT32 = torch.finfo(torch.float32)


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
    """int64 [R, 1], >= 1; ALL keeps all."""
    largest_top_k: int
    top_p: Tensor
    """fp64 [R, 1]; 2 keeps all, where 1 would lose weights that round to 0."""
    log_min_p: Tensor
    """fp32 [R, 1]; -inf keeps all."""

    @classmethod
    def of(
        cls, way: Way, rows: Sequence[int] | None, members: Sequence[tuple[Sampling, int]], device: torch.device
    ) -> RowGroup:
        """Tensors on `device` for the samplings and seeds of R rows."""
        samplings, seeds = zip(*members, strict=True)
        top_ks = [1 if s.temperature == 0 else s.top_k or ALL for s in samplings]
        # What fp32 has no number for acts as its ends do: the largest logits alone, or all alike.
        temperatures = [min(max(s.temperature or 1.0, FLOAT32.tiny), FLOAT32.max) for s in samplings]
        return cls(
            way=way,
            rows=None if rows is None else _column(rows, torch.int64, device)[:, 0],
            stream=random_bits(_column(seeds, torch.int64, device), 0),
            temperature=_column(temperatures, torch.float32, device),
            top_k=_column(top_ks, torch.int64, device),
            largest_top_k=max(top_ks),
            top_p=_column([s.top_p if s.top_p < 1 else 2.0 for s in samplings], torch.float64, device),
            log_min_p=_column([math.log(s.min_p) if s.min_p else -math.inf for s in samplings], torch.float32, device),
        )


@dataclass(frozen=True, slots=True)
class SamplingBatch:
    """How the B rows of a step are sampled: tensors on the device of the logits, made once per change of the batch."""

    size: int
    is_greedy: bool
    """Whether every row is; then it needs no groups."""
    penalty: Tensor | None
    """fp32 [B, 1]; None where every row's is 1."""
    groups: tuple[RowGroup, ...]
    places: Tensor | None
    """int64 [B], where each row is once the groups' rows are put behind each other; None if they are in order."""

    @classmethod
    def of(cls, samplings: Sequence[Sampling], seeds: Sequence[int], device: torch.device) -> SamplingBatch:
        """The batch of B samplings and as many seeds, each from 0 to 2^63 - 1."""
        penalties = [sampling.repetition_penalty for sampling in samplings]
        penalty = _column(penalties, torch.float32, device) if set(penalties) - {1.0} else None
        if all(sampling.temperature == 0 for sampling in samplings):
            return cls(len(samplings), True, penalty, (), None)
        every = list(zip(samplings, seeds, strict=True))
        ways = [Way.of(sampling) for sampling in samplings]
        split = {way: [row for row, its in enumerate(ways) if its is way] for way in Way if way in ways}
        order = [row for rows in split.values() for row in rows]
        places = sorted(range(len(order)), key=order.__getitem__)
        is_mixed = len(split) > 1
        return cls(
            size=len(every),
            is_greedy=False,
            penalty=penalty,
            groups=tuple(
                RowGroup.of(way, rows if is_mixed else None, [every[row] for row in rows], device)
                for way, rows in split.items()
            ),
            places=_column(places, torch.int64, device)[:, 0] if is_mixed else None,
        )


def _column(values: Sequence[float], dtype: torch.dtype, device: torch.device) -> Tensor:
    """[R, 1] on a device; the copy does not wait for what runs there."""
    made = torch.tensor(values, dtype=dtype)[:, None]
    return made.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else made.to(device)
