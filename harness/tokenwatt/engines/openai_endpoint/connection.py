"""One connection to the server: a socket that never waits, and the request on it."""

from __future__ import annotations

import errno
import os
import select
import socket
import ssl
from dataclasses import dataclass, field
from enum import Enum, auto

from tokenwatt.engines.openai_endpoint.address import Target
from tokenwatt.engines.openai_endpoint.watch import Watch
from tokenwatt.workloads import Request

WOULD_WAIT = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class State(Enum):
    """What a connection is at."""

    CONNECTING = auto()
    HANDSHAKE = auto()
    SENDING = auto()
    RECEIVING = auto()
    IDLE = auto()


@dataclass(slots=True)
class Exchange:
    """A request and its answer."""

    request: Request
    index: int
    """The request's."""
    data: bytes
    """All that is to be sent."""
    last_s: float
    """When something last went on, on the run's clock."""
    watch: Watch = field(default_factory=Watch)
    has_answer: bool = False
    """Whether a byte has come."""
    pieces: list[bytes] = field(default_factory=list)
    """The answer, kept where the next turn depends on it."""


class Connection:
    """A socket and what goes on with it."""

    __slots__ = ("_host", "_tls", "_unsent", "exchange", "fd", "served", "sock", "state", "waits_for")

    def __init__(self, target: Target, tls: ssl.SSLContext | None) -> None:
        """Begin to connect.

        Raises:
            OSError: it cannot even begin.
        """
        self._host, self._tls = target.host, tls
        self.sock = _connecting(target)
        self.fd = self.sock.fileno()
        self.state = State.CONNECTING
        self.waits_for = select.EPOLLOUT
        """What the socket must be ready for before anything can go on."""
        self.served = 0
        """Answers that came whole."""
        self.exchange: Exchange | None = None
        self._unsent = memoryview(b"")

    def begin(self, exchange: Exchange) -> None:
        """Take a request, to be sent when the socket is ready."""
        self.exchange, self._unsent = exchange, memoryview(exchange.data)
        if self.state is State.IDLE:
            self.state = State.SENDING

    def go_on(self) -> None:
        """Connect, shake hands and send, as far as the socket allows.

        Raises:
            OSError: no connection, or it is gone.
        """
        try:
            if self.state is State.CONNECTING:
                self._connected()
            if self.state is State.HANDSHAKE and isinstance(self.sock, ssl.SSLSocket):
                self.sock.do_handshake()
                self.state = State.SENDING
            while self._unsent:
                self._unsent = self._unsent[self.sock.send(self._unsent) :]
            self.state = State.RECEIVING
            self.waits_for = select.EPOLLIN
        except ssl.SSLWantReadError:
            self.waits_for = select.EPOLLIN
        except (BlockingIOError, ssl.SSLWantWriteError):
            # A server may answer before it has read everything, and then read no more.
            self.waits_for = select.EPOLLIN | select.EPOLLOUT

    @property
    def is_connected(self) -> bool:
        """Whether a server is there."""
        return self.state not in (State.CONNECTING, State.HANDSHAKE)

    @property
    def has_more(self) -> bool:
        """Whether bytes wait above the socket, of which it will not tell."""
        return self._tls is not None and isinstance(self.sock, ssl.SSLSocket) and self.sock.pending() > 0

    def rest(self) -> None:
        """Be ready for the next request."""
        self.exchange, self.state = None, State.IDLE
        self.served += 1

    def _connected(self) -> None:
        failure = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if failure:
            raise OSError(failure, os.strerror(failure))
        self.state = State.SENDING
        if self._tls is not None:
            self.sock = self._tls.wrap_socket(self.sock, do_handshake_on_connect=False, server_hostname=self._host)
            self.state = State.HANDSHAKE


def _connecting(target: Target) -> socket.socket:
    """A socket that has begun to connect."""
    sock = socket.socket(target.family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        begun = sock.connect_ex(target.address)
        if begun not in (0, errno.EINPROGRESS):
            raise OSError(begun, os.strerror(begun))
    except OSError:
        sock.close()
        raise
    return sock
