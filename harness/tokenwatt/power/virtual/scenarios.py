"""The fault table: what can go wrong with a measurement of energy, and what the verdict on it must be."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from tokenwatt.power.virtual import loads
from tokenwatt.power.virtual.recorder import UNDISTURBED, Mishap
from tokenwatt.power.virtual.script import Board, Fault, FaultKind, Knots, Script, uuid
from tokenwatt.record import EnergyStatus, Reason

RECORDED_FROM_S = 10.0
"""The start-up trial has the clock until then; work begins a second later."""
WINDOW_FROM_S = 12.5137
"""Between two renewals of every counter in the table."""
WINDOW_S = 20.0
MARGIN_S = 1.4737
"""Recorded after the window."""
MIDDLE_S = WINDOW_FROM_S + WINDOW_S / 2
ACCURACY = 0.005
"""Joules that are given, valid or suspect, must be so near to the truth, as a share of it ..."""
GAIN = 1.1
WRONG_GAIN_ACCURACY = GAIN - 1 + ACCURACY
"""... except where one of two instruments is wrong by this gain and nothing says which ..."""
SHORT_ACCURACY = 0.02
"""... and over one second, of which each edge is uncertain by 10 ms."""

NO_PERMISSION = 4
"""NVML's code for it."""

VALID, SUSPECT, INVALID = EnergyStatus.VALID, EnergyStatus.SUSPECT, EnergyStatus.INVALID
NO_METER = EnergyStatus.NO_METER
LOAD = loads.llm_like(seed=1, seconds=60.0, begin_s=RECORDED_FROM_S + 1.0)
BOARD = Board(
    knots=LOAD,
    power_period_s=0.025,
    power_phase_s=0.007,
    power_noise_w=1.0,
    counter_phase_s=0.013,
    counter_jitter_s=0.002,
    latency_s=2e-5,
    counter_latency_s=3e-4,
    power_latency_s=6e-4,
    latency_jitter=0.5,
    processes=("self",),
)
"""A recent board under that load: instruments that are renewed every 100 and 25 ms, calls of a real driver's length."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One machine, one window on it, and the verdict that must come out."""

    name: str
    """What is wrong, for the table."""
    boards: tuple[Board, ...] = (BOARD,)
    """The machine's boards."""
    status: EnergyStatus = VALID
    """The verdict."""
    reason: Reason | None = None
    """Must be among the verdict's reasons; None: there must be none."""
    accuracy: float = ACCURACY
    """Largest error of joules that are given, as a share of the truth."""
    window_s: float = WINDOW_S
    """Length of the window, which begins at WINDOW_FROM_S."""
    margin_s: float = MARGIN_S
    """Recorded after the window; negative where the recording ends too early."""
    recorded_from_s: float = RECORDED_FROM_S
    """When the recording begins."""
    order: tuple[int, ...] = ()
    """Boards in NVML's order; empty: as numbered."""
    engine_boards: tuple[int, ...] = (0,)
    """Boards of the engine, whose energy is asked for."""
    unread: tuple[int, ...] = ()
    """Boards of the engine that the recording has lost."""
    mishap: Mishap = UNDISTURBED
    """What befalls the recording computer."""

    @property
    def script(self) -> Script:
        """The machine."""
        return Script(boards=self.boards, order=self.order)

    @property
    def gpu_uuids(self) -> tuple[str, ...]:
        """UUIDs of the engine's boards."""
        return tuple(uuid(board) for board in self.engine_boards)


def scenarios() -> tuple[Scenario, ...]:
    """The whole table: what must be measured, then what must be refused or doubted."""
    return (
        *_healthy(),
        *_counter_faults(),
        *_power_faults(),
        *_recording_faults(),
        *_state_faults(),
        *_boundary_faults(),
    )


def _healthy() -> Iterator[Scenario]:
    steady = loads.constant(430.0)
    rise = loads.ramp(loads.IDLE_W, 450.0, WINDOW_FROM_S + 0.2, 1.0)
    drift = loads.ramp(400.0, 500.0, WINDOW_FROM_S, WINDOW_S)
    shapes = {"constant": steady, "rise, then steady": rise, "rising throughout": drift, "like an LLM's": LOAD}
    for load, knots in shapes.items():
        for period_s in (0.02, 0.05, 0.1):
            board = replace(BOARD, knots=knots, counter_period_s=period_s)
            yield Scenario(f"none: load {load}, counter every {period_s * 1e3:.0f} ms", (board,))
    yield Scenario("none: window of 5 s", window_s=5.0)
    lighter = replace(BOARD, knots=_scaled(LOAD, 0.5), counter_phase_s=0.057)
    yield Scenario("none: two GPUs", (BOARD, lighter), engine_boards=(0, 1))
    idle = replace(BOARD, processes=())
    yield Scenario("none: NVML counts the GPUs in another order", (lighter, idle, idle), order=(2, 1, 0))


def _counter_faults() -> Iterator[Scenario]:
    yield Scenario("counter stuck from the middle on", (_hit(FaultKind.STUCK_COUNTER),), SUSPECT, Reason.COUNTER_STUCK)
    late = Fault(FaultKind.STUCK_COUNTER, WINDOW_FROM_S + WINDOW_S - 0.05)
    yield Scenario(
        "counter stuck from the window's end on", (replace(BOARD, faults=(late,)),), SUSPECT, Reason.COUNTER_STUCK
    )
    yield Scenario("counter starts again at 0", (_hit(FaultKind.COUNTER_RESET),), SUSPECT, Reason.COUNTER_RESET)
    yield Scenario("no counter", (replace(BOARD, no_counter=True),), SUSPECT, Reason.COUNTER_MISSING)
    high, doubt = replace(BOARD, counter_gain=GAIN), Reason.INSTRUMENTS_DISAGREE
    yield Scenario("counter reads 10 % high", (high,), SUSPECT, doubt, WRONG_GAIN_ACCURACY)


def _power_faults() -> Iterator[Scenario]:
    zero = replace(BOARD, faults=(Fault(FaultKind.ZERO_POWER),))
    yield Scenario("power reads 0", (zero,), SUSPECT, Reason.POWER_MISSING)
    yield Scenario("power frozen from the middle on", (_hit(FaultKind.FROZEN_POWER),), SUSPECT, Reason.POWER_STUCK)
    yield Scenario("no instantaneous power", (replace(BOARD, no_instant=True),), SUSPECT, Reason.POWER_MISSING)
    high, doubt = replace(BOARD, power_gain=GAIN), Reason.INSTRUMENTS_DISAGREE
    yield Scenario("power reads 10 % high", (high,), SUSPECT, doubt, WRONG_GAIN_ACCURACY)
    average = replace(BOARD, power_average_s=1.0)
    yield Scenario("power is the average of a second", (average,), SUSPECT, Reason.TRAILING_AVERAGE)


def _recording_faults() -> Iterator[Scenario]:
    silence = Mishap(silence_s=(MIDDLE_S, MIDDLE_S + 0.5))
    yield Scenario("no readings for half a second", status=INVALID, reason=Reason.SAMPLE_GAP, mishap=silence)
    late_s = WINDOW_FROM_S + 0.05
    yield Scenario(
        "first reading after the window began",
        status=INVALID,
        reason=Reason.EDGE_NOT_BRACKETED,
        recorded_from_s=late_s,
    )
    yield Scenario(
        "last reading before the window ended", status=INVALID, reason=Reason.EDGE_NOT_BRACKETED, margin_s=-0.1
    )
    step = Mishap(step_back_s=(MIDDLE_S, 0.3))
    yield Scenario("clock set back by 0.3 s", status=INVALID, reason=Reason.CLOCK_STEPPED_BACK, mishap=step)
    yield Scenario(
        "window of 1 s", status=SUSPECT, reason=Reason.WINDOW_TOO_SHORT, window_s=1.0, accuracy=SHORT_ACCURACY
    )
    lost = _hit(FaultKind.LOST)
    yield Scenario("GPU falls off the bus in the middle", (lost,), INVALID, Reason.METER_ERROR)
    later = replace(BOARD, faults=(Fault(FaultKind.LOST, WINDOW_FROM_S + WINDOW_S + 1.0),))
    yield Scenario("none: GPU falls off the bus a second after the window", (later,))
    closed = replace(BOARD, faults=(Fault(FaultKind.DROP, value=NO_PERMISSION),))
    yield Scenario("NVML refuses every reading for want of rights", (closed,), NO_METER, Reason.COUNTER_MISSING)
    drop = replace(BOARD, faults=(Fault(FaultKind.DROP, MIDDLE_S, MIDDLE_S + 0.5),))
    yield Scenario("readings fail for half a second", (drop,), INVALID, Reason.SAMPLE_GAP)


def _state_faults() -> Iterator[Scenario]:
    hot = _hit(FaultKind.THROTTLE, value=0x40, seconds=2.0)
    yield Scenario("slowed down by heat for 2 s", (hot,), SUSPECT, Reason.THROTTLED)
    low = replace(BOARD, limit_w=450.0)
    yield Scenario("power cap of 450 W, default 700 W", (low,), SUSPECT, Reason.CAP_BELOW_DEFAULT)
    changed = _hit(FaultKind.CAP, value=400.0)
    yield Scenario("power cap set to 400 W in the middle", (changed,), SUSPECT, Reason.CAP_CHANGED)
    shared = _hit(FaultKind.OTHER_PROCESS, value=1)
    yield Scenario("another process on the GPU from the middle on", (shared,), SUSPECT, Reason.OTHER_PROCESS)


def _boundary_faults() -> Iterator[Scenario]:
    yield Scenario(
        "one of the engine's two GPUs unread",
        (BOARD, BOARD),
        INVALID,
        Reason.WRONG_GPU_COUNT,
        engine_boards=(0, 1),
        unread=(1,),
    )
    yield Scenario("the engine runs on a GPU beside the metered one", (BOARD, BOARD), INVALID, Reason.WRONG_GPU_COUNT)
    yield Scenario("GPU cut in slices (MIG)", (replace(BOARD, mig=True),), SUSPECT, Reason.MIG)
    module = replace(BOARD, module_extra_w=120.0, counter_module=True)
    yield Scenario("counter counts the CPU of the module too", (module,), SUSPECT, Reason.MODULE_SCOPE)


def _hit(kind: FaultKind, value: float | None = None, seconds: float = math.inf) -> Board:
    """The board with a fault that begins in the middle of the window."""
    return replace(BOARD, faults=(Fault(kind, MIDDLE_S, MIDDLE_S + seconds, value),))


def _scaled(knots: Knots, factor: float) -> Knots:
    return tuple((at_s, factor * watts) for at_s, watts in knots)
