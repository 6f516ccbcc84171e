"""The engine: a loop of steps over one decoder and one KV cache."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch

from tokenwatt import __version__
from tokenwatt.architecture import Architecture
from tokenwatt.clock import Clock
from tokenwatt.engines.native.checkpoint import RandomWeights, SavedWeights, find_tensors
from tokenwatt.engines.native.graphs import graph_sizes
from tokenwatt.engines.native.hub import find_architecture, find_weights
from tokenwatt.engines.native.kv_cache import KvCache
from tokenwatt.engines.native.memory import GB, Need, activation_bytes, weight_bytes
from tokenwatt.engines.native.options import NativeOptions
from tokenwatt.engines.native.pages import PagePool, pages_for
from tokenwatt.engines.native.requirements import check_runs
from tokenwatt.engines.native.runner import Launched, Runner
from tokenwatt.engines.native.scheduler import Scheduler
from tokenwatt.engines.native.table import Table
from tokenwatt.engines.native.weights import build_decoder
from tokenwatt.engines.protocol import EngineIdentity, EngineReport, TokenEvent
from tokenwatt.errors import EngineError, UserError
from tokenwatt.spec import BenchSpec, validate
from tokenwatt.workloads import Request
from tokenwatt_kernels.device import capability

MEMORY_SHARE = 0.95
"""Share of the memory left after weights and activations that the KV cache may take; graphs and torch get the rest."""
WARM_UP_STEPS = 32
"""Decode batches of warm-up shrink by one so many times, which visits every small batch and those just below C."""
ROW_MULTIPLE = 4
"""Pages of a row of the block table come in such multiples, so that every row begins where kernels want it."""


class NativeEngine:
    """A decoder with continuous batching: Triton kernels on CUDA, their plain-torch references on CPU."""

    def __init__(self, spec: BenchSpec) -> None:
        self._options = validate(spec.options, NativeOptions, where="options of engine 'native'")
        self._device = _choose_device(spec.device)
        self._architecture = find_architecture(spec.model, spec.weights)
        self._spec = spec
        check_runs(self._architecture, spec.dtype, self._options, _capability_of(self._device))
        # Weights come last: what cannot run is not fetched.
        self._folder = None if spec.weights == "random" else find_weights(spec.weights)
        if self._folder is not None:
            find_tensors(self._folder)
        self._loaded: _Loaded | None = None

    @property
    def identity(self) -> EngineIdentity:
        """This engine on its device."""
        on_gpu = self._device.type == "cuda"
        return EngineIdentity(
            name="native",
            version=__version__,
            model=self._architecture.name,
            dtype=self._spec.dtype,
            weights_source="random" if self._spec.weights == "random" else "safetensors",
            device="cuda" if on_gpu else "cpu",
            gpu_uuids=(f"GPU-{torch.cuda.get_device_properties(self._device).uuid}",) if on_gpu else (),
            torch_version=torch.__version__,
            triton_version=_version_of("triton") if on_gpu else None,
        )

    def check(self, longest_context: int, vocabulary: int) -> None:
        """Refuse contexts or token ids beyond the model's."""
        limit = self._architecture.max_position_embeddings
        if longest_context > limit:
            raise UserError(f"a request may reach {longest_context} tokens, {self._architecture.name} allows {limit}")
        if vocabulary > self._architecture.vocab_size:
            allowed = self._architecture.vocab_size
            raise UserError(f"workload vocabulary is {vocabulary}, {self._architecture.name} knows {allowed} tokens")

    def load(self, max_concurrency: int, longest_context: int) -> None:
        """Make or read the weights, then reserve KV pages for every slot, or as many as fit.

        Raises:
            EngineError: weights, a step's activations and the cache of one request do not fit.
            UserError: the weights folder does not hold this architecture.
        """
        need = self._need(max_concurrency, longest_context)
        free = self._free_bytes()
        if need.total > free:
            raise EngineError(f"{self._architecture.name} needs {need}, {free / GB:.2f} GB are free")
        try:
            self._loaded = self._load(max_concurrency, longest_context, need)
        except torch.OutOfMemoryError as error:
            raise EngineError(f"out of GPU memory while loading: {str(error).splitlines()[0]}") from None

    def warm_up(self, requests: list[Request], concurrency: int, clock: Clock) -> None:
        """Serve a few tokens in every shape that the run will meet, so that kernels are compiled before it."""
        longest_prompt = self._ready.longest_context - 1
        together = [
            replace(request, max_tokens=min(request.max_tokens, 2 + min(place, WARM_UP_STEPS)))
            for place, request in enumerate(requests)
        ]
        lengths = [2**power for power in range(longest_prompt.bit_length())]
        alone = [Request(place, np.zeros(length, dtype=np.int32), 1) for place, length in enumerate(lengths)]
        for rounds, slots in ((together, concurrency), (alone, 1)):
            for _ in self.serve(iter(rounds), slots, clock):
                pass

    def serve(self, requests: Iterator[Request], concurrency: int, clock: Clock) -> Generator[TokenEvent, None, None]:
        """Closed loop; one event per token, stamped when the token is on the host.

        A request that cannot be served gets one event with the reason; the others go on.
        """
        loop = _Loop(self._ready, requests, concurrency, clock)
        try:
            yield from loop.events()
        except torch.OutOfMemoryError as error:
            raise EngineError(f"out of GPU memory: {str(error).splitlines()[0]}") from None
        finally:
            loop.scheduler.abandon()

    def report(self, start_s: float, end_s: float) -> EngineReport:
        """What the steps had to do whose tokens came in (start_s, end_s]."""
        return EngineReport()

    def close(self) -> None:
        """Drop weights and cache."""
        self._loaded = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    @property
    def _ready(self) -> _Loaded:
        if self._loaded is None:
            raise EngineError("the engine is not loaded; call load() first")
        return self._loaded

    @property
    def _kv_dtype(self) -> str:
        return self._spec.dtype if self._options.kv_cache_dtype == "auto" else self._options.kv_cache_dtype

    def _step_tokens(self, max_concurrency: int, longest_context: int) -> int:
        """The token budget: the option's, but no more than ever come together, nor less than one for each slot."""
        return max(min(self._options.max_step_tokens, max_concurrency * longest_context), max_concurrency)

    def _need(self, max_concurrency: int, longest_context: int) -> Need:
        architecture, dtype = self._architecture, self._spec.dtype
        tokens = self._step_tokens(max_concurrency, longest_context)
        pages = pages_for(longest_context, self._options.page_size)
        return Need(
            weights=weight_bytes(architecture, dtype, self._options.quantization),
            activations=activation_bytes(architecture, dtype, tokens, max_concurrency, longest_context),
            request_cache=pages * self._options.page_size * architecture.kv_bytes_per_token(self._kv_dtype),
        )

    def _load(self, max_concurrency: int, longest_context: int, need: Need) -> _Loaded:
        architecture, options = self._architecture, self._options
        dtype: torch.dtype = getattr(torch, self._spec.dtype)
        if self._folder is None:
            unit_offset = architecture.norm_unit_offset
            source = RandomWeights(dtype, self._device, self._spec.seed, norm_unit_offset=unit_offset)
        else:
            source = SavedWeights(self._folder, dtype, self._device)
        decoder = build_decoder(architecture, source, longest_context, options.quantization)
        per_request = pages_for(longest_context, options.page_size)
        page_bytes = options.page_size * architecture.kv_bytes_per_token(self._kv_dtype)
        affordable = int(max(0.0, MEMORY_SHARE * (self._free_bytes() - need.activations)) // page_bytes)
        num_pages = options.num_pages or min(affordable, max_concurrency * per_request)
        if num_pages > affordable or affordable < per_request:
            wanted = max(options.num_pages or 0, per_request)
            raise EngineError(
                f"{architecture.name}: {wanted} pages of the KV cache need {wanted * page_bytes / GB:.2f} GB,"
                f" {affordable * page_bytes / GB:.2f} GB are left beside weights and activations; lower num_pages or"
                " the length of requests"
            )
        cache = KvCache.empty(architecture, num_pages, options.page_size, getattr(torch, self._kv_dtype), self._device)
        table = Table(max_concurrency, -(-per_request // ROW_MULTIPLE) * ROW_MULTIPLE)
        max_step_tokens = self._step_tokens(max_concurrency, longest_context)
        sizes = graph_sizes(max_concurrency) if options.cuda_graphs and self._device.type == "cuda" else ()
        runner = Runner(decoder, cache, table, max_step_tokens, sizes)
        runner.capture()
        return _Loaded(architecture, options, runner, table, num_pages, max_step_tokens, longest_context)

    def _free_bytes(self) -> int:
        if self._device.type == "cuda":
            torch.cuda.empty_cache()  # what torch keeps for later counts as taken
            return torch.cuda.mem_get_info(self._device)[0]
        return _available_host_bytes()


@dataclass(frozen=True, slots=True)
class _Loaded:
    """What `load` made."""

    architecture: Architecture
    options: NativeOptions
    runner: Runner
    table: Table
    num_pages: int
    max_step_tokens: int
    longest_context: int

    def refusal(self, request: Request) -> str | None:
        """Why a request cannot be served; None if it can."""
        prompt, name = request.prompt, self.architecture.name
        if not len(prompt):
            return "the prompt is empty; it needs at least one token"
        if request.max_tokens < 1:
            return f"max_tokens must be >= 1, got {request.max_tokens}"
        if len(prompt) + request.max_tokens > self.longest_context:
            return (
                f"{len(prompt)} prompt tokens and {request.max_tokens} to come exceed the context that was loaded,"
                f" {self.longest_context} tokens"
            )
        low, high = int(prompt.min()), int(prompt.max())
        if low < 0 or high >= self.architecture.vocab_size:
            outside = low if low < 0 else high
            return f"token id {outside} is not in the vocabulary of {name}: 0 to {self.architecture.vocab_size - 1}"
        pages = pages_for(len(prompt) + request.max_tokens - 1, self.options.page_size)
        if pages > self.num_pages:
            return f"the request needs {pages} pages of the KV cache, which has {self.num_pages}"
        return None


class _Loop:
    """One call of `serve`: requests come in as others are answered, and steps go out."""

    def __init__(self, loaded: _Loaded, requests: Iterator[Request], concurrency: int, clock: Clock) -> None:
        options = loaded.options
        self._loaded = loaded
        self._requests = requests
        self._concurrency = min(concurrency, loaded.table.rows)
        self._clock = clock
        self._in_flight = 0
        # Pages are handed out anew each time: what an earlier run has cached would spoil a measurement.
        self.scheduler = Scheduler(
            loaded.table, PagePool(loaded.num_pages), options.page_size, loaded.max_step_tokens, options.prefix_caching
        )

    def events(self) -> Iterator[TokenEvent]:
        """All events, until the requests have come to their end and are answered."""
        yield from self._pull()
        launched: Launched | None = None
        while True:
            before, launched = launched, self._launch()
            if before is not None:
                yield from self._postprocess(before)
            if launched is not None and not self._loaded.options.overlap:
                yield from self._postprocess(launched)
                launched = None
            if launched is before is None and not self._in_flight:
                return

    def _launch(self) -> Launched | None:
        step = self.scheduler.schedule()
        return None if step is None else self._loaded.runner.launch(step)

    def _postprocess(self, launched: Launched) -> Iterator[TokenEvent]:
        """The events of a step, and requests for the slots that are free now."""
        tokens, at_s, running = launched.tokens(), self._clock(), len(launched.step.rows)
        for sequence, token in zip(launched.step.sequences, tokens, strict=True):
            if sequence.is_over:  # by a stop token, when this step was launched already
                continue
            self.scheduler.note_output(sequence, token)
            request = sequence.request
            is_last = len(sequence.output) == request.max_tokens or token in request.sampling.stop_token_ids
            if is_last:
                self.scheduler.finish(sequence)
                self._in_flight -= 1
            yield TokenEvent(request.index, at_s, 1, is_last, running, (token,))
        yield from self._pull()

    def _pull(self) -> Iterator[TokenEvent]:
        """Send requests until `concurrency` are in flight; an event for each that cannot be served."""
        while self._in_flight < self._concurrency and (request := next(self._requests, None)) is not None:
            refusal = self._loaded.refusal(request)
            if refusal is None:
                self.scheduler.add(request)
                self._in_flight += 1
            else:
                yield TokenEvent(request.index, self._clock(), 0, True, self.scheduler.num_running, (), refusal)


def _choose_device(wanted: str) -> torch.device:
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise UserError(
            "device 'cuda' was asked for, but torch finds no GPU; use device = \"cpu\" or run `tokenwatt doctor`"
        )
    return torch.device("cuda", 0) if available and wanted != "cpu" else torch.device("cpu")


def _capability_of(device: torch.device) -> int | None:
    """Compute capability as major * 10 + minor; None for a processor."""
    return capability(device) if device.type == "cuda" else None


def _available_host_bytes() -> int:
    """Memory that Linux could hand out without swapping."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise EngineError("/proc/meminfo has no MemAvailable line")


def _version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
