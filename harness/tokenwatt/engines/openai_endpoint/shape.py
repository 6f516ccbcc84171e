"""Most events of an answer differ in their text alone: learnt from one, the others are counted without reading JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Self

from tokenwatt.engines.openai_endpoint.sse import BLOCK_END, PREFIX

_ESCAPED_QUOTE = b'\\"'


@dataclass(frozen=True, slots=True)
class Shape:
    """The bytes around the text of an event, from the begin of its block to the end of it."""

    begin: bytes
    end: bytes

    @classmethod
    def learn(cls, data: bytes, path: tuple[str | int, ...]) -> Self | None:
        """The shape of an event whose text stands at `path` of its JSON; None if its text cannot be told from the rest.

        Held against JSON: with another text in its place, the event must read the same but for the text.
        """
        event = json.loads(data)
        text = _at(event, path)
        if not isinstance(text, str):
            return None
        value = b'"' + text.encode() + b'"'
        key = data.find(b'"' + str(path[-1]).encode() + b'":')
        place = data.find(value, key)
        if key < 0 or place < 0:
            return None
        begin, end = data[: place + 1], data[place + len(value) - 1 :]
        other = text + "~"
        _at(event, path[:-1])[path[-1]] = other
        try:
            agrees = json.loads(begin + other.encode() + end) == event
        except ValueError:
            return None
        return cls(PREFIX + begin, end + BLOCK_END) if agrees else None

    def is_around(self, data: bytes) -> bool:
        """Whether the data of an event begins and ends like this; its text may have quotes in it."""
        return data.startswith(self.begin[len(PREFIX) :]) and data.endswith(self.end[: -len(BLOCK_END)])

    def has(self, data: bytes) -> bool:
        """Whether the data of one event has this shape, and a text without quotes in it."""
        return self.count(PREFIX + data + BLOCK_END) == 1

    def span(self, blocks: bytes) -> tuple[int, int]:
        """Where in `blocks` the first event of this shape begins and the last one ends; (0, 0) without any."""
        begin = blocks.find(self.begin)
        end = blocks.rfind(self.end) + len(self.end)
        return (begin, end) if begin >= 0 and begin + len(self.begin) + len(self.end) <= end else (0, 0)

    def count(self, blocks: bytes) -> int:
        """How many events these are, if all have this shape, and a text without quotes in it; 0 if one has not.

        Texts are cut out by place, and what is around them is held against the shape by putting all together again:
        searching for so long a separator would take several times as long.
        """
        if _ESCAPED_QUOTE in blocks or not blocks.startswith(self.begin):
            return 0
        place, to = len(self.begin), len(BLOCK_END) - len(self.end)
        texts = [block[place:to] for block in blocks[: -len(BLOCK_END)].split(BLOCK_END)]
        text = b"".join(texts)
        if b"" in texts or b'"' in text or self.begin + (self.end + self.begin).join(texts) + self.end != blocks:
            return 0
        return len(texts)


def _at(event: Any, path: tuple[str | int, ...]) -> Any:
    for key in path:
        event = event[key]
    return event
