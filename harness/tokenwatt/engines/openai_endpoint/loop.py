"""The loop over sockets: what is due goes out, and bytes are stamped as the sockets hand them over."""

from __future__ import annotations

import select
from dataclasses import dataclass, replace

from tokenwatt.clock import RunClock
from tokenwatt.engines.openai_endpoint.address import Target
from tokenwatt.engines.openai_endpoint.ahead import Ahead
from tokenwatt.engines.openai_endpoint.answers import MalformedError
from tokenwatt.engines.openai_endpoint.connection import WOULD_WAIT, Connection, Exchange, State
from tokenwatt.engines.openai_endpoint.news import Ended, Ending, Finished, Outbox
from tokenwatt.engines.openai_endpoint.outcome import output_of
from tokenwatt.engines.openai_endpoint.render import Renderer
from tokenwatt.engines.openai_endpoint.reporter import Reporter
from tokenwatt.engines.openai_endpoint.text import TextCodec
from tokenwatt.load import Load

RECEIVE_BYTES = 65536
"""Most bytes taken from a socket at a time."""
MOST_WAITING_BYTES = 2**26
"""Sockets are not looked at while the parent has left so much."""
SWEEP_S = 0.1
"""How often it is looked for requests that have waited too long."""
SENDS_AT_A_TIME = 32
"""Requests sent before sockets are looked at again."""
PAUSE_S = 0.25
"""Nothing is sent for so long after a connection could not be made: whoever asks at once would ask in vain."""
EPOLL_STEP_S = 0.001
"""epoll counts milliseconds, and rounds up ..."""
EXACT_S = 2 * EPOLL_STEP_S
"""... so that what is left of a wait, once it is shorter than this, is timed by `select`."""
SHORT_S = 0.0001
"""A look at the sockets that took less did not wait: what it found may have been there since the look before."""
MOST_READY = 4096


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Longest waits, seconds."""

    connect_s: float
    first_byte_s: float
    stall_s: float


@dataclass(frozen=True, slots=True)
class Job:
    """All that the process needs to know; it can be pickled."""

    clock: RunClock
    target: Target
    renderer: Renderer
    codec: TextCodec | None
    """Makes token ids of answers that are text alone."""
    load: Load
    timeouts: Timeouts


class Loop:
    """A loop over sockets that never wait."""

    def __init__(self, job: Job, outbox: Outbox) -> None:
        self._clock, self._target, self._timeouts = job.clock, job.target, job.timeouts
        self._tls = job.renderer.address.tls()
        self._reporter = Reporter(outbox, job.clock)
        self._load = replace(job.load, on_sent=self._reporter.news.append)
        self._ahead = Ahead(self._load, job.renderer)
        self._keeps_answers, self._codec = job.load.has_follow_ups, job.codec
        self._epoll = select.epoll()
        self._epoll.register(outbox.pipe.fileno(), select.EPOLLIN)
        self._connections: dict[int, Connection] = {}
        """All of them, by file descriptor."""
        self._idle: list[Connection] = []
        self._busy: dict[int, Connection] = {}
        """Those with a request, by its index."""
        self._sweep_s = self._not_before_s = 0.0
        self._pipe_is_full = False

    def run(self) -> None:
        """Serve the load until nothing is in flight and nothing will be due.

        Raises:
            BrokenPipeError: the parent is gone.
        """
        while self._ahead.has_work:
            self._ahead.render_one()
        looked_s = self._clock()
        has_begun = False
        while not has_begun or self._busy or self._load.next_s is not None:
            self._send_due()
            has_begun = True
            looked_s = self._look(looked_s)
            self._keep_house()
        self._reporter.flush(self._clock(), Finished())

    def _look(self, looked_s: float) -> float:
        """Wait for sockets and serve those that are ready.

        looked_s: when they were looked at before: what has come since has waited no longer. Returns when it was now.
        """
        before_s = self._clock()
        timeout_s = self._longest_wait_s(before_s)
        if 0.0 < timeout_s < EXACT_S:
            select.select([self._epoll], [], [], timeout_s)
            timeout_s = 0.0
        ready = self._epoll.poll(max(0.0, timeout_s - EPOLL_STEP_S), MOST_READY)
        now_s = self._clock()
        self._reporter.waited(before_s, now_s)
        for fd, _ in ready:
            connection = self._connections.get(fd)
            if connection is not None:
                self._serve(connection)
            elif fd == self._reporter.outbox.pipe.fileno():
                self._reporter.outbox.check()
        if ready:
            since_s = looked_s if now_s - before_s < SHORT_S else now_s
            self._reporter.lagged(len(ready), self._clock() - since_s)
        elif self._ahead.has_work:
            self._ahead.render_one()
        return now_s

    def _longest_wait_s(self, now_s: float) -> float:
        if self._ahead.has_work:
            return 0.0
        wake_s = min(self._reporter.flush_s, self._sweep_s)
        due_s = self._load.next_s
        if due_s is not None:
            wake_s = min(wake_s, max(due_s, self._not_before_s))
        return max(0.0, wake_s - now_s)

    def _send_due(self) -> None:
        """Send what is due, a few at a time."""
        for _ in range(SENDS_AT_A_TIME):
            now_s = self._clock()
            request = next(self._load.take(now_s), None) if now_s >= self._not_before_s else None
            if request is None:
                return
            exchange = Exchange(request, request.index, self._ahead.take(request), now_s)
            self._ahead.look_again(len(self._busy))
            self._begin(exchange, self._idle.pop() if self._idle else None)

    def _begin(self, exchange: Exchange, connection: Connection | None) -> None:
        """Send a request on a connection, or on a new one."""
        try:
            if connection is None:
                connection = Connection(self._target, self._tls)
                self._connections[connection.fd] = connection
                self._epoll.register(connection.fd, connection.waits_for)
        except OSError as error:
            self._report_end(exchange, Ending.UNREACHABLE, _words(error))
            return
        self._busy[exchange.index] = connection
        connection.begin(exchange)
        if connection.is_connected:
            self._go_on(connection)

    def _serve(self, connection: Connection) -> None:
        """Something can go on."""
        if connection.state is State.RECEIVING:
            self._receive(connection)
        elif connection.state is State.IDLE:
            self._idle.remove(connection)  # closed by the server, or it says what nobody has asked for
            self._drop(connection)
        else:
            self._go_on(connection)

    def _go_on(self, connection: Connection) -> None:
        """Connect or send; an answer that comes meanwhile is taken."""
        waited_for = connection.waits_for
        try:
            connection.go_on()
        except OSError as error:
            self._lost(connection, _words(error))
            return
        if connection.waits_for != waited_for:
            self._epoll.modify(connection.fd, connection.waits_for)
        if connection.state is State.SENDING:
            self._receive(connection)

    def _receive(self, connection: Connection) -> None:
        """Take bytes and stamp them. It is run for each readiness of a socket, and calls as little as it can."""
        exchange = connection.exchange
        assert exchange is not None
        while True:
            try:
                piece = connection.sock.recv(RECEIVE_BYTES)
            except WOULD_WAIT:
                return
            except OSError as error:
                self._lost(connection, _words(error))
                return
            at_s = self._clock()
            if not piece:
                self._lost(connection, "the server closed the connection")
                return
            exchange.last_s, exchange.has_answer = at_s, True
            self._reporter.news.append((exchange.index, at_s, len(self._busy), piece))
            self._reporter.bytes += len(piece)
            if self._keeps_answers:
                exchange.pieces.append(piece)
            try:
                is_over = exchange.watch.is_over_with(piece)
            except MalformedError:
                is_over = True  # whoever reads the answer will say why
            if is_over:
                self._over(connection)
                return
            if not connection.has_more:
                return

    def _over(self, connection: Connection) -> None:
        """The answer is whole; the connection takes the next request, if the server lets it."""
        exchange = connection.exchange
        assert exchange is not None
        head = exchange.watch.head
        keeps = head is not None and head.keeps_alive and connection.state is State.RECEIVING
        self._end(connection, Ending.OVER)
        if keeps:
            connection.rest()
            self._idle.append(connection)
        else:
            self._drop(connection)

    def _lost(self, connection: Connection, why: str) -> None:
        """The connection is gone; a request on one that was left open by the server is sent anew, since a server may
        close such a connection at the moment when it is used."""
        exchange = connection.exchange
        assert exchange is not None
        if connection.served and not exchange.has_answer:
            del self._busy[exchange.index]
            self._drop(connection)
            self._begin(exchange, None)
            return
        self._end(connection, Ending.CLOSED if connection.is_connected else Ending.UNREACHABLE, why)
        self._drop(connection)

    def _end(self, connection: Connection, ending: Ending, detail: str = "") -> None:
        exchange = connection.exchange
        assert exchange is not None
        self._report_end(exchange, ending, detail)
        del self._busy[exchange.index]

    def _report_end(self, exchange: Exchange, ending: Ending, detail: str = "") -> None:
        """Tell the parent and the load."""
        index, at_s = exchange.index, self._clock()
        if ending is Ending.OVER:
            at_s = exchange.last_s
        ended = Ended(index, at_s, max(1, len(self._busy)), ending, detail)
        self._reporter.news.append(ended)
        output, failed = (
            output_of(exchange.pieces, ended, self._codec) if self._keeps_answers else ([], ending is not Ending.OVER)
        )
        self._load.ended(index, at_s, output, failed)
        self._ahead.look_again(len(self._busy))
        if ending is Ending.UNREACHABLE:
            self._not_before_s = at_s + PAUSE_S

    def _drop(self, connection: Connection) -> None:
        self._epoll.unregister(connection.fd)
        del self._connections[connection.fd]
        connection.sock.close()

    def _keep_house(self) -> None:
        """Tell the parent what is new, and end what has waited too long."""
        now_s = self._clock()
        self._reporter.flush_if_due(now_s)
        if now_s >= self._sweep_s:
            self._sweep_s = now_s + SWEEP_S
            self._sweep(now_s)
        outbox = self._reporter.outbox
        if outbox.is_behind(MOST_WAITING_BYTES):
            outbox.wait()
        if outbox.has_waiting != self._pipe_is_full:
            self._pipe_is_full = outbox.has_waiting
            events = select.EPOLLIN | select.EPOLLOUT if self._pipe_is_full else select.EPOLLIN
            self._epoll.modify(outbox.pipe.fileno(), events)

    def _sweep(self, now_s: float) -> None:
        for connection in list(self._busy.values()):
            late = self._late(connection, now_s)
            if late is not None:
                self._end(connection, *late)
                self._drop(connection)

    def _late(self, connection: Connection, now_s: float) -> tuple[Ending, str] | None:
        """How a request ends that has waited too long; None if it has not."""
        exchange, limits = connection.exchange, self._timeouts
        assert exchange is not None
        silent_s = now_s - exchange.last_s
        if not connection.is_connected:
            limit_s, ending, words = limits.connect_s, Ending.UNREACHABLE, "no connection within {:g} s"
        elif not exchange.watch.has_body:
            limit_s, ending, words = limits.first_byte_s, Ending.NO_ANSWER, "no byte of an answer within {:g} s"
        else:
            limit_s, ending, words = limits.stall_s, Ending.STALLED, "the answer stopped for {:g} s"
        return (ending, words.format(limit_s)) if silent_s > limit_s else None


def _words(error: OSError) -> str:
    """What the system says, without a number."""
    return error.strerror or str(error)
