"""The fault table run: every scenario through the real NVML binding, meters and integration, beside the truth."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from tokenwatt import power
from tokenwatt.errors import UserError
from tokenwatt.power.virtual.library import Machine, load
from tokenwatt.power.virtual.recorder import record
from tokenwatt.power.virtual.scenarios import WINDOW_FROM_S, Scenario, scenarios
from tokenwatt.record import EnergyStatus, Reason

NO_RAPL = Path("/nonexistent")
"""A simulation reads no real meter."""
MANUAL = "\nclock = manual\n"
"""Of two lines with one key the later counts: a simulation never waits."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One scenario with what came out of it."""

    scenario: str
    """Its name."""
    must_be: EnergyStatus | None
    """The verdict that must come out; None where nobody says (a person's own script)."""
    must_say: Reason | None
    """Must be among the reasons."""
    accuracy: float
    """Largest error of joules that are given, as a share of the truth."""
    status: EnergyStatus
    """The verdict."""
    reasons: tuple[Reason, ...]
    """Why it is not `valid`."""
    true_j: float
    """Energy that the engine's boards really drew."""
    measured_j: float | None
    """Energy that was measured; None where the verdict refuses to say."""

    @property
    def error(self) -> float | None:
        """(measured - true) / true."""
        return None if self.measured_j is None else (self.measured_j - self.true_j) / self.true_j

    @property
    def is_right(self) -> bool:
        """Whether the verdict is the one that must come out, and joules, where there are any, are near the truth."""
        is_near = self.error is None or abs(self.error) <= self.accuracy
        if self.must_be is None:
            return is_near or self.status is not EnergyStatus.VALID
        says_it = self.must_say in self.reasons if self.must_say else not self.reasons
        return is_near and self.status is self.must_be and says_it


def simulate() -> list[Outcome]:
    """Run the whole table.

    Raises:
        UserError: there is no C compiler, or no pynvml.
    """
    return [_run(scenario) for scenario in scenarios()]


def simulate_file(path: Path) -> Outcome:
    """Run a person's own script: 20 s of all of its boards, from WINDOW_FROM_S seconds of the script on.

    Raises:
        UserError: the file cannot be read, or line so and so of it is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    with load(text + MANUAL, where=str(path)) as machine:
        numbers = tuple(range(len(power.boards())))
        if not numbers:
            raise UserError(f"{path}: boards must be > 0, got 0; there is nothing to measure")
        outcome = _run_on(machine, Scenario(path.name, engine_boards=numbers))
    return replace(outcome, must_be=None, must_say=None)


def _run(scenario: Scenario) -> Outcome:
    with load(scenario.script) as machine:
        return _run_on(machine, scenario)


def _run_on(machine: Machine, scenario: Scenario) -> Outcome:
    start_s, end_s = WINDOW_FROM_S, WINDOW_FROM_S + scenario.window_s
    energy = _measure(machine, scenario, start_s, end_s)
    return Outcome(
        scenario=scenario.name,
        must_be=scenario.status,
        must_say=scenario.reason,
        accuracy=scenario.accuracy,
        status=energy.status,
        reasons=energy.reasons,
        true_j=sum(machine.true_energy_j(board, start_s, end_s) for board in scenario.engine_boards),
        measured_j=energy.gpu_energy_j,
    )


def _measure(machine: Machine, scenario: Scenario, start_s: float, end_s: float) -> power.Energy:
    """The window's energy as a run measures it, from the readings up to a failure."""
    log, failure = power.PowerLog(), None
    with power.open_meters(scenario.gpu_uuids, rapl_root=NO_RAPL) as meters:
        instruments = meters.learn(machine.clock, machine.sleep)
        machine.set_time(scenario.recorded_from_s)
        try:
            seconds = end_s + scenario.margin_s - machine.clock()
            record(machine, meters.meters, seconds, mishap=scenario.mishap, log=log)
        except power.MeterError as error:
            failure = str(error)
    return power.recorded_energy(_read(log.readings(), scenario), start_s, end_s, instruments, failure=failure)


def _read(readings: power.PowerReadings, scenario: Scenario) -> power.PowerReadings:
    lost = {scenario.gpu_uuids[scenario.engine_boards.index(board)] for board in scenario.unread}
    return {source: of_source for source, of_source in readings.items() if source not in lost}
