"""A fleet study as a TOML file: which site, which systems, who pays, and the row that it starts from."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args

import pandas as pd
from pydantic import Field, PositiveFloat, field_validator

from tokenwatt.economics.fleet import QUANTITIES, estimate, facts_used
from tokenwatt.economics.reference_row import ReferenceRow, from_measurement, from_published
from tokenwatt.economics.scaling import SpeedMethod
from tokenwatt.errors import UserError, unknown_name
from tokenwatt.model_config import load_architecture
from tokenwatt.record import FleetEstimate
from tokenwatt.reference.facts import Fact
from tokenwatt.reference.published import load_published
from tokenwatt.reference.ranges import CASES
from tokenwatt.reference.systems import Ownership
from tokenwatt.schema import unit_of
from tokenwatt.spec import Spec, load_toml
from tokenwatt.workloads import find_toml

DEFAULT_SCENARIO = "one-gigawatt"


class FleetScenario(Spec):
    """What `tokenwatt fleet SCENARIO.toml` works out."""

    name: str = Field(min_length=1)
    """Name in the results."""
    description: str = ""
    """One sentence for the reader of the results."""
    power_budget_w: PositiveFloat = Field(allow_inf_nan=False)
    """Power that the all-in watts per GPU are counted against, W."""
    systems: tuple[str, ...] = Field(min_length=1)
    """Systems that fill it, one at a time."""
    reference: str
    """`row_id` of a published row, or `measurement_id` of a measured one."""
    ownership: Ownership = "hyperscaler"
    """Whose cost of a GPU-hour."""
    speed: SpeedMethod = "fixed_overhead"
    """Which ratio carries the central speed; the range is the same."""

    @field_validator("systems", mode="before")
    @classmethod
    def _array(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value

    @field_validator("systems")
    @classmethod
    def _once_each(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value):
            raise ValueError("names a system twice")
        return value


@dataclass(frozen=True, slots=True)
class FleetStudy:
    """A scenario, the row that it starts from, its estimates and every Fact behind them."""

    scenario: FleetScenario
    reference: ReferenceRow
    estimates: list[FleetEstimate]
    facts: list[Fact]


def load_scenario(name: str = DEFAULT_SCENARIO) -> FleetScenario:
    """Read a shipped scenario by name, or any TOML file by path.

    Raises:
        UserError: no such scenario, or a file that is not one.
    """
    return load_toml(find_toml(name, Path(str(files("tokenwatt.economics"))) / "scenarios", "scenario"), FleetScenario)


def run_scenario(scenario: FleetScenario, measurements: pd.DataFrame | None = None) -> FleetStudy:
    """Work a scenario out; `measurements` (as `store.read` returns them) may hold its reference row.

    Raises:
        UserError: an unknown reference or system, a reference without speed or valid energy, a missing Fact.
    """
    reference = find_reference(scenario.reference, measurements)
    estimates = estimate(
        reference,
        load_architecture(reference.model),
        scenario.systems,
        scenario.power_budget_w,
        scenario.ownership,
        speed=scenario.speed,
    )
    return FleetStudy(scenario, reference, estimates, facts_used(reference, scenario.systems, scenario.ownership))


def central_by_method(study: FleetStudy) -> dict[SpeedMethod, list[FleetEstimate]]:
    """The central row of each system by every way to carry speed over: how much hangs on that choice."""
    scenario, reference = study.scenario, study.reference
    architecture = load_architecture(reference.model)
    return {
        speed: [
            row
            for row in estimate(
                reference, architecture, scenario.systems, scenario.power_budget_w, scenario.ownership, speed=speed
            )
            if row.case == "central"
        ]
        for speed in get_args(SpeedMethod)
    }


def find_reference(row_id: str, measurements: pd.DataFrame | None = None) -> ReferenceRow:
    """The measured row `row_id`, or the published one.

    Raises:
        UserError: there is none, or it cannot carry a fleet study.
    """
    measured = [] if measurements is None else measurements.to_dict("records")
    matching = [row for row in measured if row["measurement_id"] == row_id]
    if len(matching) > 1:
        raise UserError(f"{len(matching)} measurements are called {row_id!r}; name a single run's folder")
    if matching:
        return from_measurement({str(key): value for key, value in matching[0].items()})
    published = load_published()
    if row_id not in published:
        raise unknown_name("reference row", row_id, [*published, *(row["measurement_id"] for row in measured)])
    return from_published(published[row_id])


def to_json(study: FleetStudy) -> dict[str, Any]:
    """The study as plain values: each quantity's range with its unit, by system, and each constant with its source."""
    return {
        "scenario": study.scenario.model_dump(mode="json"),
        "reference": _reference_json(study.reference),
        "method": study.estimates[0].method,
        "systems": {system: _system_json(study.estimates, system) for system in study.scenario.systems},
        "sources": [fact.model_dump(mode="json") for fact in study.facts],
    }


def _system_json(estimates: list[FleetEstimate], system: str) -> dict[str, dict[str, Any]]:
    cases = {row.case: row for row in estimates if row.system == system}
    return {
        quantity: {
            **{case: getattr(cases[case], quantity) for case in CASES},
            "unit": unit_of(FleetEstimate, quantity),
        }
        for quantity in QUANTITIES
    }


def _reference_json(row: ReferenceRow) -> dict[str, Any]:
    return {
        "row_id": row.row_id,
        "system": row.system,
        "model": row.model,
        "dtype": row.dtype,
        "isl": {"low": row.isl.low, "central": row.isl.central, "high": row.isl.high, "unit": "token"},
        "osl": row.osl,
        "concurrency": row.concurrency,
        "gpus": row.gpus,
        "output_tokens_per_s_per_gpu": row.output_tokens_per_s_per_gpu,
        "tpot_s": row.tpot_s,
        "gpu_power_w": row.gpu_power_w,
        "source": row.source,
    }
