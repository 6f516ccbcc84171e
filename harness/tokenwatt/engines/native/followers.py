"""The other ranks of a shared model: processes that run the same steps as the first, which tells them what comes in.

Each rank schedules and samples for itself. Nothing in that depends on time, and all ranks see the same logits, so they
stay in step without exchanging more than requests and sums.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import tempfile
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed

from tokenwatt.engines.native.loading import Loader
from tokenwatt.engines.native.parallel import Group
from tokenwatt.engines.native.serving import Loaded, Serving
from tokenwatt.errors import EngineError, TokenwattError
from tokenwatt.workloads import Request

PATIENCE = timedelta(minutes=10)
"""For a sum of all ranks; loading may keep one of them that long."""
NOTICE_S = 0.5
"""How long the end of a process may take to be seen, after a sum with it has failed."""
END_S = 10.0
"""How long a process may take to end."""


class Followers:
    """Ranks 1 to size - 1, as processes. The caller is rank 0 of `group`."""

    def __init__(self, loader: Loader) -> None:
        size = loader.options.tensor_parallel
        self._folder = tempfile.TemporaryDirectory(prefix="tokenwatt-")
        meeting = str(Path(self._folder.name) / "meeting")
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes = []
        for rank in range(1, size):
            ours, theirs = context.Pipe()
            device = torch.device("cuda", rank) if loader.device.type == "cuda" else loader.device
            arguments = (replace(loader, device=device), rank, size, meeting, theirs)
            process = context.Process(target=_follow, args=arguments, daemon=True, name=f"tokenwatt-rank-{rank}")
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)
        self.group = _join(0, size, meeting, loader.device)

    def load(self, max_concurrency: int, longest_context: int) -> None:
        """Begin to load everywhere; `wait_loaded` waits for the end."""
        self._tell("load", (max_concurrency, longest_context))

    def wait_loaded(self) -> None:
        """Raise EngineError unless every rank has loaded."""
        for rank, pipe in enumerate(self._pipes, start=1):
            try:
                failure = pipe.recv()
            except EOFError:
                failure = "it ended"
            if failure is not None:
                raise EngineError(f"rank {rank} of {len(self._pipes) + 1} could not load: {failure}")

    def begin(self) -> None:
        """A new run, over empty pages."""
        self._tell("begin", None)

    def advance(self, requests: list[Request]) -> None:
        """Take these requests, then launch the next step."""
        self._tell("advance", requests)

    def abandon(self) -> None:
        """Free what is in flight."""
        self._tell("abandon", None)

    def ended(self, within_s: float = 0.0) -> str | None:
        """Which process is no longer there, if any; then a sum that waits for it fails."""
        for process in self._processes:
            process.join(within_s)
            if not process.is_alive():
                return f"{process.name} ended with exit code {process.exitcode}"
        return None

    def check(self) -> None:
        """Raise EngineError if a process is no longer there."""
        ended = self.ended()
        if ended is not None:
            raise EngineError(f"a rank of the shared model is gone: {ended}")

    def kill(self) -> None:
        """End all processes at once, whatever they wait for."""
        for process in self._processes:
            process.kill()
        self.close()

    def close(self) -> None:
        """End all processes."""
        for pipe in self._pipes:
            with suppress(OSError):  # it has ended by itself
                pipe.send(("close", None))
        torch.distributed.destroy_process_group()
        for process in self._processes:
            process.join(END_S)
            if process.is_alive():
                process.kill()
        self._folder.cleanup()

    def _tell(self, what: str, about: Any) -> None:
        for rank, pipe in enumerate(self._pipes, start=1):
            try:
                pipe.send((what, about))
            except OSError as error:
                raise EngineError(f"rank {rank} of {len(self._pipes) + 1} has ended: {error}") from None


def _join(rank: int, size: int, meeting: str, device: torch.device) -> Group:
    backend = "nccl" if device.type == "cuda" else "gloo"
    torch.distributed.init_process_group(
        backend, init_method=f"file://{meeting}", rank=rank, world_size=size, timeout=PATIENCE,
        device_id=device if device.type == "cuda" else None,
    )  # fmt: skip
    return Group(rank, size)


def _follow(loader: Loader, rank: int, size: int, meeting: str, pipe: Connection) -> None:
    """The life of a rank: what it is told, in order, until it is told to end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of a terminal; the first decides
    if loader.device.type == "cuda":
        torch.cuda.set_device(loader.device)
    else:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // size))
    loader = replace(loader, group=_join(rank, size, meeting, loader.device))
    loaded: Loaded | None = None
    serving: Serving | None = None
    while True:
        what, about = pipe.recv()
        if what == "load":
            loaded = _load(loader, about, pipe)
        elif what == "begin" and loaded is not None:
            serving = Serving(loaded)
        elif what == "advance" and serving is not None:
            for request in about:
                serving.add(request)
            serving.advance(clock=lambda: 0.0)
        elif what == "abandon" and serving is not None:
            serving.abandon()
        elif what == "close":
            break
    loaded = serving = None  # graphs that sum over ranks go before the group does
    gc.collect()
    torch.distributed.destroy_process_group()


def _load(loader: Loader, about: tuple[int, int], pipe: Connection) -> Loaded | None:
    try:
        loaded = loader.load(*about)
    except TokenwattError as error:
        pipe.send(str(error))
        return None
    pipe.send(None)
    return loaded
