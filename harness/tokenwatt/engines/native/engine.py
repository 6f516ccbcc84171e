"""The engine: a loop of steps over one decoder and one KV cache."""

from __future__ import annotations

import gc
from collections.abc import Generator, Sequence
from dataclasses import replace

import numpy as np
import torch

from tokenwatt import __version__
from tokenwatt.clock import Clock
from tokenwatt.engines.devices import choose_device, gpu_uuid, version_of
from tokenwatt.engines.limits import check_workload
from tokenwatt.engines.native.accounting import total
from tokenwatt.engines.native.checkpoint import find_tensors
from tokenwatt.engines.native.followers import NOTICE_S, Followers
from tokenwatt.engines.native.hub import find_architecture, find_weights
from tokenwatt.engines.native.loading import Loader
from tokenwatt.engines.native.options import NativeOptions
from tokenwatt.engines.native.parallel import share_of
from tokenwatt.engines.native.probes import probes_of
from tokenwatt.engines.native.requirements import check_runs
from tokenwatt.engines.native.scoring import prompt_logprobs
from tokenwatt.engines.native.serving import Loaded, Serving
from tokenwatt.engines.protocol import EngineIdentity, EngineReport, Probes, TokenEvent
from tokenwatt.errors import EngineError
from tokenwatt.load import Listed, Load
from tokenwatt.spec import BenchSpec, validate
from tokenwatt.workloads import Request
from tokenwatt_kernels.device import capability

WARM_UP_STEPS = 32
"""Decode batches of warm-up shrink by one so many times, which visits every small batch and those just below C."""


class NativeEngine:
    """A decoder with continuous batching: Triton kernels on CUDA, their plain-torch references on CPU."""

    def __init__(self, spec: BenchSpec) -> None:
        self._options = validate(spec.options, NativeOptions, where="options of engine 'native'")
        self._device = choose_device(spec.device, self._options.tensor_parallel)
        self._architecture = find_architecture(spec.model, spec.weights)
        self._spec = spec
        check_runs(self._architecture, spec.dtype, self._options, _capability_of(self._device))
        share_of(self._architecture, self._options.tensor_parallel)
        # Weights come last: what cannot run is not fetched.
        folder = None if spec.weights == "random" else find_weights(spec.weights)
        if folder is not None:
            find_tensors(folder)
        self._loader = Loader(self._architecture, self._options, spec.dtype, folder, spec.seed, self._device)
        self._followers: Followers | None = None
        self._loaded: Loaded | None = None
        self._serving: Serving | None = None
        self._is_serving = False

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
            gpu_uuids=tuple(map(gpu_uuid, range(self._options.tensor_parallel))) if on_gpu else (),
            torch_version=torch.__version__,
            triton_version=version_of("triton") if on_gpu else None,
            quantization=self._options.quantization,
            kv_cache_dtype=self._loader.kv_dtype,
            tp=self._options.tensor_parallel,
            longest_context=self._architecture.max_position_embeddings,
        )

    def check(self, longest_context: int, vocabulary: int) -> None:
        """Refuse contexts or token ids beyond the model's."""
        check_workload(self._architecture, longest_context, vocabulary)

    def load(self, max_concurrency: int, longest_context: int) -> None:
        """Make or read the weights, then reserve KV pages for every slot, or as many as fit.

        Raises:
            EngineError: weights, a step's activations and the cache of one request do not fit.
            UserError: the weights folder does not hold this architecture.
        """
        if self._options.tensor_parallel == 1:
            self._loaded = self._loader.load(max_concurrency, longest_context)
            return
        self._followers = Followers(self._loader)
        self._followers.load(max_concurrency, longest_context)
        self._loaded = replace(self._loader, group=self._followers.group).load(max_concurrency, longest_context)
        self._followers.wait_loaded()

    def warm_up(self, requests: Sequence[Request], concurrency: int, clock: Clock) -> None:
        """Serve a few tokens in every shape that the run will meet, so that kernels are compiled before it."""
        longest_prompt, step_tokens = self._ready.longest_context - 1, self._ready.max_step_tokens
        together = [
            replace(request, max_tokens=min(request.max_tokens, 2 + min(place, WARM_UP_STEPS)))
            for place, request in enumerate(requests)
        ]
        lengths = [2**power for power in range(longest_prompt.bit_length())]
        alone = [self._prompt(place, length) for place, length in enumerate(lengths)]
        rounds = [(together, concurrency), (alone, 1)]
        if self._device.type == "cuda":  # the longest prompt, and as many as fill a step: nothing is compiled on a CPU
            full = [self._prompt(place, longest_prompt) for place in range(-(-step_tokens // longest_prompt))]
            rounds += [(full, 1), (full, concurrency)]
        for asked, slots in rounds:
            for _ in self.serve(Load.closed(Listed(tuple(asked)), slots), clock):
                pass

    def serve(self, load: Load, clock: Clock) -> Generator[TokenEvent, None, None]:
        """One event per token, stamped when the token is on the host.

        A request that cannot be served gets one event with the reason; the others go on.
        """
        loaded, followers = self._ready, self._followers
        if self._is_serving:
            raise EngineError("a run is under way; close it before the next begins")
        serving = self._serving = Serving(loaded, None if followers is None else followers.check)
        self._is_serving, is_over = True, False
        try:
            if followers is not None:
                followers.begin()
            tell = None if followers is None else followers.advance
            yield from serving.answer(load, clock, tell)
            is_over = True
        except GeneratorExit:
            is_over = True
            raise
        except torch.OutOfMemoryError as error:
            raise EngineError(f"out of GPU memory: {str(error).splitlines()[0]}") from None
        except RuntimeError as error:
            ended = None if followers is None else followers.ended(NOTICE_S)
            if ended is None:
                raise
            raise EngineError(f"a rank of the shared model is gone: {ended}") from error
        finally:
            self._is_serving = False
            if is_over:
                self._end(serving)
            else:  # the ranks may stand at different steps, and must not wait for each other
                self._break()

    @property
    def scores_by_decoding(self) -> bool:
        """Half of each prompt is."""
        return True

    def continuations(self, prompts: Sequence[np.ndarray], count: int) -> None:
        """Not needed: what is decoded in `prompt_logprobs` are tokens that another engine can be asked about."""

    def prompt_logprobs(self, prompts: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Half of each prompt in chunks, the other half token by token, as a run would compute them."""
        if self._options.tensor_parallel > 1:
            raise EngineError("engine 'native' scores no prompts with tensor_parallel > 1: its ranks only serve")
        loaded = self._ready
        if self._is_serving:
            raise EngineError("a run is under way; close it before prompts are scored")
        try:
            return prompt_logprobs(loaded, prompts)
        except torch.OutOfMemoryError as error:
            raise EngineError(f"out of GPU memory: {str(error).splitlines()[0]}") from None

    def report(self, start_s: float, end_s: float) -> EngineReport:
        """What the steps had to do whose tokens came in (start_s, end_s], and how many prompt tokens were shared."""
        serving = self._serving
        if serving is None:
            return EngineReport()
        work = total(serving.log.between(start_s, end_s).values())
        hits = serving.scheduler.hits.rate if self._options.prefix_caching else None
        return EngineReport(work.flop, work.bytes, hits)

    def probes(self, start_s: float, end_s: float) -> Probes:
        """Typical steps among those whose tokens came in (start_s, end_s], whose families can be run one by one.

        What the cache held is lost, which no run would have found: each begins with empty pages.
        """
        loaded, serving = self._ready, self._serving
        if self._is_serving:
            raise EngineError("a run is under way; close it before its kernels are run one by one")
        if serving is None:
            return Probes(refusal="the engine has served nothing yet")
        return probes_of(loaded, serving.log, start_s, end_s)

    def close(self) -> None:
        """Drop weights and cache."""
        self._loaded = self._serving = None
        if self._followers is not None:
            self._followers.close()
            self._followers = None
        gc.collect()  # a graph and the runner that it was captured from hold each other
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _prompt(self, place: int, length: int) -> Request:
        """A prompt that begins like no other, so that none finds its pages in the cache."""
        return Request(place, np.arange(place, place + length, dtype=np.int32) % self._architecture.vocab_size, 1)

    def _end(self, serving: Serving) -> None:
        """Free what a run leaves in flight, on every rank."""
        serving.abandon()
        if self._followers is not None:
            self._followers.abandon()

    def _break(self) -> None:
        """After an error in a step nothing on the device can be relied on: the next run wants a new load."""
        self._loaded = None
        if self._followers is not None:
            self._followers.kill()
            self._followers = None

    @property
    def _ready(self) -> Loaded:
        if self._loaded is None:
            raise EngineError("the engine is not loaded; call load() first")
        return self._loaded


def _capability_of(device: torch.device) -> int | None:
    """Compute capability as major * 10 + minor; None for a processor."""
    return capability(device) if device.type == "cuda" else None
