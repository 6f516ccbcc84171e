"""Workers in real processes that die in every way, and the budget of a command."""

from __future__ import annotations

import os
import time
from functools import partial
from typing import Any

import pytest
import torch
from tests.kernels import worker_tasks

from tokenwatt_kernels import commands, device
from tokenwatt_kernels.budget import Budget
from tokenwatt_kernels.families import bench_problems
from tokenwatt_kernels.workers import Crew, Died


def crew(size: int = 1, limit_s: float = 60.0) -> Crew:
    return Crew(worker_tasks.act, worker_tasks.nothing, size, limit_s)


def do(workers: Crew, *tasks: str) -> list[Any]:
    return workers.do(tasks)


def is_gone(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    return False


def test_answers_come_in_the_order_of_the_tasks():
    with crew(size=2) as workers:
        found = do(workers, "wait", "a", "b")
    assert [answer[0] for answer in found if not isinstance(answer, Died)] == ["wait", "a", "b"]


def test_processes_work_side_by_side_and_stay_for_the_next_tasks():
    with crew(size=2) as workers:
        first = {process for _, process in do(workers, "wait", "wait")}
        second = {process for _, process in do(workers, "wait", "wait")}
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
        before, died, after, again = do(workers, "a", task, "b", "c")
    assert died == Died(f"its process died: {how}")
    assert (before[0], after[0], again[0]) == ("a", "b", "c")
    # Another process went on.
    assert before[1] != after[1] == again[1]


def test_a_process_that_does_not_answer_is_killed():
    began_s = time.monotonic()
    with crew(limit_s=1.0) as workers:
        died, after = do(workers, "sleep", "a")
    assert died == Died("its process died: no answer within 1 s")
    assert after[0] == "a"
    assert time.monotonic() - began_s < 30  # of the 60 that it would have slept


def test_ctrl_c_is_left_to_the_process_that_started_them():
    with crew() as workers:
        assert do(workers, "interrupt")[0][0] == "interrupt"


def test_a_process_that_cannot_start_ends_the_run():
    with (
        Crew(worker_tasks.act, worker_tasks.fail, 1, 60.0) as workers,
        pytest.raises(RuntimeError, match="a worker process could not start: exit code 3"),
    ):
        do(workers, "a")


def test_all_processes_are_gone_afterwards():
    with crew(size=2) as workers:
        processes = {process for _, process in do(workers, "wait", "wait")}
    assert all(map(is_gone, processes))


# --- the gate and the bench on a GPU, by processes that do not touch it


@pytest.fixture
def gpu_of_workers(monkeypatch):
    """A GPU of which only the capability is asked; its workers prepare nothing."""
    monkeypatch.setattr(commands, "_prepare_gpu_worker", worker_tasks.prepare)
    monkeypatch.setattr(device, "capability", lambda _: 90)
    return torch.device("cuda")


def test_what_is_too_large_for_a_worker_comes_last_from_this_process(gpu_of_workers):
    found = list(commands._run(worker_tasks.large_in_a_worker, ["a", "large", "b"], gpu_of_workers, jobs=2))
    assert [task for task, _ in found] == ["a", "b", "large"]
    assert [process == os.getpid() for _, process in found] == [False, False, True]


def test_one_job_on_a_gpu_is_this_process(gpu_of_workers):
    found = list(commands._run(worker_tasks.large_in_a_worker, ["a", "large"], gpu_of_workers, jobs=1))
    assert found == [("a", os.getpid()), ("large", os.getpid())]


@pytest.mark.parametrize("jobs", [1, 2])
def test_kernels_of_all_problems_are_compiled_ahead_by_several_processes(gpu_of_workers, monkeypatch, tmp_path, jobs):
    monkeypatch.setattr(commands, "_launch_ours", partial(worker_tasks.leave_a_file, tmp_path))
    # NVFP4 begins with sm_100.
    entries = bench_problems(("fused.norm", "matmul.nvfp4"), ("bfloat16",))
    commands.compile_ahead(entries, gpu_of_workers, jobs)
    names = {problem.name for family, problem, _ in entries if family == "fused.norm"}
    assert {path.name for path in tmp_path.iterdir()} == (names if jobs == 2 else set())


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
