"""Turns the sequences of one step into the tensors that the decoder reads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from tokenwatt.engines.native.kv_cache import PAGE_SIZE
from tokenwatt.engines.native.scheduler import Sequence, Step


@dataclass(frozen=True, slots=True)
class Batch:
    """T tokens of B sequences, flattened. Prefill fills `cu_seqlens`, decode `block_table` and `context_lens`."""

    token_ids: torch.Tensor
    """int64 [T]"""
    positions: torch.Tensor
    """int64 [T], position of each token in its sequence."""
    slots: torch.Tensor
    """int64 [T], where the KV cache keeps each token: page * PAGE_SIZE + offset."""
    last_rows: torch.Tensor
    """int64 [B], row of each sequence's last token: the one that predicts."""
    cu_seqlens: torch.Tensor | None = None
    """int32 [B + 1], prefix sums of prompt lengths."""
    max_seqlen: int = 0
    """Longest prompt of the batch."""
    block_table: torch.Tensor | None = None
    """int32 [B, max_pages], page ids of each sequence, padded with page 0 to the longest context that may come."""
    context_lens: torch.Tensor | None = None
    """int32 [B], tokens in the cache including the current one."""


def prepare(step: Step, device: torch.device) -> Batch:
    """Tensors of one step on `device`."""
    return _prefill(step.sequences, device) if step.is_prefill else _decode(step.sequences, device)


def _prefill(sequences: list[Sequence], device: torch.device) -> Batch:
    lengths = np.array([len(sequence.request.prompt) for sequence in sequences])
    cu_seqlens = np.concatenate([[0], np.cumsum(lengths)])
    positions = [np.arange(length) for length in lengths]
    slots = [
        _slots(sequence.pages[place // PAGE_SIZE], place) for sequence, place in zip(sequences, positions, strict=True)
    ]
    return Batch(
        token_ids=_on(np.concatenate([sequence.request.prompt for sequence in sequences]), torch.int64, device),
        positions=_on(np.concatenate(positions), torch.int64, device),
        slots=_on(np.concatenate(slots), torch.int64, device),
        last_rows=_on(cu_seqlens[1:] - 1, torch.int64, device),
        cu_seqlens=_on(cu_seqlens, torch.int32, device),
        max_seqlen=int(lengths.max()),
    )


def _decode(sequences: list[Sequence], device: torch.device) -> Batch:
    context_lens = np.array([sequence.context_len for sequence in sequences])
    places = context_lens - 1
    block_table = np.stack([sequence.pages for sequence in sequences])
    current_pages = block_table[np.arange(len(sequences)), places // PAGE_SIZE]
    return Batch(
        token_ids=_on(np.array([sequence.last_token for sequence in sequences]), torch.int64, device),
        positions=_on(places, torch.int64, device),
        slots=_on(_slots(current_pages, places), torch.int64, device),
        last_rows=torch.arange(len(sequences), device=device),
        block_table=_on(block_table, torch.int32, device),
        context_lens=_on(context_lens, torch.int32, device),
    )


def _slots(pages: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Where the cache keeps the tokens at positions `places` of their sequences, each on its page of `pages`."""
    return pages.astype(np.int64) * PAGE_SIZE + places % PAGE_SIZE


def _on(values: np.ndarray, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    return torch.as_tensor(values).to(device=device, dtype=dtype)
