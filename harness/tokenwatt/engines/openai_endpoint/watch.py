"""Whether an answer is over, found by looking at as few of its bytes as possible: everything else is read later."""

from __future__ import annotations

from tokenwatt.engines.openai_endpoint.answers import (
    HEAD_END,
    LONGEST_HEAD,
    MOST_TOLD,
    Head,
    MalformedError,
    parse_head,
)

_LAST_CHUNK = b"\r\n0\r\n"
_KEPT = 256
"""Bytes at the end of what went by: the last chunk and whatever trailer may follow it."""
FIRST_FINAL_STATUS = 200


class Watch:
    """Sees the pieces of one answer go by."""

    __slots__ = ("_left", "_tail", "has_body", "head")

    def __init__(self) -> None:
        self.head: Head | None = None
        self.has_body = False
        """Whether a byte of the body has come."""
        self._tail = b""
        """All bytes so far, until the head is there; then the last ones."""
        self._left: int | None = None

    def is_over_with(self, piece: bytes) -> bool:
        """Whether the answer ends with this piece; one without chunks or length ends when the connection does.

        Of chunks only the last is looked for: a line `0`, and an empty line at the end. No JSON and no event has them.

        Raises:
            MalformedError: the head is none.
        """
        head = self.head
        if head is None:
            return self._read_head(piece)
        self.has_body = True
        if self._left is not None:
            self._left -= len(piece)
            return self._left <= 0
        if not head.is_chunked:
            return False
        self._tail = tail = (self._tail + piece[-_KEPT:])[-_KEPT:]
        return tail.endswith(HEAD_END) and _LAST_CHUNK in tail

    def _read_head(self, piece: bytes) -> bool:
        self._tail += piece
        while HEAD_END in self._tail:
            raw, _, self._tail = self._tail.partition(HEAD_END)
            head = parse_head(raw)
            if head.status >= FIRST_FINAL_STATUS:
                return self._begin_body(head, self._tail)
        if len(self._tail) > LONGEST_HEAD:
            raise MalformedError(f"no HTTP: {self._tail[:MOST_TOLD]!r}")
        return False

    def _begin_body(self, head: Head, body: bytes) -> bool:
        self.head, self._left, self._tail = head, head.length, b"\r\n"
        return head.is_over or head.length == 0 or (bool(body) and self.is_over_with(body))
