"""Runs steps on the device without waiting for them.

The newest token of each sequence stays there, as the next step's input. What the host gets of a step are its output
tokens, some time after it has launched the next one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from collections.abc import Sequence as Listed
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from tokenwatt.architecture import LatentAttention
from tokenwatt.engines.logprobs import logprobs_of
from tokenwatt.engines.native.batch import Batch, Stage, decode_batch, decode_parts, prepare
from tokenwatt.engines.native.graphs import DecodeGraphs
from tokenwatt.engines.native.kv_cache import KvCache
from tokenwatt.engines.native.model import Decoder
from tokenwatt.engines.native.recording import Recording, recorded
from tokenwatt.engines.native.sampling import sample
from tokenwatt.engines.native.sampling_batch import SamplingBatch
from tokenwatt.engines.native.scheduler import Step
from tokenwatt.engines.native.sequence import Sequence
from tokenwatt.engines.native.table import Table
from tokenwatt.engines.protocol import Family

STAGES = 2
"""Copies to the device that may be under way: a step is prepared while the one before runs, and the one before that is
done, because `Serving` has waited for its tokens by then."""
POLL_S = 50e-6
PAGES_AT_ONCE = 256
"""Pages that are filled together: few enough to need little memory beside the cache."""


@dataclass(frozen=True, slots=True)
class Launched:
    """Output tokens of a step on their way to the host."""

    step: Step
    _tokens: Tensor
    _arrived: torch.cuda.Event | None

    def tokens(self, check: Callable[[], None] | None = None) -> list[int]:
        """One for each of `step.sequences`; waits until they are there, and meanwhile calls `check` now and then."""
        if self._arrived is not None:
            while check is not None and not self._arrived.query():
                check()
                time.sleep(POLL_S)
            self._arrived.synchronize()
        return self._tokens.tolist()


class Runner:
    """A decoder with its cache, and the newest tokens of `table`'s rows.

    graph_sizes: numbers of decoding sequences for which a CUDA graph is captured; steps without prompts run the
        smallest that holds them.
    """

    def __init__(
        self, decoder: Decoder, cache: KvCache, table: Table, max_step_tokens: int, graph_sizes: Listed[int] = ()
    ) -> None:
        self._decoder = decoder
        self._cache = cache
        self._table = table
        self._device = decoder.embedding.device
        self._newest = torch.zeros(table.rows + 1, dtype=torch.int64, device=self._device)
        self._stages = [Stage(table.rows, max_step_tokens, table.pages.shape[1], self._device) for _ in range(STAGES)]
        self._graphs = DecodeGraphs(self._forward, table, cache.page_size, self._device, graph_sizes)
        self._sampling = _SamplingState()
        self._seen: Tensor | None = None
        self._true = torch.ones(
            (), dtype=torch.bool, device=self._device
        )  # one of the host would have to be waited for

    def capture(self) -> None:
        """Capture the graphs, which takes a while."""
        self._graphs.capture()

    @torch.inference_mode()
    def launch(self, step: Step) -> Launched:
        """Start a step; nothing of it is waited for."""
        batch, logits = self._logits(step)
        return Launched(step, *self._to_host(self._sample(step, batch, logits)))

    @torch.inference_mode()
    def score(self, step: Step, newest: np.ndarray, following: np.ndarray) -> np.ndarray:
        """Natural-log probability, float32 [T], of the token that follows each of a step's T; waits for it.

        newest: the input of each sequence that decodes. following: the tokens that follow [T].
        """
        if step.decodes:
            rows = torch.from_numpy(step.rows[: step.decodes].astype(np.int64)).to(self._device)
            self._newest.index_copy_(0, rows, torch.from_numpy(newest.astype(np.int64)).to(self._device))
        _, logits = self._logits(step, wants_all=True)
        return logprobs_of(logits, torch.from_numpy(following.astype(np.int64)).to(self._device)).cpu().numpy()

    @torch.inference_mode()
    def record(self, step: Step, table: Table, family: Family) -> Recording:
        """The kernels of one family in a step over sequences of another table, with the rows beside it of its graph.

        Nothing else may be under way. The newest tokens are drawn anew, and the keys and values of the step stored.
        """
        stage = self._stages[-1]
        if not step.chunks and self._graphs.hold(step.decodes):
            size = self._graphs.size_for(step.decodes)
            batch = decode_batch(stage.send(*decode_parts(step, table, self._cache.page_size, size)))
            batch = replace(batch, sampled=batch.sampled[: step.decodes])
        else:
            batch = self._prepared(step, table, stage)
        self._newest.random_(self._decoder.architecture.vocab_size)
        self._sampling.of(step.sequences, self._device)  # made once for many steps, so no part of this one
        with recorded(family) as recording:
            logits = self._forward(batch)[: len(step.sequences)]
            self._sample(step, batch, logits)
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        return recording

    @torch.inference_mode()
    def randomise(self, pages: int) -> None:
        """Fill the first pages of the cache: of zeros a board would draw less power. What they held is lost."""
        for kept in self._cache.layers:
            for part in kept[:, :pages].split(PAGES_AT_ONCE, dim=1):
                part.copy_(torch.randn(part.shape, dtype=self._decoder.embedding.dtype, device=self._device))

    def _logits(self, step: Step, *, wants_all: bool = False) -> tuple[Batch, Tensor]:
        """Launch a step without sampling; wants_all: with the logits after each token of its chunks."""
        self._stages.append(self._stages.pop(0))
        stage = self._stages[-1]
        if not step.chunks and self._graphs.hold(step.decodes):
            return self._graphs.replay(step, stage)
        batch = self._prepared(step, self._table, stage)
        if wants_all:
            batch = replace(batch, last=torch.arange(step.tokens, dtype=torch.int32, device=self._device))
        return batch, self._forward(batch)

    def _prepared(self, step: Step, table: Table, stage: Stage) -> Batch:
        is_latent = isinstance(self._decoder.architecture.attention, LatentAttention)
        return prepare(step, table, self._cache.page_size, stage, wants_contexts=is_latent)

    def _forward(self, batch: Batch) -> Tensor:
        decoding = self._newest.index_select(0, batch.rows[: batch.decodes])
        return self._decoder.forward(torch.cat([decoding, batch.prompt_tokens]), batch, self._cache)

    def _sample(self, step: Step, batch: Batch, logits: Tensor) -> Tensor:
        """int64 [S], noted as the newest tokens of their rows."""
        rows = batch.rows.index_select(0, batch.sampled).long()
        positions = batch.context_lens.index_select(0, batch.sampled).long()
        sampling = self._sampling.of(step.sequences, self._device)
        seen = None if sampling.penalty is None else self._seen_by(step, rows)
        tokens = sample(logits, sampling, positions, seen)
        self._newest.index_copy_(0, rows, tokens)
        if self._seen is not None:
            self._seen.index_put_((rows, tokens), self._true)
        return tokens

    def _to_host(self, tokens: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
        if tokens.device.type == "cpu":
            return tokens, None
        on_host = torch.empty(tokens.shape, dtype=tokens.dtype, pin_memory=True)
        on_host.copy_(tokens, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record()
        return on_host, arrived

    def _seen_by(self, step: Step, rows: Tensor) -> Tensor:
        """bool [S, vocab_size]: tokens of each sequence so far, right for those that have a repetition penalty."""
        if self._seen is None:
            vocabulary = self._decoder.architecture.vocab_size
            self._seen = torch.zeros(self._table.rows + 1, vocabulary, dtype=torch.bool, device=self._device)
        for place in range(step.decodes, len(step.sequences)):  # those that begin to decode: all they have is known
            sequence, row = step.sequences[place], int(step.rows[step.sampled[place]])
            if sequence.request.sampling.repetition_penalty != 1:
                known = torch.from_numpy(sequence.tokens(0, sequence.known_len).astype(np.int64))
                if self._device.type == "cuda":  # from pinned memory, or the copy would wait for the step
                    known = known.pin_memory().to(self._device, non_blocking=True)
                self._seen[row] = False
                self._seen[row].index_fill_(0, known, True)
        return self._seen.index_select(0, rows)


class _SamplingState:
    """The sampling of a batch, made again only when its sequences change."""

    def __init__(self) -> None:
        self._sequences: list[Sequence] = []
        self._batch: SamplingBatch | None = None

    def of(self, sequences: list[Sequence], device: torch.device) -> SamplingBatch:
        if self._batch is None or sequences != self._sequences:
            requests = [sequence.request for sequence in sequences]
            self._batch = SamplingBatch.of(
                [request.sampling for request in requests], [request.seed for request in requests], device
            )
            self._sequences = sequences
        return self._batch
