"""The head of an HTTP answer, and how the end of its body is known."""

from __future__ import annotations

from dataclasses import dataclass

HEAD_END = b"\r\n\r\n"
LONGEST_HEAD = 65536
"""Bytes; what is longer is no HTTP."""
MOST_TOLD = 16384
"""Bytes of what came that a fault repeats: it is shortened where it is shown, once the key is hidden in it."""


class MalformedError(Exception):
    """What came is not what the protocol says."""


@dataclass(frozen=True, slots=True)
class Head:
    """What matters of a status line and headers."""

    status: int
    is_chunked: bool
    length: int | None
    """Bytes of the body; None where chunks or the connection's end say it."""
    keeps_alive: bool
    """Whether another request may follow on the connection."""
    media_type: str
    """Such as `text/event-stream`."""
    is_over: bool = False
    """Whether no body follows at all."""


def parse_head(raw: bytes) -> Head:
    """Read a head, without the empty line after it.

    Raises:
        MalformedError: no status line, or a length that is none.
    """
    first, *lines = raw.decode("latin-1").split("\r\n")
    version, _, rest = first.partition(" ")
    code = rest[:3]
    if not version.startswith("HTTP/1.") or not code.isdigit():
        raise MalformedError(f"no HTTP status line: {first[:MOST_TOLD]!r}")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    is_chunked = headers.get("transfer-encoding", "").lower().endswith("chunked")
    length = headers.get("content-length")
    if length is not None and not length.isdigit():
        raise MalformedError(f"content-length is {length[:MOST_TOLD]!r}")
    has_end = is_chunked or length is not None
    connection = headers.get("connection", "keep-alive" if version != "HTTP/1.0" else "close").lower()
    return Head(
        status=int(code),
        is_chunked=is_chunked,
        length=int(length) if length is not None and not is_chunked else None,
        keeps_alive=has_end and "close" not in connection,
        media_type=headers.get("content-type", "").partition(";")[0].strip().lower(),
        is_over=int(code) in (204, 304),
    )
