"""From the client's news to token events: everything that may be done later than the stamps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tokenwatt.engines.openai_endpoint.news import Broken, Effort, Ended, Ending, Finished, Item, Piece
from tokenwatt.engines.openai_endpoint.outcome import Fault, at_end, of_fault
from tokenwatt.engines.openai_endpoint.tokens import Answer, Found
from tokenwatt.engines.protocol import Failure, TokenEvent
from tokenwatt.errors import EngineError
from tokenwatt.load import Sent

GONE_S = 5.0
"""A server that takes no connection for so long is gone."""
GONE_REQUESTS = 64
"""Requests at least that have tried meanwhile."""


@dataclass(slots=True)
class _Reading:
    """A request whose answer is being read."""

    answer: Answer
    has_failed: bool = False
    batch: int = -1
    """Batch in which its latest event stands ..."""
    place: int = -1
    """... and where in it."""


class Reader:
    """Makes events of batches, in the order of time."""

    def __init__(self, on_sent: Callable[[Sent], None], tell: Callable[[str], str]) -> None:
        """on_sent: hears of each request as it went out; tell: makes a server's words fit to be shown."""
        self._on_sent, self._tell = on_sent, tell
        self._readings: dict[int, _Reading] = {}
        self._batches = 0
        self._unreachable_since_s: float | None = None
        self._unreachable = 0
        self.running: Callable[[int], int] = lambda in_flight: in_flight
        """What the server says how many requests it runs, given those in flight."""
        self.efforts: list[Effort] = []
        self.tokens = 0
        """Counted in all."""
        self.has_finished = False

    def events(self, batch: list[Item]) -> list[TokenEvent]:
        """The events of a batch.

        An answer's last event is its last tokens' if its end is in the same batch, else one without tokens at the end.

        Raises:
            EngineError: the client cannot go on, or the server is gone.
        """
        events: list[TokenEvent] = []
        self._batches += 1
        for item in batch:
            if isinstance(item, Sent):
                self._readings[item.request_index] = _Reading(Answer())
                self._on_sent(item)
            elif isinstance(item, Ended):
                self._end(item, events)
            elif isinstance(item, Effort):
                self.efforts.append(item)
            elif isinstance(item, Broken):
                raise EngineError(f"the load client cannot go on: {self._tell(item.why)}")
            elif isinstance(item, Finished):
                self.has_finished = True
            else:
                self._read(item, events)
        return events

    def effort(self, start_s: float, end_s: float) -> tuple[float | None, float | None]:
        """Share of the time in (start_s, end_s] that the client's process was at work, and the mean lag of a stamp.

        None where it said nothing."""
        efforts = [effort for effort in self.efforts if start_s < effort.at_s <= end_s]
        if not efforts:
            return None, None
        busy_s = sum(effort.busy_s for effort in efforts)
        ready = sum(effort.ready for effort in efforts)
        lag_s = sum(effort.lag_s for effort in efforts) / ready if ready else None
        return min(1.0, busy_s / (end_s - start_s)), lag_s

    def _read(self, piece: Piece, events: list[TokenEvent]) -> None:
        index, at_s, in_flight, data = piece
        reading = self._readings[index]
        if reading.has_failed:
            return
        try:
            self._note(piece, reading, reading.answer.feed(data), events)
        except Fault as fault:
            reading.has_failed = True
            self._note(piece, reading, reading.answer.found, events)
            events.append(self._failed(index, at_s, in_flight, of_fault(fault)))

    def _note(self, piece: Piece, reading: _Reading, found: list[Found], events: list[TokenEvent]) -> None:
        """Events of the tokens that a piece brought."""
        if not found:
            return
        index, at_s, in_flight, _ = piece
        running = self.running(in_flight)
        if found[0] is found[-1]:  # one event is as good as many: they are tuples
            events += [TokenEvent(index, at_s, found[0].tokens, False, running, found[0].token_ids)] * len(found)
        else:
            events += [TokenEvent(index, at_s, tokens, False, running, ids) for tokens, ids in found]
        reading.batch, reading.place = self._batches, len(events) - 1

    def _end(self, ended: Ended, events: list[TokenEvent]) -> None:
        reading = self._readings.pop(ended.request_index)
        self._count_unreachable(ended)
        if reading.has_failed:
            return
        index, at_s, running = ended.request_index, ended.at_s, self.running(ended.running)
        end = at_end(reading.answer, ended)
        if isinstance(end, Failure):
            events.append(self._failed(index, at_s, ended.running, end))
            return
        self.tokens += reading.answer.counted + end
        if reading.batch == self._batches:
            last = events[reading.place]
            events[reading.place] = last._replace(is_last=True, tokens=last.tokens + end)
        else:
            events.append(TokenEvent(index, at_s, end, True, running))

    def _failed(self, index: int, at_s: float, in_flight: int, why: Failure) -> TokenEvent:
        failure = Failure(why.status, self._tell(why.detail))
        return TokenEvent(index, at_s, 0, True, self.running(in_flight), (), failure)

    def _count_unreachable(self, ended: Ended) -> None:
        """A server that nobody reaches any more is no server.

        Raises:
            EngineError: it is gone.
        """
        if ended.ending is not Ending.UNREACHABLE:
            self._unreachable_since_s, self._unreachable = None, 0
            return
        self._unreachable += 1
        if self._unreachable_since_s is None:
            self._unreachable_since_s = ended.at_s
        gone_s = ended.at_s - self._unreachable_since_s
        if self._unreachable >= GONE_REQUESTS and gone_s >= GONE_S:
            raise EngineError(f"the server is gone: {self._unreachable} requests in {gone_s:.1f} s, {ended.detail}")
