"""From a spec to a model on a device: weights, pages, graphs, or the arithmetic that says why not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from tokenwatt.architecture import Architecture
from tokenwatt.engines.native.accounting import Accounting
from tokenwatt.engines.native.checkpoint import RandomWeights, SavedWeights
from tokenwatt.engines.native.graphs import graph_sizes
from tokenwatt.engines.native.kv_cache import KvCache
from tokenwatt.engines.native.memory import GB, Need, activation_bytes, weight_bytes
from tokenwatt.engines.native.model import Decoder
from tokenwatt.engines.native.options import NativeOptions
from tokenwatt.engines.native.pages import pages_for
from tokenwatt.engines.native.parallel import ALONE, Group, share_of
from tokenwatt.engines.native.runner import Runner
from tokenwatt.engines.native.serving import Loaded
from tokenwatt.engines.native.table import Table
from tokenwatt.engines.native.weights import Source, build_decoder
from tokenwatt.errors import EngineError

MEMORY_SHARE = 0.95
"""Share of the memory left after weights and activations that the KV cache may take; graphs and torch get the rest."""
CANNOT_LOAD = -1
"""Pages that fit on a rank which cannot even load its weights."""
ROW_MULTIPLE = 4
"""Pages of a row of the block table come in such multiples, so that every row begins where kernels want it."""


@dataclass(frozen=True, slots=True)
class Loader:
    """What is to be loaded; the same on every rank but for its device."""

    architecture: Architecture
    options: NativeOptions
    dtype: str
    weights: Path | None
    """A folder; None for random ones."""
    seed: int
    device: torch.device
    group: Group = ALONE

    @property
    def kv_dtype(self) -> str:
        """Format of the cache."""
        return self.dtype if self.options.kv_cache_dtype == "auto" else self.options.kv_cache_dtype

    @property
    def share(self) -> Architecture:
        """What this rank holds."""
        return share_of(self.architecture, self.group.size)

    def load(self, max_concurrency: int, longest_context: int) -> Loaded:
        """Make or read the weights, then reserve KV pages for every slot, or as many as fit.

        Raises:
            EngineError: weights, a step's activations and the cache of one request do not fit.
            UserError: the weights folder does not hold this architecture.
        """
        step_tokens = self._step_tokens(max_concurrency, longest_context)
        try:
            decoder, affordable = self._with_weights(max_concurrency, longest_context)
            pages = self._pages(max_concurrency, longest_context, affordable)
            size, cache_dtype = self.options.page_size, getattr(torch, self.kv_dtype)
            cache = KvCache.empty(self.share, pages, size, cache_dtype, self.device)
            per_request = pages_for(longest_context, size)
            table = Table(max_concurrency, -(-per_request // ROW_MULTIPLE) * ROW_MULTIPLE)
            has_graphs = self.options.cuda_graphs and self.device.type == "cuda"
            runner = Runner(decoder, cache, table, step_tokens, graph_sizes(max_concurrency) if has_graphs else ())
            runner.capture()
        except torch.OutOfMemoryError as error:
            raise EngineError(f"out of GPU memory while loading: {str(error).splitlines()[0]}") from None
        accounting = None
        if self.group.rank == 0:  # which alone is asked what a run had to do
            accounting = Accounting(
                self.share, self.dtype, self.options.quantization, self.kv_dtype, size, self.group.size
            )
        return Loaded(
            self.architecture, self._resolved_options(), runner, table, accounting, pages, step_tokens, longest_context
        )

    def _resolved_options(self) -> NativeOptions:
        overlap = self.device.type == "cuda" if self.options.overlap is None else self.options.overlap
        return self.options.model_copy(update={"overlap": overlap})

    def _with_weights(self, max_concurrency: int, longest_context: int) -> tuple[Decoder, int]:
        """The decoder, and the pages that fit beside it on every rank; if one cannot load, none goes on."""
        affordable = CANNOT_LOAD
        try:
            need, free = self.need(max_concurrency, longest_context), free_bytes(self.device)
            if need.total > free:
                raise EngineError(f"{self.architecture.name} needs {need}, {free / GB:.2f} GB are free")
            decoder = build_decoder(
                self.architecture, self._source(), longest_context, self.options.quantization, self.group
            )
            left = MEMORY_SHARE * (free_bytes(self.device) - need.activations)
            affordable = max(0, int(left // self._page_bytes))
        finally:
            least = self.group.least(affordable, self.device)
        if least == CANNOT_LOAD:
            raise EngineError("another rank could not load its share")
        return decoder, least

    def need(self, max_concurrency: int, longest_context: int) -> Need:
        """What must fit on this rank's device."""
        share, size = self.share, self.options.page_size
        step_tokens = self._step_tokens(max_concurrency, longest_context)
        return Need(
            weights=weight_bytes(share, self.dtype, self.options.quantization),
            activations=activation_bytes(share, self.dtype, step_tokens, max_concurrency, longest_context),
            request_cache=pages_for(longest_context, size) * self._page_bytes,
        )

    @property
    def _page_bytes(self) -> int:
        return self.options.page_size * self.share.kv_bytes_per_token(self.kv_dtype)

    def _step_tokens(self, max_concurrency: int, longest_context: int) -> int:
        """The token budget: the option's, but no more than ever come together, nor less than one for each slot."""
        return max(min(self.options.max_step_tokens, max_concurrency * longest_context), max_concurrency)

    def _source(self) -> Source:
        dtype: torch.dtype = getattr(torch, self.dtype)
        if self.weights is None:
            unit_offset = self.architecture.norm_unit_offset
            return RandomWeights(dtype, self.device, self.seed, norm_unit_offset=unit_offset)
        return SavedWeights(self.weights, dtype, self.device)

    def _pages(self, max_concurrency: int, longest_context: int, affordable: int) -> int:
        """Pages of the cache, of which so many are affordable."""
        per_request = pages_for(longest_context, self.options.page_size)
        pages = self.options.num_pages or min(affordable, max_concurrency * per_request)
        if pages > affordable or affordable < per_request:
            wanted, size = max(pages, per_request), self._page_bytes
            raise EngineError(
                f"{self.architecture.name}: {wanted} pages of the KV cache need {wanted * size / GB:.2f} GB,"
                f" {affordable * size / GB:.2f} GB are left beside weights and activations; lower num_pages or the"
                " length of requests"
            )
        return pages


def free_bytes(device: torch.device) -> int:
    """Memory that could be taken now."""
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what torch keeps for later counts as taken
        return torch.cuda.mem_get_info(device)[0]
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):  # what Linux could hand out without swapping
            return int(line.split()[1]) * 1024
    raise EngineError("/proc/meminfo has no MemAvailable line")
