"""One invocation of the kernels' bench: the gate, then every contest timed and metered, row by row."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import pyarrow as pa

from tokenwatt import power, store
from tokenwatt.bench import Observer
from tokenwatt.clock import RunClock
from tokenwatt.environment import describe, measure_ceilings
from tokenwatt.errors import GateError, UserError, unknown_name
from tokenwatt.metered_loop import metered_loop
from tokenwatt.record import OUR_KERNEL, Environment, KernelTiming, PowerRecord
from tokenwatt.rows import energy_columns
from tokenwatt_kernels import commands, workers
from tokenwatt_kernels.budget import Budget
from tokenwatt_kernels.dtypes import DTYPES
from tokenwatt_kernels.families import BenchProblem, bench_problems, known_names, select

if TYPE_CHECKING:
    import torch

    from tokenwatt_kernels.contests import Contest, Result

DEFAULT_DTYPE = "bfloat16"
Metered = Literal["none", "ours", "all"]
"""Whose energy is measured: nobody's, that of our kernel and the fastest baseline, or everybody's."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What to measure, and how much of it.

    families, dtype_names, problem_names: none of the first or the last means all; none of the second DEFAULT_DTYPE.
    energy: one of `Metered`. budget_s: no contest begins later than this after the start; None for no end.
    jobs: processes that gate and compile beside each other; None for all processors but one.
    has_compiled: whether baselines by torch.compile take part, each of which takes some ten seconds to make.
    """

    families: Sequence[str] = ()
    dtype_names: Sequence[str] = ()
    problem_names: Sequence[str] = ()
    energy: str = "all"
    budget_s: float | None = None
    jobs: int | None = None
    has_compiled: bool = True

    def entries(self) -> list[BenchProblem]:
        """The problems, or a UserError that names what is not known."""
        known_by_kind = (
            ("family", self.families, known_names()),
            ("dtype", self.dtype_names, DTYPES),
            ("energy", (self.energy,), get_args(Metered)),
        )
        for kind, names, known in known_by_kind:
            for name in names:
                if name not in known:
                    raise unknown_name(kind, name, known)
        try:
            return bench_problems(select(self.families), self.dtype_names or (DEFAULT_DTYPE,), self.problem_names)
        except ValueError as error:
            raise UserError(str(error)) from None


@dataclass(slots=True)
class KernelRun:
    """The rows of one invocation and the folder that they are kept in."""

    run_id: str
    folder: Path
    timings: list[KernelTiming] = field(default_factory=list)
    power: list[pa.Table] = field(default_factory=list)
    """Readings, a few tables for each row."""
    left: list[BenchProblem] = field(default_factory=list)
    """What was not begun, because the time was up."""

    def save(self) -> None:
        """Write everything so far; timings last, so that a row is there only with its readings."""
        store.write_tables(self.power, PowerRecord, self.folder)
        store.write(self.timings, KernelTiming, self.folder)


def run_contests(choice: Choice, results: Path, observer: Observer) -> KernelRun:
    """Time and meter the chosen contests, writing to `<results>/<run_id>/` after each contender.

    Raises:
        UserError: an unknown name, or no CUDA GPU; nothing has been measured then.
        GateError: a kernel fails its gate, so none is timed.
        KeyboardInterrupt: passed on, like the error of a contest that fails; the rows before it are written.
    """
    entries = choice.entries()
    device, gpu_uuid = _gpu()
    from tokenwatt_kernels import contests

    clock = RunClock()
    run_id = clock.new_run_id()
    run = KernelRun(run_id, results / run_id)
    budget = Budget(choice.budget_s, left=run.left)
    jobs = choice.jobs or workers.beside_this_process()
    with power.open_meters((gpu_uuid,)) as meters:
        run.save()
        instruments = {} if choice.energy == "none" else meters.learn(clock)
        observer.begin("gate", 0.0)
        _pass_gate(entries, device, jobs)
        observer.end(None)
        observer.begin("compiling", 0.0)
        commands.compile_ahead(entries, device, jobs)
        observer.end(None)
        for dtype_name in dict.fromkeys(dtype_name for _, _, dtype_name in entries):
            observer.begin(f"ceilings of this machine, {dtype_name}", 0.0)
            environment = _environment(gpu_uuid, dtype_name)
            observer.end(None)
            bench = _Bench(run, meters, instruments, clock, environment, choice.energy)
            of_this_dtype = [entry for entry in entries if entry[2] == dtype_name]
            for contest in commands.bench(budget.take(of_this_dtype), device):
                observer.begin(f"{contest.family} {contest.problem} {dtype_name}", 0.0)
                bench.measure(contest if choice.has_compiled else contests.without_compiled(contest))
                observer.end(None)
                del contest  # its tensors, before the next one makes its own
    return run


def _gpu() -> tuple[torch.device, str]:
    """The GPU that kernels run on, and its NVML UUID."""
    for package in ("torch", "triton"):
        if find_spec(package) is None:
            raise UserError(f"kernels bench needs {package}; install it with: pip install 'tokenwatt[bench]'")
    import torch

    if not torch.cuda.is_available():
        raise UserError("kernels bench needs a CUDA GPU, found none; `check` and `compile` work without one")
    return torch.device("cuda"), f"GPU-{torch.cuda.get_device_properties(0).uuid}"


def _pass_gate(entries: Sequence[BenchProblem], device: torch.device, jobs: int) -> None:
    families, dtype_names = (tuple(dict.fromkeys(entry[place] for entry in entries)) for place in (0, 2))
    verdicts = commands.check(families, dtype_names, device, jobs)
    red = [f"{verdict.case} {verdict.dtype}" for verdict in verdicts if verdict.status == "failed"]
    if red:
        raise GateError(
            f"nothing is timed, because these fail the gate: {', '.join(red)}; see `tokenwatt kernels check`"
        )


def _environment(gpu_uuid: str, dtype_name: str) -> Environment:
    import torch
    import triton

    return describe("cuda", (gpu_uuid,), torch.__version__, triton.__version__, measure_ceilings("cuda", dtype_name))


@dataclass(slots=True)
class _Bench:
    """The contests of one dtype: what all of their rows share."""

    run: KernelRun
    meters: power.Meters
    instruments: power.Instruments
    clock: RunClock
    environment: Environment
    energy: str

    def measure(self, contest: Contest) -> None:
        """Time all contenders in turns, then meter one after the other, filing each."""
        from tokenwatt_kernels import contests

        measured_at = datetime.now(UTC)
        found = contests.run(contest)
        metered = _metered(found, self.energy) if self.meters.scope is not None else ()
        for result in found:
            place = {
                "run_id": self.run.run_id,
                "measurement_id": f"{self.run.run_id}/{len(self.run.timings)}",
            }
            columns = {
                **self.environment.model_dump(),
                **place,
                **_timing_columns(contest, result),
                "measured_at": measured_at,
                "run_began_at": self.clock.began_at,
            }
            if result.median_s is not None and result.contender in metered:
                function = contest.contenders[result.contender].run
                columns |= self._meter(function, result.median_s, place)
            self.run.timings.append(KernelTiming.model_validate(columns))
            self.run.save()

    def _meter(self, function: Callable[[], object], median_s: float, place: dict[str, str]) -> dict[str, Any]:
        """Columns of the energy of a loop of calls. A meter that fails spoils the energy, not the time."""
        sampler = power.Sampler(self.meters.meters, self.clock)
        integrate = partial(power.integrate, instruments=self.instruments)
        try:
            loop = metered_loop(function, median_s, sampler, self.clock, integrate)
        finally:
            self.run.power += power.power_tables(sampler.log.readings(), **place)
        columns = {**energy_columns(loop.energy), "power_scope": self.meters.scope}
        if loop.failure is not None:
            return {**columns, "reasons": (loop.failure,)}
        return {**columns, "window_start_s": loop.start_s, "window_s": loop.window_s, "window_calls": loop.calls}


def _metered(results: Sequence[Result], energy: str) -> Collection[str]:
    """The contenders whose energy is measured."""
    times_s = {result.contender: result.median_s for result in results if result.median_s is not None}
    if energy == "none":
        return ()
    if energy == "all":
        return times_s.keys()
    baselines = sorted(times_s.keys() - {OUR_KERNEL}, key=times_s.__getitem__)
    return (OUR_KERNEL, *baselines[:1])


def _timing_columns(contest: Contest, result: Result) -> dict[str, Any]:
    return {
        "family": result.family,
        "problem": result.problem,
        "dtype": result.dtype,
        "contender": result.contender,
        "configuration": result.configuration,
        "status": result.status,
        "reasons": result.reasons,
        "flop": contest.work.flop,
        "bytes": contest.work.bytes,
        "median_s": result.median_s,
        "low_s": result.low_s,
        "high_s": result.high_s,
        "samples": result.samples,
    }
