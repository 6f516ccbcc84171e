"""Benches of the scripted engine on a clock that jumps instead of waiting: minutes of windows in a second."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tokenwatt import power
from tokenwatt.bench import comparison, suite
from tokenwatt.record import Measurement
from tokenwatt.spec import SuiteSpec, validate

BENCH = {
    "engine": "fake",
    "workloads": ["chat-smoke"],
    "concurrency": [4],
    "window_s": 6.0,
    "min_window_s": 4.0,
    "idle_s": 0.0,
    "options": {"ttft_s": 0.05, "tpot_s": 0.01},
}


@dataclass
class JumpingClock:
    """Stands wherever somebody last slept to; a `RunClock` for the bench."""

    now_s: float = 0.0
    began_at: datetime = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def new_run_id(self) -> str:
        return "run"


@dataclass
class Listener:
    """An observer that remembers what began."""

    labels: list[str] = field(default_factory=list)
    ends: list[Measurement | None] = field(default_factory=list)

    def begin(self, label: str, expected_s: float) -> None:
        self.labels.append(label)

    def advance(self, elapsed_s: float) -> None:
        """Nothing to draw."""

    def end(self, measurement: Measurement | None) -> None:
        self.ends.append(measurement)


def use_jumping_clock(monkeypatch: pytest.MonkeyPatch) -> JumpingClock:
    """Let benches run on it, without meters."""
    clock = JumpingClock()
    for module in (suite, comparison):
        monkeypatch.setattr(module, "RunClock", lambda: clock)
    monkeypatch.setattr("tokenwatt.engines.fake.time.sleep", clock.sleep)
    monkeypatch.setattr(power, "open_meters", lambda _: power.Meters((), None))
    return clock


def suite_of(*benches: dict[str, Any]) -> SuiteSpec:
    """A suite of benches like BENCH, each with changes."""
    return validate({"name": "s", "bench": [{**BENCH, **changes} for changes in benches]}, SuiteSpec, "test")


def write_workload(folder: Path, isl: int, osl: int) -> str:
    """A workload of fixed lengths; its path."""
    path = folder / f"{isl}-{osl}.toml"
    lengths = f'[input]\nkind = "fixed"\ntokens = {isl}\n[output]\nkind = "fixed"\ntokens = {osl}\n'
    path.write_text(f'name = "w{isl}-{osl}"\ndescription = "fixed"\n{lengths}')
    return str(path)
