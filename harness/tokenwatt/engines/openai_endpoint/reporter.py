"""What the parent is to hear, gathered for a moment: a batch costs little more than a single piece of news."""

from __future__ import annotations

from tokenwatt.clock import Clock
from tokenwatt.engines.openai_endpoint.news import Effort, Item, Outbox

FLUSH_S = 0.05
"""How often the parent hears news."""
FLUSH_BYTES = 2**20
"""News of so many bytes do not wait."""


class Reporter:
    """Gathers news and sends them in time."""

    def __init__(self, outbox: Outbox, clock: Clock) -> None:
        self.outbox, self._clock = outbox, clock
        self.news: list[Item] = []
        """Not yet sent, in the order of time."""
        self.bytes = 0
        """Of the pieces among them."""
        self.flush_s = self._began_s = clock()
        """When the parent shall hear the next of them."""
        self._waited_s = self._lag_s = 0.0
        self._ready = 0

    def waited(self, since_s: float, until_s: float) -> None:
        """Nothing was to be done."""
        self._waited_s += until_s - since_s

    def lagged(self, ready: int, lag_s: float) -> None:
        """So many sockets were ready, and their bytes have waited no longer than this."""
        self._ready += ready
        self._lag_s += ready * lag_s

    def flush_if_due(self, now_s: float) -> None:
        """Send what is there, if it is time, or much."""
        if now_s >= self.flush_s or self.bytes >= FLUSH_BYTES:
            self.flush(now_s)

    def flush(self, now_s: float, *last: Item) -> None:
        """Send what is there."""
        effort = Effort(now_s, now_s - self._began_s - self._waited_s, self._ready, self._lag_s)
        if self.news or last:
            self.outbox.put([*self.news, effort, *last])
        self.news.clear()
        self.bytes = 0
        self.flush_s, self._began_s = now_s + FLUSH_S, now_s
        self._waited_s, self._lag_s, self._ready = 0.0, 0.0, 0
