"""Typical steps of a run, and the kernels of each family in them, to be run and metered alone.

A window's steps are of two kinds: those that only decode, and those that compute prompts beside it. Of each kind the
mean step is a probe's shape, so that a family's energy in the window is read between what was metered, not beyond.
Where all steps are of one kind, a step with half as many tokens joins them, to tell operations from bytes: a product
reads the same weights for fewer operations. Attention that only decodes keeps their ratio, whatever the step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from tokenwatt.engines.native.accounting import FAMILIES, Accounting, StepLog, StepShape
from tokenwatt.engines.native.pages import pages_for
from tokenwatt.engines.native.recording import Recording
from tokenwatt.engines.native.scheduler import Step
from tokenwatt.engines.native.sequence import Sequence as Running
from tokenwatt.engines.native.serving import Loaded
from tokenwatt.engines.native.table import Table
from tokenwatt.engines.protocol import Family, Probe, Probes
from tokenwatt.errors import EngineError
from tokenwatt.workloads import Request

HALF = 0.5
"""Tokens of the step beside a kind that is alone."""


@dataclass(frozen=True, slots=True)
class MeanStep:
    """The mean of `steps` steps of one kind. Contexts hold the tokens of the step."""

    steps: float
    decodes: float
    decode_context: float
    """Of one sequence."""
    chunks: float
    chunk_tokens: float
    """Of all chunks."""
    chunk_context: float
    """Of one sequence."""
    ended: float
    """Chunks that end their prompt."""

    @classmethod
    def of(cls, shapes: Sequence[StepShape]) -> MeanStep:
        """The mean of some shapes, at least one."""
        sums = StepShape(*(sum(column) for column in zip(*shapes, strict=True)))
        count = len(shapes)
        return cls(
            steps=count,
            decodes=sums.decodes / count,
            decode_context=sums.decode_contexts / max(1, sums.decodes),
            chunks=sums.chunks / count,
            chunk_tokens=sums.chunk_tokens / count,
            chunk_context=sums.chunk_contexts / max(1, sums.chunks),
            ended=(sums.sampled - sums.decodes) / count,
        )

    def scaled(self, share: float) -> MeanStep:
        """A step that was not in the window, with a share of the tokens at the same contexts."""
        return replace(
            self, steps=0, decodes=share * self.decodes, chunks=share * self.chunks,
            chunk_tokens=share * self.chunk_tokens, ended=share * self.ended,
        )  # fmt: skip


def typical_steps(shapes: Sequence[StepShape]) -> list[MeanStep]:
    """The shapes at which the steps of a window are probed; none for a window without steps."""
    kinds = [[shape for shape in shapes if bool(shape.chunks) is has_chunks] for has_chunks in (False, True)]
    means = [MeanStep.of(kind) for kind in kinds if kind]
    if len(means) == 1 and max(means[0].decodes, means[0].chunk_tokens) > 1:
        means.append(means[0].scaled(HALF))
    return means


@dataclass(frozen=True, slots=True)
class Stand:
    """Sequences that nobody asked for, as far along as those of a mean step, in pages of an engine that is idle."""

    loaded: Loaded

    def step(self, mean: MeanStep) -> tuple[Step, Table]:
        """A step like `mean`, in whole numbers and within what was loaded, and the table of its sequences."""
        decodes, counts, ended = self._numbers(mean)
        contexts = np.full(decodes + len(counts), round(mean.decode_context), dtype=np.int32)
        contexts[decodes:] = round(mean.chunk_context)
        counts = np.concatenate([np.ones(decodes, dtype=np.int32), counts])
        contexts = np.clip(contexts, counts, self.loaded.longest_context)
        rows = np.arange(len(counts), dtype=np.int32)
        sequences = [self._sequence(row, int(context)) for row, context in enumerate(contexts)]
        sampled = rows[: decodes + ended]
        step = Step(
            rows, contexts - counts, counts, decodes, sequences[decodes:], sampled, sequences[: decodes + ended]
        )
        return step, self._table(contexts)

    def _numbers(self, mean: MeanStep) -> tuple[int, np.ndarray, int]:
        """Sequences that decode, tokens of each chunk, and chunks that end their prompt."""
        rows, budget = self.loaded.table.rows, self.loaded.max_step_tokens
        chunks = min(max(1, round(mean.chunks)), rows) if mean.chunk_tokens else 0
        decodes = min(max(0 if chunks else 1, round(mean.decodes)), rows - chunks, budget - chunks)
        tokens = min(max(chunks, round(mean.chunk_tokens)), budget - decodes)
        ends = np.linspace(0, tokens, chunks + 1).round().astype(np.int32)
        return decodes, np.diff(ends), min(round(mean.ended), chunks)

    def _sequence(self, row: int, context: int) -> Running:
        tokens = np.random.default_rng(row).integers(0, self.loaded.architecture.vocab_size, context, dtype=np.int32)
        return Running(Request(row, tokens, 1))

    def _table(self, contexts: np.ndarray) -> Table:
        """A sequence's pages follow those of the one before. Where the pool ends, they begin again: prefix caching
        may have held more tokens than there are pages for, and then pages were shared."""
        table = Table(self.loaded.table.rows, self.loaded.table.pages.shape[1])
        first = 0
        for row, context in enumerate(contexts.tolist()):
            count = pages_for(context, self.loaded.options.page_size)
            table.pages[row, :count] = np.arange(first, first + count) % self.loaded.num_pages
            first += count
        return table


def probes_of(loaded: Loaded, log: StepLog, start_s: float, end_s: float) -> Probes:
    """The families in the steps of (start_s, end_s], and probes of its typical steps."""
    accounting = loaded.accounting
    if accounting is None or accounting.size > 1:
        return Probes(refusal="a GPU that shares its model cannot run a part of a step alone")
    means = typical_steps(log.shapes_between(start_s, end_s))
    if not means:
        return Probes(refusal="no step of the engine ended in the window")
    loaded.runner.randomise(loaded.num_pages)
    works, stand = log.between(start_s, end_s), Stand(loaded)
    return Probes(
        flop={family: works[family].flop for family in FAMILIES},
        bytes={family: works[family].bytes for family in FAMILIES},
        probes=tuple(probe for mean in means for probe in _probes_at(stand, accounting, mean)),
        refusal="",
    )


def _probes_at(stand: Stand, accounting: Accounting, mean: MeanStep) -> list[Probe]:
    """A probe for each family that has work in a step."""
    step, table = stand.step(mean)
    probes = []
    for family, work in zip(FAMILIES, accounting.of(step), strict=True):
        if work.flop or work.bytes:
            prepare = _preparation(stand.loaded, step, table, family)
            probes.append(Probe(family, _named(step), mean.steps, work.flop, work.bytes, prepare))
    return probes


def _preparation(loaded: Loaded, step: Step, table: Table, family: Family) -> Callable[[], Recording]:
    def prepare() -> Recording:
        try:
            recording = loaded.runner.record(step, table, family)
        except torch.OutOfMemoryError as error:
            raise EngineError(f"out of GPU memory: {str(error).splitlines()[0]}") from None
        if not recording.calls:
            raise EngineError(f"family {family!r} has work in a step and no kernels in it: please report this")
        return recording

    return prepare


def _named(step: Step) -> str:
    parts = []
    if step.decodes:
        parts.append(f"{step.decodes} decode at {int(step.starts[0]) + 1:,} tokens")
    if step.chunks:
        chunked = int(step.counts[step.decodes :].sum())
        parts.append(f"{len(step.chunks)} chunk{'s' if len(step.chunks) > 1 else ''} of {chunked:,} tokens")
    return ", ".join(parts)
