"""A server started by a given command: waited for until it is healthy, looked after, and stopped with its children."""

from __future__ import annotations

import atexit
import http.client
import os
import shlex
import shutil
import signal
import ssl
import subprocess
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from tokenwatt.errors import EngineError, UserError
from tokenwatt.orderly_end import undisturbed

GRACE_S = 30.0
"""From SIGTERM to SIGKILL: a server that gives back a GPU's memory takes seconds."""
LOOK_EVERY_S = 0.1
"""How often the process is looked after while it starts or ends."""
ASK_EVERY_S = 0.5
"""How often the server is asked whether it is healthy."""
ANSWER_WITHIN_S = 5.0
"""A server that takes longer to answer is not healthy yet."""
LAST_LINES = 5
"""Lines of the log that an error cites."""
LAST_BYTES = 8192
"""Of the log, among which they are looked for."""


@dataclass(slots=True)
class ServedCommand:
    """A server in a process group of its own, whose output goes to a log.

    It is stopped by `stop`, at the end of a `with` block, and when the interpreter exits. Signals do so too where they
    unwind the program (`orderly_end`), as `tokenwatt bench` lets them.
    """

    command: Sequence[str]
    """Program and arguments; no shell."""
    health_url: str
    """http or https address that answers 200 once the server can be asked."""
    timeout_s: float
    """How long the server may take to be healthy, seconds."""
    log: Path
    """File for what it prints, begun anew."""
    grace_s: float = GRACE_S
    """How long it may take to end by itself, seconds."""
    ssl_context: ssl.SSLContext | None = field(default=None, repr=False)
    """What an https server is judged by while it is asked whether it is healthy; None means Python's defaults."""
    is_log_named: bool = field(default=False, init=False)
    """Whether an error has told somebody to look into the log."""
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False, repr=False)

    def start(self) -> None:
        """Start the server and wait until it is healthy.

        Raises:
            UserError: no such program.
            EngineError: something else answers already, the server ends, or it is not healthy in time.
        """
        if shutil.which(self.command[0]) is None:
            raise UserError(
                f"no program {self.command[0]!r} that can be run; give its path, or put its folder into PATH"
            )
        if self._why_not_healthy() is None:
            raise EngineError(
                f"{self.health_url} answers before {self._name} was started; stop that server, or take another port"
            )
        atexit.register(self.stop)
        with ExitStack() as undoing:
            undoing.callback(self.stop)
            # A signal that came between the two would leave a server that nobody knows.
            with self.log.open("wb") as log, undisturbed():
                self._process = subprocess.Popen(  # noqa: S603 (the user's own command)
                    self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, process_group=0
                )
            self._wait_until_healthy()
            undoing.pop_all()  # it runs, and goes on

    def check(self) -> None:
        """Look whether the server still runs.

        Raises:
            EngineError: it has ended, or was never started.
        """
        if self._process is None:
            raise EngineError(f"{self._name} does not run; call start() first")
        code = self._process.poll()
        if code is not None:
            raise EngineError(f"{self._name} has ended ({_in_words(code)}); {self._last_lines()}")

    def stop(self) -> None:
        """End the whole process group: SIGTERM, and SIGKILL for what is left after the grace period.

        Does nothing where nothing runs. Signals to this process are held back meanwhile.
        """
        with undisturbed():
            if self._process is None:
                return
            for number in (signal.SIGTERM, signal.SIGKILL):
                if _end(self._process, number, self.grace_s):
                    break
            self._process = None
        atexit.unregister(self.stop)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _wait_until_healthy(self) -> None:
        begin_s = ask_s = time.monotonic()
        why: str | None = "it was not asked"
        while (now_s := time.monotonic()) - begin_s < self.timeout_s:
            self.check()
            if now_s >= ask_s:
                why = self._why_not_healthy()
                if why is None:
                    return
                ask_s = now_s + ASK_EVERY_S
            time.sleep(LOOK_EVERY_S)
        raise EngineError(
            f"{self._name} is not healthy after {self.timeout_s:g} s: {self.health_url} does not answer 200 ({why});"
            f" {self._last_lines()}"
        )

    @property
    def _name(self) -> str:
        return f"server {shlex.join(self.command)!r}"

    def _why_not_healthy(self) -> str | None:
        """Why a GET of the address is not answered 200; None if it is. No proxy from the environment is asked."""
        connection, path = _connection(self.health_url, self.ssl_context)
        try:
            connection.request("GET", path)
            status = connection.getresponse().status
        except (OSError, http.client.HTTPException) as error:
            return f"{type(error).__name__}: {error}"
        finally:
            connection.close()
        return None if status == http.client.OK else f"HTTP {status}"

    def _last_lines(self) -> str:
        """What the log ends with, in one line that names it."""
        self.is_log_named = True
        with self.log.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - LAST_BYTES))
            text = log.read().decode(errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()][-LAST_LINES:]
        said = " | ".join(lines) if lines else "nothing"
        return f"its log {self.log} ends with: {said}"


def _end(process: subprocess.Popen[bytes], number: signal.Signals, within_s: float) -> bool:
    """Send a signal to the group of `process`; whether all of it has ended in time."""
    group, begin_s = process.pid, time.monotonic()
    with suppress(ProcessLookupError):  # nobody is left
        os.killpg(group, number)
    while process.poll() is None or _members(group):
        if time.monotonic() - begin_s > within_s:
            return False
        time.sleep(LOOK_EVERY_S)
    return True


def _members(group: int) -> list[int]:
    """Processes of a group that still run: those that have ended and wait for their parent do not count."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            # proc_pid_stat(5): pid (name) state ppid pgrp ...; a name may hold blanks and brackets.
            state, _, pgrp, *_ = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            continue
        if int(pgrp) == group and state not in "ZX":
            found.append(int(entry.name))
    return found


def _connection(url: str, tls: ssl.SSLContext | None) -> tuple[http.client.HTTPConnection, str]:
    """A connection to the server of `url`, not opened yet, and the path to ask it for."""
    parts = urlsplit(url)
    path = f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}"
    host, port = parts.hostname or "", parts.port
    if parts.scheme == "https":
        return http.client.HTTPSConnection(host, port, timeout=ANSWER_WITHIN_S, context=tls), path
    return http.client.HTTPConnection(host, port, timeout=ANSWER_WITHIN_S), path


def _in_words(code: int) -> str:
    """How a process ended.

    >>> _in_words(3), _in_words(-9)
    ('exit code 3', 'SIGKILL')
    """
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name
