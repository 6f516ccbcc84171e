"""The steady windows: which stretches of a closed-loop run its numbers are computed over.

In words: with C requests kept in flight, the first window starts when C requests have produced their first token. A
window ends at the last token that is no later than the wanted length allows, and before the first moment at which fewer
than C requests are in flight for good; the next one starts there. So windows follow each other without a gap, each edge
lies on a token, and a window holds whole steps of the engine.

A window is stable iff it is long enough, the mean running batch is at least 0.85 C, and neither token rate nor board
power has a slope. A slope counts if it moves the rate by more than 4 % from the first tenth of the window to the last,
and goes beyond the noise of those tenths: noise alone passes for one in 2 % of windows at most. Power is tested where
every board has a reading in every tenth. Where one has none (no instantaneous power, or readings once a second and a
window of a few), it is not tested, and only the energy's own reasons speak of it. A window in which no whole request
began and ended has no TPOT and says so.

A run of one phase alone is judged by the rules that can apply to it:

* `prefill` (prompts, one token each): its rate is that of prompt tokens. The running batch is as many prompts as a step
  has room for, while the others of the C wait by design, so it is not judged.
* `decode` (C sequences, none of which begins or ends in the window): all rules but the one that a request completes. If
  a sequence ends after all, fewer than C are in flight for good, and the window is over.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from tokenwatt.clock import Clock
from tokenwatt.engines.protocol import TokenEvent
from tokenwatt.record import Phase, Reason
from tokenwatt.workloads import Request

MIN_RUNNING_SHARE = 0.85
"""Mean running batch over C below which a window is not stable."""
DRIFT_BINS = 10
"""Equal parts of the window whose token counts are tested for a slope."""
DRIFT_SHARE = 0.04
"""A slope counts if it moves the rate by more than this share over the window. The mean of the window is half as far
from what it is at an end, and joules per token are to be repeatable within 2 % ..."""
DRIFT_T = 2.9
"""... and if its t value exceeds this: 1 % two-sided at eight degrees of freedom is 3.36, 2 % is 2.90."""
MIN_TOKENS_PER_BIN = 20
"""Fewer tokens in a bin than this say nothing about a slope."""


@dataclass(slots=True)
class RequestTrace:
    """What happened to one request, on the run's clock."""

    index: int
    isl: int
    osl: int
    sent_s: float
    is_ramp: bool
    """Sent at the start in mid-life; outside all latencies."""
    first_token_s: float | None = None
    last_token_s: float | None = None
    output_tokens: int = 0
    is_complete: bool = False
    refusal: str | None = None
    """Why the engine would not serve it."""


def _doubles() -> array[float]:
    return array("d")


def _floats() -> array[float]:
    return array("f")


def _ints() -> array[int]:
    return array("i")


@dataclass(slots=True)
class Timeline:
    """Everything that one run saw: requests as they were sent, tokens as they came.

    Minutes at hundreds in flight are millions of tokens: 24 bytes each, in arrays that are searched, never walked.
    """

    concurrency: int
    phase: Phase = "mixed"
    traces: dict[int, RequestTrace] = field(default_factory=dict)
    token_times: array[float] = field(default_factory=_doubles)
    """Of each event, in order, seconds on the run's clock."""
    token_counts: array[int] = field(default_factory=_ints)
    running: array[int] = field(default_factory=_ints)
    contexts: array[int] = field(default_factory=_ints)
    """Tokens before those of the event: the prompt, and the output so far."""
    lags: array[float] = field(default_factory=_floats)
    """How long after each event it was taken note of, seconds."""
    start_s: float | None = None
    """When C requests had produced their first token."""
    refused: int = 0
    """Requests that the engine would not serve."""
    _answered: int = 0

    def send(self, requests: Iterator[Request], clock: Clock) -> Iterator[Request]:
        """Hand requests to an engine, noting when each was taken, which in a closed loop is when it is sent.

        The first C are sent in mid-life (`in_mid_life`), at ages spread evenly: contexts and finishing times are then
        those of the steady state from the start, instead of all slots marching in step. Decode alone has no lives.
        """
        for position, request in enumerate(requests):
            left = 1.0 if self.phase == "decode" else min(1.0, (position + 1) / self.concurrency)
            is_ramp = left < 1.0
            if is_ramp:
                request = in_mid_life(request, left)
            trace = RequestTrace(request.index, len(request.prompt), request.max_tokens, clock(), is_ramp)
            self.traces[request.index] = trace
            yield request

    def record(self, event: TokenEvent, seen_s: float | None = None) -> None:
        """Take note of one event at `seen_s` (None: at once); events come in the order of their time."""
        trace = self.traces[event.request_index]
        if event.refusal is not None:
            trace.refusal = event.refusal
            self.refused += 1
            return
        if trace.first_token_s is None:
            trace.first_token_s = event.at_s
            self._answered += 1
            if self._answered == self.concurrency:
                self.start_s = event.at_s
        self.contexts.append(trace.isl + trace.output_tokens)
        trace.last_token_s = event.at_s
        trace.output_tokens += event.tokens
        trace.is_complete = event.is_last
        self.token_times.append(event.at_s)
        self.token_counts.append(event.tokens)
        self.running.append(event.running)
        self.lags.append(0.0 if seen_s is None else seen_s - event.at_s)

    def edge_after(self, start_s: float, limit_s: float) -> float | None:
        """The last token in (start, limit], with which a window that starts there ends; None without any."""
        place = self.events(start_s, limit_s)
        return self.token_times[place.stop - 1] if place.start < place.stop else None

    def events(self, start_s: float, end_s: float) -> slice:
        """Place of the events in (start, end]."""
        return slice(bisect_right(self.token_times, start_s), bisect_right(self.token_times, end_s))

    def output_tokens(self, start_s: float, end_s: float) -> int:
        """Tokens that were generated in (start, end]."""
        return int(np.sum(self.token_counts[self.events(start_s, end_s)]))

    def input_tokens(self, start_s: float, end_s: float) -> int:
        """Prompt tokens of the requests that were first answered in (start, end]."""
        return sum(
            trace.isl
            for trace in self.traces.values()
            if trace.first_token_s is not None and start_s < trace.first_token_s <= end_s
        )

    def mean_context(self, start_s: float, end_s: float) -> float:
        """Mean over the tokens in (start, end] of those before each; 0 without any."""
        place = self.events(start_s, end_s)
        counts = np.array(self.token_counts[place])
        return float(counts @ np.array(self.contexts[place]) / counts.sum()) if counts.size else 0.0


def in_mid_life(request: Request, left: float) -> Request:
    """The request as it stands with the share `left` of its output to come: what it has produced is in its prompt."""
    to_come = max(1, round(request.max_tokens * left))
    length = len(request.prompt) + request.max_tokens - to_come
    return replace(request, prompt=np.resize(request.prompt, length), max_tokens=to_come)


@dataclass(frozen=True, slots=True)
class Window:
    """A steady window on the run's clock, with what makes it doubtful."""

    start_s: float
    end_s: float
    running: float
    """Mean requests in the engine's running batch."""
    reasons: tuple[Reason, ...]

    @property
    def length_s(self) -> float:
        """Length in seconds."""
        return self.end_s - self.start_s

    def holds(self, at_s: float | None) -> bool:
        """Whether an instant lies in (start, end]."""
        return at_s is not None and self.start_s < at_s <= self.end_s


def find(timeline: Timeline, wanted_s: float, min_window_s: float, index: int = 0) -> Window | None:
    """Steady window number `index` of a run, at most `wanted_s` long.

    None if the run never had C requests answered, or is over before that window.
    """
    edges = _edges(timeline, wanted_s, index)
    if edges is None:
        return None
    start_s, end_s = edges
    place = timeline.events(start_s, end_s)
    times = np.array(timeline.token_times[place])
    running = _mean_running(times, np.array(timeline.running[place]), start_s)
    reasons = []
    if end_s - start_s < min_window_s:
        reasons.append(Reason.WINDOW_TOO_SHORT)
    if running < MIN_RUNNING_SHARE * timeline.concurrency and timeline.phase != "prefill":
        reasons.append(Reason.TOO_FEW_RUNNING)
    # A prompt that is answered has as many tokens as stand before its first one.
    tokens = np.array((timeline.contexts if timeline.phase == "prefill" else timeline.token_counts)[place])
    per_bin, _ = np.histogram(times, bins=DRIFT_BINS, range=(start_s, end_s), weights=tokens)
    if per_bin.sum() < DRIFT_BINS * MIN_TOKENS_PER_BIN:
        reasons.append(Reason.TOO_FEW_TOKENS)
    elif drifts(per_bin):
        reasons.append(Reason.TOKEN_RATE_DRIFTS)
    return Window(start_s, end_s, running, tuple(reasons))


def _edges(timeline: Timeline, wanted_s: float, index: int) -> tuple[float, float] | None:
    """Start and end of window number `index`."""
    start_s, end_s, ramp_down_s = timeline.start_s, timeline.start_s, _ramp_down_s(timeline)
    for _ in range(index + 1):
        if end_s is None:
            return None
        start_s, end_s = end_s, timeline.edge_after(end_s, min(end_s + wanted_s, ramp_down_s))
    return None if start_s is None or end_s is None else (start_s, end_s)


def drifts(values: np.ndarray) -> bool:
    """Whether evenly spaced values have a slope that is large (`DRIFT_SHARE` end to end) and beyond their noise."""
    x = np.arange(len(values)) - (len(values) - 1) / 2
    slope = float(x @ values / (x @ x))
    mean = float(values.mean())
    if mean <= 0 or abs(slope) * (len(values) - 1) <= DRIFT_SHARE * mean:
        return False
    residual = values - mean - slope * x
    error = float(np.sqrt(residual @ residual / (len(values) - 2) / (x @ x)))
    return abs(slope) > DRIFT_T * error


def _ramp_down_s(timeline: Timeline) -> float:
    """The last moment at which C requests were in flight: the earliest end of the last C, or infinity if none ended."""
    ends = sorted(
        trace.last_token_s if trace.is_complete and trace.last_token_s is not None else float("inf")
        for trace in timeline.traces.values()
    )
    return ends[-timeline.concurrency] if len(ends) >= timeline.concurrency else -float("inf")


def _mean_running(times: np.ndarray, running: np.ndarray, start_s: float) -> float:
    """Time-weighted mean of the engine's running batch since `start_s`; each event speaks for the time before it."""
    since = np.diff(times, prepend=start_s)
    return float(since @ running / since.sum())
