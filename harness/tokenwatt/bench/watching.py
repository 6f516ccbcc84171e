"""Follows the tokens of a run: from the ramp through its windows, until somebody says that there are enough."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from tokenwatt.bench.observer import DISPLAY_PERIOD_S
from tokenwatt.clock import Clock
from tokenwatt.engines.protocol import TokenEvent
from tokenwatt.errors import EngineError
from tokenwatt.rows import Recording

MOST_FAILURES = 16
"""Requests that may fail one after the other, or as many as are in flight: after more the run is given up."""
IsEnough = Callable[[Recording, float, float], bool]
"""Is asked once for each full window (start_s, end_s), as soon as the readings after it are there."""


def watch(
    events: Iterator[TokenEvent],
    recording: Recording,
    is_enough: IsEnough,
    advance: Callable[[float], None],
    clock: Clock,
) -> None:
    """Record events until `is_enough` says so: windows follow each other, and the run goes on for a margin after each.

    All at once (`offline`) has one window, the run, which nobody is asked about here.

    advance: hears every now and then how many seconds have passed since the first window began.
    clock: the run's, which tells how late an event is heard of.

    Raises:
        EngineError: request after request fails.
    """
    timeline = recording.timeline
    wanted_s = math.inf if timeline.load == "offline" else recording.wanted_s
    window_began_s, shown_s = None, 0.0
    for event in events:
        timeline.record(event, clock())
        if event.failure is not None and timeline.failed_in_a_row > max(MOST_FAILURES, timeline.in_flight_now):
            raise EngineError(f"request after request fails: {event.failure.status}, {event.failure.detail}")
        if timeline.start_s is None:
            continue
        if window_began_s is None:
            window_began_s = timeline.start_s
        if event.at_s > window_began_s + wanted_s + recording.margin_s:
            if window_began_s + wanted_s > timeline.last_due_s:  # what follows is the end of the load
                return
            end_s = timeline.edge_after(window_began_s, window_began_s + wanted_s)
            if end_s is None:  # silent for a whole window: there is none
                return
            recording.windows += 1
            if is_enough(recording, window_began_s, end_s):
                return
            window_began_s = end_s
        if event.at_s - timeline.start_s - shown_s > DISPLAY_PERIOD_S:
            shown_s = event.at_s - timeline.start_s
            advance(shown_s)
    timeline.is_over = True
