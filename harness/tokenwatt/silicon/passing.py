"""A pass: steps one after another, each written down as it begins and ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from tokenwatt.errors import UserError
from tokenwatt.silicon import found, process
from tokenwatt.silicon.state import Place, State, StepRecord, StepStatus
from tokenwatt.silicon.step import Step


class Watcher(Protocol):
    """Is told how far a pass is; the command line draws it."""

    def begin(self, step: Step, command: Sequence[str]) -> None:
        """A step begins, with these arguments of Python."""
        ...

    def output(self, chunk: bytes) -> None:
        """Its command printed something."""
        ...

    def end(self, step: Step, record: StepRecord, *, is_old: bool) -> None:
        """It is over, or (is_old) was done before."""
        ...


Check = Callable[[Step], str]
"""What a rehearsal asks of a real step's command without running it; raises UserError where it is wrong."""


@dataclass(slots=True)
class Pass:
    """Runs steps in the tree at `root`."""

    root: Path
    place: Place
    state: State
    results: Path
    """Where the commands write their runs."""
    watcher: Watcher
    check: Check | None = None
    """Given in a rehearsal alone, which checks each real command and runs what stands in for it."""
    grace_s: float = process.GRACE_S
    """Between SIGINT and SIGKILL for a step over its limit, seconds."""
    _rehearsed: dict[tuple[str, ...], StepRecord] = field(default_factory=dict)
    """Commands that several steps share are run once."""

    def run(self, steps: Sequence[Step], redo: Collection[str] = ()) -> bool:
        """Run the steps that are not done yet, and those in `redo` in any case; whether all are done now.

        A step that fails ends only those that need it.

        Raises:
            KeyboardInterrupt: passed on, once the step under way was written as `interrupted`.
            UserError: the folder of the state cannot be written to.
        """
        for step in steps:
            if step.name not in redo and self.state.is_done(step, self.place):
                self.watcher.end(step, self.state.records[step.name], is_old=True)
                continue
            missing = [name for name in step.needs if not self._has(name, steps)]
            if missing:
                self._note(step, self._begun(StepStatus.BLOCKED, f"needs {', '.join(missing)}, not done"))
            else:
                self._attempt(step)
        return all(self.state.records[step.name].status is StepStatus.DONE for step in steps)

    def _has(self, name: str, steps: Sequence[Step]) -> bool:
        needed = next(step for step in steps if step.name == name)
        return self.state.is_done(needed, self.place)

    def _attempt(self, step: Step) -> None:
        command = step.command if self.check is None else step.rehearsal
        self.watcher.begin(step, command)
        begun = self._begun(StepStatus.RUNNING, "")
        self.state.note(step, begun)
        try:
            checked = None if self.check is None else self.check(step)
        except UserError as error:
            self._note(step, begun.model_copy(update={"status": StepStatus.FAILED, "found": str(error)}))
            return
        if self.check is not None and command in self._rehearsed:
            same = self._rehearsed[command]
            update = {"status": same.status, "exit_code": same.exit_code, "found": checked or same.found}
            self._note(step, begun.model_copy(update=update))
            return
        before = set(self._runs())
        limit_s = step.limit_s if self.check is None else max(step.limit_s, process.REHEARSAL_LIMIT_S)
        ending = process.run(
            command, self.root, self._environment(), self.state.log_of(step), limit_s, self.watcher.output, self.grace_s
        )
        runs = [run for run in self._runs() if run not in before]
        said = found.in_rows(runs) if ending.status is StepStatus.DONE else None
        record = begun.model_copy(
            update={
                "status": ending.status,
                "seconds": round(ending.seconds, 3),
                "exit_code": ending.exit_code,
                "found": (checked if ending.status is StepStatus.DONE else None)
                or said
                or found.in_log(self.state.log_of(step)),
                "runs": tuple(run.name for run in runs),
            }
        )
        self._rehearsed[command] = record
        self._note(step, record)
        if ending.interrupt is not None:
            raise ending.interrupt

    def _begun(self, status: StepStatus, said: str) -> StepRecord:
        return StepRecord(status=status, began_at=datetime.now(UTC), found=said, place=self.place)

    def _note(self, step: Step, record: StepRecord) -> None:
        self.state.note(step, record)
        self.watcher.end(step, record, is_old=False)

    def _runs(self) -> Iterator[Path]:
        return (path for path in sorted(self.results.glob("*")) if path.is_dir())

    def _environment(self) -> dict[str, str]:
        """Ours, with the tree's packages first, and output that is not held back."""
        roots = [str(self.root / "harness"), str(self.root / "kernels"), *(entry for entry in sys.path if entry)]
        return {**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(roots)), "PYTHONUNBUFFERED": "1"}
