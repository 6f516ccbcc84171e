"""What worker processes do in tests; they import it by name."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import torch

from tokenwatt_kernels.fused.norm.tiles import NormTile

DEADLY = NormTile(128, 8)
"""Kills its worker."""


def nothing() -> None:
    """A first step that prepares nothing."""


def fail() -> None:
    """A first step that no process survives."""
    os._exit(3)


def act(task: Any) -> tuple[Any, int]:
    """Do what the task says, or answer with it and the number of the process."""
    match task:
        case "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "leave":
            os._exit(7)
        case "sleep":
            time.sleep(60)
        case "context":
            raise RuntimeError("CUDA error: an illegal memory access was encountered\nmore")
        case "interrupt":
            os.kill(os.getpid(), signal.SIGINT)
        case "wait":
            time.sleep(0.5)
    return task, os.getpid()


def prepare(processes: int) -> None:
    """A first step that is told how many processes there are."""


def large_in_a_worker(task: Any) -> tuple[Any, int]:
    """Find no memory for the large task, unless nobody else is there."""
    if task == "large" and multiprocessing.parent_process() is not None:
        raise torch.OutOfMemoryError("CUDA out of memory")
    return task, os.getpid()


def leave_a_file(folder: Path, task: Any) -> None:
    """Say which problem was launched."""
    (folder / task[1].name).touch()


def gate_or_die(task: Any) -> str | None:
    """What the trials ask of a worker, but for one tile."""
    from tokenwatt_kernels.trials import reason_against

    if task[1] == DEADLY:
        os.kill(os.getpid(), signal.SIGSEGV)
    return reason_against(task)
