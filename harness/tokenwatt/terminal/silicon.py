"""The pass over a GPU as people follow it: what runs, what it prints, and a table of what came out."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.markup import escape

from tokenwatt.silicon.state import StepRecord, StepStatus
from tokenwatt.silicon.step import Step
from tokenwatt.terminal.cells import MAX_WIDTH, new_table

COLOURS = {StepStatus.DONE: "green", StepStatus.BLOCKED: "yellow"}
"""Of a status; any other is red."""


@dataclass(slots=True)
class PassPrinter:
    """Prints each step as it comes."""

    is_rehearsal: bool
    console: Console = field(default_factory=lambda: Console(width=MAX_WIDTH))

    def begin(self, step: Step, command: Sequence[str]) -> None:
        """The step, and what is run; in a rehearsal what the real one would be, too."""
        self._say(f"\n== {step.name}: {step.question}")
        if self.is_rehearsal:
            self._say(f"   on a GPU, {step.limit_s:.0f} s at most: python {' '.join(step.command)}")
        self._say(f"   python {' '.join(command)}")

    def output(self, chunk: bytes) -> None:
        """Passed on as it is."""
        self.console.file.flush()
        sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()

    def end(self, step: Step, record: StepRecord, *, is_old: bool) -> None:
        """One line."""
        when = f"done before, {record.began_at:%Y-%m-%d %H:%M} UTC" if is_old else record.status
        self._say(f"== {step.name}: {when}, {record.seconds:.0f} s  {record.found}")

    def _say(self, line: str) -> None:
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)


def print_steps(steps: Sequence[Step], records: Mapping[str, StepRecord]) -> None:
    """A row for each step that has been tried: status, seconds, and what it found."""
    table = new_table("step", "status", "seconds")
    table.add_column("found", no_wrap=True)
    for step in steps:
        record = records.get(step.name)
        if record is not None:
            colour = COLOURS.get(record.status, "red")
            table.add_row(step.name, f"[{colour}]{record.status}[/]", f"{record.seconds:.0f}", escape(record.found))
    Console(width=MAX_WIDTH).print(table, highlight=False)


def print_step_list(steps: Sequence[Step], records: Mapping[str, StepRecord]) -> None:
    """Every step with its group, its limit, how it stands and what it answers."""
    table = new_table("step", "limit", "status")
    table.add_column("group", no_wrap=True)
    table.add_column("answers", no_wrap=True)
    for step in steps:
        record = records.get(step.name)
        status = "–" if record is None else str(record.status)
        table.add_row(step.name, f"{step.limit_s:.0f} s", status, step.group, step.question)
    Console(width=MAX_WIDTH).print(table, highlight=False)
