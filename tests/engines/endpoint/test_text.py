"""Text of prompts, and token ids of answers, by a model's tokenizer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tests.engines.endpoint.test_endpoint import renderer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from tokenwatt.engines.openai_endpoint.text import TextCodec
from tokenwatt.workloads import Request


def codec(folder: Path, tokenizer: Tokenizer) -> TextCodec:
    tokenizer.save(str(folder / "tokenizer.json"))
    return TextCodec.of(str(folder))


def test_an_answer_is_no_new_word_to_tokenizers_that_put_a_space_before_the_first(tmp_path):
    words = ["\u2581", "\u2581a", "a", "b", "\n"]
    tokenizer = Tokenizer(models.BPE({word: place for place, word in enumerate(words)}, [("\u2581", "a")]))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    of = codec(tmp_path, tokenizer)
    assert of._tokenizer.encode("ab").tokens == ["\u2581a", "b"]
    assert of.encode("ab") == [2, 3]
    assert of.decode([1, 3, *of.encode("ab")]) == "abab"


def test_where_the_text_ahead_becomes_part_of_a_token_the_answer_stands_alone(tmp_path):
    words = ["\n", "\n\n", "a", "?"]
    tokenizer = Tokenizer(models.BPE({word: place for place, word in enumerate(words)}, [("\n", "\n")], unk_token="?"))
    of = codec(tmp_path, tokenizer)
    assert of.encode("\na") == [0, 2]
    assert of.encode("a") == [2]
    assert of.encode("a\ud83d") == [2, 3]  # half of a letter, as JSON may have it


def test_what_a_template_adds_to_an_answer_is_not_sent_to_it(tmp_path):
    tokenizer = Tokenizer(models.WordLevel({"ask": 0, "say": 1, "<end>": 2}, unk_token="ask"))
    tokenizer.add_special_tokens(["<end>"])
    chat = renderer(api="chat", codec=codec(tmp_path, tokenizer))
    request = Request(0, np.array([0, 1, 2, 0], dtype=np.int32), 4, answers=((1, 3),))
    assert chat._prompt(request)["messages"] == [
        {"role": "user", "content": "ask"},
        {"role": "assistant", "content": "say"},
        {"role": "user", "content": "ask"},
    ]
