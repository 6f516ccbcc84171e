"""What the client's process tells the parent, in the order of time, and the pipe between the two."""

from __future__ import annotations

import pickle
import select
import socket
import struct
from collections import deque
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, NamedTuple

from tokenwatt.load import Sent

Piece = tuple[int, float, int, bytes]
"""Bytes of an answer: index of the request, when the socket had handed them over (seconds on the run's clock), requests
in flight, and the bytes. A plain tuple, because there is one for each readiness of a socket."""


class Ending(Enum):
    """How the exchange with the server ended."""

    OVER = auto()
    """The answer's framing says so."""
    CLOSED = auto()
    UNREACHABLE = auto()
    NO_ANSWER = auto()
    STALLED = auto()


class Ended(NamedTuple):
    """Nothing more of a request will come."""

    request_index: int
    at_s: float
    running: int
    """Requests in flight until then, this one among them."""
    ending: Ending
    detail: str = ""


class Effort(NamedTuple):
    """How hard the client's process worked since it last said so."""

    at_s: float
    busy_s: float
    """Time that it was not waiting."""
    ready: int
    """Sockets that were ready, added up."""
    lag_s: float
    """For how long each of them can have waited until it was stamped, added up."""


class Broken(NamedTuple):
    """The client's process cannot go on."""

    why: str


class Finished(NamedTuple):
    """All that was to be sent was sent and answered."""


Item = Piece | Sent | Ended | Effort | Broken | Finished
_SIZE = struct.Struct("<Q")


@dataclass(slots=True)
class Outbox:
    """The child's end: `put` and `send` never wait for the parent; `wait` and `drain` do, and say so."""

    pipe: socket.socket
    _waiting: deque[memoryview] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self.pipe.setblocking(False)

    def put(self, items: list[Item]) -> None:
        """Add a batch, and send what the pipe takes now."""
        data = pickle.dumps(items, protocol=pickle.HIGHEST_PROTOCOL)
        self._waiting.append(memoryview(_SIZE.pack(len(data)) + data))
        self.send()

    def send(self) -> None:
        """Send what the pipe takes now.

        Raises:
            OSError: the parent is gone.
        """
        while self._waiting:
            try:
                taken = self.pipe.send(self._waiting[0])
            except BlockingIOError:
                return
            rest = self._waiting.popleft()[taken:]
            if rest:
                self._waiting.appendleft(rest)

    def check(self) -> None:
        """Send more, and see whether the parent is still there; it never writes, so a readable pipe is a closed one.

        Raises:
            BrokenPipeError: the parent is gone.
        """
        self.send()
        try:
            gone = self.pipe.recv(1) == b""
        except BlockingIOError:
            return
        except ConnectionResetError:
            gone = True  # it went without having read everything
        if gone:
            raise BrokenPipeError("the parent is gone")

    @property
    def has_waiting(self) -> bool:
        """Whether there is something that the parent has not taken."""
        return bool(self._waiting)

    def is_behind(self, limit_bytes: int) -> bool:
        """Whether the parent has left more than this."""
        return len(self._waiting) > 1 and sum(map(len, self._waiting)) > limit_bytes

    def wait(self) -> None:
        """Wait until the parent takes something."""
        select.select([self.pipe], [self.pipe], [])
        self.check()

    def drain(self) -> None:
        """Wait until the parent has taken everything."""
        while self._waiting:
            self.wait()


@dataclass(slots=True)
class Inbox:
    """The parent's end."""

    pipe: socket.socket

    def get(self) -> list[Item] | None:
        """The next batch, waited for; None if the child is gone."""
        head = self._read(_SIZE.size)
        data = self._read(_SIZE.unpack(head)[0]) if head is not None else None
        return None if data is None else _unpickle(data)

    def _read(self, size: int) -> bytearray | None:
        data = bytearray(size)
        view, place = memoryview(data), 0
        while place < size:
            taken = self.pipe.recv_into(view[place:])
            if not taken:
                return None
            place += taken
        return data


def _unpickle(data: bytearray) -> Any:
    """From our own child alone."""
    return pickle.loads(data)  # noqa: S301
