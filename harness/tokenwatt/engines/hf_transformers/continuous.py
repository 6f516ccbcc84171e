"""Mode `continuous_batching`: transformers' own manager, to which requests are handed as others end.

It runs in a thread of its own and streams: a token is stamped when the manager hands it over.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch
from transformers.generation.configuration_utils import ContinuousBatchingConfig
from transformers.generation.continuous_batching import ContinuousBatchingManager, cache
from transformers.generation.continuous_batching.requests import GenerationOutput

from tokenwatt.architecture import Architecture, LatentAttention
from tokenwatt.engines.hf_transformers.door import Door
from tokenwatt.engines.hf_transformers.options import HfOptions
from tokenwatt.engines.hf_transformers.sampling import NO_EOS, generation_config
from tokenwatt.engines.protocol import Continuation, TokenEvent
from tokenwatt.errors import EngineError, UserError
from tokenwatt.workloads import GREEDY, Request, Sampling

PATIENCE_S = 1.0
"""How often the manager's thread is looked after while no token comes."""
MAX_BATCH_TOKENS = 8192
"""Token budget of a step where none is asked for: transformers' own, where memory allows it."""

_FIELDS = frozenset(entry.name for entry in fields(ContinuousBatchingConfig))
_HAS_SWITCH = "auto_switch_to_flash" in _FIELDS
"""Whether sdpa names its paged variant too, and transformers is told not to look for a flash kernel instead (5.23);
before, paged variants have names of their own (5.17)."""
TELLS_LOGPROBS = "return_logprobs" in _FIELDS
"""Whether a manager can tell how probable its tokens are."""
_BLOCK_SIZE = "page_size" if "page_size" in _FIELDS else "block_size"
"""Its name for the tokens of a block."""


def paged(attention: str) -> str:
    """Transformers' name of the paged variant of an attention, which it takes without looking for another."""
    if attention.startswith("paged|") or (_HAS_SWITCH and attention != "eager"):
        return attention
    return f"paged|{attention}"


def check_continuous(architecture: Architecture, device: torch.device) -> None:
    """Raise UserError where continuous batching cannot run."""
    if isinstance(architecture.attention, LatentAttention):
        raise UserError(
            f"{architecture.name}: transformers' paged cache has keys and values of one size, latent attention has two;"
            ' allowed: mode = "generate"'
        )
    if device.type == "cpu" and not torch.cuda.is_available() and not cache.get_device_and_memory_breakdown()[1]:
        raise UserError(
            'mode = "continuous_batching" on a processor: transformers sees no memory without psutil; install it with:'
            ' pip install psutil, or take mode = "generate"'
        )


@dataclass(frozen=True, slots=True)
class Continuous:
    """A model with the limits that its managers are made for."""

    model: Any
    """A causal language model of transformers."""
    architecture: Architecture
    options: HfOptions
    concurrency: int
    """Most requests in flight."""
    longest_context: int
    """Tokens."""
    seed: int
    """Of draws."""

    def try_out(self) -> None:
        """Reserve the cache once, and give it back.

        Raises:
            EngineError: it does not fit.
        """
        _stop(self._started(GREEDY))

    def answer(self, door: Door) -> Iterator[TokenEvent]:
        """Events of the requests that come in at the door; every run has a manager of its own."""
        manager: ContinuousBatchingManager | None = None
        in_flight = dict[str, _Stream]()
        try:
            while True:
                yield from door.admit()
                while door.waiting:
                    request = door.waiting.popleft()
                    if manager is None:  # its sampling is that of the first request
                        manager = self._started(request.sampling)
                    in_flight[_add(manager, request)] = _Stream(request)
                if manager is not None and in_flight:
                    yield from _events(manager, in_flight, door)
                elif not door.rest():
                    return
        finally:
            if manager is not None:
                _stop(manager)

    def draw(self, prompts: Sequence[np.ndarray], count: int) -> list[Continuation]:
        """So many tokens after each prompt, by a manager of its own that tells their probabilities too.

        Raises:
            EngineError: the manager has no room, or ends.
        """
        sampling = Sampling(temperature=1.0)
        manager = self._started(sampling, return_logprobs=True)
        try:
            names = [
                _add(manager, Request(place, prompt, count, sampling), streaming=False)
                for place, prompt in enumerate(prompts)
            ]
            drawn = dict[str, Continuation]()
            while len(drawn) < len(names):
                output = _next(manager, PATIENCE_S)
                if output is not None:
                    _check(output, names.index(output.request_id))
                    tokens = np.array(output.generated_tokens, dtype=np.int32)
                    drawn[output.request_id] = Continuation(tokens, np.array(output.logprobs))
            return [drawn[name] for name in names]
        finally:
            _stop(manager)

    def _started(self, sampling: Sampling, **settings: Any) -> ContinuousBatchingManager:
        try:
            manager = self._manager(sampling, settings)
            manager.warmup()  # reserves the cache; captures graphs where there are any
        except (MemoryError, ValueError) as error:  # its own arithmetic finds no room, or it refuses the attention
            raise EngineError(
                f"transformers cannot serve {self.architecture.name} by continuous batching: {error}"
            ) from None
        manager.start()
        return manager

    def _manager(self, sampling: Sampling, settings: dict[str, Any]) -> ContinuousBatchingManager:
        config = generation_config(sampling)
        config.eos_token_id = NO_EOS
        return self.model.init_continuous_batching(
            generation_config=config,
            continuous_batching_config=ContinuousBatchingConfig(**self._settings(), **settings),
        )

    def _settings(self) -> dict[str, Any]:
        """Of the manager: what the options say, and on a processor a cache no larger than it can be filled."""
        options = self.options
        settings: dict[str, Any] = {
            "max_requests_per_batch": self.concurrency,
            "allow_block_sharing": False,
            "seed": self.seed,
            "use_cuda_graph": options.use_cuda_graph,
            "use_async_batching": options.use_async_batching,
            "num_blocks": options.num_blocks,
            "max_batch_tokens": options.max_batch_tokens,
        }
        if _HAS_SWITCH:
            settings["auto_switch_to_flash"] = False
        if options.block_size is not None:
            settings[_BLOCK_SIZE] = options.block_size
        if self.model.device.type == "cpu":
            settings["num_blocks"] = options.num_blocks or self._blocks
            together = self.concurrency * self.longest_context
            settings["max_batch_tokens"] = options.max_batch_tokens or min(MAX_BATCH_TOKENS, together)
        return settings

    @property
    def _blocks(self) -> int:
        """Blocks that the concurrency can fill; each is of a group of layers, which all have a window or none."""
        size = self.options.block_size or getattr(ContinuousBatchingConfig, _BLOCK_SIZE)
        counts = Counter(layer.window is None for layer in self.architecture.layers).values()
        groups = self.architecture.num_hidden_layers // math.gcd(*counts)
        return self.concurrency * groups * -(-self.longest_context // size)


@dataclass(slots=True)
class _Stream:
    """A request that the manager has."""

    request: Request
    output: list[int] = field(default_factory=list)
    """Output tokens that were handed over."""


def _stop(manager: ContinuousBatchingManager) -> None:
    """Abandon what is in flight, and give the cache back: without its thread the manager drops it."""
    manager.stop(block=True, hard_stop=True)
    manager.destroy()


def _add(manager: ContinuousBatchingManager, request: Request, streaming: bool = True) -> str:
    """Hand a request over; returns the name that it has there."""
    stops = request.sampling.stop_token_ids
    name = manager.add_request(
        request.prompt.tolist(),
        max_new_tokens=request.max_tokens,
        streaming=streaming,
        eos_token_id=[*stops] if stops else NO_EOS,
    )
    if name is None:
        raise EngineError("transformers takes no more requests; its generation thread has stopped")
    return name


def _events(manager: ContinuousBatchingManager, in_flight: dict[str, _Stream], door: Door) -> Iterator[TokenEvent]:
    """What the manager hands over next, if it comes before a request is due."""
    next_s = door.load.next_s
    patience_s = PATIENCE_S if next_s is None else min(PATIENCE_S, max(1e-3, next_s - door.clock()))
    output = _next(manager, patience_s)
    if output is None:
        return
    at_s, stream = door.clock(), in_flight[output.request_id]
    _check(output, stream.request.index)
    tokens = tuple(output.generated_tokens[len(stream.output) :])
    stream.output += tokens
    running = len(in_flight) - _waiting(manager)
    if output.is_finished():
        del in_flight[output.request_id]
        door.ended(stream.request, at_s, stream.output)
    yield TokenEvent(stream.request.index, at_s, len(tokens), output.is_finished(), running, tokens)


def _next(manager: ContinuousBatchingManager, patience_s: float) -> GenerationOutput | None:
    """What the manager hands over next; None if nothing comes."""
    output = manager.get_result(timeout=patience_s)
    if output is None and not manager.is_running():
        raise EngineError("transformers' generation thread has stopped")
    return output


def _check(output: GenerationOutput, index: int) -> None:
    if output.error is not None:
        raise EngineError(f"transformers gave up request {index}: {output.error}")


def _waiting(manager: ContinuousBatchingManager) -> int:
    """Requests that wait for blocks, or for room in a step."""
    processor = manager.batch_processor
    return 0 if processor is None else len(processor.scheduler.waiting_requests)
