"""CUDA graphs of steps in which every sequence decodes: one launch for the whole decoder.

The largest is captured first, so that the others fit into the memory that it needed; all share it, because only one
runs at a time. A batch runs in the smallest graph that holds it, with rows beside it that are stored nowhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tokenwatt.engines.native.batch import Batch, Layout, Stage, decode_batch, decode_parts
from tokenwatt.engines.native.scheduler import Step
from tokenwatt.engines.native.table import Table

WARM_UP_RUNS = 2
"""Before a capture: kernels are compiled, and libraries set themselves up."""


def graph_sizes(most: int) -> tuple[int, ...]:
    """Sizes for up to `most` sequences: at most 8 rows, or an eighth, are computed for nothing.

    >>> graph_sizes(40)
    (1, 2, 4, 8, 16, 24, 32, 40)
    """
    sizes = [*(1, 2, 4), *range(8, 64, 8), *range(64, 256, 16), *range(256, 512, 32), *range(512, most + 64, 64)]
    return (*(size for size in sizes if size < most), most)


@dataclass(frozen=True, slots=True)
class _Graph:
    size: int
    buffer: Tensor
    """int32, everything that the step reads, in one piece."""
    layout: Layout
    batch: Batch
    """Views of the buffer."""
    graph: torch.cuda.CUDAGraph


class DecodeGraphs:
    """Graphs of `forward` for some batch sizes. It gives logits [S, vocab_size]."""

    def __init__(
        self,
        forward: Callable[[Batch], Tensor],
        table: Table,
        page_size: int,
        device: torch.device,
        sizes: Sequence[int],
    ) -> None:
        self._forward = forward
        self._table = table
        self._page_size = page_size
        self._device = device
        self._sizes = sorted(sizes)
        self._graphs: dict[int, _Graph] = {}
        self._logits: Tensor | None = None

    def capture(self) -> None:
        """Capture a graph for each size."""
        if not self._sizes:
            return
        pool, aside = torch.cuda.graph_pool_handle(), torch.cuda.Stream()
        for size in reversed(self._sizes):
            self._graphs[size] = self._captured(size, pool, aside)

    def hold(self, sequences: int) -> bool:
        """Whether a graph holds so many."""
        return bool(self._graphs) and sequences <= self._sizes[-1]

    def size_for(self, sequences: int) -> int:
        """Rows of the graph that runs so many sequences."""
        return next(size for size in self._sizes if size >= sequences)

    def replay(self, step: Step, stage: Stage) -> tuple[Batch, Tensor]:
        """Run a step without chunks; its batch, and logits [S, vocab_size] that the next replay overwrites."""
        assert self._logits is not None
        graph = self._graphs[self.size_for(step.decodes)]
        host, _ = stage.fill(*decode_parts(step, self._table, self._page_size, graph.size))
        graph.buffer.copy_(host, non_blocking=True)
        graph.graph.replay()
        return replace(graph.batch, sampled=graph.batch.sampled[: step.decodes]), self._logits[: step.decodes]

    def _captured(self, size: int, pool: Any, aside: torch.cuda.Stream) -> _Graph:
        """aside: the stream to warm up on, one for all, since libraries keep memory for every stream."""
        nobody = decode_parts(None, self._table, self._page_size, size)
        layout = Layout.of(nobody)
        buffer = torch.zeros(layout.words, dtype=torch.int32, device=self._device)
        for view, part in zip(layout.views(buffer), nobody, strict=True):
            view.copy_(torch.from_numpy(part))
        batch = decode_batch(layout.views(buffer))
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            logits = [self._forward(batch) for _ in range(WARM_UP_RUNS)][-1]
        torch.cuda.current_stream().wait_stream(aside)
        if self._logits is None:
            self._logits = torch.empty_like(logits)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            self._logits[:size].copy_(self._forward(batch))
        return _Graph(size, buffer, layout, batch, graph)
