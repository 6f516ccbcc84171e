"""Turns the sequences of a step into the tensors that the decoder reads, in one copy to the device.

B sequences, T new tokens of which the first `decodes` are one for each of the first sequences, S sequences that get an
output token. All are int32, side by side in one buffer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from tokenwatt.engines.native.scheduler import Step
from tokenwatt.engines.native.table import Table

NOT_STORED = -1
"""Slot of a token whose keys and values go nowhere."""
ALIGNMENT = 4
"""Words. Kernels are compiled once for tensors that begin at multiples of 16 bytes, and again for others."""
PARTS = 9


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
    context_bounds: tuple[int, ...] = ()
    """[chunks + 1], prefix sums of the contexts of the chunks, on the host."""


class Stage:
    """The host's side of the copy: pinned for a GPU. It may be filled again once the copy of the last fill is done."""

    def __init__(self, rows: int, tokens: int, max_pages: int, device: torch.device) -> None:
        words = rows * (max_pages + 4) + 3 * tokens + PARTS * ALIGNMENT
        self._host = torch.empty(words, dtype=torch.int32, pin_memory=device.type == "cuda")
        self._array = self._host.numpy()
        self._device = device

    def send(self, *parts: np.ndarray) -> list[torch.Tensor]:
        """The parts on the device, without waiting for the copy."""
        sizes, end = list[int](), 0
        for part in parts:
            self._array[end : end + part.size].reshape(part.shape)[...] = part
            padding = -part.size % ALIGNMENT
            sizes += [part.size, padding]
            end += part.size + padding
        there = self._host[:end].to(self._device, non_blocking=True, copy=True).split(sizes)[::2]
        return [piece if part.ndim == 1 else piece.view(part.shape) for piece, part in zip(there, parts, strict=True)]


def prepare(step: Step, table: Table, page_size: int, stage: Stage) -> Batch:
    """Tensors of one step on the device of `stage`."""
    if step.chunks:
        return _mixed(step, table, page_size, stage)
    slots = table.pages[step.rows, step.starts // page_size] * page_size + step.starts % page_size
    count = len(step.rows)
    counted = np.arange(count + 1, dtype=np.int32)
    rows, contexts, bounds, pages, positions, slots = stage.send(
        step.rows, step.starts + 1, counted, table.pages[step.rows], step.starts, slots
    )
    each = bounds[:count]
    return Batch(rows, contexts, bounds, pages, positions, slots, bounds[:0], each, each, count, 0)


def _mixed(step: Step, table: Table, page_size: int, stage: Stage) -> Batch:
    bounds = np.concatenate([[0], np.cumsum(step.counts)]).astype(np.int32)
    positions = np.arange(bounds[-1], dtype=np.int32) + np.repeat(step.starts - bounds[:-1], step.counts)
    of_token = np.repeat(step.rows, step.counts)
    slots = table.pages[of_token, positions // page_size] * page_size + positions % page_size
    contexts = step.starts + step.counts
    chunks = zip(step.chunks, step.starts[step.decodes :], contexts[step.decodes :], strict=True)
    prompts = np.concatenate([sequence.tokens(start, stop) for sequence, start, stop in chunks])
    last = bounds[step.sampled + 1] - 1
    sent = stage.send(
        step.rows, contexts, bounds, table.pages[step.rows], positions, slots, prompts, last, step.sampled
    )
    longest = int(step.counts[step.decodes :].max())
    context_bounds = (0, *np.cumsum(contexts[step.decodes :]).tolist())
    return Batch(*sent, decodes=step.decodes, longest_chunk=longest, context_bounds=context_bounds)
