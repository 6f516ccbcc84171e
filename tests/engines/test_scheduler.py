"""Who runs when: by hand, and whatever the workload is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engines.counting import VOCABULARY, Played, Workload, answer, play, sequences_of

from tokenwatt.engines.native.pages import PagePool, pages_for
from tokenwatt.engines.native.scheduler import Scheduler, Step
from tokenwatt.engines.native.sequence import Sequence
from tokenwatt.engines.native.table import Table
from tokenwatt.workloads import Request, Sampling


def scheduler(
    *, rows: int = 4, pages: int = 16, page_size: int = 4, budget: int = 16, shares: bool = False
) -> Scheduler:
    return Scheduler(Table(rows, 8), PagePool(pages), page_size, budget, shares)


def add(scheduler: Scheduler, *lengths: tuple[int, int], first: int = 0) -> list[Sequence]:
    """Requests first, first + 1, ... of (prompt, output) tokens; a prompt is all index + 1, so no two begin alike."""
    for index, (isl, osl) in enumerate(lengths, first):
        scheduler.add(Request(index, np.full(isl, index + 1, dtype=np.int32), osl))
    return [*scheduler._waiting][-len(lengths) :]


def following(scheduler: Scheduler) -> Step:
    step = scheduler.schedule()
    assert step is not None
    return step


def shape(step: Step) -> list[tuple[int, int, int]]:
    """(request, tokens in the cache, new tokens) of each sequence."""
    indices = [sequence.request.index for sequence in sequences_of(step)]
    return list(zip(indices, step.starts.tolist(), step.counts.tolist(), strict=True))


def note(scheduler: Scheduler, step: Step, token: int = 50) -> None:
    """The step's tokens are on the host."""
    for sequence in step.sequences:
        scheduler.note_output(sequence, token)


# --- what a step is made of


def test_nothing_runs_without_requests():
    assert scheduler().schedule() is None


def test_sequences_that_decode_come_before_chunks():
    it = scheduler(budget=8)
    add(it, (3, 9), (2, 9))
    step = following(it)
    assert shape(step) == [(0, 0, 3), (1, 0, 2)]
    assert (step.decodes, step.sampled.tolist(), step.tokens) == (0, [0, 1], 5)
    add(it, (10, 9), first=2)
    step = following(it)
    # A token for each of the two, 8 - 2 = 6 of the third prompt: it gets no output token yet.
    assert shape(step) == [(0, 3, 1), (1, 2, 1), (2, 0, 6)]
    assert (step.decodes, step.sampled.tolist(), len(step.chunks)) == (2, [0, 1], 1)
    step = following(it)
    assert shape(step) == [(0, 4, 1), (1, 3, 1), (2, 6, 4)]
    assert (step.decodes, step.sampled.tolist(), len(step.chunks)) == (2, [0, 1, 2], 1)
    step = following(it)
    assert shape(step) == [(0, 5, 1), (1, 4, 1), (2, 10, 1)]
    assert (step.decodes, step.sampled.tolist(), step.chunks) == (3, [0, 1, 2], [])


def test_prompts_share_the_budget_in_order():
    it = scheduler(budget=8)
    add(it, (5, 2), (9, 2), (4, 2))
    # 5 + 3; a token of the first, the 6 that the second lacks, 1 of the third; two tokens, the 3 that the third lacks.
    assert shape(following(it)) == [(0, 0, 5), (1, 0, 3)]
    assert shape(following(it)) == [(0, 5, 1), (1, 3, 6), (2, 0, 1)]
    assert shape(following(it)) == [(1, 9, 1), (2, 1, 3)]
    assert shape(following(it)) == [(2, 4, 1)]
    assert it.schedule() is None


def test_a_budget_full_of_decodes_leaves_chunks_waiting():
    it = scheduler(rows=4, budget=4)
    add(it, (1, 3), (1, 3), (1, 3), (5, 3))
    assert shape(following(it)) == [(0, 0, 1), (1, 0, 1), (2, 0, 1), (3, 0, 1)]
    assert shape(following(it)) == [(0, 1, 1), (1, 1, 1), (2, 1, 1), (3, 1, 1)]
    add(it, (2, 3), first=4)  # no row is free, nor has the budget room
    assert shape(following(it)) == [(0, 2, 1), (1, 2, 1), (2, 2, 1), (3, 2, 1)]
    # Three are done: the fourth prompt has 2 tokens left, the fifth gets the other 2.
    assert shape(following(it)) == [(3, 3, 2), (4, 0, 2)]


def test_one_token_is_the_answer_of_the_prompt():
    it = scheduler(pages=2)
    (sequence,) = add(it, (8, 1))
    step = following(it)
    assert step.sequences == [sequence]
    # Its only token is never stored: two pages were enough, and are free before the token is on the host.
    assert (it.num_running, it.pool.free_pages, it.schedule()) == (0, 2, None)
    note(it, step)
    assert sequence.output == [50]


def test_a_budget_of_one_token():
    it = scheduler(rows=1, budget=1)
    add(it, (3, 2), (1, 1))
    # Three tokens of the prompt, the first output token, then the other request.
    assert [shape(following(it)) for _ in range(5)] == [
        [(0, 0, 1)], [(0, 1, 1)], [(0, 2, 1)], [(0, 3, 1)], [(1, 0, 1)],
    ]  # fmt: skip
    assert it.schedule() is None


# --- rows and pages


def test_no_more_run_than_there_are_rows():
    it = scheduler(rows=2)
    first, second, third = add(it, (1, 2), (1, 3), (1, 2))
    assert shape(following(it)) == [(0, 0, 1), (1, 0, 1)]
    assert (it.num_running, it.num_waiting) == (2, 1)
    row = first.row
    assert shape(following(it)) == [(0, 1, 1), (1, 1, 1)]  # the first has got its two tokens
    assert shape(following(it)) == [(1, 2, 1), (2, 0, 1)]
    assert (first.row, second.row, third.row) == (-1, -1, row)


def test_a_request_waits_for_pages_without_being_overtaken():
    it = scheduler(pages=4)
    add(it, (9, 2), (8, 2), (1, 2))
    # The first takes 3 of 4 pages; the second needs 2 and waits, the third would fit but stays behind it.
    assert shape(following(it)) == [(0, 0, 9)]
    assert shape(following(it)) == [(0, 9, 1)]
    assert shape(following(it)) == [(1, 0, 8), (2, 0, 1)]


def test_a_page_comes_when_the_next_token_begins_one():
    it = scheduler(page_size=2)
    (sequence,) = add(it, (3, 5))
    held = []
    while it.schedule() is not None:
        held.append(len(sequence.pages))
    # Stored before and in each step: 3, 4, 5, 6; then the 7th, whose page goes with the sequence at once. Its last
    # token, the 8th, is stored nowhere.
    assert held == [2, 2, 3, 3, 0]
    assert it.pool.free_pages == 16


def test_a_page_is_left_for_each_sequence_that_will_need_one():
    it = scheduler(page_size=2, pages=4)
    add(it, (3, 4), (3, 4))
    # Two pages each would fit, but the first needs a third one for its tokens 5 and 6.
    assert shape(following(it)) == [(0, 0, 3)]
    it = scheduler(page_size=2, pages=4)
    add(it, (3, 2), (3, 4))
    # Now it does not: it stores 4 tokens in all.
    assert shape(following(it)) == [(0, 0, 3), (1, 0, 3)]


# --- who gives way


def test_the_last_to_come_gives_way_and_goes_on_with_its_own_output():
    it = scheduler(page_size=2, pages=5)
    first, second = add(it, (3, 4), (3, 4))
    steps = [following(it)]
    assert shape(steps[-1]) == [(0, 0, 3), (1, 0, 3)]  # four pages of five
    note(it, steps[-1], 51)
    steps.append(following(it))
    assert shape(steps[-1]) == [(0, 3, 1), (1, 3, 1)]
    # Both want a third page: the first takes the last one, the second gives way. Its second token is on the device.
    steps.append(following(it))
    assert shape(steps[-1]) == [(0, 4, 1)]
    assert (second.preemptions, second.promised, second.output, second.pages) == (1, 2, [51], [])
    assert (it.num_running, it.num_waiting, it.pool.free_pages) == (1, 1, 2)
    note(it, steps[-2], 52)
    steps.append(following(it))  # 3 + 2 tokens want three pages, two are free
    assert shape(steps[-1]) == [(0, 5, 1)]
    note(it, steps[-2], 53)
    steps.append(following(it))
    assert shape(steps[-1]) == [(1, 0, 5)]
    assert it.hits.prompt_tokens == 0
    assert second.tokens(0, 5).tolist() == [2, 2, 2, 51, 52]
    note(it, steps[-2], 54)
    steps.append(following(it))
    assert shape(steps[-1]) == [(1, 5, 1)]
    note(it, steps[-2], 53)
    note(it, steps[-1], 54)
    assert (first.output, second.output) == ([51, 52, 53, 54], [51, 52, 53, 54])
    assert (it.schedule(), it.pool.free_pages) == (None, 5)


def test_who_gave_way_waits_for_its_tokens():
    it = scheduler(page_size=2, pages=5)
    first, second = add(it, (3, 3), (3, 4))
    note(it, following(it))
    late = following(it)
    last = following(it)  # the first takes the fifth page and ends with this step
    assert shape(last) == [(0, 4, 1)]
    assert (first.pages, second.preemptions, it.pool.free_pages) == ([], 1, 5)
    # All pages are free, but the second one's newest token is not on the host: its prompt is not known.
    assert it.schedule() is None
    note(it, late)
    assert shape(following(it)) == [(1, 0, 5)]


def test_who_gave_way_comes_before_all_that_wait():
    it = scheduler(page_size=2, pages=6, rows=3)
    add(it, (3, 3), (1, 6), (1, 6))
    note(it, following(it))  # 2 + 1 + 1 pages of 6
    add(it, (1, 1), first=3)
    # At 4, 2 and 2 tokens all want a page, of which there are two.
    note(it, following(it))
    step = following(it)
    assert shape(step) == [(0, 4, 1), (1, 2, 1)]
    assert [sequence.request.index for sequence in it._waiting] == [2, 3]
    note(it, step)
    # The first is done, and four pages are free: two hold the third's 3 tokens, and one is left for either sequence.
    step = following(it)
    assert shape(step) == [(1, 3, 1), (2, 0, 3)]
    note(it, step)
    # Both take theirs.
    assert shape(following(it)) == [(1, 4, 1), (2, 3, 1)]


def test_a_prompt_that_is_not_computed_gives_way_before_those_that_decode():
    it = scheduler(page_size=2, pages=5, budget=4)
    first, second, third = add(it, (2, 4), (1, 2), (4, 2))
    # 1 + 1 + 2 pages, and one is left for the first, which will need it: 2 + 1 + 1 tokens.
    assert shape(following(it)) == [(0, 0, 2), (1, 0, 1), (2, 0, 1)]
    it.pool.take(1)
    # No page is left for the first: the third gives way, one token of which was computed.
    assert shape(following(it)) == [(0, 2, 1), (1, 1, 1)]
    assert (first.preemptions, second.preemptions, third.preemptions, third.promised) == (0, 0, 1, 0)


def test_a_sequence_may_have_to_give_way_itself():
    it = scheduler(page_size=2, pages=3)
    (sequence,) = add(it, (2, 4))
    note(it, following(it))
    others = it.pool.take(2)
    assert it.schedule() is None
    assert (sequence.preemptions, sequence.promised) == (1, 1)
    assert others is not None
    it.pool.release(others)
    assert shape(following(it)) == [(0, 0, 3)]


# --- the end of a sequence


def test_a_stop_token_ends_a_sequence_one_step_late():
    it = scheduler()
    first, second = add(it, (1, 9), (1, 9))
    before = following(it)
    (row, page), launched = (first.row, *first.pages), following(it)
    assert launched.sequences == [first, second]
    note(it, before)
    it.finish(first)
    assert (first.is_over, first.row, it.num_running, it.pool.free_pages) == (True, -1, 1, 15)
    (third,) = add(it, (2, 2), first=2)
    assert shape(following(it)) == [(1, 2, 1), (2, 0, 2)]
    # Row and page that the first had are the third's: its step comes after the one that still wrote to them.
    assert (third.row, third.pages) == (row, [page])


def test_a_sequence_that_gave_way_may_stop_while_it_waits():
    it = scheduler(page_size=2, pages=5)
    _, second = add(it, (3, 4), (3, 4))
    note(it, following(it))
    launched = following(it)
    following(it)
    assert (second.preemptions, it.num_waiting) == (1, 1)
    note(it, launched)
    it.finish(second)
    assert (second.is_over, it.num_waiting) == (True, 0)


def test_nothing_is_left_of_an_abandoned_run():
    it = scheduler(rows=2, budget=4)
    add(it, (3, 4), (3, 4), (3, 4))
    following(it)
    it.abandon()
    assert (it.num_running, it.num_waiting, it.pool.free_pages) == (0, 0, 16)
    assert it.schedule() is None
    add(it, (1, 1), (1, 1))
    assert len(following(it).rows) == 2


# --- prefix caching


def prompt(index: int, *tokens: int, osl: int = 1) -> Request:
    return Request(index, np.array(tokens, dtype=np.int32), osl)


def test_a_prompt_that_begins_alike_starts_behind_the_pages_it_shares():
    it = scheduler(page_size=2, shares=True)
    it.add(prompt(0, 1, 2, 3, 4, 5))
    assert shape(following(it)) == [(0, 0, 5)]
    it.add(prompt(1, 1, 2, 3, 9, 5))
    it.add(prompt(2, 1, 2, 3, 4, 5))
    # The second has the page (1, 2) in common, the third (3, 4) as well.
    assert shape(following(it)) == [(1, 2, 3), (2, 4, 1)]
    # 0 + 2 + 4 of 15 tokens.
    assert it.hits.rate == 6 / 15


def test_without_prompts_there_is_no_hit_rate():
    assert scheduler(shares=True).hits.rate is None


def test_the_last_token_is_computed_though_its_page_is_there():
    it = scheduler(page_size=2, shares=True)
    it.add(prompt(0, 1, 2, 3, 4))
    following(it)
    it.add(prompt(1, 1, 2, 3, 4))
    # Page (3, 4) is in the cache, but what predicts the next token is not.
    assert shape(following(it)) == [(1, 2, 2)]


def test_prompts_of_one_step_do_not_share_what_it_computes():
    it = scheduler(page_size=2, shares=True)
    it.add(prompt(0, 1, 2, 3))
    it.add(prompt(1, 1, 2, 3))
    assert shape(following(it)) == [(0, 0, 3), (1, 0, 3)]


def test_a_chunk_is_shared_before_its_prompt_is_whole():
    it = scheduler(page_size=2, budget=5, shares=True)
    it.add(prompt(0, 1, 2, 3, 4, 5, 6, 7))
    assert shape(following(it)) == [(0, 0, 5)]
    it.add(prompt(1, 1, 2, 3, 4, 5, 6, 7))
    # Two tokens of the first are left; of the other (1, 2) and (3, 4) are there, and (5, 6) comes with this step.
    assert shape(following(it)) == [(0, 5, 2), (1, 4, 3)]


def test_pages_of_generated_tokens_are_shared():
    it = scheduler(page_size=2, shares=True)
    it.add(prompt(0, 1, 2, 3, osl=9))
    steps = [following(it)]
    for token in (7, 8):
        steps.append(following(it))
        note(it, steps[-2], token)
    it.add(prompt(1, 1, 2, 3, 7, 8, 9, 9))
    # 1, 2, 3, 7 are known and computed; of 8, which is known, nobody knows yet what is in the rest of its page.
    assert shape(following(it)) == [(0, 5, 1), (1, 4, 3)]


def test_who_gave_way_finds_its_pages_again():
    it = scheduler(page_size=2, pages=5, shares=True)
    _, second = add(it, (3, 3), (3, 4))
    note(it, following(it))
    late = following(it)
    following(it)
    assert second.preemptions == 1
    note(it, late)
    # Its prompt is 2 2 2 50 50 now. (2, 2) was shared when it gave way, (2, 50) was not: its 50 came later.
    assert shape(following(it)) == [(1, 2, 3)]
    # A prompt counts once: 3 + 3 tokens, none of them a hit.
    assert (it.hits.prompt_tokens, it.hits.hit_tokens) == (6, 0)


def test_pages_are_lost_for_new_content_only_when_no_blank_one_is_left():
    it = scheduler(page_size=2, pages=3, shares=True)
    it.add(prompt(0, 1, 2, 3, 4, 5))
    following(it)
    it.add(prompt(1, 6, 7, 8))
    following(it)  # the blank page, and (3, 4)
    it.add(prompt(2, 1, 2, 3, 4, 5))
    assert shape(following(it)) == [(2, 2, 3)]


# --- whatever the workload is


@st.composite
def workloads(draw) -> Workload:
    page_size, rows = draw(st.integers(1, 6)), draw(st.integers(1, 16))
    begin = draw(st.lists(st.integers(0, 3), min_size=12, max_size=12))
    requests = []
    for index in range(draw(st.integers(1, 20))):
        shared, own = draw(st.integers(0, 12)), draw(st.lists(st.integers(0, 3), min_size=1, max_size=14))
        stops = draw(st.lists(st.integers(0, VOCABULARY - 1), max_size=8))
        tokens = np.array([*begin[:shared], *own], dtype=np.int32)
        sampling = Sampling(stop_token_ids=tuple(stops))
        requests.append(Request(index, tokens, draw(st.integers(1, 14)), sampling))
    needed = max(pages_for(len(request.prompt) + request.max_tokens - 1, page_size) for request in requests)
    return Workload(
        requests=requests,
        rows=rows,
        page_size=page_size,
        num_pages=needed + draw(st.integers(0, 3 * needed)),
        max_step_tokens=rows + draw(st.integers(0, 40)),
        prefix_caching=draw(st.booleans()),
        overlap=draw(st.booleans()),
    )


def assert_all_is_right(workload: Workload) -> Played:
    """On top of what the watched scheduler and the counting runner check in each step."""
    played = play(workload)
    assert played.outputs == {request.index: answer(request)[0] for request in workload.requests}
    assert played.scheduler.started == [request.index for request in workload.requests]
    assert played.scheduler.pool.free_pages == workload.num_pages
    assert len(played.table._free) == workload.rows
    # The oldest gets a token or more in each step, and one step may follow its last token.
    assert played.scheduler.steps <= sum(len(request.prompt) + request.max_tokens for request in workload.requests)
    return played


@settings(max_examples=150, deadline=None)
@given(workloads())
def test_any_workload(workload):
    assert_all_is_right(workload)


def random_workload(count: int, *, num_pages: int, overlap: bool) -> Workload:
    """Chats that begin in one of five ways, every third of which may stop early."""
    rng = np.random.default_rng(0)
    begins = rng.integers(0, VOCABULARY, (5, 24), dtype=np.int32)
    requests = []
    for index in range(count):
        begin = begins[rng.integers(5), : rng.integers(0, 25)]
        own = rng.integers(0, VOCABULARY, rng.integers(1, 24), dtype=np.int32)
        stops = rng.integers(0, VOCABULARY, 3 * (index % 3 == 0)).tolist()
        sampling = Sampling(stop_token_ids=tuple(stops))
        requests.append(Request(index, np.concatenate([begin, own]), int(rng.integers(1, 25)), sampling))
    return Workload(requests, 16, 4, num_pages, 48, prefix_caching=True, overlap=overlap)


def assert_much_happened(played: Played) -> None:
    """One of twenty requests and more gave way, and one of ten tokens and more was in the cache."""
    assert played.scheduler.resumed > len(played.outputs) / 20
    assert played.scheduler.hits.rate is not None
    assert played.scheduler.hits.rate > 0.1


@pytest.mark.parametrize("overlap", [True, False])
def test_a_thousand_requests_leave_nothing_behind(overlap):
    assert_much_happened(assert_all_is_right(random_workload(1000, num_pages=30, overlap=overlap)))


@pytest.mark.slow
def test_ten_thousand_requests_leave_nothing_behind():
    assert_much_happened(assert_all_is_right(random_workload(10_000, num_pages=30, overlap=True)))
