"""Shared prefixes, salt and turns: what they add to a workload, and what they leave as it was."""

from __future__ import annotations

import itertools
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwatt.errors import UserError
from tokenwatt.load import Load
from tokenwatt.workloads import (
    SALT_TOKENS,
    ExponentialTime,
    FixedCount,
    FixedLength,
    FixedTime,
    GeometricCount,
    LognormalLength,
    LognormalTime,
    Prefix,
    Request,
    Turns,
    Workload,
    load_workload,
)

PLAIN = 'name = "w"\ndescription = "d"\n'
LENGTHS = '[input]\nkind = "fixed"\ntokens = 16\n[output]\nkind = "fixed"\ntokens = 4\n'


def workload(**changes) -> Workload:
    parts: dict[str, Any] = {"input": FixedLength(tokens=16), "output": FixedLength(tokens=4), "seed": 3, **changes}
    return Workload(name="w", description="d", **parts)


def turns(count: int | GeometricCount = 3, **changes) -> Turns:
    counted = FixedCount(turns=count) if isinstance(count, int) else count
    parts: dict[str, Any] = {"count": counted, "input": FixedLength(tokens=5), **changes}
    return Turns(**parts)


def conversation(of: Workload, place: int, answers: tuple[int, ...] = ()) -> list[Request]:
    """All requests of a conversation, each answered by `answers`."""
    request = of.opening(place)
    asked = [] if request is None else [request]
    while asked and (follow_up := of.follow_up(asked[-1], answers)) is not None:
        asked.append(follow_up.request)
    return asked


def test_a_prefix_is_the_same_for_its_group_and_stands_before_the_prompt():
    plain, prefixed = workload(), workload(prefix=Prefix(tokens=FixedLength(tokens=32), groups=3))
    requests = [prefixed.request(index) for index in range(60)]
    beginnings = {request.prompt[:32].tobytes() for request in requests}
    assert len(beginnings) == 3
    for index, request in enumerate(requests):
        # The prompt of the same workload without a prefix follows, bit for bit, with its budget and seed.
        assert request.prompt[32:].tobytes() == plain.request(index).prompt.tobytes()
        assert (request.shared_tokens, request.max_tokens, request.seed) == (32, 4, plain.request(index).seed)
    assert prefixed.longest() == 32 + 16 + 4
    assert prefixed.unique_share() == pytest.approx(16 / 48)
    assert plain.unique_share() == 1.0


def test_a_share_of_the_conversations_has_a_prefix():
    prefixed = workload(prefix=Prefix(tokens=FixedLength(tokens=8), share=0.25))
    has_one = [request.shared_tokens == 8 for request in itertools.islice(prefixed.requests(), 2000)]
    # Standard error sqrt(0.25 x 0.75 / 2000) = 0.0097; four of them.
    assert np.mean(has_one) == pytest.approx(0.25, abs=0.039)
    assert {len(prefixed.request(index).prompt) for index in range(50)} == {16, 24}


def test_groups_come_equally_often_and_have_lengths_of_their_own():
    length = LognormalLength(kind="lognormal", median=50, sigma=0.5, min=10, max=200)
    prefixed = workload(prefix=Prefix(tokens=length, groups=4))
    lengths = [prefixed.request(index).shared_tokens for index in range(2000)]
    counts = np.unique(lengths, return_counts=True)[1]
    # 500 each; standard error sqrt(2000 x 0.25 x 0.75) = 19.4; four of them.
    assert counts == pytest.approx([500] * 4, abs=78)
    assert prefixed.longest() == 220


def test_a_salt_changes_the_first_tokens_of_every_prompt_and_nothing_else():
    salted = workload(salt=True)
    first, second = (salted.salted(salt) for salt in (1, 2))
    for index in range(20):
        plain, one, two = (each.request(index) for each in (salted, first, second))
        assert len({request.prompt[:SALT_TOKENS].tobytes() for request in (plain, one, two)}) == 3
        assert one.prompt[SALT_TOKENS:].tobytes() == plain.prompt[SALT_TOKENS:].tobytes()
        assert (one.max_tokens, one.seed, len(one.prompt)) == (plain.max_tokens, plain.seed, 16)
    assert len({first.request(index).prompt[:SALT_TOKENS].tobytes() for index in range(50)}) == 50
    assert first.request(7).prompt.tobytes() == salted.salted(1).request(7).prompt.tobytes()


def test_a_salt_is_not_part_of_what_is_asked():
    salted = workload(salt=True)
    assert salted.sha256() == salted.salted(1).sha256() == workload().sha256()
    # A workload that does not want one takes none.
    assert workload(salt=False).salted(1).request(0).prompt.tobytes() == workload().request(0).prompt.tobytes()


def test_a_salted_prefix_is_still_shared_within_a_run_and_not_with_the_next():
    prefixed = workload(salt=True, prefix=Prefix(tokens=FixedLength(tokens=32), groups=2))
    runs = [[prefixed.salted(salt).request(index).prompt[:32].tobytes() for index in range(30)] for salt in (1, 2)]
    assert [len(set(run)) for run in runs] == [2, 2]
    assert not set(runs[0]) & set(runs[1])


def test_a_prompt_shorter_than_the_salt_keeps_its_length():
    short = workload(salt=True, input=FixedLength(tokens=3)).salted(9)
    assert len(short.request(0).prompt) == 3


def test_the_prompt_of_a_turn_is_the_one_before_its_answer_and_new_text():
    talk = workload(turns=turns(3, think=FixedTime(time_s=2.5)))
    first = talk.request(0)
    assert first.prompt.tobytes() == workload().request(0).prompt.tobytes()
    follow_up = talk.follow_up(first, (91, 92, 93, 94))
    assert follow_up is not None
    second = follow_up.request
    assert follow_up.think_s == 2.5
    assert len(second.prompt) == 16 + 4 + 5
    assert second.prompt[:16].tobytes() == first.prompt.tobytes()
    assert second.prompt[16:20].tolist() == [91, 92, 93, 94]
    assert (second.conversation, second.turn, second.max_tokens, second.shared_tokens) == (0, 1, 4, 20)
    third = conversation(talk, 0, (1, 2))[2]
    # Answers that stopped early: 16 + 2 + 5 + 2 + 5.
    assert len(third.prompt) == 30
    assert (first.answers, second.answers, third.answers) == ((), ((16, 20),), ((16, 18), (23, 25)))
    assert talk.follow_up(third, (1, 2)) is None


def test_other_tokens_stand_in_for_an_answer_that_is_not_said():
    talk = workload(turns=turns(3))
    lengths = [len(request.prompt) for request in conversation(talk, 4)]
    assert lengths == [16, 25, 34]
    assert talk.longest() == 16 + 2 * 5 + 3 * 4
    again, other = conversation(talk, 4), conversation(talk, 5)
    assert again[2].prompt.tobytes() == conversation(talk, 4)[2].prompt.tobytes()
    assert again[1].prompt[16:20].tobytes() != other[1].prompt[16:20].tobytes()


def test_a_request_in_mid_life_goes_on_with_the_length_of_a_whole_one():
    talk = workload(turns=turns(2))
    load = Load.closed(talk, concurrency=2, in_mid_life=True)
    half, whole = load.take(0.0)
    assert (len(half.prompt), half.max_tokens) == (18, 2)
    for request in (half, whole):
        load.ended(request.index, 1.0)
    assert [len(request.prompt) for request in load.take(1.0)] == [25, 25]


def test_no_two_requests_of_a_run_have_the_same_index_or_seed():
    talk = workload(turns=turns(count=GeometricCount(kind="geometric", mean=2.5, max=7)))
    requests = [request for place in range(200) for request in conversation(talk, place)]
    assert len({request.index for request in requests}) == len({request.seed for request in requests}) == len(requests)
    assert all(request.index == request.conversation * 7 + request.turn for request in requests)
    assert [request.index for request in itertools.islice(talk.requests(), 30)] == [r.index for r in requests[:30]]


def test_turns_are_counted_as_drawn():
    talk = workload(turns=turns(count=GeometricCount(kind="geometric", mean=3.0, max=64)))
    counts = np.array([len(conversation(talk, place)) for place in range(1500)])
    # Geometric of mean 3: standard deviation sqrt(6); four standard errors are 4 x 2.45 / sqrt(1500) = 0.25.
    assert counts.mean() == pytest.approx(3.0, abs=0.25)
    # A third of the conversations has one turn: 4 x sqrt(1/3 x 2/3 / 1500) = 0.049.
    assert np.mean(counts == 1) == pytest.approx(1 / 3, abs=0.049)
    clipped = workload(turns=turns(count=GeometricCount(kind="geometric", mean=2.0, max=2)))
    assert {len(conversation(clipped, place)) for place in range(50)} == {1, 2}


@given(place=st.integers(0, 10_000), answers=st.lists(st.integers(0, 31_999), max_size=4).map(tuple))
def test_a_conversation_depends_on_its_number_and_its_answers_alone(place, answers):
    talk = workload(turns=turns(count=GeometricCount(kind="geometric", mean=2.0, max=4)), salt=True)
    other = pickle.loads(pickle.dumps(talk.salted(5)))
    pairs = zip(conversation(talk.salted(5), place, answers), conversation(other, place, answers), strict=True)
    assert all(one.prompt.tobytes() == two.prompt.tobytes() and one.index == two.index for one, two in pairs)


def test_a_salted_conversation_carries_its_salt_along():
    talk = workload(turns=turns(3), salt=True)
    last = conversation(talk.salted(1), 0)[2]
    assert last.prompt[:16].tobytes() == talk.salted(1).request(0).prompt.tobytes()
    assert last.prompt[16:].tobytes() == conversation(talk, 0)[2].prompt[16:].tobytes()


@pytest.mark.parametrize(
    ("time", "mean_s", "deviation_s"),
    [
        (FixedTime(time_s=1.5), 1.5, 0.0),
        (ExponentialTime(kind="exponential", mean_s=4.0), 4.0, 4.0),
        # exp(0.5^2 / 2) = 1.133 times the median; deviation is the mean times sqrt(exp(0.5^2) - 1) = 0.533.
        (LognormalTime(kind="lognormal", median_s=10.0, sigma=0.5), 11.33, 6.04),
    ],
)
def test_times_to_think_have_their_mean(time, mean_s, deviation_s):
    rng = np.random.default_rng(0)
    drawn = np.array([time.draw(rng) for _ in range(4000)])
    assert drawn.mean() == pytest.approx(mean_s, abs=1e-9 + 4 * deviation_s / 4000**0.5)
    assert drawn.min() >= 0


def test_times_to_think_are_clipped():
    rng = np.random.default_rng(0)
    for time in (
        ExponentialTime(kind="exponential", mean_s=4.0, max_s=5.0),
        LognormalTime(kind="lognormal", median_s=4.0, sigma=1.0, max_s=5.0),
    ):
        assert max(time.draw(rng) for _ in range(200)) == 5.0


def test_a_middle_beyond_the_longest_is_refused():
    with pytest.raises(ValueError, match=r"needs median_s <= max_s, got 4.0, 3.0"):
        LognormalTime(kind="lognormal", median_s=4.0, sigma=1.0, max_s=3.0)
    with pytest.raises(ValueError, match=r"needs mean_s <= max_s, got 4.0, 3.0"):
        ExponentialTime(kind="exponential", mean_s=4.0, max_s=3.0)
    with pytest.raises(ValueError, match=r"needs mean <= max, got 4.0, 3"):
        GeometricCount(kind="geometric", mean=4.0, max=3)


def test_turns_and_prefixes_tell_hashes_apart():
    hashes = {
        each.sha256()
        for each in (
            workload(),
            workload(prefix=Prefix(tokens=FixedLength(tokens=8))),
            workload(turns=turns(2)),
            workload(turns=turns(3)),
            workload(turns=turns(2, think=FixedTime(time_s=1.0))),
        )
    }
    assert len(hashes) == 5


def test_tables_are_read_from_toml(tmp_path):
    path = tmp_path / "w.toml"
    path.write_text(
        f"{PLAIN}salt = false\n{LENGTHS}"
        '[prefix]\ngroups = 2\nshare = 0.5\n[prefix.tokens]\nkind = "fixed"\ntokens = 8\n'
        '[turns.count]\nkind = "geometric"\nmean = 3\nmax = 5\n'
        '[turns.input]\nkind = "lognormal"\nmedian = 10\nsigma = 0.5\nmax = 40\n'
        '[turns.think]\nkind = "exponential"\nmean_s = 2\n'
    )
    read = load_workload(str(path))
    assert read.prefix == Prefix(tokens=FixedLength(tokens=8), groups=2, share=0.5)
    assert read.turns is not None
    assert read.turns.think == ExponentialTime(kind="exponential", mean_s=2.0)
    assert not read.salt
    assert read.longest() == 8 + 16 + 4 * 40 + 5 * 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "needs [input] and [output], or [trace], or [sharegpt], and only one of these three"),
        ('[input]\nkind = "fixed"\ntokens = 1\n', "needs [input] and [output], or [trace], or [sharegpt]"),
        (LENGTHS + '[trace]\nformat = "azure"\npath = "t"\n', "and only one of these three"),
        (
            '[trace]\nformat = "azure"\npath = "t"\n[prefix.tokens]\nkind = "fixed"\ntokens = 1\n',
            "[prefix] goes with [input] and [output], not with [trace]",
        ),
        (LENGTHS + "[prefix]\nsize = 4\n", "prefix.tokens"),
        (LENGTHS + '[prefix]\nsize = 4\n[prefix.tokens]\nkind = "fixed"\ntokens = 1\n', "unknown key 'prefix.size'"),
        (LENGTHS + '[prefix]\nshare = 1.5\n[prefix.tokens]\nkind = "fixed"\ntokens = 1\n', "prefix.share"),
        (LENGTHS + '[turns.count]\nkind = "fixed"\nturns = 2\n', "missing key 'turns.input'"),
        ('[trace]\nformat = "qwen"\npath = "t"\n', "input should be 'azure', 'burstgpt' or 'mooncake', got 'qwen'"),
        ("think = 3\n" + LENGTHS, "unknown key 'think'; allowed here: description, input, name, output, prefix"),
    ],
)
def test_a_file_that_does_not_fit_together_is_refused_in_one_line(tmp_path, text, message):
    path = tmp_path / "w.toml"
    path.write_text(PLAIN + text)
    with pytest.raises(UserError) as error:
        load_workload(str(path))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_only_a_trace_has_a_timetable():
    with pytest.raises(UserError, match=r"workload 'w' has no timetable to replay: only one with \[trace\] has"):
        workload().timetable()
    assert workload().selection is None
