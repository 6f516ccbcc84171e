"""The processes that vLLM starts: its engine core ends them as a rule, but not where it was killed itself."""

from __future__ import annotations

from collections.abc import Sequence

import psutil

TRACKER = "multiprocessing.resource_tracker"
"""Python's own helper, of which each process has one as long as it lives."""


def descendants() -> set[psutil.Process]:
    """Processes that descend from this one, without Python's own."""
    found = set()
    for process in psutil.Process().children(recursive=True):
        try:
            if not any(TRACKER in word for word in process.cmdline()):
                found.add(process)
        except psutil.NoSuchProcess:  # it has ended meanwhile
            continue
    return found


def end(processes: Sequence[psutil.Process], within_s: float) -> None:
    """Wait for processes that are about to end, and kill those that do not."""
    _, left = psutil.wait_procs(processes, within_s)
    for process in left:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(left)
