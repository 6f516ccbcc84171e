"""A command run as its shell would run it: its streams, its terminal and its signals are its own."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
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
    with _forwarding() as group, _terminal() as terminal:
        # The command's group has the terminal before its first instruction, as under a shell: else a Ctrl-Z or a read
        # could be faster. Between fork and exec only system calls are made, so that other threads' locks do not matter.
        take = None if terminal is None else terminal.take
        start_s = clock()
        try:
            process = subprocess.Popen(command, process_group=0, preexec_fn=take)  # noqa: S603
        except OSError as error:
            if terminal is not None:
                terminal.take()
            raise UserError(f"{command[0]!r} cannot be started ({error.strerror})") from None
        group.adopt(process.pid)
        try:
            process.returncode = _wait(process.pid, terminal)
        finally:
            if terminal is not None:
                terminal.take_back(process.pid)
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


class _Terminal:
    """The terminal of this process's session, whatever its streams are, lent to a command's process group."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def is_ours(self) -> bool:
        """Whether this process's group is in the foreground."""
        return os.tcgetpgrp(self._descriptor) == os.getpgrp()

    def take(self) -> None:
        """Put this process's group into the foreground."""
        # From the background that would stop this process.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
        try:
            os.tcsetpgrp(self._descriptor, os.getpgrp())
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTTOU})

    def take_back(self, group_id: int) -> None:
        """The same if it was lent to that group; a shell that has sent us to the background keeps it."""
        with suppress(OSError):  # it was hung up
            if os.tcgetpgrp(self._descriptor) == group_id:
                self.take()

    def lend(self, group_id: int) -> None:
        """Put another group into the foreground."""
        with suppress(OSError):  # it has just ended, or the terminal was hung up
            os.tcsetpgrp(self._descriptor, group_id)

    def stop_with(self, group_id: int, number: int) -> None:
        """What a shell's job does when a part of it was stopped by a signal: all stop, until the shell goes on."""
        # One that wanted the terminal has it again as soon as we may give it.
        if number not in (signal.SIGTTIN, signal.SIGTTOU) or not self._is_with_us(group_id):
            self.take_back(group_id)
            os.killpg(0, signal.SIGSTOP)
        if self.is_ours():
            self.lend(group_id)
        with suppress(ProcessLookupError):
            os.killpg(group_id, signal.SIGCONT)

    def _is_with_us(self, group_id: int) -> bool:
        return os.tcgetpgrp(self._descriptor) in (os.getpgrp(), group_id)


@contextmanager
def _terminal() -> Iterator[_Terminal | None]:
    """The session's terminal if it has one and this process is in its foreground: without it a command that reads from
    it would be stopped."""
    try:
        descriptor = os.open(os.ctermid(), os.O_RDWR | os.O_CLOEXEC)
    except OSError:  # no terminal
        yield None
        return
    try:
        terminal = _Terminal(descriptor)
        yield terminal if terminal.is_ours() else None
    finally:
        os.close(descriptor)


def _wait(pid: int, terminal: _Terminal | None) -> int:
    """Exit code. A command that is stopped by Ctrl-Z stops this process as well, so that the shell comes back."""
    ending = os.pidfd_open(pid)
    try:
        end = select.poll()
        end.register(ending, select.POLLIN)
        while True:
            end.poll(LOOK_EVERY_S * 1e3)
            changed, status = os.waitpid(pid, os.WUNTRACED | os.WNOHANG)
            if changed and not os.WIFSTOPPED(status):
                return os.waitstatus_to_exitcode(status)
            if changed and terminal is not None:
                terminal.stop_with(pid, os.WSTOPSIG(status))
    finally:
        os.close(ending)
