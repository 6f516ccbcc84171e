"""A command run as its shell would run it: its streams, its terminal and its signals are its own."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from tokenwatt.clock import Clock
from tokenwatt.errors import UserError

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
"""What this process is sent while a command runs is meant for the command, and for all of its process group."""


LOOK_EVERY_S = 0.1
"""The end of a command is seen at once; a stop, or a signal that another thread of this process was given, so late."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A command that has run."""

    start_s: float
    """Just before it was started, on the run's clock."""
    end_s: float
    """Just after it ended."""
    exit_code: int
    """Negative for a signal."""


def find(command: Sequence[str]) -> None:
    """Check that there is such a program.

    Raises:
        UserError: there is none, or it may not be run.
    """
    if shutil.which(command[0]) is None:
        raise UserError(f"no program {command[0]!r} that can be run; give its path, or put its folder into PATH")


def run(command: Sequence[str], clock: Clock) -> Ended:
    """Run `command` in a process group of its own, until it ends.

    Raises:
        UserError: it cannot be started.
    """
    with _forwarding() as group:
        start_s = clock()
        try:
            process = subprocess.Popen(command, process_group=0)  # noqa: S603
        except OSError as error:
            raise UserError(f"{command[0]!r} cannot be started ({error.strerror})") from None
        group.adopt(process.pid)
        with _terminal_of(process.pid) as has_terminal:
            process.returncode = _wait(process.pid, has_terminal)
        return Ended(start_s, clock(), process.returncode)


class _Group:
    """Passes signals on, also those that came before there was somebody to take them."""

    def __init__(self) -> None:
        self._id: int | None = None
        self._early: list[int] = []

    def adopt(self, group_id: int) -> None:
        self._id = group_id
        for number in self._early:
            self.send(number)

    def send(self, number: int, _frame: object = None) -> None:
        if self._id is None:
            self._early.append(number)
            return
        with suppress(ProcessLookupError):  # it has just ended
            os.killpg(self._id, number)


@contextmanager
def _forwarding() -> Iterator[_Group]:
    """Signals go to the group; one that is ignored (nohup, a background job of a script) stays so."""
    group = _Group()
    heard = [number for number in FORWARDED if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, group.send) for number in heard}
    try:
        yield group
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _terminal_of(group_id: int) -> Iterator[bool]:
    """Lend the terminal, if there is one and it is ours: without it a command that reads from it would be stopped."""
    if not _owns_terminal():
        yield False
        return
    # Taking the terminal back from the background would stop this process.
    before = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    try:
        _lend(group_id)
        yield True
    finally:
        os.tcsetpgrp(_stdin(), os.getpgrp())
        signal.signal(signal.SIGTTOU, before)


def _owns_terminal() -> bool:
    try:
        return os.isatty(_stdin()) and os.tcgetpgrp(_stdin()) == os.getpgrp()
    except OSError:
        return False


def _stdin() -> int:
    return sys.__stdin__.fileno() if sys.__stdin__ is not None else -1


def _lend(group_id: int) -> None:
    with suppress(ProcessLookupError):
        os.tcsetpgrp(_stdin(), group_id)
        os.killpg(group_id, signal.SIGCONT)  # it may have been faster than this, and stopped for want of the terminal


def _wait(pid: int, has_terminal: bool) -> int:
    """Exit code. A command that is stopped by Ctrl-Z stops this process as well, so that the shell comes back."""
    ending = os.pidfd_open(pid)
    try:
        while True:
            select.select([ending], [], [], LOOK_EVERY_S)
            changed, status = os.waitpid(pid, os.WUNTRACED | os.WNOHANG)
            if changed and not os.WIFSTOPPED(status):
                return os.waitstatus_to_exitcode(status)
            if changed and has_terminal:
                os.tcsetpgrp(_stdin(), os.getpgrp())
                os.kill(os.getpid(), signal.SIGSTOP)
                _lend(pid)
    finally:
        os.close(ending)
