"""Signals while a machine is changed: they unwind the program, and what puts the machine back is not cut short."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any

ENDING = (signal.SIGTERM, signal.SIGHUP)
"""Signals that end a process at once unless somebody listens: `kill`, a scheduler, a terminal that was closed."""


class Ended(KeyboardInterrupt):
    """Somebody asked the process to end. An interrupt, so that a bench keeps its finished rows as after Ctrl-C."""

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by {signal.Signals(number).name}")
        self.number = number
        """The signal."""


def signal_of(interrupt: KeyboardInterrupt) -> int:
    """Number of the signal that an interrupt stands for."""
    return interrupt.number if isinstance(interrupt, Ended) else signal.SIGINT


@contextmanager
def ends_orderly() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise `Ended` in the block, so that `finally` and `with` do their work.

    A signal that is ignored (SIGHUP under nohup) stays so. Outside the main thread, which alone receives signals, this
    does nothing.
    """
    listened = [number for number in ENDING if signal.getsignal(number) is not signal.SIG_IGN]
    with _handled(listened, _raise_ended):
        yield


@contextmanager
def undisturbed() -> Iterator[None]:
    """Hold SIGINT, SIGTERM and SIGHUP back in the block; the last of them arrives when it is over."""
    late: list[int] = []
    listened = [number for number in (signal.SIGINT, *ENDING) if callable(signal.getsignal(number))]
    with _handled(listened, lambda number, _: late.append(number)):
        yield
    if late:
        signal.raise_signal(late[-1])


@contextmanager
def _handled(numbers: list[int] | list[signal.Signals], handler: Any) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # Each on the stack before it is set: a signal may arrive between two of them, and raise.
    with ExitStack() as undo:
        for number in numbers:
            undo.callback(signal.signal, number, signal.getsignal(number))
            signal.signal(number, handler)
        yield


def _raise_ended(number: int, _: FrameType | None) -> None:
    raise Ended(number)
