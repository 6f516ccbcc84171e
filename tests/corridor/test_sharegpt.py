"""Recorded conversations: a small file of our own, tokenised by a tokenizer that is made here."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest

from tokenwatt.errors import UserError
from tokenwatt.load import Load
from tokenwatt.workloads import FixedTime, ShareGPT, Workload, load_workload


def said(*texts: str) -> dict[str, Any]:
    roles = ("human", "gpt")
    return {"id": "x", "conversations": [{"from": roles[turn % 2], "value": text} for turn, text in enumerate(texts)]}


ENTRIES = [
    said("a b c", "d e", "f", "g h i j"),
    said("a a", "b"),
    {"id": "y", "conversations": [{"from": "system", "value": "a"}, *said("a", "b")["conversations"]]},
    said("a"),
    said("", "b b"),
    said("c c c c c c c c", "d d d d d d d d d", "e"),
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> str:
    """A folder of a tokenizer that knows the words `a` to `j`, as 1 to 10."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tokenizer")
    words = models.WordLevel(
        {"?": 0, **{word: place for place, word in enumerate("abcdefghij", start=1)}}, unk_token="?"
    )
    known = Tokenizer(words)
    known.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=known, unk_token="?").save_pretrained(folder)
    return str(folder)


@pytest.fixture
def recorded(tmp_path, tokenizer):
    """Makes the workload of these entries."""

    def make(entries: object = ENTRIES, vocabulary: int = 11, **settings) -> Workload:
        path = tmp_path / "talks.json"
        path.write_text(entries if isinstance(entries, str) else json.dumps(entries))
        table = ShareGPT(path=str(path), tokenizer=tokenizer, **settings)
        return Workload(name="w", description="d", vocabulary=vocabulary, sharegpt=table)

    return make


def test_the_first_question_is_asked_with_the_budget_of_its_answer(recorded):
    workload = recorded()
    requests = list(workload.requests())
    assert [(request.prompt.tolist(), request.max_tokens) for request in requests] == [
        ([1, 2, 3], 2), ([1, 1], 1), ([3] * 8, 9)
    ]  # fmt: skip
    assert [request.index for request in requests] == [0, 1, 2]
    assert str(workload.selection) == (
        "3 of 6 conversations (2 left out: not a question and its answer first; 1 left out: under min_input)"
    )
    assert workload.longest() == 17
    assert workload.follow_up(requests[0], ()) is None


def test_a_conversation_goes_on_as_it_was_recorded(recorded):
    workload = recorded(multi_turn=True, think=FixedTime(time_s=3.0))
    first = workload.request(0)
    follow_up = workload.follow_up(first, (9, 9))
    assert follow_up is not None
    assert (follow_up.request.prompt.tolist(), follow_up.think_s) == ([1, 2, 3, 9, 9, 6], 3.0)
    assert (follow_up.request.max_tokens, follow_up.request.index, follow_up.request.shared_tokens) == (4, 1, 5)
    assert workload.follow_up(follow_up.request, ()) is None
    # The recorded answer stands in for one that the engine does not say. A question without an answer is not asked.
    indices = [(request.index, request.prompt.tolist()) for request in workload.requests()]
    assert indices == [(0, [1, 2, 3]), (1, [1, 2, 3, 4, 5, 6]), (2, [1, 1]), (4, [3] * 8)]
    assert workload.longest() == 17


def test_the_end_of_the_recorded_answer_stands_in_for_one_in_mid_life(recorded):
    load = Load.closed(recorded(multi_turn=True), concurrency=2, in_mid_life=True)
    first, _ = load.take(0.0)
    assert (first.prompt.tolist(), first.max_tokens) == ([1, 2, 3, 1], 1)
    load.ended(0, 1.0)
    (second,) = load.take(1.0)
    assert second.prompt.tolist() == [1, 2, 3, 1, 5, 6]


@pytest.mark.parametrize(
    ("settings", "left_out"),
    [
        ({"min_input": 3}, {"under min_input": 2}),
        ({"max_input": 7}, {"under min_input": 1, "over max_input": 1}),
        ({"min_output": 2}, {"under min_input": 1, "under min_output": 1}),
        ({"max_output": 3, "multi_turn": True}, {"under min_input": 1, "over max_output": 2}),
    ],
)
def test_conversations_outside_the_bounds_are_counted(recorded, settings, left_out):
    selection = recorded(**settings).selection
    assert selection.left_out == {"not a question and its answer first": 2, **left_out}
    assert selection.kept == 6 - sum(selection.left_out.values())


def test_a_limit_takes_the_first_ones(recorded):
    assert str(recorded(limit=1).selection) == "1 of 1 conversations"


def test_texts_are_in_the_hash_and_a_pickle_needs_no_file(recorded, tmp_path):
    workload = recorded()
    assert workload.sha256() == recorded().sha256()
    assert workload.sha256() != recorded([*ENTRIES[:5], said("c", "d")]).sha256()
    # A recorded answer counts by its tokens, which stand in for an answer, even where it was never sent.
    assert workload.sha256() != recorded([said("a b c", "e d"), *ENTRIES[1:]]).sha256()
    (tmp_path / "talks.json").unlink()
    assert pickle.loads(pickle.dumps(workload)).sha256() == workload.sha256()


def test_a_salt_replaces_the_first_tokens(recorded):
    workload = recorded(vocabulary=1000).model_copy(update={"salt": True})
    salted = workload.salted(1).request(2)
    assert len(salted.prompt) == 8
    assert salted.prompt.tolist() != [3] * 8
    assert workload.salted(1).sha256() == workload.sha256()


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ("{", "not valid JSON"),
        ({"a": 1}, "not a JSON array of conversations"),
        ([*ENTRIES, 7], "entry 6: no array 'conversations'"),
        ([{"id": "z"}], "entry 0: no array 'conversations'"),
        (
            [said("a", "b"), {"conversations": [{"from": "human"}]}],
            "entry 1, message 0: needs texts 'from' and 'value'",
        ),
        ([said("a")], "no conversation is left to ask: 0 of 1 conversations (1 left out: not a question"),
        ([said("a j", "b")], "its tokenizer gives token id 10; set vocabulary above it"),
    ],
)
def test_a_bad_entry_is_named_by_its_position(recorded, entries, message):
    with pytest.raises(UserError) as error:
        recorded(entries, vocabulary=10).longest()
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_or_a_tokenizer_that_is_not_there_is_said(recorded, tmp_path):
    workload = recorded()
    (tmp_path / "talks.json").unlink()
    with pytest.raises(UserError, match="no such file of conversations: .*talks.json"):
        workload.longest()
    (tmp_path / "empty").mkdir()
    path = tmp_path / "talks.json"
    path.write_text(json.dumps(ENTRIES))
    table = ShareGPT(path=str(path), tokenizer=str(tmp_path / "empty"))
    with pytest.raises(UserError, match="tokenizer .*empty' cannot be loaded"):
        Workload(name="w", description="d", sharegpt=table).longest()


def test_it_is_read_from_toml_beside_its_file(tmp_path, tokenizer):
    (tmp_path / "talks.json").write_text(json.dumps(ENTRIES))
    (tmp_path / "w.toml").write_text(
        'name = "w"\ndescription = "d"\n[sharegpt]\npath = "talks.json"\nmulti_turn = true\n'
        f'tokenizer = "{tokenizer}"\n[sharegpt.think]\nkind = "fixed"\ntime_s = 2\n'
    )
    workload = load_workload(str(tmp_path / "w.toml"))
    assert len(list(workload.requests())) == 4
