"""The engine: one model of transformers, served in one of two modes."""

from __future__ import annotations

import gc
from collections.abc import Generator, Sequence
from dataclasses import replace
from itertools import chain

import numpy as np
import torch
import transformers
from transformers import PreTrainedModel

from tokenwatt.clock import Clock
from tokenwatt.engines.devices import choose_device, gpu_uuid, version_of
from tokenwatt.engines.hf_transformers.batches import StaticBatches
from tokenwatt.engines.hf_transformers.continuous import TELLS_LOGPROBS, Continuous, check_continuous, paged
from tokenwatt.engines.hf_transformers.door import Door
from tokenwatt.engines.hf_transformers.models import ModelSource
from tokenwatt.engines.hf_transformers.options import HfOptions
from tokenwatt.engines.hf_transformers.sampling import unmapped
from tokenwatt.engines.hf_transformers.scoring import draw, prompt_logprobs
from tokenwatt.engines.limits import check_workload, refusal_of
from tokenwatt.engines.native.accounting import Accounting, StepLog, total
from tokenwatt.engines.native.hub import find_architecture
from tokenwatt.engines.protocol import Continuation, EngineIdentity, EngineReport, Probes, TokenEvent
from tokenwatt.errors import EngineError
from tokenwatt.load import Listed, Load
from tokenwatt.spec import BenchSpec, validate
from tokenwatt.workloads import Request

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

    def warm_up(self, requests: Sequence[Request], concurrency: int, clock: Clock) -> None:
        """Serve a few tokens of each request."""
        short = [replace(request, max_tokens=min(request.max_tokens, WARM_UP_TOKENS)) for request in requests]
        for _ in self.serve(Load.closed(Listed(tuple(short)), concurrency), clock):
            pass

    def serve(self, load: Load, clock: Clock) -> Generator[TokenEvent, None, None]:
        """One event per token.

        With `generate`, a request whose slot is free waits for the batch to end. Draws are seeded once a run, so a
        request's tokens depend on what runs beside it. A request that cannot be served gets one event with the reason.
        """
        if self._is_serving:
            raise EngineError("a run is under way; close it before the next begins")
        model = self._ready
        torch.manual_seed(self._spec.seed)
        self._is_serving = True
        try:
            door = Door(load, clock, self._refusal)
            if self._is_continuous:
                self._log = None
                yield from self._continuous().answer(door)
            else:
                batches = StaticBatches(
                    model, self._accounting, clock, self._options.cache_implementation, self._max_concurrency
                )
                self._log = batches.log
                yield from batches.answer(door)
        except torch.OutOfMemoryError as error:
            raise EngineError(f"out of GPU memory: {str(error).splitlines()[0]}") from None
        finally:
            self._is_serving = False

    @property
    def scores_by_decoding(self) -> bool:
        """A prompt is one forward pass."""
        return False

    def continuations(self, prompts: Sequence[np.ndarray], count: int) -> list[Continuation] | None:
        """By the mode that serves; None where its transformers cannot tell."""
        if self._is_serving:
            raise EngineError("a run is under way; close it before prompts are continued")
        if self._is_continuous and not TELLS_LOGPROBS:
            return None
        torch.manual_seed(self._spec.seed)
        try:
            if self._is_continuous:
                return self._continuous().draw(prompts, count)
            together = self._max_concurrency
            batches = [prompts[start : start + together] for start in range(0, len(prompts), together)]
            drawn = [draw(self._ready, batch, count, self._options.cache_implementation) for batch in batches]
            return list(chain.from_iterable(drawn))
        except torch.OutOfMemoryError as error:
            raise EngineError(f"out of GPU memory: {str(error).splitlines()[0]}") from None

    def prompt_logprobs(self, prompts: Sequence[np.ndarray]) -> list[np.ndarray]:
        """One plain forward pass for each prompt, in either mode."""
        if self._is_serving:
            raise EngineError("a run is under way; close it before prompts are scored")
        try:
            return prompt_logprobs(self._ready, self._architecture, prompts, self._options.attn_implementation)
        except torch.OutOfMemoryError as error:
            raise EngineError(f"out of GPU memory: {str(error).splitlines()[0]}") from None

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

    def _refusal(self, request: Request) -> str | None:
        """Why a request cannot be served, whatever runs beside it."""
        return refusal_of(self._architecture, self._longest_context, request) or unmapped(request.sampling)

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
