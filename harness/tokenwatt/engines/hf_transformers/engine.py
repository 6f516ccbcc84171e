"""The engine: one model of transformers, served in one of two modes."""

from __future__ import annotations

import gc
from collections.abc import Generator, Iterator
from dataclasses import replace

import torch
import transformers
from transformers import PreTrainedModel

from tokenwatt.clock import Clock
from tokenwatt.engines.devices import choose_device, gpu_uuid, version_of
from tokenwatt.engines.hf_transformers.batches import StaticBatches
from tokenwatt.engines.hf_transformers.continuous import Continuous, check_continuous, paged
from tokenwatt.engines.hf_transformers.models import ModelSource
from tokenwatt.engines.hf_transformers.options import HfOptions
from tokenwatt.engines.hf_transformers.sampling import same_draws, unmapped
from tokenwatt.engines.limits import check_workload, refusal_of
from tokenwatt.engines.native.accounting import Accounting, StepLog, total
from tokenwatt.engines.native.hub import find_architecture
from tokenwatt.engines.protocol import EngineIdentity, EngineReport, Probes, TokenEvent
from tokenwatt.errors import EngineError
from tokenwatt.spec import BenchSpec, validate
from tokenwatt.workloads import Request, Sampling

WARM_UP_TOKENS = 16
"""Output tokens of a request of warm-up."""
PAGE_SIZE = 64
"""Of the cache whose block table the accounting counts, as engine `native` has it: a millionth of the bytes."""


class HfEngine:
    """A causal language model of Hugging Face transformers."""

    def __init__(self, spec: BenchSpec) -> None:
        self._options = validate(spec.options, HfOptions, where="options of engine 'hf_transformers'")
        self._device = choose_device(spec.device)
        self._architecture = find_architecture(spec.model, spec.weights, spec.engine)
        self._spec = spec
        attention = self._options.attn_implementation
        if self._is_continuous:
            check_continuous(self._architecture, self._device)
            attention = paged(attention)
        self._source = ModelSource.of(spec, self._architecture.name, attention)
        self._model: PreTrainedModel | None = None
        self._max_concurrency = self._longest_context = 0
        self._log: StepLog | None = None
        self._is_serving = False

    @property
    def identity(self) -> EngineIdentity:
        """Transformers in this mode; the version says every setting that is no default."""
        on_gpu = self._device.type == "cuda"
        is_random = self._spec.weights == "random"
        is_quantised = hasattr(self._source.config, "quantization_config")
        return EngineIdentity(
            name=f"hf_transformers.{self._options.mode}",
            version=f"{transformers.__version__} {self._options.label}",
            model=self._architecture.name,
            dtype=self._spec.dtype,
            weights_source="random" if is_random else "safetensors",
            device="cuda" if on_gpu else "cpu",
            gpu_uuids=(gpu_uuid(0),) if on_gpu else (),
            torch_version=torch.__version__,
            triton_version=version_of("triton") if on_gpu else None,
            # Transformers keeps quantised weights, or undoes them, by what else is installed.
            quantization=None if is_quantised else "none",
            kv_cache_dtype=self._spec.dtype,
            longest_context=self._architecture.max_position_embeddings,
        )

    def check(self, longest_context: int, vocabulary: int) -> None:
        """Refuse contexts or token ids beyond the model's."""
        check_workload(self._architecture, longest_context, vocabulary)

    def load(self, max_concurrency: int, longest_context: int) -> None:
        """Make or read the weights; with continuous batching, find out whether its cache fits.

        Raises:
            EngineError: weights or cache do not fit.
        """
        try:
            self._model = self._source.load(self._device)
            self._max_concurrency, self._longest_context = max_concurrency, longest_context
            if self._is_continuous:
                self._continuous().try_out()
        except torch.OutOfMemoryError as error:
            raise EngineError(f"out of GPU memory while loading: {str(error).splitlines()[0]}") from None

    def warm_up(self, requests: list[Request], concurrency: int, clock: Clock) -> None:
        """Serve a few tokens of each request."""
        short = [replace(request, max_tokens=min(request.max_tokens, WARM_UP_TOKENS)) for request in requests]
        for _ in self.serve(iter(short), concurrency, clock):
            pass

    def serve(self, requests: Iterator[Request], concurrency: int, clock: Clock) -> Generator[TokenEvent, None, None]:
        """Closed loop; one event per token.

        With `generate`, a request whose slot is free waits for the batch to end. Draws are seeded once a run, so a
        request's tokens depend on what runs beside it. A request that cannot be served gets one event with the reason.
        """
        if self._is_serving:
            raise EngineError("a run is under way; close it before the next begins")
        model, concurrency = self._ready, min(concurrency, self._max_concurrency)
        torch.manual_seed(self._spec.seed)
        self._is_serving = True
        try:
            accepted = self._accepted(requests, clock)
            if self._is_continuous:
                self._log = None
                yield from self._continuous().closed_loop(accepted, concurrency, clock)
            else:
                batches = StaticBatches(model, self._accounting, clock, self._options.cache_implementation)
                self._log = batches.log
                yield from batches.closed_loop(accepted, concurrency)
        except torch.OutOfMemoryError as error:
            raise EngineError(f"out of GPU memory: {str(error).splitlines()[0]}") from None
        finally:
            self._is_serving = False

    def report(self, start_s: float, end_s: float) -> EngineReport:
        """What the steps had to do, counted as engine `native` counts; nothing for continuous batching, whose manager
        does not say what its steps were made of."""
        if self._log is None:
            return EngineReport()
        work = total(self._log.between(start_s, end_s).values())
        return EngineReport(work.flop, work.bytes)

    def probes(self, start_s: float, end_s: float) -> Probes:
        """Its kernels are transformers' and torch's own."""
        return Probes()

    def close(self) -> None:
        """Drop weights and cache."""
        self._model = self._log = None
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _accepted(self, requests: Iterator[Request], clock: Clock) -> Iterator[Request | TokenEvent]:
        """Each request, or the event of its refusal; the first that is served decides how all are sampled."""
        first: Sampling | None = None
        for request in requests:
            why = refusal_of(self._architecture, self._longest_context, request) or unmapped(request.sampling)
            if why is None and first is not None and not same_draws(first, request.sampling):
                why = "engine 'hf_transformers' samples all requests of a run alike; this one differs from the first"
            if why is not None:
                yield TokenEvent(request.index, clock(), 0, True, 0, (), why)
                continue
            first = first or request.sampling
            yield request

    def _continuous(self) -> Continuous:
        return Continuous(
            self._ready, self._architecture, self._options, self._max_concurrency, self._longest_context,
            self._spec.seed,
        )  # fmt: skip

    @property
    def _is_continuous(self) -> bool:
        return self._options.mode == "continuous_batching"

    @property
    def _accounting(self) -> Accounting:
        """By the formats that transformers holds: 4-bit experts are made or unpacked to the dtype."""
        plain = replace(self._architecture, checkpoint_format="plain")
        return Accounting(plain, self._spec.dtype, "none", self._spec.dtype, PAGE_SIZE)

    @property
    def _ready(self) -> PreTrainedModel:
        if self._model is None:
            raise EngineError("the engine is not loaded; call load() first")
        return self._model
