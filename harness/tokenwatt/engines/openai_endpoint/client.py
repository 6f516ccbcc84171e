"""The load client, a process of its own: it has its sockets and the load for itself, and waits for nobody."""

from __future__ import annotations

import gc
import os
import resource
import signal
import socket
from contextlib import suppress

from tokenwatt.engines.openai_endpoint.loop import Job, Loop
from tokenwatt.engines.openai_endpoint.news import Broken, Outbox
from tokenwatt.errors import TokenwattError

PRECEDENCE = 15
"""Steps of niceness by which stamps come ahead of the parent's parsing, where that is allowed: with 5, on one core,
p99 of sending was 5 ms late, with 15 less than 3."""


def run(job: Job, pipe: socket.socket) -> None:
    """Main function of the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it, and ends this process
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    raise_file_limit()
    with suppress(PermissionError):
        os.nice(-PRECEDENCE)  # only root may; without it stamps share the processor as others do
    gc.freeze()
    gc.disable()  # a pass over everything would make stamps late, and what is dropped here goes in no circle
    outbox = Outbox(pipe)
    try:
        Loop(job, outbox).run()
    except BrokenPipeError:
        return  # the parent is gone
    except (TokenwattError, OSError, MemoryError) as error:
        outbox.put([Broken(f"{type(error).__name__}: {error}")])
    outbox.drain()


def raise_file_limit() -> int:
    """Let this process open as many files as it may; how many those are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
