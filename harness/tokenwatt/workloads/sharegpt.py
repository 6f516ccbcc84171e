"""Table `[sharegpt]`: recorded conversations, as text, in a file of the form that ShareGPT's dumps have."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import Field

from tokenwatt.errors import UserError
from tokenwatt.spec import Spec
from tokenwatt.workloads.durations import FixedTime, ThinkTime
from tokenwatt.workloads.lengths import TokenCount
from tokenwatt.workloads.request import Request
from tokenwatt.workloads.script import Selection, Turn
from tokenwatt.workloads.streams import Purpose, stream

QUESTION = frozenset({"human", "user"})
ANSWER = frozenset({"gpt", "chatgpt", "assistant", "bard", "bing"})
Encode = Callable[[list[str]], list[list[int]]]
"""Token ids of each of several texts."""


class _Said(NamedTuple):
    """A question and its answer."""

    question: str
    answer: str


class ShareGPT(Spec):
    """A JSON array of `{"conversations": [{"from": "human", "value": ...}, {"from": "gpt", "value": ...}, ...]}`."""

    path: str
    """The file; from the folder of the workload where it is no whole path."""
    tokenizer: str
    """Folder of a tokenizer, or its Hugging Face hub id; needs transformers."""
    multi_turn: bool = False
    """Whether conversations go on to their last answer, or end with the first."""
    think: ThinkTime = FixedTime(time_s=0.0)
    """Time between an answer and the next question."""
    limit: int | None = Field(default=None, gt=0)
    """Most conversations to take; those beyond them are not tokenised."""
    min_input: TokenCount = 1
    """Fewest tokens of a question."""
    max_input: TokenCount | None = None
    """Most tokens of a question."""
    min_output: TokenCount = 1
    """Fewest tokens of a recorded answer."""
    max_output: TokenCount | None = None
    """Most tokens of a recorded answer. A conversation with a turn outside any of these is left out, and counted."""

    def read(self, seed: int, encode: Encode | None = None) -> Recorded:
        """The conversations as token ids.

        encode: in place of the tokenizer.

        Raises:
            UserError: the file, one of its entries or the tokenizer is bad, or nothing is left.
        """
        spoken = _spoken(Path(self.path), self.multi_turn)
        left_out: Counter[str] = Counter()
        kept: list[tuple[np.ndarray, ...]] = []
        for said in spoken:
            if len(kept) == self.limit:
                break
            encode = encode or load_tokenizer(self.tokenizer)
            texts = [np.array(ids, np.int32) for ids in encode([text for pair in said for text in pair])]
            reason = self._reason_against(texts)
            if reason is None:
                kept.append(tuple(texts))
            else:
                left_out[reason] += 1
        selection = Selection("conversations", len(kept), dict(left_out))
        if not kept:
            raise UserError(f"{self.path}: no conversation is left to ask: {selection}")
        return Recorded(seed, self.think, selection, tuple(kept))

    def _reason_against(self, texts: list[np.ndarray]) -> str | None:
        if not texts:
            return "not a question and its answer first"
        questions, answers = [len(text) for text in texts[::2]], [len(text) for text in texts[1::2]]
        bounds = (
            (min(questions) < self.min_input, "under min_input"),
            (max(questions) > (self.max_input or max(questions)), "over max_input"),
            (min(answers) < self.min_output, "under min_output"),
            (max(answers) > (self.max_output or max(answers)), "over max_output"),
        )
        return next((reason for is_outside, reason in bounds if is_outside), None)


@dataclass(frozen=True, slots=True, eq=False)
class Recorded:
    """Conversations as token ids: question, answer, question, answer ..."""

    seed: int
    think: ThinkTime
    selection: Selection
    texts: tuple[tuple[np.ndarray, ...], ...]
    """Of each conversation its texts in turn, int32 each."""

    @property
    def conversations(self) -> int | None:
        """As many as were taken."""
        return len(self.texts)

    @property
    def most_turns(self) -> int:
        """Turns of the longest conversation."""
        return max(len(texts) for texts in self.texts) // 2

    @property
    def longest(self) -> int:
        """Tokens of the longest conversation."""
        return max(sum(map(len, texts)) for texts in self.texts)

    def turn(self, place: int, turn: int) -> Turn | None:
        """A question; its budget is the length of its recorded answer."""
        if not 0 <= place < len(self.texts) or 2 * turn >= len(self.texts[place]):
            return None
        question, answer = self.texts[place][2 * turn : 2 * turn + 2]
        think_s = self.think.draw(stream(self.seed, place, turn, of=Purpose.LATER_TURN)) if turn > 0 else 0.0
        return Turn(question, len(answer), think_s)

    def stand_in(self, request: Request) -> np.ndarray:
        """The recorded answer, or as much of its end as is asked for."""
        answer = self.texts[request.conversation][2 * request.turn + 1]
        return answer[len(answer) - request.max_tokens :]

    def fingerprint(self) -> bytes:
        """All texts with their lengths, little-endian int32."""
        parts = [np.array([len(texts), *map(len, texts)], "<i4") for texts in self.texts]
        return b"".join(
            part.tobytes() + b"".join(text.astype("<i4").tobytes() for text in texts)
            for part, texts in zip(parts, self.texts, strict=True)
        )


def load_tokenizer(name: str) -> Encode:
    """The tokenizer of a folder or of the hub, without what it adds at beginning and end.

    Raises:
        UserError: transformers is not installed, or has no such tokenizer.
    """
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise UserError("[sharegpt] needs transformers: pip install 'tokenwatt[transformers]'") from None
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise UserError(f"tokenizer {name!r} cannot be loaded ({str(error).splitlines()[0]})") from None

    def encode(texts: list[str]) -> list[list[int]]:
        return tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []

    return encode


def _spoken(path: Path, multi_turn: bool) -> Iterator[list[_Said]]:
    """What was said in each conversation, up to where questions and answers stop taking turns."""
    entries = _load(path)
    if not isinstance(entries, list):
        raise UserError(f"{path}: not a JSON array of conversations")
    for place, entry in enumerate(entries):
        said = _pairs(f"{path}, entry {place}", entry)
        yield said if multi_turn else said[:1]


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"no such file of conversations: {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets without end
        raise UserError(f"{path}: not valid JSON ({error})") from None


def _pairs(where: str, entry: Any) -> list[_Said]:
    messages = entry.get("conversations") if isinstance(entry, dict) else None
    if not isinstance(messages, list):
        raise UserError(f"{where}: no array 'conversations'")
    for turn, message in enumerate(messages):
        if not isinstance(message, dict) or not all(isinstance(message.get(key), str) for key in ("from", "value")):
            raise UserError(f"{where}, message {turn}: needs texts 'from' and 'value', found {str(message)[:40]!r}")
    said = []
    for question, answer in zip(messages[::2], messages[1::2], strict=False):
        if question["from"] not in QUESTION or answer["from"] not in ANSWER:
            break
        said.append(_Said(question["value"], answer["value"]))
    return said
