"""Progress of a run: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from tokenwatt.record import Measurement, Status


class TerminalObserver:
    """Progress bar on a terminal, one line per step elsewhere; both on stderr, so that stdout stays clean."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task: TaskID | None = None
        self._label = ""

    def __enter__(self) -> Self:
        """Start drawing."""
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop drawing."""
        self._progress.stop()

    def begin(self, label: str, expected_s: float) -> None:
        """Show a new step."""
        self._label = label
        self._task = self._progress.add_task(label, total=expected_s or None)
        if not self._console.is_terminal:
            duration = f" (up to {expected_s:.0f} s, and warm-up)" if expected_s else ""
            self._console.print(f"  {label}{duration} ...", highlight=False)

    def advance(self, elapsed_s: float) -> None:
        """Move the bar."""
        if self._task is not None:
            self._progress.update(self._task, completed=elapsed_s)

    def end(self, measurement: Measurement | None) -> None:
        """Take the bar away and say in one line how a point went."""
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None
        if measurement is not None:
            self._console.print(f"  {self._label}: {_outcome(measurement)}", highlight=False, markup=False)


def _outcome(row: Measurement) -> str:
    if row.status is not Status.OK or row.output_tokens is None or row.window_s is None:
        return f"{row.status} ({row.detail or ', '.join(row.reasons)})"
    tokens = row.input_tokens if row.phase == "prefill" and row.input_tokens is not None else row.output_tokens
    windows = f", window {row.window_index + 1}" if row.window_index else ""
    return f"{tokens / row.window_s:.1f} tokens/s over {row.window_s:.1f} s{windows}"
