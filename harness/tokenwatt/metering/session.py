"""One metered stretch: meters read from before it until after it, and its row says what it took."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from tokenwatt import power, store
from tokenwatt.clock import RunClock
from tokenwatt.environment import describe
from tokenwatt.errors import UserError
from tokenwatt.metering import child
from tokenwatt.metering.visible_gpus import visible_gpus
from tokenwatt.orderly_end import ends_orderly, signal_of, undisturbed
from tokenwatt.power.external import NodeMeter, open_gpu_meter, open_node_meter
from tokenwatt.power.external.dcgm import SAMPLING_PERIOD_S as DCGM_PERIOD_S
from tokenwatt.power.external.dcgm import DcgmMeter
from tokenwatt.power.external.energy import MIN_READINGS
from tokenwatt.record import Environment, MeteredRun, PowerRecord, Reason, Status
from tokenwatt.rows import energy_columns

MAX_IDLE_S = 3600.0
MARGIN_S = 1.2
"""Meters are read so long on both sides of a window: a board's counter is renewed several times in it."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Which meters to read."""

    gpus: tuple[str, ...] = ()
    """NVML UUIDs; none: those that CUDA_VISIBLE_DEVICES names, or all."""
    gpu_meter: str | None = None
    """A meter that stands in for NVML, such as `dcgm:http://host:9400/metrics`."""
    node_meter: str | None = None
    """A meter of the whole machine, such as `ipmi`."""
    idle_s: float = 2.0
    """How long idle power is read before the window; 0 skips it, as around a server, which is not idle."""
    subject: power.Subject = "ours"
    """Whose processes belong on the boards; any other is a doubt."""

    def __post_init__(self) -> None:
        if not 0 <= self.idle_s <= MAX_IDLE_S:
            raise UserError(f"--idle must be 0 to {MAX_IDLE_S:.0f} seconds, got {self.idle_s:g}")


@dataclass(frozen=True, slots=True)
class Stretch:
    """What was done while meters were read."""

    start_s: float
    end_s: float
    columns: dict[str, Any] = field(default_factory=dict)
    """Columns of `MeteredRun` that only the doer knows: exit code, tokens, a status other than `ok`, a detail."""
    ended_by: int | None = None
    """Signal at which it was ended early."""


@dataclass(frozen=True, slots=True)
class Metered:
    """The row and the folder that it is kept in."""

    row: MeteredRun
    folder: Path
    ended_by: int | None = None
    """Signal at which the window was ended early, or that came while the row was made; a command is sent its signals
    itself."""


def meter_command(command: Sequence[str], choice: Choice, results: Path) -> Metered:
    """Run `command` to its end and write `meter.parquet` and `power.parquet` to `<results>/<run_id>/`.

    A meter that fails on the way spoils the energy, not the command.

    Raises:
        UserError: no such program, GPU or meter; nothing has been run then.
        MeterError: NVML is there and refuses to work, or its first reading fails; nothing has been run then.
    """
    child.find(command)

    def work(clock: RunClock) -> Stretch:
        ended = child.run(command, clock)
        return Stretch(ended.start_s, ended.end_s, {"exit_code": ended.exit_code})

    return meter_stretch(shlex.join(command), choice, results, work)


def meter_stretch(subject: str, choice: Choice, results: Path, work: Callable[[RunClock], Stretch]) -> Metered:
    """Open meters, read idle power, do `work`, read a little longer, and write the row.

    A signal that comes after the work waits until the row is written, and is named in what is returned.

    Raises:
        KeyboardInterrupt: before the work was done, at Ctrl-C, SIGTERM or SIGHUP; there is no row then.
    """
    metered: Metered | None = None
    try:
        with ends_orderly(), ExitStack() as until_written:
            metered = _meter_stretch(_printable(subject), choice, results, work, until_written)
    except KeyboardInterrupt as late:
        if metered is None:
            raise
        metered = replace(metered, ended_by=metered.ended_by or signal_of(late))
    return metered


def _meter_stretch(
    subject: str, choice: Choice, results: Path, work: Callable[[RunClock], Stretch], until_written: ExitStack
) -> Metered:
    """The same, without an answer to signals; `until_written` is told to hold them back once the work is done."""
    clock = RunClock()
    run_id, measured_at = clock.new_run_id(), datetime.now(UTC)
    place = {"run_id": run_id, "measurement_id": f"{run_id}/0"}
    done: Stretch | None = None
    failure: str | None = None
    idle: tuple[float, float] | None = None
    with _open(choice, clock) as (boards, node):
        boards = boards.learnt(clock)
        environment = boards.environment()  # now: a GPU that is lost on the way has no name any more
        store.write([], PowerRecord, results / run_id)  # an unwritable disk is known now
        sampler = power.Sampler(boards.meters.meters, clock, boards.period_s)
        try:
            with sampler:
                idle = _lead_in(choice.idle_s, boards, clock)
                try:
                    done = work(clock)
                    boards.wait_out(MARGIN_S)
                except KeyboardInterrupt:
                    if done is None:
                        raise
                # The work has ended and its row is due: pressed twice, Ctrl-C only cuts the margin.
                until_written.enter_context(undisturbed())
        except power.MeterError as error:
            if done is None:
                raise
            failure = str(error)
        readings = sampler.log.readings()
        row = MeteredRun.model_validate(
            {
                **environment.model_dump(),
                **place,
                "measured_at": measured_at,
                "run_began_at": clock.began_at,
                "status": Status.OK,
                "subject": subject,
                "power_scope": boards.meters.scope,
                "gpu_idle_power_w": power.mean_power_w(readings, *idle, boards.instruments) if idle else None,
                **_metered_columns(boards, readings, node, done, failure),
            }
        )
        store.write([row], MeteredRun, results / run_id)
        store.write_tables(power.power_tables(readings, **place), PowerRecord, results / run_id)
    return Metered(row, results / run_id, done.ended_by)


def _printable(subject: str) -> str:
    """The same in letters that a file can hold: a byte that is no UTF-8 becomes an escape such as \\xff."""
    return os.fsencode(subject).decode("utf-8", "backslashreplace")


@dataclass(frozen=True, slots=True)
class _Boards:
    """The GPUs that are read, by NVML or by what stands in for it."""

    meters: power.Meters
    uuids: tuple[str, ...] | None
    remote: DcgmMeter | None = None
    instruments: power.Instruments = field(default_factory=dict)

    def learnt(self, clock: RunClock) -> _Boards:
        """The same with what a trial says of them."""
        return replace(self, instruments=self.meters.learn(clock))

    @property
    def period_s(self) -> float:
        return power.SAMPLING_PERIOD_S if self.remote is None else DCGM_PERIOD_S

    def wait_out(self, seconds: float) -> None:
        """Let a margin beside an edge be read; without boards nothing is averaged there."""
        if self.meters.scope is not None:
            time.sleep(max(seconds, 2 * self.period_s if self.remote else 0.0))

    def environment(self) -> Environment:
        """Of this machine, with the GPUs that are read."""
        if self.remote is None:
            uuids = () if self.meters.scope is None else self.uuids
            return describe("cpu" if uuids == () else "cuda", uuids, None, None, None)
        here = describe("cuda", (), None, None, None)
        uuids = self.remote.sources
        name = self.remote.gpu_names[0] or None
        return here.model_copy(update={"gpu_name": name, "gpu_count": len(uuids), "gpu_uuids": uuids})

    def energy(self, readings: power.PowerReadings, start_s: float, end_s: float, failure: str | None) -> power.Energy:
        """Joules of the window, with the doubts that come with a meter that is read through another machine."""
        energy = power.recorded_energy(readings, start_s, end_s, self.instruments, failure=failure)
        if self.remote is None or energy.gpu_energy_j is None:
            return energy
        if min(_renewals(readings[uuid], start_s, end_s) for uuid in self.remote.sources) < MIN_READINGS:
            energy = energy.doubted(Reason.WINDOW_TOO_SHORT)
        return energy


@contextmanager
def _open(choice: Choice, clock: RunClock) -> Iterator[tuple[_Boards, NodeMeter | None]]:
    """Everything that is to be read; closed in the end."""
    with ExitStack() as stack:
        if choice.gpu_meter is not None:
            remote = open_gpu_meter(choice.gpu_meter, choice.gpus or None)
            boards = _Boards(power.Meters((remote,), "engine_gpus" if choice.gpus else "all_gpus"), None, remote)
        else:
            uuids = choice.gpus or visible_gpus(
                os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("CUDA_DEVICE_ORDER"), power.boards()
            )
            boards = _Boards(power.open_meters(uuids, subject=choice.subject), uuids)
            if choice.gpus and boards.meters.scope is None:
                raise UserError(f"--gpu names {choice.gpus[0]}, and there is no NVML here")
        stack.enter_context(boards.meters)
        node = None
        if choice.node_meter is not None:
            node = stack.enter_context(open_node_meter(choice.node_meter, clock))
        yield boards, node


def _lead_in(idle_s: float, boards: _Boards, clock: RunClock) -> tuple[float, float] | None:
    """Read idle power, or at least the margin in front of the window; where idle power was read."""
    begin_s = clock()
    boards.wait_out(max(idle_s, MARGIN_S))
    return (begin_s, begin_s + idle_s) if idle_s and boards.meters.scope is not None else None


def _metered_columns(
    boards: _Boards, readings: power.PowerReadings, node: NodeMeter | None, done: Stretch, failure: str | None
) -> dict[str, Any]:
    """Window, energies and the doer's own columns; a stretch that went wrong carries no numbers."""
    if done.columns.get("status", Status.OK) is not Status.OK:
        return {**done.columns, "node_meter": None if node is None else node.text}
    energy = boards.energy(readings, done.start_s, done.end_s, failure)
    columns = {"window_start_s": done.start_s, "window_s": done.end_s - done.start_s, **energy_columns(energy)}
    details = [done.columns.get("detail"), failure]
    if node is not None:
        node_energy = node.energy(done.start_s, done.end_s)
        columns |= node_energy.columns(node.text)
        details.append(None if node_energy.detail is None else f"{node.text}: {node_energy.detail}")
    return {**columns, **done.columns, "detail": "; ".join(filter(None, details)) or None}


def _renewals(board: power.SourceReadings, start_s: float, end_s: float) -> int:
    """How many different answers a board gave in the window, one after the other."""
    inside = board.between(start_s, end_s)
    answers = np.nan_to_num([inside.column("energy_j"), inside.column("power_w")], nan=-1.0)
    return min(len(inside), 1) + int(np.count_nonzero(np.any(np.diff(answers) != 0, axis=0)))
