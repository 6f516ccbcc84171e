"""Turns the sequences of a step into the tensors that the decoder reads, in one copy to the device.

B sequences, T new tokens of which the first `decodes` are one for each of the first sequences, S sequences that get an
output token. All are int32, side by side in one buffer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from tokenwatt.engines.native.scheduler import Step
from tokenwatt.engines.native.table import Table

NOT_STORED = -1
"""Slot of a token whose keys and values go nowhere."""
ALIGNMENT = 4
"""Words. Kernels are compiled once for tensors that begin at multiples of 16 bytes, and again for others."""
PARTS = 10


@dataclass(frozen=True, slots=True)
class Batch:
    """T tokens of B sequences, flattened."""

    rows: torch.Tensor
    """[B], row of each sequence's newest token on the device; of those that decode it is the input."""
    context_lens: torch.Tensor
    """[B], tokens in the cache, those of the step included."""
    cu_seqlens: torch.Tensor
    """[B + 1], prefix sums of new tokens."""
    block_table: torch.Tensor
    """[B, max_pages], page ids."""
    positions: torch.Tensor
    """[T], position of each token in its sequence."""
    slots: torch.Tensor
    """[T], where the cache keeps each token: page * page_size + place; NOT_STORED for nowhere."""
    prompt_tokens: torch.Tensor
    """[T - decodes], token ids of the chunks."""
    last: torch.Tensor
    """[S], which of the T tokens predict an output token."""
    sampled: torch.Tensor
    """[S], which of the B sequences get it."""
    decodes: int
    longest_chunk: int
    """New tokens of the longest chunk; 0 without chunks."""
    context_bounds: torch.Tensor | None = None
    """[chunks + 1], prefix sums of the contexts of the chunks, where a model wants them side by side ..."""
    context_slots: torch.Tensor | None = None
    """... and where the cache keeps all of their tokens, chunk after chunk."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How arrays lie behind each other in one buffer of int32."""

    shapes: tuple[tuple[int, ...], ...]
    sizes: tuple[int, ...]
    """Of each array and of the gap behind it, in turns."""

    @classmethod
    def of(cls, parts: Sequence[np.ndarray]) -> Layout:
        """The layout of some arrays."""
        sizes = [size for part in parts for size in (part.size, -part.size % ALIGNMENT)]
        return cls(tuple(part.shape for part in parts), tuple(sizes))

    @property
    def words(self) -> int:
        """Length of the buffer."""
        return sum(self.sizes)

    def views(self, buffer: torch.Tensor) -> list[torch.Tensor]:
        """The arrays in a buffer of this layout."""
        pieces = buffer.split_with_sizes(self.sizes)[::2]
        return [
            piece if len(shape) == 1 else piece.view(shape) for piece, shape in zip(pieces, self.shapes, strict=True)
        ]


class Stage:
    """The host's side of the copy: pinned for a GPU. It may be filled again once the copy of the last fill is done."""

    def __init__(self, rows: int, tokens: int, max_pages: int, device: torch.device) -> None:
        # Most where all sequences have chunks and all prompts end: pages, and six numbers for each of them.
        words = rows * (max_pages + 6) + 3 * tokens + PARTS * ALIGNMENT
        self._host = torch.empty(words, dtype=torch.int32, pin_memory=device.type == "cuda")
        self._array = self._host.numpy()
        self._device = device

    def fill(self, *parts: np.ndarray) -> tuple[torch.Tensor, Layout]:
        """The parts behind each other, on the host."""
        layout, end = Layout.of(parts), 0
        for part, size, gap in zip(parts, layout.sizes[::2], layout.sizes[1::2], strict=True):
            self._array[end : end + size] = part.ravel()
            end += size + gap
        return self._host[:end], layout

    def send(self, *parts: np.ndarray) -> list[torch.Tensor]:
        """The parts on the device, without waiting for the copy."""
        host, layout = self.fill(*parts)
        return layout.views(host.to(self._device, non_blocking=True, copy=True))


def prepare(step: Step, table: Table, page_size: int, stage: Stage, *, wants_contexts: bool = False) -> Batch:
    """Tensors of one step on the device of `stage`; wants_contexts: with `context_slots`."""
    if step.chunks:
        return _mixed(step, table, page_size, stage, wants_contexts)
    return decode_batch(stage.send(*decode_parts(step, table, page_size, step.decodes)))


def decode_parts(step: Step | None, table: Table, page_size: int, size: int) -> list[np.ndarray]:
    """What `decode_batch` reads of a step without chunks, for `size` sequences: beside the step's, of nobody.

    Nobody's token is read from the row behind the table's and stored nowhere, and has no context.
    """
    count = 0 if step is None else step.decodes
    pages = np.zeros((size, table.pages.shape[1]), dtype=np.int32)
    rows = np.full(size, table.rows, dtype=np.int32)
    contexts, positions = np.zeros(size, dtype=np.int32), np.zeros(size, dtype=np.int32)
    slots = np.full(size, NOT_STORED, dtype=np.int32)
    if step is not None:
        pages[:count] = table.pages.take(step.rows, axis=0)
        rows[:count] = step.rows
        positions[:count] = step.starts
        contexts[:count] = step.starts + 1
        slots[:count] = table.slots(step.rows, step.starts, page_size)
    return [rows, contexts, np.arange(size + 1, dtype=np.int32), pages, positions, slots]


def decode_batch(parts: Sequence[torch.Tensor]) -> Batch:
    """The batch of such parts on the device."""
    rows, contexts, bounds, pages, positions, slots = parts
    each = bounds[: len(rows)]
    return Batch(rows, contexts, bounds, pages, positions, slots, bounds[:0], each, each, len(rows), 0)


def _mixed(step: Step, table: Table, page_size: int, stage: Stage, wants_contexts: bool) -> Batch:
    bounds = _bounds(step.counts)
    positions = np.arange(step.tokens, dtype=np.int32) + (step.starts - bounds[:-1]).repeat(step.counts)
    slots = table.slots(step.rows.repeat(step.counts), positions, page_size)
    contexts = step.starts + step.counts
    spans = zip(step.starts[step.decodes :].tolist(), contexts[step.decodes :].tolist(), strict=True)
    prompts = [sequence.tokens(*span) for sequence, span in zip(step.chunks, spans, strict=True)]
    last = bounds[1:].take(step.sampled) - 1
    context_bounds = _bounds(contexts[step.decodes :])
    *sent, context_bounds_there = stage.send(
        step.rows, contexts, bounds, table.pages.take(step.rows, axis=0), positions, slots, np.concatenate(prompts),
        last, step.sampled, context_bounds,
    )  # fmt: skip
    batch = Batch(*sent, decodes=step.decodes, longest_chunk=int(step.counts[step.decodes :].max()))
    if not wants_contexts:
        return batch
    return replace(
        batch,
        context_bounds=context_bounds_there,
        context_slots=_context_slots(batch, context_bounds_there, int(context_bounds[-1]), page_size),
    )


def _context_slots(batch: Batch, bounds: torch.Tensor, total: int, page_size: int) -> torch.Tensor:
    """Where the cache keeps the `total` tokens of the chunks' contexts, found on the device: they may be many."""
    chunks = torch.arange(len(bounds) - 1, device=bounds.device)
    chunk = chunks.repeat_interleave(bounds.diff(), output_size=total)  # told the size, it does not wait for it
    position = torch.arange(total, device=bounds.device) - bounds[chunk]
    page = batch.block_table[batch.decodes + chunk, position // page_size]
    return page * page_size + position % page_size


def _bounds(counts: np.ndarray) -> np.ndarray:
    bounds = np.zeros(len(counts) + 1, dtype=np.int32)
    counts.cumsum(out=bounds[1:])
    return bounds
