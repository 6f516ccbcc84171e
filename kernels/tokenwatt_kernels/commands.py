"""What `check`, `compile` and `bench` do, as generators. The gate's process is set up in __main__."""

from __future__ import annotations

import atexit
import functools
import multiprocessing
import os
import signal
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from tokenwatt_kernels.families import BenchProblem, part
from tokenwatt_kernels.targets import TARGETS
from tokenwatt_kernels.workers import share_gpu

if TYPE_CHECKING:
    import torch

    from tokenwatt_kernels.compiling import CompileReport, Specimen
    from tokenwatt_kernels.contests import Contest
    from tokenwatt_kernels.mutation import Mutant, MutantVerdict
    from tokenwatt_kernels.testing import Verdict

T = TypeVar("T")
Task = TypeVar("Task")
CheckTask = tuple[str, Any, str, str]
"""Family, problem or mutant, dtype, type of the device."""


def check(
    families: Sequence[str], dtype_names: Sequence[str], device: torch.device, jobs: int = 1
) -> Iterator[Verdict]:
    """The gate on every problem: interpreted on a cpu device; on a GPU, with larger problems as well.

    `jobs` processes share the work; the order is the same for any number of them, but for problems that are too large
    for one of several processes on a GPU: they come last.
    """
    tasks: list[CheckTask] = []
    for family in families:
        problems = part(family, "problems")
        chosen = problems.GATE_PROBLEMS + (() if device.type == "cpu" else problems.GPU_GATE_PROBLEMS)
        for problem in chosen:
            tasks += [
                (family, problem, dtype_name, device.type)
                for dtype_name in _supported(problems, dtype_names)
                if problems.takes(problem, dtype_name, _capability(device))
            ]
    for verdicts in _run(_check_one, tasks, device, jobs):
        yield from verdicts


def check_mutants(families: Sequence[str], device: torch.device, jobs: int = 1) -> Iterator[MutantVerdict]:
    """Wrong kernels, which the gate must reject."""
    tasks: list[CheckTask] = [
        (family, mutant, mutant.dtype_name, device.type)
        for family in families
        for mutant in part(family, "mutants").MUTANTS
        if _takes_mutant(family, mutant, _capability(device))
    ]
    yield from _run(_judge_one, tasks, device, jobs)


def _run(answer: Callable[[Task], T], tasks: Sequence[Task], device: torch.device, jobs: int) -> Iterator[T]:
    """The answers in order. One job on a GPU is this process; every other is one of its own."""
    jobs = min(jobs, len(tasks))
    if device.type == "cpu":
        with _pool(jobs, _prepare_interpreter) as pool:
            yield from pool.map(answer, tasks)
        return
    large = list(tasks)
    if jobs > 1:
        large = []
        with _pool(jobs, partial(_prepare_gpu_worker, jobs)) as pool:
            for task, found in zip(tasks, pool.map(partial(_unless_too_large, answer), tasks), strict=True):
                if isinstance(found, _TooLarge):
                    large.append(task)
                else:
                    yield found
    yield from map(answer, large)


class _TooLarge:
    """In the place of an answer: the task needs more of the GPU's memory than a worker's part."""


def _unless_too_large(answer: Callable[[Task], T], task: Task) -> T | _TooLarge:
    import torch

    try:
        return answer(task)
    except torch.OutOfMemoryError:
        return _TooLarge()
    finally:
        torch.cuda.empty_cache()


def _check_one(task: CheckTask) -> list[Verdict]:
    import torch

    from tokenwatt_kernels import testing

    family, problem, dtype_name, device_type = task
    # The interpreter runs programs one after another: a second answer of it could not differ.
    runs = 1 if device_type == "cpu" else 2
    cases = part(family, "cases").cases(problem, dtype_name, torch.device(device_type))
    return [testing.check(case, runs) for case in cases]


def _judge_one(task: CheckTask) -> MutantVerdict:
    import torch

    from tokenwatt_kernels import mutation

    family, mutant, _, device_type = task
    return mutation.judge(mutant, family, torch.device(device_type))


def _prepare_interpreter() -> None:
    """A worker's first step, before it imports triton."""
    _prepare_worker()
    os.environ["TRITON_INTERPRET"] = "1"
    # Arithmetic on NaN and infinity is part of the gate; numpy, which the interpreter computes with, would warn of it.
    warnings.filterwarnings("ignore", category=RuntimeWarning, module="triton")

    import torch

    from tokenwatt_kernels import interpreter

    torch.set_num_threads(1)
    interpreter.enable()


def _takes_mutant(family: str, mutant: Mutant, capability: int | None) -> bool:
    problems = part(family, "problems")
    problem = next(known for known in problems.GATE_PROBLEMS if known.name == mutant.problem)
    return problems.takes(problem, mutant.dtype_name, capability)


def _capability(device: torch.device) -> int | None:
    """That of a GPU; None for the interpreter."""
    from tokenwatt_kernels import device as device_facts

    return None if device.type == "cpu" else device_facts.capability(device)


def _supported(problems: ModuleType, dtype_names: Sequence[str]) -> list[str]:
    """Those of dtype_names that the family takes."""
    return [name for name in dtype_names if name in problems.DTYPE_NAMES]


def compile_all(
    families: Sequence[str], dtype_names: Sequence[str], capabilities: Sequence[int], jobs: int = 1
) -> Iterator[CompileReport]:
    """Every shipped kernel and tile for every target, `jobs` at a time, in the same order for any number of jobs."""
    tasks = [
        (family, tuple(dtype_names), capability, index)
        for family in families
        for capability in capabilities
        for index in range(len(_specimens(family, tuple(dtype_names), capability)))
    ]
    with _pool(min(jobs, len(tasks)), _prepare_worker) as pool:
        yield from pool.map(_compile_one, tasks)


@contextmanager
def _pool(jobs: int, prepare: Callable[[], None]) -> Iterator[ProcessPoolExecutor]:
    """Processes, because compiler and interpreter hold Python's lock; spawned, because torch and triton are loaded."""
    pool = ProcessPoolExecutor(max(1, jobs), multiprocessing.get_context("spawn"), prepare)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _compile_one(task: tuple[str, tuple[str, ...], int, int]) -> CompileReport:
    """Compile one specimen. A worker builds it anew by its place in the list, because kernels do not pickle."""
    from tokenwatt_kernels.compiling import compile_for

    family, dtype_names, capability, index = task
    return compile_for(_specimens(family, dtype_names, capability)[index], TARGETS[capability], family)


@functools.cache
def _specimens(family: str, dtype_names: tuple[str, ...], capability: int) -> list[Specimen]:
    from tokenwatt_kernels.compiling import distinct

    return distinct(part(family, "specimens").specimens(TARGETS[capability], dtype_names))


def _prepare_worker() -> None:
    """Leave interrupts to the parent, and leave at once: triton 3.9 complains at exit of what Gluon did not free."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    atexit.register(os._exit, 0)


def _prepare_gpu_worker(jobs: int) -> None:
    _prepare_worker()
    share_gpu(jobs)


def compile_ahead(entries: Iterable[BenchProblem], device: torch.device, jobs: int) -> None:
    """Launch our kernel once on every problem, `jobs` at a time: what that compiles is in triton's cache afterwards.

    One job would only do what the bench does itself.
    """
    tasks = [(family, problem, dtype_name, device.type) for family, problem, dtype_name in _taken(entries, device)]
    jobs = min(jobs, len(tasks))
    if jobs > 1:
        with _pool(jobs, partial(_prepare_gpu_worker, jobs)) as pool:
            for _ in pool.map(partial(_unless_too_large, _launch_ours), tasks):
                pass


def _launch_ours(task: CheckTask) -> None:
    import torch

    from tokenwatt_kernels.contests import OURS

    family, problem, dtype_name, device_type = task
    part(family, "contest").contest(problem, dtype_name, torch.device(device_type)).contenders[OURS].run()
    torch.cuda.synchronize()


def bench(entries: Iterable[BenchProblem], device: torch.device) -> Iterator[Contest]:
    """Our kernel and its baselines on each problem, for `contests.run`. Each holds its tensors: keep none."""
    for family, problem, dtype_name in _taken(entries, device):
        yield part(family, "contest").contest(problem, dtype_name, device)


def _taken(entries: Iterable[BenchProblem], device: torch.device) -> Iterator[BenchProblem]:
    """Those that the family takes on this device."""
    for family, problem, dtype_name in entries:
        if part(family, "problems").takes(problem, dtype_name, _capability(device)):
            yield family, problem, dtype_name
