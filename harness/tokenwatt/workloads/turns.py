"""Table `[turns]`: conversations that go on."""

from __future__ import annotations

from tokenwatt.spec import Spec
from tokenwatt.workloads.durations import FixedTime, ThinkTime
from tokenwatt.workloads.lengths import Count, Length


class Turns(Spec):
    """How conversations go on: the prompt of a turn is the one before it, its answer, and new text."""

    count: Count
    """Turns of a conversation, the first one counted."""
    input: Length
    """Length of the new text of each later turn; `[input]` is that of the first. All have the budget of `[output]`."""
    think: ThinkTime = FixedTime(time_s=0.0)
    """Time between an answer and the next turn."""
