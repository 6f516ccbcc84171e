"""The engine: a loop of steps over one decoder and one KV cache."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch

from tokenwatt import __version__
from tokenwatt.architecture import BYTES_PER_ELEMENT, Architecture, load_architecture
from tokenwatt.clock import Clock
from tokenwatt.engines.native.batch import prepare
from tokenwatt.engines.native.kv_cache import PAGE_SIZE, KvCache, pages_for
from tokenwatt.engines.native.model import Decoder
from tokenwatt.engines.native.scheduler import MAX_PREFILL_TOKENS, Scheduler
from tokenwatt.engines.native.weights import check_weights, load_weights, random_weights
from tokenwatt.engines.protocol import EngineIdentity, TokenEvent
from tokenwatt.errors import EngineError, UserError
from tokenwatt.spec import BenchSpec, Spec, validate
from tokenwatt.workloads import Request

MEMORY_SHARE = 0.95
"""Share of the memory left after weights and activations that the KV cache may take."""
HEAD_DIMS = (16, 32, 64, 128, 256)
WARM_UP_STEPS = 32
"""Decode batches of warm-up shrink by one so many times, which visits every small batch and those just below C."""
WARM_UP_PROMPTS = (16, 32, 64, 128)
"""Prompt lengths that are prefilled alone: one for each row count at which the matmul changes its tile."""


class NativeOptions(Spec):
    """Engine `native` has no settings of its own yet."""


class NativeEngine:
    """Greedy decoding of a Llama or Qwen3 decoder: Triton kernels on CUDA, their plain-torch references on CPU."""

    def __init__(self, spec: BenchSpec) -> None:
        validate(spec.options, NativeOptions, where="options of engine 'native'")
        if spec.model is None:
            raise UserError("engine 'native' needs a model: the name of a folder under workloads/models/, or a path")
        self._architecture = load_architecture(spec.model)
        _check_head_dim(self._architecture)
        self._device = _choose_device(spec.device)
        self._spec = spec
        self._dtype: torch.dtype = getattr(torch, spec.dtype)
        if spec.weights != "random":
            check_weights(Path(spec.weights))
        self._decoder: Decoder | None = None
        self._cache: KvCache | None = None
        self._longest_context = 0

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
            EngineError: weights, or the cache of a single request, do not fit.
            UserError: the weights folder does not hold this architecture.
        """
        weight_bytes = self._architecture.parameters * BYTES_PER_ELEMENT[self._spec.dtype]
        free_bytes = self._free_bytes()
        if weight_bytes > free_bytes:
            raise EngineError(f"weights need {weight_bytes / 1e9:.1f} GB, {free_bytes / 1e9:.1f} GB are free")
        try:
            self._load(max_concurrency, longest_context)
        except torch.OutOfMemoryError as error:
            raise EngineError(f"out of GPU memory while loading: {str(error).splitlines()[0]}") from None

    def _load(self, max_concurrency: int, longest_context: int) -> None:
        if self._spec.weights == "random":
            weights = random_weights(self._architecture, self._dtype, self._device, self._spec.seed)
        else:
            weights = load_weights(self._architecture, Path(self._spec.weights), self._dtype, self._device)
        self._decoder = Decoder(self._architecture, weights, longest_context)
        self._longest_context = longest_context
        pages_per_request = pages_for(longest_context)
        page_bytes = PAGE_SIZE * self._architecture.kv_bytes_per_token(self._spec.dtype)
        step_tokens = min(max(MAX_PREFILL_TOKENS, longest_context), max_concurrency * longest_context)
        left_bytes = self._free_bytes() - activation_bytes(self._architecture, self._spec.dtype, step_tokens)
        affordable = max(0, int(MEMORY_SHARE * left_bytes)) // page_bytes
        if affordable < pages_per_request:
            need, have = pages_per_request * page_bytes / 1e9, affordable * page_bytes / 1e9
            raise EngineError(f"the KV cache of one request needs {need:.2f} GB, {have:.2f} GB are left")
        num_pages = min(affordable, max_concurrency * pages_per_request)
        self._cache = KvCache(self._architecture, num_pages, self._dtype, self._device)

    def warm_up(self, requests: list[Request], concurrency: int, clock: Clock) -> None:
        """Serve a few tokens in every shape that the run will meet, so that kernels are compiled before it."""
        together = [
            replace(request, max_tokens=min(request.max_tokens, 2 + min(place, WARM_UP_STEPS)))
            for place, request in enumerate(requests)
        ]
        longest_prompt = self._longest_context - 1
        alone = [
            Request(place, np.zeros(min(length, longest_prompt), dtype=np.int32), max_tokens=1)
            for place, length in enumerate(WARM_UP_PROMPTS)
        ]
        for rounds, slots in ((together, concurrency), (alone, 1)):
            for _ in self.serve(iter(rounds), slots, clock):
                pass

    def serve(self, requests: Iterator[Request], concurrency: int, clock: Clock) -> Generator[TokenEvent, None, None]:
        """Closed loop; one event per token, stamped when the token is on the host."""
        if self._decoder is None or self._cache is None:
            raise EngineError("serve() before load()")
        scheduler = Scheduler(requests, concurrency, self._cache, pages_for(self._longest_context))
        try:
            while (step := scheduler.schedule()) is not None:
                batch = prepare(step, self._device)
                tokens = self._decoder.forward(batch, self._cache).argmax(dim=-1).tolist()
                at_s, running = clock(), scheduler.num_running
                events = []
                for sequence, token in zip(step.sequences, tokens, strict=True):
                    sequence.last_token = token
                    sequence.generated += 1
                    events.append(TokenEvent(sequence.request.index, at_s, 1, sequence.is_finished, running, (token,)))
                scheduler.retire()
                yield from events
        except torch.OutOfMemoryError as error:
            raise EngineError(f"out of GPU memory: {str(error).splitlines()[0]}") from None
        finally:
            scheduler.abandon()

    def close(self) -> None:
        """Drop weights and cache."""
        self._decoder = self._cache = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _free_bytes(self) -> int:
        if self._device.type == "cuda":
            torch.cuda.empty_cache()  # what torch keeps for later counts as taken
            return torch.cuda.mem_get_info(self._device)[0]
        return _available_host_bytes()


def activation_bytes(architecture: Architecture, dtype: str, tokens: int) -> int:
    """Memory that a step over `tokens` tokens may need at once: every intermediate of one layer, none freed early."""
    a = architecture
    elements = 6 * a.hidden_size + 3 * (a.q_size + 2 * a.kv_size) + 5 * a.intermediate_size
    rotation_bytes = 4 * BYTES_PER_ELEMENT["float32"] * a.q_size  # rotary embedding works in fp32
    return tokens * (elements * BYTES_PER_ELEMENT[dtype] + rotation_bytes)


def _check_head_dim(architecture: Architecture) -> None:
    head_dim = architecture.head_dim
    if head_dim not in HEAD_DIMS:
        allowed = ", ".join(map(str, HEAD_DIMS))
        raise UserError(f"{architecture.name}: head_dim {head_dim} has no attention kernel; allowed: {allowed}")


def _choose_device(wanted: str) -> torch.device:
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise UserError(
            "device 'cuda' was asked for, but torch finds no GPU; use device = \"cpu\" or run `tokenwatt doctor`"
        )
    return torch.device("cuda", 0) if available and wanted != "cpu" else torch.device("cpu")


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
