"""Where vLLM and its processes write, which is not the terminal, and how a failure's cause is found there."""

from __future__ import annotations

import atexit
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import IO

_PREFIX = re.compile(r"^(?:\([^)]*\) )?(?:[A-Z]+ [\d-]+ [\d:.]+ \[[^\]]*\] ?)?")
"""What vLLM writes before a line: the process, then level, time and place."""
_EXCEPTION = re.compile(r"^(?:\w+\.)*(\w*(?:Error|Exception|Exit|Interrupt)): (\S.*)$")
"""The line of a traceback that says what went wrong."""


@dataclass(slots=True)
class Log:
    """A file, which is removed when the program ends unless an error has named it."""

    path: Path
    stream: IO[str]
    """For what is written from this process."""
    is_named: bool = field(default=False, init=False)
    """Whether somebody was told to look there."""

    def length(self) -> int:
        """Bytes so far."""
        return self.path.stat().st_size

    def cause(self, since: int = 0) -> str:
        """Why vLLM failed, by what was written behind byte `since`, in one line that names the file."""
        self.is_named = True
        with self.path.open("rb") as file:
            file.seek(since)
            text = file.read().decode(errors="replace")
        return f"{first_exception(text) or 'a process of vLLM ended without a word'} (log: {self.path})"

    @contextmanager
    def takes_processes(self) -> Iterator[None]:
        """Processes that are started in the block have this file as their output for as long as they live.

        What this process prints goes on to where it went.
        """
        with ExitStack() as undo, self.path.open("ab") as target:
            for number, name in ((1, "stdout"), (2, "stderr")):
                getattr(sys, name).flush()
                kept = os.dup(number)
                undo.callback(os.close, kept)
                undo.callback(os.dup2, kept, number)
                self._keep_printing(undo, name, number, kept)
                os.dup2(target.fileno(), number)
            yield

    def _keep_printing(self, undo: ExitStack, name: str, number: int, kept: int) -> None:
        """Where sys.stdout or sys.stderr writes to the descriptor that is taken, let it write to its copy."""
        stream = getattr(sys, name)
        if stream.fileno() != number:
            return
        copy = undo.enter_context(os.fdopen(kept, "w", 1, encoding=stream.encoding, closefd=False))
        undo.callback(setattr, sys, name, stream)
        setattr(sys, name, copy)

    def _remove(self) -> None:
        self.stream.close()
        if not self.is_named:
            self.path.unlink(missing_ok=True)


@cache
def vllm_log() -> Log:
    """The log of this process: vLLM's own logger is told once where to write."""
    stream = tempfile.NamedTemporaryFile("a", prefix="tokenwatt-vllm-", suffix=".log", delete=False)  # noqa: SIM115
    log = Log(Path(stream.name), stream)
    atexit.register(log._remove)
    return log


def first_exception(text: str) -> str | None:
    """The exception that was written first, without vLLM's prefixes: those that follow say that another one came.

    >>> first_exception("(Worker pid=1) ERROR 11-27 00:41:09 [a.py:1] IndexError: too far\\nRuntimeError: see above")
    'IndexError: too far'
    """
    for line in text.splitlines():
        found = _EXCEPTION.match(_PREFIX.sub("", line))
        if found is not None:
            return f"{found[1]}: {found[2]}"
    return None
