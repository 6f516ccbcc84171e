"""Processes that do one task after another, side by side: one that dies at a task takes no other task along."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

MEMORY_SHARE = 0.75
"""Of a GPU's memory, for the tensors of all workers; their contexts and the process that started them need some too."""

Task = TypeVar("Task")
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Died:
    """In the place of an answer: how the process ended that was on the task."""

    reason: str


@dataclass(slots=True, eq=False)
class _Worker:
    """A process, the place of its task, and when it must have answered: while it starts, some time or other."""

    process: BaseProcess
    connection: Connection
    place: int = 0
    until_s: float = math.inf

    def end(self) -> str:
        """Wait for the end of a process that has closed its connection, and say how it came."""
        self.process.join()
        self.connection.close()
        code = self.process.exitcode or 0
        return f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def kill(self) -> None:
        """End the process, whatever it is at; one that its driver does not let go of is not waited for long."""
        self.process.kill()
        self.process.join(timeout=5)
        self.connection.close()


@dataclass(slots=True)
class Crew(Generic[Task, Answer]):
    """Up to `size` processes, started when they are first needed; a context that ends them all.

    answer: does one task. It is a function of a module, as `prepare` is, because the processes are spawned: a context
        of CUDA does not survive a fork.
    prepare: a process's first step, before anything that `answer` needs is imported.
    limit_s: a process that is longer at a task is killed.
    """

    answer: Callable[[Task], Answer]
    prepare: Callable[[], None]
    size: int
    limit_s: float
    _free: list[_Worker] = field(default_factory=list)
    _busy: dict[Connection, _Worker] = field(default_factory=dict)

    def __enter__(self) -> Crew[Task, Answer]:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in [*self._free, *self._busy.values()]:
            worker.kill()

    def do(self, tasks: Sequence[Task]) -> list[Answer | Died]:
        """The answers in the order of the tasks. All processes are idle afterwards.

        Raises RuntimeError where a process cannot even start.
        """
        answers: dict[int, Answer | Died] = {}
        waiting = deque(enumerate(tasks))
        while len(answers) < len(tasks):
            while waiting and (self._free or len(self._busy) < self.size):
                self._give(*waiting.popleft())
            until_s = min(worker.until_s for worker in self._busy.values())
            timeout_s = None if math.isinf(until_s) else max(0.0, until_s - time.monotonic())
            heard = wait(list(self._busy), timeout_s)
            for worker in [worker for worker in self._busy.values() if worker.connection in heard]:
                answers |= self._hear(worker)
            for worker in [worker for worker in self._busy.values() if worker.until_s <= time.monotonic()]:
                answers[worker.place] = self._bury(worker, f"no answer within {self.limit_s:g} s")
        return [answers[place] for place in range(len(tasks))]

    def _give(self, place: int, task: Task) -> None:
        self._free = [worker for worker in self._free if worker.process.is_alive()]
        if self._free:
            worker = self._free.pop()
            worker.until_s = time.monotonic() + self.limit_s
        else:
            worker = self._start()
        worker.place = place
        with suppress(ConnectionError):  # it has died already, which is heard next
            worker.connection.send(task)
        self._busy[worker.connection] = worker

    def _start(self) -> _Worker:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, self.prepare, self.answer), daemon=True)
        process.start()
        theirs.close()  # so that the end of the process ends the connection
        return _Worker(process, ours)

    def _hear(self, worker: _Worker) -> dict[int, Answer | Died]:
        """What a worker has to say, by the place of its task; nothing where it has just started."""
        is_started = not math.isinf(worker.until_s)
        try:
            said = worker.connection.recv()
        except (EOFError, ConnectionError):  # the latter where its task was not taken
            del self._busy[worker.connection]
            how = worker.end()
            if not is_started:
                raise RuntimeError(f"a worker process could not start: {how}; its own words are above") from None
            return {worker.place: Died(f"its process died: {how}")}
        if not is_started:
            worker.until_s = time.monotonic() + self.limit_s
            return {}
        if isinstance(said, Died):
            return {worker.place: self._bury(worker, said.reason)}
        self._free.append(self._busy.pop(worker.connection))
        return {worker.place: said}

    def _bury(self, worker: _Worker, how: str) -> Died:
        del self._busy[worker.connection]
        worker.kill()
        return Died(f"its process died: {how}")


def _work(connection: Connection, prepare: Callable[[], None], answer: Callable[[Any], Any]) -> None:
    """The life of a worker: it says that it has started, then answers until it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    prepare()
    connection.send(None)
    while True:
        try:
            task = connection.recv()
        except EOFError:  # the parent is gone
            return
        try:
            said = answer(task)
        except RuntimeError as error:
            # CUDA's errors are such, and after most of them the process can do nothing more on the GPU.
            first_line = (str(error).splitlines() or [""])[0]
            said = Died(f"{type(error).__name__}: {first_line}")
        connection.send(said)


def share_gpu(processes: int) -> None:
    """Prepare this process to share the GPU with others like it: what needs more memory than its part is refused."""
    import torch

    torch.set_num_threads(1)
    torch.cuda.set_per_process_memory_fraction(MEMORY_SHARE / processes)


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0))


def beside_this_process() -> int:
    """How many processes may work beside this one: a processor for each, and one left for it."""
    return max(1, processors() - 1)
