"""Answers that are written for tasks that read them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.accuracy.engines import loaded, spec_of
from tests.accuracy.trained import TEXT, tokenizer
from tests.accuracy.writing import by_transformers
from tests.engines.endpoint.driving import engine as endpoint
from tests.engines.endpoint.timed_server import Script, serving
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from tokenwatt.bench.accuracy.writing import Wanted, Writer, ends_of
from tokenwatt.errors import EngineError, UserError
from tokenwatt.workloads import GREEDY, Sampling

PLAIN = {"until": [], "max_gen_toks": 256, "do_sample": False, "temperature": 0.0}
"""As lm-eval's normalize_gen_kwargs leaves a task that asks for nothing."""
DRAWN = {**PLAIN, "do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": None}


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        (PLAIN, Wanted("x")),
        ({**PLAIN, "until": ["Q:", "\n"], "max_gen_toks": 7, "num_beams": 1}, Wanted("x", ("Q:", "\n"), 7)),
        ({**PLAIN, "top_p": 0.9}, Wanted("x", sampling=GREEDY)),
        (DRAWN, Wanted("x", sampling=Sampling(temperature=0.7, top_p=0.9))),
        ({**DRAWN, "top_k": 4}, Wanted("x", sampling=Sampling(temperature=0.7, top_p=0.9, top_k=4))),
    ],
)
def test_what_a_task_wants_to_be_written(settings, wanted):
    assert Wanted.of("x", settings) == wanted


def test_a_task_that_wants_what_no_engine_has_is_refused():
    with pytest.raises(UserError, match="lm_eval asks for num_beams = 4; allowed: temperature, top_k, "):
        Wanted.of("x", {**PLAIN, "num_beams": 4})
    with pytest.raises(UserError, match="top_p"):
        Wanted.of("x", {**DRAWN, "top_p": 3.0})


def test_what_is_written_is_what_the_engine_serves(trained):
    text = TEXT.read_text(encoding="utf-8")
    writer = Writer(loaded(spec_of(trained), 97), tokenizer(), (), 97)
    (whole,) = writer.write([Wanted(text[:60], most_tokens=16)])
    assert whole == by_transformers(trained, text[:60], 16)
    # What is too long loses its beginning; answers end before what ends them.
    end = whole[9:11]
    found = writer.write([Wanted(text[:200], most_tokens=16), Wanted(text[:60], ("@", end), 16)])
    assert found == [by_transformers(trained, text[119:200], 16), whole[: whole.index(end)]]
    assert writer.cut == {"questions": 1}
    with pytest.raises(EngineError, match="an answer may have 97 tokens, the engine is loaded for contexts of 97"):
        writer.write([Wanted(text[:60], most_tokens=97)])
    too_long = Writer(writer.engine, tokenizer(), (), 10**6)
    with pytest.raises(EngineError, match="question 0 has no answer: "):
        too_long.write([Wanted(text[:60])])
    writer.engine.close()


@pytest.fixture
def letters() -> PreTrainedTokenizerFast:
    """A token each for what the scripted server answers: 0, 1, 2 ...; 3 is special, and no tokenizer's own end."""
    vocabulary = {letter: number for number, letter in enumerate("abc")} | {"<turn>": 3} | {"d": 4, "e": 5}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="a"))
    made.add_special_tokens(["<turn>"])
    made.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=made, extra_special_tokens=["<turn>"])


def test_a_special_token_ends_an_answer_and_is_no_part_of_it(letters):
    with serving(Script(ttft_s=0.0, gap_s=0.0, sends_ids=True)) as served:
        subject = endpoint(served.url)
        subject.load(1, 64)
        writer = Writer(subject, letters, (), 64)
        answers = writer.write([Wanted("a", ("<turn>",), 6), Wanted("a", ("e",), 6), Wanted("a", ("bc", "x"), 6)])
        assert answers == ["abc", "abcd", "a"]
        assert writer._request(0, Wanted("a", ("<turn>", "e"), 6)).sampling.stop_token_ids == (3,)


def test_a_server_that_tells_no_ids_writes_nothing(letters):
    with serving(Script(ttft_s=0.0, gap_s=0.0)) as served:
        subject = endpoint(served.url)
        subject.load(1, 64)
        with pytest.raises(EngineError, match="need an engine that tells token ids; a server, return_token_ids and"):
            Writer(subject, letters, (), 64).write([Wanted("a", most_tokens=4)])


def test_answers_end_as_tokenizer_and_checkpoint_say(letters, tmp_path: Path):
    assert ends_of(letters, str(tmp_path)) == ()
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [4, 3]}))
    assert ends_of(letters, str(tmp_path)) == (3, 4)
    letters.eos_token = "e"
    assert ends_of(letters, str(tmp_path)) == (3, 4, 5)
