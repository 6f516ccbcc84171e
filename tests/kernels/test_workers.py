"""Workers in real processes that die in every way, and the budget of a command."""

from __future__ import annotations

import os
import time

import pytest
from tests.kernels import worker_tasks

from tokenwatt_kernels.budget import Budget
from tokenwatt_kernels.workers import Crew, Died


def crew(size: int = 1, limit_s: float = 60.0) -> Crew:
    return Crew(worker_tasks.act, worker_tasks.nothing, size, limit_s)


def is_gone(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    return False


def test_answers_come_in_the_order_of_the_tasks():
    with crew(size=2) as workers:
        found = workers.do(["wait", "a", "b"])
    assert [answer[0] for answer in found if not isinstance(answer, Died)] == ["wait", "a", "b"]


def test_processes_work_side_by_side_and_stay_for_the_next_tasks():
    with crew(size=2) as workers:
        first = {process for _, process in workers.do(["wait", "wait"])}
        second = {process for _, process in workers.do(["wait", "wait"])}
    assert len(first) == 2
    assert second == first


def test_no_task_starts_no_process():
    with crew() as workers:
        assert workers.do([]) == []


@pytest.mark.parametrize(
    ("task", "how"),
    [
        ("segfault", "ended by SIGSEGV"),
        ("leave", "exit code 7"),
        ("context", "RuntimeError: CUDA error: an illegal memory access was encountered"),
    ],
)
def test_a_death_takes_no_other_task_along(task, how):
    with crew() as workers:
        before, died, after, again = workers.do(["a", task, "b", "c"])
    assert died == Died(f"its process died: {how}")
    assert (before[0], after[0], again[0]) == ("a", "b", "c")
    # Another process went on.
    assert before[1] != after[1] == again[1]


def test_a_process_that_does_not_answer_is_killed():
    began_s = time.monotonic()
    with crew(limit_s=1.0) as workers:
        died, after = workers.do(["sleep", "a"])
    assert died == Died("its process died: no answer within 1 s")
    assert after[0] == "a"
    assert time.monotonic() - began_s < 30  # of the 60 that it would have slept


def test_ctrl_c_is_left_to_the_process_that_started_them():
    with crew() as workers:
        assert workers.do(["interrupt"])[0][0] == "interrupt"


def test_a_process_that_cannot_start_ends_the_run():
    with (
        Crew(worker_tasks.act, worker_tasks.fail, 1, 60.0) as workers,
        pytest.raises(RuntimeError, match="a worker process could not start: exit code 3"),
    ):
        workers.do(["a"])


def test_all_processes_are_gone_afterwards():
    with crew(size=2) as workers:
        processes = {process for _, process in workers.do(["wait", "wait"])}
    assert all(map(is_gone, processes))


# --- the budget


def test_nothing_begins_after_the_time_is_up():
    # Made at 10 s with 5 s to go; parts are asked for at 11, 14.9 and 15 s.
    times_s = iter([10.0, 11.0, 14.9, 15.0, 16.0])
    budget = Budget(5.0, clock=lambda: next(times_s))
    assert list(budget.take("abcd")) == ["a", "b"]
    assert budget.left == ["c", "d"]


def test_without_a_budget_everything_begins():
    budget = Budget()
    assert list(budget.take("abcd")) == list("abcd")
    assert budget.left == []
