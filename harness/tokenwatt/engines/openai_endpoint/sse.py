"""Server-sent events: blocks of lines with an empty line after each."""

from __future__ import annotations

from collections.abc import Iterator

from tokenwatt.engines.openai_endpoint.answers import MOST_TOLD, MalformedError

BLOCK_END = b"\n\n"
PREFIX = b"data: "
_FIELDS = (b"data", b"event", b"id", b"retry", b"")
"""Fields of the standard; the empty name is a comment."""
LONGEST_BLOCK = 2**24
"""Bytes; a prompt's own token ids may come back in one."""


class Blocks:
    """Takes the payload in order, and gives the blocks that are whole."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, payload: bytes) -> bytes:
        """Whole blocks, each with its empty line, in one piece; line ends are `\\n` after this.

        Raises:
            MalformedError: a block without end.
        """
        text = self._rest + payload if self._rest else payload
        if b"\r" in text:
            # A last \r may be half a line end.
            held = text.endswith(b"\r")
            text = text[: len(text) - held].replace(b"\r\n", b"\n").replace(b"\r", b"\n") + b"\r" * held
        end = text.rfind(BLOCK_END) + len(BLOCK_END)
        if end < len(BLOCK_END):
            end = 0
        self._rest = text[end:]
        if len(self._rest) > LONGEST_BLOCK:
            raise MalformedError(f"an event of more than {LONGEST_BLOCK} bytes")
        return text[:end]

    @property
    def rest(self) -> bytes:
        """Begin of a block that has no end yet."""
        return self._rest.strip()


def data_of(blocks: bytes) -> Iterator[bytes]:
    """The data of each block that has some; those before a bad line come before its error.

    Raises:
        MalformedError: a line that is none of the standard.
    """
    for block in blocks.split(BLOCK_END):
        if block.startswith(PREFIX) and b"\n" not in block:
            yield block[len(PREFIX) :]
        elif block.strip(b"\n"):
            data = _joined(block)
            if data is not None:
                yield data


def _joined(block: bytes) -> bytes | None:
    """The lines of data of one block, joined; None if it has none."""
    lines = []
    for line in block.strip(b"\n").split(b"\n"):
        name, colon, value = line.partition(b":")
        if name not in _FIELDS or not colon:
            raise MalformedError(f"no line of an event stream: {line[:MOST_TOLD]!r}")
        if name == b"data":
            lines.append(value.removeprefix(b" "))
    return b"\n".join(lines) if lines else None
