"""What all tests have: ears for signals, and virtual boards that draw exactly known power."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings

from tokenwatt.power import virtual
from tokenwatt.power.virtual import loads

settings.register_profile("house", deadline=None)  # a deadline times the machine, not the code
settings.load_profile("house")

BY_THE_CLOCK = ("bench", "end_to_end", "metering", "power")
"""Folders whose tests read the time, or what is drawn in it."""
TOGETHER = ("test_gate.py", "test_arrivals.py")
"""Files whose tests share what takes long to make."""


@pytest.hookimpl(tryfirst=True)  # before xdist looks for the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With several workers: tests by the clock go to one of them, where none runs beside another."""
    for item in items:
        folder = item.path.relative_to(Path(__file__).parent).parts[0]
        if folder in BY_THE_CLOCK:
            item.add_marker(pytest.mark.xdist_group("clock"))
        elif item.path.name in TOGETHER:
            item.add_marker(pytest.mark.xdist_group(item.path.name))


@dataclass(frozen=True)
class VirtualNvml:
    """A machine with virtual boards; take another one with `dataclasses.replace(virtual_nvml, gpus=2, ...)`.

    Board g draws (g + 1) * (base_w + amplitude_w * sin(2 pi t / period_s)) at `time.monotonic()` = t, the sine in 128
    straight lines; it may draw (g + 1) * 700 W; its counter is renewed every `tick_s`, g * tick_s / 3 late. The other
    fields are faults. For what else virtual boards can do, ask `library` for the environment of another script.
    """

    library: virtual.Library
    base_w: float = 300.0
    amplitude_w: float = 0.0
    period_s: float = 1.0
    tick_s: float = 0.1
    gpus: int = 1
    bias: float = 1.0
    throttle: int = 0
    no_counter: bool = False
    no_instant: bool = False
    old_driver: bool = False
    lost: bool = False

    @property
    def script(self) -> virtual.Script:
        """What the library plays."""
        return virtual.Script(
            boards=tuple(self._board(number) for number in range(self.gpus)),
            clock="monotonic",
            epoch_s=0.0,
            old_driver=self.old_driver,
        )

    def _board(self, number: int) -> virtual.Board:
        times = number + 1
        mean_w, amplitude_w = times * self.base_w, times * self.amplitude_w
        return virtual.Board(
            knots=loads.sine(mean_w, amplitude_w, self.period_s) if amplitude_w else loads.constant(mean_w),
            repeat=amplitude_w > 0,
            limit_w=times * 700.0,
            default_limit_w=times * 700.0,
            max_limit_w=times * 700.0,
            counter_period_s=self.tick_s,
            counter_phase_s=number * self.tick_s / 3,
            power_gain=self.bias,
            temperature_c=50.0 + number,
            throttle=self.throttle,
            no_counter=self.no_counter,
            no_instant=self.no_instant,
            faults=(virtual.Fault(virtual.FaultKind.LOST),) if self.lost else (),
        )

    @property
    def settings(self) -> dict[str, str]:
        """Environment variables that choose the boards, read whenever NVML starts."""
        return self.library.settings(self.script)

    @property
    def environment(self) -> dict[str, str]:
        """Environment for a process that shall find these boards."""
        return self.library.environment(self.script)

    def uuid(self, board: int) -> str:
        """NVML UUID of a board."""
        return virtual.uuid(board)

    @property
    def uuids(self) -> tuple[str, ...]:
        """UUIDs of all boards."""
        return tuple(self.uuid(board) for board in range(self.gpus))

    def true_energy_j(self, start_s: float, end_s: float, board: int | None = None) -> float:
        """Energy drawn between two moments of `time.monotonic()`, by one board or (None) by all."""
        machine = virtual.Machine(self.library, self.script.text())
        boards = range(self.gpus) if board is None else (board,)
        return sum(machine.true_energy_j(number, start_s, end_s) for number in boards)


@pytest.fixture(scope="session", autouse=True)
def hear_signals() -> None:
    """Let this process hear signals, wherever it was started, so that tests of signals may run there.

    A shell starts background jobs deaf to SIGINT and SIGQUIT, nohup to SIGHUP, and children inherit it.
    """
    for number, usual in (
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGQUIT, signal.SIG_DFL),
        (signal.SIGHUP, signal.SIG_DFL),
    ):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, usual)


@pytest.fixture(scope="session")
def virtual_nvml(tmp_path_factory: pytest.TempPathFactory) -> VirtualNvml:
    """One virtual board at a constant 300 W whose counter ticks every 100 ms."""
    return VirtualNvml(virtual.build(tmp_path_factory.mktemp("virtual_nvml")))
