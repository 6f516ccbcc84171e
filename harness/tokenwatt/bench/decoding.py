"""Decode alone: how long its sequences and its windows must be, so that they stand for the mixed point.

C sequences decode from prompts of one length, and none begins or ends in the window. In the window each gains
n = window_s / (time per token) tokens, so that the prompt is shorter than the mean context of the mixed point, by half
of n and by what came before the window. Where that leaves no prompt, or the model no room, the window is shortened and
says so. Each window is a run of its own: in one long run the context, and with it the energy of a token, only grows.

How fast decode goes alone is measured first, in a short run, because in the mixed point prompts hold it up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from tokenwatt.bench.points import DecodeLength, Point
from tokenwatt.errors import EngineError
from tokenwatt.rows import MARGIN_S, Recording
from tokenwatt.steady_state import find

PROBE_S = 2.0
"""Window of the short run."""
MOST_SPEED_UP = 8
"""Times that decode alone may be faster than decode beside prompts, for the short run to last."""
SLACK = 1.25
"""A sequence gets room for decode to be so much faster than in that run."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How decode alone goes at one concurrency."""

    tpot_s: float
    """Time per token of a sequence."""
    lead_tokens: float
    """Mean tokens of a sequence when the last of them has its first one."""


def probe(point: Point, context: float, tpot_s: float, longest: int) -> Point:
    """The short run: prompts of the mean context, and tokens enough for a much faster pace than the mixed point's.

    If they end early all the same, its window is shorter.
    """
    prompt = max(1, min(round(context), longest - 1))
    slots = point.plan.concurrency or 0
    output = min(math.ceil(MOST_SPEED_UP * (PROBE_S + MARGIN_S) / tpot_s) + slots, longest - prompt)
    return replace(point, phase="decode", window_s=PROBE_S, decode=DecodeLength(prompt, output))


def pace_of(recording: Recording) -> Pace:
    """What a short run says.

    Raises:
        EngineError: its sequences were over before they were all in flight.
    """
    timeline = recording.timeline
    window = find(timeline, recording.wanted_s, 0.0)
    if window is None:
        raise EngineError("the short run before decode alone has no window with all sequences in flight")
    tokens = timeline.output_tokens(window.start_s, window.end_s)
    lead = timeline.output_tokens(-math.inf, window.start_s) / len(timeline.traces)
    return Pace(window.running * window.length_s / tokens, lead)


def plan(point: Point, context: float, pace: Pace, longest: int) -> Point:
    """The point of decode alone.

    Args:
        point: the mixed one.
        context: its mean context, tokens.
        pace: of decode alone.
        longest: tokens that a sequence may reach.

    Raises:
        EngineError: not even a window of one token can have that context.
    """
    after = SLACK * MARGIN_S / pace.tpot_s + 1
    # The prompt has at least one token, and the sequence may not outgrow what is loaded:
    # context - lead - n / 2 >= 1 and context - lead - n / 2 + 2 lead + SLACK n + after <= longest.
    tokens = min(
        point.window_s / pace.tpot_s,
        2 * (context - pace.lead_tokens - 1),
        (longest - context - pace.lead_tokens - after) / (SLACK - 0.5),
    )
    if tokens < 1:
        raise EngineError(
            f"decode alone has no window at a mean context of {context:.0f} tokens: its sequences gain "
            f"{pace.lead_tokens:.0f} before all are in flight, and may reach {longest}"
        )
    prompt = max(1, round(context - pace.lead_tokens - tokens / 2))
    output = min(math.ceil(2 * pace.lead_tokens + SLACK * tokens + after), longest - prompt)
    window_s = min(point.window_s, tokens * pace.tpot_s)
    note = None
    if window_s < point.window_s:
        note = (
            f"window shortened from {point.window_s:g} to {window_s:.2g} s: longer, its mean context would exceed "
            f"that of the mixed point, {context:.0f} tokens, or its sequences {longest}"
        )
    return replace(point, phase="decode", window_s=window_s, decode=DecodeLength(prompt, output), note=note)
