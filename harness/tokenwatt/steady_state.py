"""The steady windows: which stretches of a run its numbers are computed over.

In words: with C requests kept in flight, the first window starts when C requests have produced their first token. A
window ends at the last token that is no later than the wanted length allows, and before the first moment at which fewer
than C requests are in flight for good; the next one starts there. So windows follow each other without a gap, each edge
lies on a token, and a window holds whole steps of the engine.

Where requests come by a timetable, or users think between their turns, nobody knows how many are in flight. Then the
first window starts at the first token after which more requests have ended than are in flight: everything that the
engine had at the beginning is through by then. Where they come much faster than they are answered that never is; then
it starts when four times a window's length has passed. No window starts in a ramp, or ends after the last conversation
of a load that has so many and no more was due. Instead of the running batch, the queue is judged: it grows if the
requests in flight gain more than a tenth of those that came, and more than three standard deviations of what a steady
queue gains by chance (of independent requests: the variance is twice the mean in flight, and no more than all that came
and ended). Then the rate is above what the engine can do, and a longer window would show longer latencies. A replay has
the slopes of its trace, so its token rate is not tested for one.

All at once (`offline`) has one window: from when the requests were due to the last token of the last one. Ramp-up and
ramp-down are part of the job.

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

import math
from array import array
from bisect import bisect_right
from dataclasses import dataclass, field

import numpy as np

from tokenwatt.engines.protocol import Failure, TokenEvent
from tokenwatt.load import Sent
from tokenwatt.record import LoadKind, Phase, Reason, RequestStatus

MIN_RUNNING_SHARE = 0.85
"""Mean running batch over C below which a window is not stable."""
DRIFT_BINS = 10
"""Equal parts of the window whose token counts are tested for a slope."""
DRIFT_SHARE = 0.04
"""A slope counts if it moves the rate by more than this share over the window. The mean of the window is half as far
from what it is at an end, and joules per token are to be repeatable within 2 % ..."""
DRIFT_T = 2.9
"""... and if its t value exceeds this: 1 % two-sided at eight degrees of freedom is 3.36, 2 % is 2.90."""
QUEUE_SHARE = 0.1
"""A queue grows if it gains more than this share of the requests that came ..."""
QUEUE_SIGMAS = 3.0
"""... and so many standard deviations of what it would gain by chance."""
MIN_TOKENS_PER_BIN = 20
"""Fewer tokens in a bin than this say nothing about a slope."""


@dataclass(slots=True)
class RequestTrace:
    """What happened to one request, on the run's clock."""

    sent: Sent
    first_token_s: float | None = None
    last_token_s: float | None = None
    output_tokens: int = 0
    is_complete: bool = False
    failure: Failure | None = None
    """Why it has no answer, or not all of it."""
    ended_s: float | None = None
    """When its answer was over, or had failed."""

    @property
    def status(self) -> RequestStatus:
        """How it ended."""
        if self.failure is not None:
            return self.failure.status
        return RequestStatus.COMPLETE if self.is_complete else RequestStatus.CUT


def _doubles() -> array[float]:
    return array("d")


def _floats() -> array[float]:
    return array("f")


def _ints() -> array[int]:
    return array("i")


@dataclass(slots=True)
class Timeline:
    """Everything that one run saw: requests as they were sent, tokens as they came.

    Minutes at hundreds in flight are millions of tokens: 28 bytes each, in arrays that are searched, never walked.
    """

    concurrency: int | None
    """Requests kept in flight; None where their number is free: a timetable, all at once, users who think."""
    phase: Phase = "mixed"
    load: LoadKind = "closed"
    ramp_s: float = 0.0
    """Over how long the load rises: no window starts before."""
    patience_s: float = math.inf
    """Where the number in flight is free: how long after the ramp the first window starts at the latest."""
    conversations: int | None = None
    """Of the whole load; None where it has no end."""
    traces: dict[int, RequestTrace] = field(default_factory=dict)
    token_times: array[float] = field(default_factory=_doubles)
    """Of each event, in order, seconds on the run's clock."""
    token_counts: array[int] = field(default_factory=_ints)
    running: array[int] = field(default_factory=_ints)
    contexts: array[int] = field(default_factory=_ints)
    """Tokens before those of the event: the prompt, and the output so far."""
    lags: array[float] = field(default_factory=_floats)
    """How long after each event it was taken note of, seconds."""
    requests: array[int] = field(default_factory=_ints)
    """Of each event, the index of its request."""
    start_s: float | None = None
    """Where the first window starts."""
    failed: int = 0
    """Requests that ended as anything but complete."""
    failed_in_a_row: int = 0
    """Those since the last one that did not."""
    is_over: bool = False
    """Whether the run came to its own end: everything that was due is answered."""
    last_due_s: float = math.inf
    """When the last conversation of the load was due; infinite while it is not known."""
    _first_due_s: float | None = None
    _begun: int = 0
    """Conversations."""
    _answered: int = 0
    _ended: int = 0

    def note_sent(self, sent: Sent) -> None:
        """A request goes out."""
        self.traces[sent.request_index] = RequestTrace(sent)
        self._first_due_s = sent.due_s if self._first_due_s is None else self._first_due_s
        self._begun += sent.turn == 0
        if sent.turn == 0 and self._begun == self.conversations:
            self.last_due_s = sent.due_s
        if self.load == "offline" and self.start_s is None:
            self.start_s = sent.due_s

    def record(self, event: TokenEvent, seen_s: float | None = None) -> None:
        """Take note of one event at `seen_s` (None: at once); events come in the order of their time."""
        trace = self.traces[event.request_index]
        if event.failure is not None:
            trace.failure, trace.ended_s = event.failure, event.at_s
            self.failed += 1
            self.failed_in_a_row += 1
            self._ended += 1
            return
        if event.is_last:
            trace.is_complete, trace.ended_s = True, event.at_s
            self._ended += 1
            self.failed_in_a_row = 0
        if not event.tokens:  # nothing but the end of an answer whose last token came before
            return
        if trace.first_token_s is None:
            trace.first_token_s = event.at_s
            self._answered += 1
        self.contexts.append(trace.sent.isl + trace.output_tokens)
        trace.last_token_s = event.at_s
        trace.output_tokens += event.tokens
        self.token_times.append(event.at_s)
        self.token_counts.append(event.tokens)
        self.running.append(event.running)
        self.requests.append(event.request_index)
        self.lags.append(0.0 if seen_s is None else seen_s - event.at_s)
        if self.start_s is None and self._is_steady(event.at_s):
            self.start_s = event.at_s

    @property
    def in_flight_now(self) -> int:
        """Requests that went out and are not over."""
        return len(self.traces) - self._ended

    def _is_steady(self, at_s: float) -> bool:
        """Whether the first window starts with the token that has just come."""
        assert self._first_due_s is not None
        since_ramp_s = at_s - self._first_due_s - self.ramp_s
        if since_ramp_s < 0:
            return False
        if self.concurrency is not None:
            return self._answered >= self.concurrency
        return self._ended > self.in_flight_now or since_ramp_s >= self.patience_s

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
            trace.sent.isl
            for trace in self.traces.values()
            if trace.first_token_s is not None and start_s < trace.first_token_s <= end_s
        )

    def in_flight(self, at_s: np.ndarray) -> np.ndarray:
        """Requests that were due and not over at each of these instants."""
        due_s = np.sort([trace.sent.due_s for trace in self.traces.values()])
        ended_s = np.sort([trace.ended_s for trace in self.traces.values() if trace.ended_s is not None])
        return np.searchsorted(due_s, at_s, "right") - np.searchsorted(ended_s, at_s, "right")

    def due_in(self, start_s: float, end_s: float) -> list[RequestTrace]:
        """Requests that were due in (start, end]."""
        return [trace for trace in self.traces.values() if start_s < trace.sent.due_s <= end_s]

    def gaps_s(self, start_s: float, end_s: float) -> np.ndarray:
        """Between one appearance of tokens of a request and the next, those that end in (start, end], in no order."""
        stop = self.events(-math.inf, end_s).stop
        times, requests = np.array(self.token_times[:stop]), np.array(self.requests[:stop])
        order = np.argsort(requests, kind="stable")
        ends, owner = times[order], requests[order]
        is_gap = (owner[1:] == owner[:-1]) & (ends[1:] > start_s)
        return np.diff(ends)[is_gap]

    def mean_context(self, start_s: float, end_s: float) -> float:
        """Mean over the tokens in (start, end] of those before each; 0 without any."""
        place = self.events(start_s, end_s)
        counts = np.array(self.token_counts[place])
        return float(counts @ np.array(self.contexts[place]) / counts.sum()) if counts.size else 0.0


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
    if timeline.concurrency is not None:
        if running < MIN_RUNNING_SHARE * timeline.concurrency and timeline.phase != "prefill":
            reasons.append(Reason.TOO_FEW_RUNNING)
    elif timeline.load in ("open", "replay") and _queue_grows(timeline, start_s, end_s):
        reasons.append(Reason.QUEUE_GROWS)
    # A prompt that is answered has as many tokens as stand before its first one.
    tokens = np.array((timeline.contexts if timeline.phase == "prefill" else timeline.token_counts)[place])
    per_bin, _ = np.histogram(times, bins=DRIFT_BINS, range=(start_s, end_s), weights=tokens)
    if per_bin.sum() < DRIFT_BINS * MIN_TOKENS_PER_BIN:
        reasons.append(Reason.TOO_FEW_TOKENS)
    elif timeline.load not in ("replay", "offline") and drifts(per_bin):
        reasons.append(Reason.TOKEN_RATE_DRIFTS)
    return Window(start_s, end_s, running, tuple(reasons))


def _edges(timeline: Timeline, wanted_s: float, index: int) -> tuple[float, float] | None:
    """Start and end of window number `index`."""
    start_s, end_s, ramp_down_s = timeline.start_s, timeline.start_s, _ramp_down_s(timeline)
    wanted_s = math.inf if timeline.load == "offline" else wanted_s
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
    """The last moment before the load went down: when its last conversation was due, where it has a last one.

    With C in flight no later than the earliest end of the last C.
    """
    if timeline.load == "offline":
        return math.inf
    if timeline.concurrency is None:
        return timeline.last_due_s
    ends = sorted(math.inf if trace.ended_s is None else trace.ended_s for trace in timeline.traces.values())
    return ends[-timeline.concurrency] if len(ends) >= timeline.concurrency else -math.inf


def _queue_grows(timeline: Timeline, start_s: float, end_s: float) -> bool:
    """Whether requests come faster than they are answered."""
    came = len(timeline.due_in(start_s, end_s))
    bins = timeline.in_flight(np.linspace(start_s, end_s, 10 * DRIFT_BINS + 1))
    gained = int(bins[-1] - bins[0])
    ended = came - gained
    by_chance = math.sqrt(min(2 * bins.mean(), came + ended))
    return gained > QUEUE_SHARE * came and gained > QUEUE_SIGMAS * by_chance


def _mean_running(times: np.ndarray, running: np.ndarray, start_s: float) -> float:
    """Time-weighted mean of the engine's running batch since `start_s`; each event speaks for the time before it."""
    since = np.diff(times, prepend=start_s)
    return float(since @ running / since.sum())
