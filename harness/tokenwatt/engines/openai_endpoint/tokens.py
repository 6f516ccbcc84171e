"""The tokens of one answer: HTTP, framing, events and JSON, read from the pieces as they came.

How tokens are counted. An event has as many as it has `token_ids`; else as many as its own `usage` counts more than
were counted before (`continuous_usage_stats`); else one, if it has text. A server may put several tokens into a piece
of text, or hold text back until a letter is whole, so where usage comes at the end and counts more, the difference is
added to the last event of the answer: events that are out already cannot be changed. Where it counts fewer than came,
or other than there were ids, the answer is miscounted.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from tokenwatt.engines.openai_endpoint.answers import (
    HEAD_END,
    LONGEST_HEAD,
    MOST_TOLD,
    Head,
    MalformedError,
    parse_head,
)
from tokenwatt.engines.openai_endpoint.chunks import Dechunker
from tokenwatt.engines.openai_endpoint.shape import Shape
from tokenwatt.engines.openai_endpoint.sse import BLOCK_END, Blocks, data_of

EVENT_STREAM = "text/event-stream"
OK = 200
LEARN_FROM = 4
"""Events that are looked at one by one until the shape of the others is known."""
_DONE = b"[DONE]"
_GENERATED = ("content", "reasoning_content", "reasoning", "tool_calls")
"""Fields of a chat delta that hold what was generated."""
_LONGEST_MESSAGE = 65536
"""Bytes of an error's body that are kept."""


class Found(NamedTuple):
    """Tokens of one event."""

    tokens: int
    token_ids: tuple[int, ...] = ()


_ONE = Found(1)


class ServerError(Exception):
    """The server says within the stream that it has failed."""


class MiscountedError(Exception):
    """Usage and the tokens that came disagree."""


class Answer:
    """Reads one answer, piece by piece."""

    __slots__ = (
        "_blocks", "_dechunker", "_has_ids", "_is_done", "_keeps_text", "_raw_head", "_shape", "counted",
        "finish_reason", "found", "head", "message", "texts", "token_ids", "usage",
    )  # fmt: skip

    def __init__(self, keeps_text: bool = False) -> None:
        """keeps_text: keep what was said, which takes reading every event."""
        self.head: Head | None = None
        self.message = b""
        """Body of an answer that is no stream of tokens."""
        self.found: list[Found] = []
        """Of the piece that was fed last; after an error, what came before it."""
        self.counted = 0
        """Tokens so far."""
        self.usage: int | None = None
        """Output tokens by the server's last word."""
        self.finish_reason: str | None = None
        self.token_ids: list[int] = []
        """All of them, where the server sends ids."""
        self.texts: list[str] = []
        """What was said, in pieces, where it is kept."""
        self._raw_head = b""
        self._dechunker: Dechunker | None = None
        self._blocks = Blocks()
        self._shape: Shape | None = None
        self._has_ids = self._is_done = False
        self._keeps_text = keeps_text

    def feed(self, piece: bytes) -> list[Found]:
        """Tokens of the events that are whole with this piece, which `found` holds as well.

        Raises:
            MalformedError: it is not what the protocol says.
            ServerError: the server has failed.
            MiscountedError: usage shrinks.
        """
        self.found = []
        if self.head is None:
            piece = self._read_head(piece)
            if self.head is None:
                return self.found
        payload = piece if self._dechunker is None else self._dechunker.feed(piece)
        if self.head.status != OK:
            self.message = (self.message + payload)[:_LONGEST_MESSAGE]
        else:
            self._read(self._blocks.feed(payload))
        if self._dechunker is not None and self._dechunker.fault is not None:
            raise self._dechunker.fault
        return self.found

    def conclude(self) -> int:
        """Tokens that only usage has counted, now that all bytes have come.

        Raises:
            MalformedError: a part of an event is left, or the stream has no end.
            MiscountedError: usage and what came disagree.
        """
        if self._blocks.rest:
            raise MalformedError(f"the answer ends within an event: {self._blocks.rest[:MOST_TOLD]!r}")
        if self.usage is None or self.usage == self.counted:
            return 0
        if self._has_ids or self.usage < self.counted:
            raise MiscountedError(f"{self.counted} tokens came, usage says {self.usage}")
        return self.usage - self.counted

    @property
    def is_whole(self) -> bool:
        """Whether the server has said that the answer is over, which its framing alone does not."""
        return self._is_done or self.finish_reason is not None

    @property
    def ends_with_connection(self) -> bool:
        """Whether nothing but the end of the connection says that the body is over."""
        return self.head is not None and not self.head.is_chunked and self.head.length is None

    def _read_head(self, piece: bytes) -> bytes:
        """Read the head once it is there; what comes after it."""
        while HEAD_END in (raw := self._raw_head + piece):
            head, _, piece = raw.partition(HEAD_END)
            self._raw_head = b""
            read = parse_head(head)
            if read.status >= OK:
                self._begin_body(read)
                return piece
        self._raw_head = raw
        if len(raw) > LONGEST_HEAD:
            raise MalformedError(f"no HTTP: {raw[:MOST_TOLD]!r}")
        return b""

    def _begin_body(self, head: Head) -> None:
        self.head = head
        self._dechunker = Dechunker() if head.is_chunked else None
        if head.status == OK and head.media_type != EVENT_STREAM:
            raise MalformedError(f"the answer is {head.media_type or 'of no type'}, and should be {EVENT_STREAM}")

    def _read(self, blocks: bytes) -> None:
        """Find the tokens of whole blocks: those of the known shape by counting, the others one by one."""
        learning = LEARN_FROM if self._shape is None else 0
        while blocks and self._shape is None and learning:
            end = blocks.find(BLOCK_END) + len(BLOCK_END)
            self._one_by_one(blocks[:end])
            blocks, learning = blocks[end:], learning - 1
        if not blocks:
            return
        begin, end = self._shape.span(blocks) if self._shape is not None else (0, 0)
        count = self._shape.count(blocks[begin:end]) if self._shape is not None and end else 0
        if not count:
            self._one_by_one(blocks)
            return
        if begin:
            self._one_by_one(blocks[:begin])
        self.counted += count
        self.found += [_ONE] * count
        if end < len(blocks):
            self._one_by_one(blocks[end:])

    def _one_by_one(self, blocks: bytes) -> None:
        for data in data_of(blocks):
            if data == _DONE:
                self._is_done = True
            elif self._shape is not None and self._shape.has(data):
                self.counted += 1
                self.found.append(_ONE)
            elif (tokens := self._event(data)).tokens:
                self.found.append(tokens)

    def _event(self, data: bytes) -> Found:
        """Tokens of one event."""
        try:
            event = json.loads(data)
        except ValueError:
            raise MalformedError(f"an event is no JSON: {data[:MOST_TOLD]!r}") from None
        if not isinstance(event, dict):
            raise MalformedError(f"an event is no JSON object: {data[:MOST_TOLD]!r}")
        if event.get("error"):
            raise ServerError(words_of(event["error"]))
        choices, usage = event.get("choices") or [], _completion_tokens(event.get("usage"))
        if usage is not None:
            self.usage = usage
        if not choices:
            return Found(0)
        found = self._choice(choices[0], usage, data)
        self.counted += found.tokens
        return found

    def _choice(self, choice: Any, usage: int | None, data: bytes) -> Found:
        if not isinstance(choice, dict):
            raise MalformedError(f"a choice is no JSON object: {data[:MOST_TOLD]!r}")
        self.finish_reason = choice.get("finish_reason") or self.finish_reason
        path = _text_path(choice)
        if self._keeps_text:
            self.texts.append(_said(choice))
        ids = choice.get("token_ids")
        if isinstance(ids, list):
            self._has_ids = True
            self.token_ids += ids
            return Found(len(ids), tuple(ids))
        if usage is not None:
            if usage < self.counted:
                raise MiscountedError(f"{self.counted} tokens came, usage says {usage}")
            return Found(usage - self.counted)
        if path is None:
            return Found(0)
        if (
            self.finish_reason is None
            and not self._keeps_text
            and not (self._shape is not None and self._shape.is_around(data))
        ):
            self._shape = Shape.learn(data, ("choices", 0, *path)) or self._shape
        return _ONE


def words_of(error: Any) -> str:
    """The message of an error, as servers put it."""
    if isinstance(error, dict):
        for name in ("message", "detail", "error"):
            if error.get(name):
                return words_of(error[name])
    return error if isinstance(error, str) else json.dumps(error)


def _completion_tokens(usage: Any) -> int | None:
    tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return tokens if isinstance(tokens, int) else None


def _text_path(choice: dict[str, Any]) -> tuple[str, ...] | None:
    """Where in a choice there is something that was generated; None if there is nothing."""
    if choice.get("text"):
        return ("text",)
    delta = choice.get("delta")
    names = [name for name in _GENERATED if delta.get(name)] if isinstance(delta, dict) else []
    return ("delta", names[0]) if names else None


def _said(choice: dict[str, Any]) -> str:
    """What clients repeat to the server in the next turn: neither reasoning nor calls of tools."""
    delta = choice.get("delta")
    said = choice.get("text") or (delta.get("content") if isinstance(delta, dict) else None)
    return said if isinstance(said, str) else ""
