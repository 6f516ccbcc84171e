"""What every engine can do, and the events that it emits."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np

from tokenwatt.clock import Clock
from tokenwatt.load import Load
from tokenwatt.record import RequestStatus
from tokenwatt.workloads import Request


class Failure(NamedTuple):
    """Why a request has no answer, or not all of it."""

    status: RequestStatus
    """Anything but `complete` and `cut`."""
    detail: str
    """In words, for people."""


class TokenEvent(NamedTuple):
    """`tokens` more tokens of one request appeared at `at_s`. (A tuple, because hundreds come with every step.)"""

    request_index: int
    at_s: float
    tokens: int
    """0 only where the end of an answer is seen after its last token."""
    is_last: bool
    running: int
    """Requests in the engine's running batch when the tokens appeared; of a server, those that do not wait there."""
    token_ids: tuple[int, ...] = ()
    """The tokens themselves, where the engine sees them."""
    failure: Failure | None = None
    """Why the request ends with this event, which then is its last and has no tokens."""


@dataclass(frozen=True, slots=True)
class EngineReport:
    """What an engine knows of a stretch of a run beside its tokens; None where it does not."""

    flop: float | None = None
    """Operations that its steps could not avoid."""
    bytes: float | None = None
    """Bytes to and from memory that its steps could not avoid."""
    prefix_cache_hit_rate: float | None = None
    """Share of prompt tokens, since the run began, that were in the cache already."""
    server_output_tokens: float | None = None
    """Tokens since the run began by a server's own counter, which others may have asked for too."""
    client_busy: float | None = None
    """Share of the stretch in which the process that stamps a server's answers was at work: near 1, stamps are late."""
    client_lag_mean_s: float | None = None
    """How long bytes can have waited in the stretch before that process stamped them, mean; None for an engine whose
    events are stamped when they are taken note of."""


def refuse(request: Request, why: str, load: Load, at_s: float, running: int = 0) -> TokenEvent:
    """The one event of a request that the engine cannot serve; its load hears of it."""
    load.ended(request.index, at_s, failed=True)
    return TokenEvent(request.index, at_s, 0, True, running, failure=Failure(RequestStatus.REFUSED, why))


Family = Literal["attention", "matmul", "moe", "fused"]
"""A group of kernels whose energy is told apart; `fused` are norms, rotations, sampling and all that is small."""


@dataclass(frozen=True, slots=True)
class Probe:
    """The kernels of one family in one step, which can be run again without the others."""

    family: Family
    shape: str
    """What kind of step, for people."""
    steps: float
    """Steps of the stretch that this one stands for; 0 for one that was not in it, and only tells operations from
    bytes."""
    flop: float
    """Operations of the family in the step."""
    bytes: float
    """Bytes of the family in the step."""
    prepare: Callable[[], Callable[[], object]]
    """Makes the call that runs the kernels once and, on a GPU, does not wait for them. It holds memory while it lives.

    Raises EngineError where it cannot be made."""


@dataclass(frozen=True, slots=True)
class Probes:
    """A stretch of a run by kernel family, and probes of its typical steps; empty for an engine that has none."""

    flop: Mapping[Family, float] = field(default_factory=dict)
    """Operations of the stretch."""
    bytes: Mapping[Family, float] = field(default_factory=dict)
    """Bytes of the stretch."""
    probes: tuple[Probe, ...] = ()
    refusal: str = "this engine cannot run its kernel families one by one"
    """Why there are no probes; empty where there are."""


@dataclass(frozen=True, slots=True)
class EngineIdentity:
    """Who computed what, where: known before anything is loaded."""

    name: str
    version: str
    model: str | None
    dtype: Literal["float32", "bfloat16", "float16"] | None
    weights_source: Literal["random", "safetensors", "none"]
    device: Literal["cuda", "cpu", "none"]
    gpu_uuids: tuple[str, ...] | None
    """NVML UUIDs of the engine's GPUs; () if it uses none; None if it cannot say."""
    torch_version: str | None = None
    triton_version: str | None = None
    quantization: str | None = None
    """Format of projections and MLPs: `none`, `fp8`, `int4`, or the engine's own word; None if it cannot say."""
    kv_cache_dtype: str | None = None
    """Format of keys and values."""
    tp: int = 1
    """GPUs (or processes) that share each product."""
    longest_context: int | None = None
    """Tokens that the model can have in a sequence; None if there is no limit, or it cannot say."""


class Engine(Protocol):
    """A model that serves requests, used as: load, warm_up, then serve for every measurement, then close."""

    @property
    def identity(self) -> EngineIdentity:
        """Who computes what, where."""
        ...

    def check(self, longest_context: int, vocabulary: int) -> None:
        """Refuse, before anything is loaded, requests that the model cannot serve.

        Raises:
            UserError: contexts (tokens) or token ids beyond the model's.
        """
        ...

    def load(self, max_concurrency: int, longest_context: int) -> None:
        """Load weights and reserve memory for `max_concurrency` requests of at most `longest_context` tokens.

        Raises:
            EngineError: the model does not fit.
        """
        ...

    def warm_up(self, requests: Sequence[Request], concurrency: int, clock: Clock) -> None:
        """Compile and touch whatever the first measured request must not pay for."""
        ...

    def serve(self, load: Load, clock: Clock) -> Generator[TokenEvent, None, None]:
        """Take what is due from `load` and answer it, telling the load when an answer is over.

        Ends when nothing is in flight and nothing will be due; closing the iterator abandons what is in flight. Events
        come in the order of their time.

        Raises:
            EngineError: the engine cannot go on.
        """
        ...

    def report(self, start_s: float, end_s: float) -> EngineReport:
        """What it did for the tokens that came in (start_s, end_s] of the last `serve`."""
        ...

    def probes(self, start_s: float, end_s: float) -> Probes:
        """The kernel families in the steps whose tokens came in (start_s, end_s] of the last `serve`, which is over.

        Until the last call that a probe has made is dropped, the engine must not serve.

        Raises:
            EngineError: a run is under way.
        """
        ...

    def close(self) -> None:
        """Give memory back."""
        ...


@dataclass(frozen=True, slots=True)
class Continuation:
    """What an engine drew after a prompt, and how probable each token was to it as it did."""

    tokens: np.ndarray
    """int32 [n]."""
    logprobs: np.ndarray
    """Natural, float [n]."""


@runtime_checkable
class Scorer(Protocol):
    """An engine that also tells how probable tokens are, so that what it computes can be compared."""

    @property
    def scores_by_decoding(self) -> bool:
        """Whether `prompt_logprobs` computes part of a prompt token by token; if not, `continuations` does."""
        ...

    def prompt_logprobs(self, prompts: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Natural-log probability of each prompt token given those before it.

        Called after `load` and never during `serve`. Sampling has no part in it: it is the softmax of the plain logits.

        prompts: int32 [isl] each, shorter than the loaded context.

        Returns float [isl - 1] for each: the first token has nothing before it.

        Raises:
            EngineError: a prompt that cannot be scored, or the engine cannot go on.
        """
        ...

    def continuations(self, prompts: Sequence[np.ndarray], count: int) -> list[Continuation] | None:
        """Draw `count` tokens after each prompt at temperature 1, as many prompts together as the engine serves.

        Called as `prompt_logprobs` is. A server may end one sooner. None where the engine does not tell, or needs not.

        prompts: int32 [isl] each; with `count` more tokens no longer than the loaded context.

        Raises:
            EngineError: a prompt that cannot be served, or the engine cannot go on.
        """
        ...


def scorer_of(engine: Engine) -> Scorer | None:
    """The engine as a `Scorer`; None for one that does not tell probabilities."""
    return engine if isinstance(engine, Scorer) else None
