"""Power caps for a sweep: set on every board or on none, and lifted however the process ends."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from contextlib import ExitStack, suppress
from typing import Self

from tokenwatt.errors import UserError
from tokenwatt.orderly_end import ends_orderly, undisturbed
from tokenwatt.power.board_limits import MILLI, BoardLimits, LimitedBoards, same
from tokenwatt.power.cap_guard import ACT, DONE, READY
from tokenwatt.power.meter import MeterError

MAX_CAPS = 100
"""A longer sweep is a slip of the pen, such as a step in milliwatts."""


class PowerCaps:
    """The boards of a sweep. Build it with `open` and use it as a context manager: its end lifts the caps.

    They are lifted after an error, Ctrl-C, SIGTERM and SIGHUP, which all unwind the block; and a guard process lifts
    them if this one is killed, crashes, or fails to. Limits are lost when the driver is unloaded; it stays
    loaded in the block.
    """

    def __init__(self, boards: LimitedBoards, limits: tuple[BoardLimits, ...]) -> None:
        self.limits = limits
        """Limits of each board as `open` found them."""
        self._boards = boards
        self._previous_mw = {each.uuid: _milliwatts(each.set_w) for each in limits}
        self._ours_mw: set[int] = set()
        self._guard = _Guard(self._previous_mw)
        self._signals = ExitStack()

    @classmethod
    def open(cls, gpu_uuids: tuple[str, ...] | None) -> PowerCaps:
        """Caps for the boards named, or for every board (None). The right to set limits is tried with those they have.

        Raises:
            UserError: no NVML, no board, no right, a board without settable limit or cut in MIG slices.
            MeterError: NVML is there and refuses to work.
        """
        with ExitStack() as undo:
            boards = LimitedBoards.open(gpu_uuids)
            undo.callback(boards.close)
            caps = cls(boards, boards.limits())
            undo.callback(caps._guard.dismiss)
            for uuid, limit_mw in caps._previous_mw.items():
                boards.set_to(uuid, limit_mw)
            undo.pop_all()
        return caps

    def check(self, watts: float) -> None:
        """Whether every board can be set to so many watts; changes nothing.

        Raises:
            UserError: a board cannot.
        """
        refusing = [each for each in self.limits if not each.min_w <= watts <= each.max_w]
        if refusing:
            ranges = ", ".join(f"{each.uuid}: {each.min_w:g} to {each.max_w:g} W" for each in refusing)
            raise UserError(f"a power cap of {watts:g} W is outside what the boards allow ({ranges})")

    def set(self, watts: float) -> None:
        """Cap each board at so many watts, all or none.

        Raises:
            UserError: outside the range of a board, or refused by one; the limits are then those from before `open`.
            MeterError: a board took the cap and enforces another; likewise.
        """
        self.check(watts)
        limit_mw = _milliwatts(watts)
        self._guard.tell(limit_mw)
        self._ours_mw.add(limit_mw)
        with ExitStack() as undo:
            undo.callback(self.restore)
            for uuid in self._previous_mw:
                self._boards.set_to(uuid, limit_mw)
                enforced_mw = self._boards.enforced_mw(uuid)
                if not same(enforced_mw, limit_mw):
                    raise MeterError(f"{uuid} is capped at {watts:g} W and enforces {enforced_mw * MILLI:g} W")
            undo.pop_all()

    def restore(self) -> None:
        """Give every board the limit that it had before `open`. A board that somebody else has set since is left alone.

        Raises:
            RestoreError: a board is not back; the text holds the command that repairs it.
        """
        with undisturbed():
            for line in self._boards.put_back(self._previous_mw, self._ours_mw):
                print(f"tokenwatt: {line}", file=sys.stderr)

    def __enter__(self) -> Self:
        self._signals.enter_context(ends_orderly())
        return self

    def __exit__(self, *_: object) -> None:
        # A signal may raise anywhere before `undisturbed` is armed, and `restore` may fail: the guard acts then, since
        # it is dismissed only when the boards are back.
        with ExitStack() as undo:
            undo.callback(self._boards.close)
            undo.callback(self._guard.call)
            undo.push(self._signals)
            with undisturbed():
                self.restore()
                self._guard.dismiss()


class _Guard:
    """The process of `cap_guard`, in a session of its own so that no signal to our group ends it."""

    def __init__(self, previous_mw: dict[str, int]) -> None:
        limits = [f"{uuid}={limit_mw}" for uuid, limit_mw in previous_mw.items()]
        roots = os.pathsep.join(entry for entry in sys.path if entry)
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", "tokenwatt.power.cap_guard", str(os.getpid()), *limits],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": roots},
        )
        if self._process.stdout is None or self._process.stdout.readline() != READY:
            self.dismiss()
            raise MeterError("the process that would lift the power caps after a crash cannot start; see above")

    def tell(self, limit_mw: int) -> None:
        """Say which limit will be set.

        Raises:
            MeterError: the guard is gone.
        """
        try:
            self._write(str(limit_mw).encode())
        except BrokenPipeError:
            raise MeterError(
                "the process that would lift the power caps after a crash is gone; nothing is set"
            ) from None

    def dismiss(self) -> None:
        """Let it go: it changes nothing."""
        self._part_with(DONE)

    def call(self) -> None:
        """Let it put the limits back, unless it was dismissed."""
        if self._process.returncode is None:
            self._part_with(ACT)

    def _part_with(self, word: bytes) -> None:
        with suppress(BrokenPipeError):
            self._write(word)
        self._process.communicate()

    def _write(self, word: bytes) -> None:
        if self._process.stdin is not None:
            self._process.stdin.write(word + b"\n")


def parse_power_caps(text: str) -> tuple[float, ...]:
    """Watts of a sweep, highest first, from a list (`700,600,500`) or a range with both ends (`700:300:-100`).

    >>> parse_power_caps("300:700:200"), parse_power_caps("500, 700")
    ((700.0, 500.0, 300.0), (700.0, 500.0))

    Raises:
        UserError: neither of the two, a cap that is not above 0, one that is named twice, or more than `MAX_CAPS`.
    """
    try:
        caps = _range(text) if ":" in text else [float(part) for part in text.split(",")]
    except ValueError:
        raise _wrong(text, "numbers only") from None
    if not caps or not all(math.isfinite(cap) and cap > 0 for cap in caps):
        raise _wrong(text, "every cap is above 0 W")
    if len(set(caps)) < len(caps):
        raise _wrong(text, "each cap once")
    return tuple(sorted(caps, reverse=True))


def _range(text: str) -> list[float]:
    """`first:last:step`, both ends inside."""
    numbers = [float(part) for part in text.split(":")]
    if len(numbers) != 3 or not all(math.isfinite(number) for number in numbers):
        raise ValueError(text)
    first, last, step = numbers
    if step == 0 or (last - first) / step < 0:
        raise _wrong(text, f"a step that leads from {first:g} to {last:g}")
    steps = (last - first) / step
    if steps >= MAX_CAPS:
        raise _wrong(text, f"at most {MAX_CAPS} caps")
    # A step of a tenth is not exact in binary: a last cap that is missed by rounding alone counts.
    return [first + index * step for index in range(math.floor(steps + 1e-9) + 1)]


def _wrong(text: str, allowed: str) -> UserError:
    return UserError(f"power caps {text!r} cannot be read ({allowed}); write watts as 700,600,500 or 700:300:-100")


def _milliwatts(watts: float) -> int:
    return round(watts / MILLI)
