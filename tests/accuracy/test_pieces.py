"""Which tokens both engines are asked about."""

from __future__ import annotations

import numpy as np
import pytest
from tests.accuracy.trained import TEXT, tokenizer

from tokenwatt.bench.accuracy.pieces import cut, pieces_of, random_pieces
from tokenwatt.errors import UserError
from tokenwatt.spec import AccuracySpec


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("tokenizer")
    tokenizer().save_pretrained(path)
    return str(path)


def test_pieces_follow_each_other_and_begin_as_texts_do():
    ids = np.arange(10, 20)
    assert [piece.tolist() for piece in cut(ids, [1], 2, 4)] == [[1, 10, 11, 12], [1, 13, 14, 15]]
    # What is left over is a piece as well, but one token has nothing to be compared.
    assert [len(piece) for piece in cut(ids, [], 9, 3)] == [3, 3, 3]
    assert [len(piece) for piece in cut(ids, [], 9, 4)] == [4, 4, 2]
    assert cut(ids, [1], 9, 1) == []


def test_the_shipped_text_in_the_tokens_of_a_model(folder):
    pieces = pieces_of(AccuracySpec(sequences=3), folder, 32, 0)
    # One token a byte, and no token that begins a text.
    assert tokenizer().decode(np.concatenate(pieces).tolist()) == TEXT.read_text(encoding="utf-8")[:96]
    assert {piece.dtype for piece in pieces} == {np.dtype(np.int32)}


def test_a_tokenizer_that_begins_texts_with_a_token_begins_every_piece_with_it(tmp_path):
    from tokenizers.processors import TemplateProcessing

    with_begin = tokenizer()
    with_begin.add_special_tokens({"bos_token": "<s>"})
    begin = with_begin.convert_tokens_to_ids("<s>")
    with_begin.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", begin)])
    with_begin.save_pretrained(tmp_path)
    pieces = pieces_of(AccuracySpec(sequences=2), str(tmp_path), 16, 0)
    assert [(piece[0], len(piece)) for piece in pieces] == [(begin, 16), (begin, 16)]


def test_a_text_of_one_s_own(folder, tmp_path):
    (tmp_path / "mine.txt").write_text("Grüße", encoding="utf-8")
    (piece,) = pieces_of(AccuracySpec(text=str(tmp_path / "mine.txt")), folder, 32, 0)
    assert len(piece) == 7  # ü and ß have two bytes


def test_random_tokens_are_the_same_everywhere():
    pieces = random_pieces(3, 40, 1000)
    assert [len(piece) for piece in pieces] == [40, 40, 40]
    assert all(piece.min() >= 0 and piece.max() < 1000 for piece in pieces)
    assert np.array_equal(pieces[0], random_pieces(1, 40, 1000)[0])
    assert not np.array_equal(pieces[0], pieces[1])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"x", "has 1 tokens, 2 are needed"),
        (b"\xff\xfe", "cannot be read as UTF-8"),
        (None, "cannot be read as UTF-8"),
    ],
)
def test_a_text_that_is_none(folder, tmp_path, content, message):
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        pieces_of(AccuracySpec(text=str(path)), folder, 32, 0)
    assert "\n" not in str(error.value)


def test_weights_without_a_tokenizer_say_what_else_there_is(tmp_path):
    with pytest.raises(UserError, match='finds no tokenizer in .*; name one .* or take tokens = "random"') as error:
        pieces_of(AccuracySpec(), str(tmp_path), 32, 0)
    assert "\n" not in str(error.value)
