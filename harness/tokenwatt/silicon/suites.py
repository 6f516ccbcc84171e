"""Whether a suite can run on the GPU that the pass is made for, found out on a machine without one."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tokenwatt.bench.points import longest_context, points_of
from tokenwatt.bench.resting import SETTLE_S
from tokenwatt.bench.stopping import Stopping
from tokenwatt.bench.suite import plans_of
from tokenwatt.engines.native.hub import find_architecture
from tokenwatt.engines.native.loading import Loader
from tokenwatt.engines.native.options import NativeOptions
from tokenwatt.engines.native.requirements import check_runs
from tokenwatt.errors import UserError
from tokenwatt.reference.systems import load_system
from tokenwatt.silicon.step import Step
from tokenwatt.silicon.table import CAPABILITY
from tokenwatt.spec import BenchSpec, SuiteSpec, load_toml, validate
from tokenwatt.workloads import find_toml, library_folder

SYSTEM = "H200 SXM"
"""The GPU that the pass is made for, by its name among the facts."""
MEASURING_SHARE = 0.75
"""Of a step's limit that windows may take: loading, warm-up, ramps and compilation take the rest."""
CLOSURE_S = 30.0
"""Of a point whose energy is explained, at most (workloads/README.md)."""
PHASES = 3
"""Of a point with phases: as it is, prefill alone, decode alone."""
GB = 1e9


@dataclass(frozen=True, slots=True)
class Plan:
    """What a suite will take."""

    points: int
    measuring_s: float
    """All windows that may be taken, closure and rest, seconds."""
    memory_bytes: int
    """Weights, activations and the cache of one request, of its largest engine that can tell."""

    def __str__(self) -> str:
        return f"{self.points} points, {self.measuring_s:.0f} s of measuring, {self.memory_bytes / GB:.1f} GB at least"


def load_suite(name: str) -> SuiteSpec:
    """A suite by its name, or file.

    Raises:
        UserError: no such suite, or it cannot be read.
    """
    return load_toml(find_toml(name, library_folder() / "suites", "suite"), SuiteSpec)


def check(step: Step) -> Plan:
    """Read the suite of a step and hold it against the GPU and the step's limit.

    Raises:
        UserError: an unknown key, engine or model; a context, format or size that does not fit; too much to measure.
    """
    assert step.suite is not None
    suite = load_suite(step.suite)
    # Engines refuse a GPU that is not here; everything else that they check does not depend on it.
    here = [bench.model_copy(update={"device": "cpu"}) for bench in suite.bench]
    plans_of(suite.model_copy(update={"bench": tuple(here)}))
    plan = Plan(
        points=sum(len(points_of(bench)) for bench in suite.bench),
        measuring_s=sum(map(measuring_s, suite.bench)),
        memory_bytes=max((_memory_bytes(bench) for bench in suite.bench if bench.engine == "native"), default=0),
    )
    allowed_s = MEASURING_SHARE * step.limit_s
    if plan.measuring_s > allowed_s:
        raise UserError(
            f"suite {step.suite!r} may measure for {plan.measuring_s:.0f} s, allowed in a step of {step.limit_s:.0f} s:"
            f" {allowed_s:.0f} s; shorten windows or budgets"
        )
    return plan


def measuring_s(bench: BenchSpec) -> float:
    """Seconds of windows, closure and rest that a bench takes at most."""
    windows = Stopping(bench, bench.window_s).most * bench.window_s * (PHASES if bench.phases else 1)
    closure = CLOSURE_S if bench.closure else 0.0
    rest = 3 * bench.idle_s + 2 * SETTLE_S if bench.idle_s else 0.0
    return len(points_of(bench)) * (windows + closure) + rest


def _memory_bytes(bench: BenchSpec) -> int:
    """What the native engine must find free on the GPU.

    Raises:
        UserError: there is no kernel for it, or it is more than the GPU has.
    """
    options = validate(bench.options, NativeOptions, where="options of engine 'native'")
    architecture = find_architecture(bench.model, bench.weights)
    check_runs(architecture, bench.dtype, options, CAPABILITY)
    loader = Loader(architecture, options, bench.dtype, None, bench.seed, torch.device("cpu"))
    longest = longest_context(points_of(bench), bench, architecture.max_position_embeddings)
    need, has = loader.need(max(bench.concurrency), longest), load_system(SYSTEM).hbm_bytes.value
    if need.total > has:
        raise UserError(f"{architecture.name} needs {need}, a {SYSTEM} has {has / GB:.0f} GB")
    return need.total
