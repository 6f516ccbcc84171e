"""The tokens that both engines are asked about: a text in the model's own tokens, or random ones, cut into pieces."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tokenwatt.errors import UserError
from tokenwatt.spec import AccuracySpec
from tokenwatt.workloads import library_folder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DEFAULT_TEXT = "texts/clocks.txt"
"""Under workloads/: some 900 words of plain English, written for this and published nowhere else, so that no model has
learnt it by heart."""
RANDOM_SEED = 0x5EED


def pieces_of(spec: AccuracySpec, weights: str, length: int, vocabulary: int) -> list[np.ndarray]:
    """Prompts, int32 [2 to length] each, at most `spec.sequences`; a text that ends early gives fewer.

    Args:
        spec: the table.
        weights: whose tokenizer is taken where the table names none.
        length: tokens of a piece at most.
        vocabulary: random ids are below it.

    Raises:
        UserError: no tokenizer, no text, or one of fewer than two tokens.
    """
    if spec.tokens == "random":
        return random_pieces(spec.sequences, length, vocabulary)
    tokenizer = load_tokenizer(spec.tokenizer or weights)
    text = _text(spec.text)
    ids = tokenizer.encode(text, add_special_tokens=False, verbose=False)
    begin = _begin(tokenizer)
    pieces = cut(np.array(ids, dtype=np.int32), begin, spec.sequences, length)
    if not pieces:
        raise UserError(f"[bench.accuracy] text = {spec.text or DEFAULT_TEXT!r} has {len(ids)} tokens, 2 are needed")
    return pieces


def random_pieces(count: int, length: int, vocabulary: int) -> list[np.ndarray]:
    """So many pieces of evenly drawn ids, the same on every machine."""
    rng = np.random.Generator(np.random.PCG64(RANDOM_SEED))
    return [rng.integers(0, vocabulary, size=length, dtype=np.int32) for _ in range(count)]


def cut(ids: np.ndarray, begin: list[int], count: int, length: int) -> list[np.ndarray]:
    """The first `count` pieces, each of `begin` and what follows of `ids`, up to `length` tokens; none of one token.

    >>> [piece.tolist() for piece in cut(np.arange(1, 8), [0], count=3, length=4)]
    [[0, 1, 2, 3], [0, 4, 5, 6], [0, 7]]
    """
    own = length - len(begin)
    starts = range(0, min(len(ids), count * own), own) if own > 0 else range(0)
    pieces = [np.concatenate([begin, ids[start : start + own]]).astype(np.int32) for start in starts]
    return [piece for piece in pieces if len(piece) >= 2]


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or a hub id, by transformers.

    Raises:
        UserError: no transformers, or no tokenizer there.
    """
    if find_spec("transformers") is None:
        raise UserError("[bench.accuracy] needs transformers: pip install 'tokenwatt[transformers]'")
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, KeyError) as error:  # no such folder, no such files, or files of something else
        why = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(
            f"[bench.accuracy] finds no tokenizer in {name!r} ({why}); name one with tokenizer = ..., or take"
            ' tokens = "random"'
        ) from None
    assert tokenizer is not None, "only of a name that is none"
    return tokenizer


def _begin(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The token that the tokenizer itself puts before a text, if it does: models that have it answer badly without."""
    first = tokenizer.encode("", add_special_tokens=True)[:1]
    return first if first and first[0] == tokenizer.bos_token_id else []


def _text(name: str | None) -> str:
    path = library_folder() / DEFAULT_TEXT if name is None else Path(name)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"[bench.accuracy] text = {str(path)!r} cannot be read as UTF-8 ({error})") from None
