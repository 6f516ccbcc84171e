"""Chunked transfer encoding, taken off in bulk: tens of thousands of small chunks come each second.

A piece is first split at its line ends, which is right as long as no chunk has one inside (the sizes say so), and only
walked chunk by chunk where it is not.
"""

from __future__ import annotations

from enum import Enum, auto

from tokenwatt.engines.openai_endpoint.answers import MOST_TOLD, MalformedError

LINE_END = b"\r\n"
_LONGEST_LINE = 4096
"""Bytes of a line with a size, or in the trailer."""
_SIZES = {form % size: size for form in (b"%x", b"%X") for size in range(1, 4096)}
"""The sizes that come all the time, as they are written."""


class _At(Enum):
    """Where in the encoding the next byte stands."""

    SIZE = auto()
    CHUNK = auto()
    CHUNK_END = auto()
    TRAILER = auto()
    OVER = auto()


class Dechunker:
    """Takes the pieces of a body in order, and gives what they carry as soon as it is there."""

    __slots__ = ("_at", "_left", "_rest", "fault")

    def __init__(self) -> None:
        self.fault: MalformedError | None = None
        """What does not fit the encoding; the payload before it was given all the same, and nothing follows."""
        self._at = _At.SIZE
        self._left = 0
        self._rest = b""

    @property
    def is_over(self) -> bool:
        """Whether the last chunk has come, and all that follows it."""
        return self._at is _At.OVER

    def feed(self, piece: bytes) -> bytes:
        """The payload of a piece, up to what does not fit the encoding (`fault`)."""
        data = self._rest + piece if self._rest else piece
        begin = b""
        end = self._left + len(LINE_END)
        if self._at is _At.CHUNK and len(data) >= end and data[self._left : end] == LINE_END:
            begin, data, self._at = data[: self._left], data[end:], _At.SIZE
        if self._at is not _At.SIZE:
            return begin + self._walk(data)
        payload, rest = _in_bulk(data)
        return begin + payload + self._walk(rest)

    def _walk(self, data: bytes) -> bytes:
        """The payload of `data`, chunk by chunk; what cannot be told yet waits for the next piece."""
        payloads = []
        place = 0
        while place < len(data):
            if self._at is _At.CHUNK:
                payload = data[place : place + self._left]
                payloads.append(payload)
                place += len(payload)
                self._left -= len(payload)
                if not self._left:
                    self._at = _At.CHUNK_END
                continue
            try:
                after = self._line(data, place)
            except MalformedError as error:
                self.fault = error
                break
            if after is None:
                break
            place = after
        self._rest = data[place:]
        return b"".join(payloads)

    def _line(self, data: bytes, place: int) -> int | None:
        """Read the line at `place`, and say where it ends; None if it is not whole."""
        if self._at is _At.OVER:
            raise MalformedError("bytes after the last chunk")
        end = data.find(LINE_END, place)
        if self._at is _At.CHUNK_END and not LINE_END.startswith(data[place : place + 2]):
            raise MalformedError(f"a chunk is longer than its size says: {data[place : place + MOST_TOLD]!r}")
        if end < 0:
            if len(data) - place > _LONGEST_LINE:
                raise MalformedError(f"no chunk size: {data[place : place + MOST_TOLD]!r}")
            return None
        line = data[place:end]
        if self._at is _At.CHUNK_END:
            self._at = _At.SIZE
        elif self._at is _At.TRAILER:
            self._at = _At.TRAILER if line else _At.OVER
        else:
            self._left = _size(line)
            self._at = _At.CHUNK if self._left else _At.TRAILER
        return end + len(LINE_END)


def _size(line: bytes) -> int:
    """The size that a line gives; extensions after it mean nothing here."""
    digits = line.partition(b";")[0].strip()
    try:
        size = int(digits, 16)
    except ValueError:
        raise MalformedError(f"no chunk size: {line[:MOST_TOLD]!r}") from None
    if size < 0 or not digits.isalnum():
        raise MalformedError(f"no chunk size: {line[:MOST_TOLD]!r}")
    return size


def _in_bulk(data: bytes) -> tuple[bytes, bytes]:
    """The payload of the whole chunks that `data`, which stands at a size, begins with, and what is left of it."""
    parts = data.split(LINE_END)
    chunks = (len(parts) - 1) // 2
    if chunks and parts[2 * chunks - 2] == b"0":
        chunks -= 1
    sizes, payloads = parts[0 : 2 * chunks : 2], parts[1 : 2 * chunks : 2]
    if list(map(len, payloads)) != list(map(_SIZES.get, sizes)):
        return b"", data
    return b"".join(payloads), LINE_END.join(parts[2 * chunks :])
