"""A command under a time limit: its output goes to a log and to whoever looks on, and no child outlives it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tokenwatt.silicon.state import StepStatus

GRACE_S = 20.0
"""Between SIGINT, upon which a bench writes the point under way, and SIGKILL."""
REHEARSAL_LIMIT_S = 900.0
"""Of a command on a processor, which may be shared with others: all of a rehearsal takes less."""
LATE_OUTPUT_S = 5.0
"""How long output is waited for after the end: a guard that left the process group may hold the pipe open."""
CHUNK_BYTES = 65536


@dataclass(frozen=True, slots=True)
class Ending:
    """How a command ended."""

    status: StepStatus
    exit_code: int | None
    seconds: float
    interrupt: KeyboardInterrupt | None = None
    """What interrupted it, to be raised again once that is written down."""


def run(
    arguments: Sequence[str],
    cwd: Path,
    environment: Mapping[str, str],
    log: Path,
    limit_s: float,
    echo: Callable[[bytes], object],
    grace_s: float = GRACE_S,
) -> Ending:
    """Run this Python with `arguments` for at most `limit_s`; then, as upon Ctrl-C, SIGINT and at last SIGKILL.

    A second Ctrl-C does not wait for the grace.

    Args:
        arguments: of the interpreter.
        cwd: where it runs.
        environment: all of it.
        log: file for stdout and stderr, replaced.
        limit_s: seconds.
        echo: hears the output as it comes.
        grace_s: seconds between SIGINT and SIGKILL.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    began_s = time.monotonic()
    status, interrupt = StepStatus.FAILED, None
    with _children_hear_interrupts():
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, *arguments], cwd=cwd, env=dict(environment), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        assert process.stdout is not None
        copier = threading.Thread(target=_copy, args=(process.stdout, log, echo), daemon=True)
        copier.start()
        try:
            if process.wait(limit_s) == 0:
                status = StepStatus.DONE
        except subprocess.TimeoutExpired:
            status = StepStatus.TIMED_OUT
            _end(process, grace_s)
        except KeyboardInterrupt as error:
            status, interrupt = StepStatus.INTERRUPTED, error
            _end(process, grace_s)
        finally:
            _signal(process, signal.SIGKILL)
            process.wait()
            copier.join(LATE_OUTPUT_S)
    return Ending(status, process.returncode, time.monotonic() - began_s, interrupt)


def _end(process: subprocess.Popen[bytes], grace_s: float) -> None:
    """Ask the group to end; whoever is left after the grace is killed by the caller."""
    _signal(process, signal.SIGINT)
    with suppress(subprocess.TimeoutExpired):
        process.wait(grace_s)


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """To the whole group, which may be gone."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _copy(source: IO[bytes], log: Path, echo: Callable[[bytes], object]) -> None:
    """In a thread of its own, which closes both ends: it may have to outlive the step."""
    with source, log.open("wb") as file:
        while chunk := os.read(source.fileno(), CHUNK_BYTES):
            file.write(chunk)
            file.flush()
            echo(chunk)


@contextmanager
def _children_hear_interrupts() -> Iterator[None]:
    """A shell starts background jobs deaf to SIGINT, and children inherit that; ours must hear it at their limit."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
