"""The client's process as its parent has it: started for one run, and gone with it."""

from __future__ import annotations

import multiprocessing
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from tokenwatt.engines.openai_endpoint.client import run
from tokenwatt.engines.openai_endpoint.loop import Job
from tokenwatt.engines.openai_endpoint.news import Inbox, Item
from tokenwatt.errors import EngineError
from tokenwatt.load import Sent


@contextmanager
def client_process(job: Job) -> Iterator[Iterator[list[Item]]]:
    """Batches of news of a client that runs `job`; on leaving, whatever it has in flight is abandoned at once.

    The iterator raises EngineError if the process ends without having finished.
    """
    ours, theirs = socket.socketpair()
    plain = replace(job, load=replace(job.load, on_sent=_unheard))
    process = multiprocessing.get_context("spawn").Process(target=run, args=(plain, theirs), daemon=True)
    # Ctrl-C reaches the whole group: until the child ignores it, it is not to hear it at all.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
    try:
        yield _batches(Inbox(ours), process)
    finally:
        ours.close()
        process.kill()
        process.join()
        process.close()


def _batches(inbox: Inbox, process: multiprocessing.context.SpawnProcess) -> Iterator[list[Item]]:
    while (batch := inbox.get()) is not None:
        yield batch
    process.join()
    raise EngineError(f"the load client's process died (exit code {process.exitcode})")


def _unheard(sent: Sent) -> None:
    """A listener that can be pickled; the child puts its own in its place."""
