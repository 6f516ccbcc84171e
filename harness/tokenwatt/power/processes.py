"""Whose processes are on a board: those that are metered, or others'."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

PROC = Path("/proc")

Subject = Literal["ours", "present"]
"""Whose work is metered: `ours`, this process's and its descendants'; `present`, that of the processes that were on the
boards when meters were opened, such as a server that runs already."""


def descends_from(pid: int, ancestor: int, proc: Path = PROC) -> bool:
    """Whether a process is `ancestor` or a descendant of it; False for one that is not to be seen here."""
    while pid > 1:
        if pid == ancestor:
            return True
        parent = _parent(pid, proc)
        if parent is None:
            return False
        pid = parent
    return pid == ancestor


def others(pids: Iterable[int], before: frozenset[int], proc: Path = PROC) -> int:
    """How many of the processes on a board are neither this one nor its descendants.

    In a container NVML may tell the host's numbers, which mean nothing here. A number that is not to be seen in /proc
    counts as another's if it was there at the start (`before`), or if this process is listed under its own number,
    which shows that numbers are shared.
    """
    listed, own = set(pids), os.getpid()
    mine = {pid for pid in listed if descends_from(pid, own, proc)}
    visible = {pid for pid in listed - mine if (proc / str(pid)).exists()}
    hidden = listed - mine - visible
    return len(visible) + len(hidden if mine else hidden & before)


def newcomers(pids: Iterable[int], before: frozenset[int], proc: Path = PROC) -> int:
    """How many of the processes on a board came after the start (`before`), and are not descendants of those."""
    known = before | {os.getpid()}
    return sum(not any(descends_from(pid, ancestor, proc) for ancestor in known) for pid in set(pids) - known)


def has_mine(pids: Iterable[int], proc: Path = PROC) -> bool:
    """Whether this process or a descendant is among them."""
    return any(descends_from(pid, os.getpid(), proc) for pid in pids)


def _parent(pid: int, proc: Path) -> int | None:
    """Number of the parent, from /proc/<pid>/stat: the second field after the name in brackets."""
    try:
        stat = (proc / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(stat.rpartition(")")[2].split()[1])
