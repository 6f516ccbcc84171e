"""The Hopper row that a fleet study starts from: our own measurement, or a published one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tokenwatt.errors import UserError
from tokenwatt.record import EnergyStatus, Status
from tokenwatt.reference.published import PublishedRow
from tokenwatt.reference.ranges import Range
from tokenwatt.reference.systems import HOPPER, system_of_board


@dataclass(frozen=True, slots=True)
class ReferenceRow:
    """One operating point of one model replica on Hopper."""

    row_id: str
    system: str
    model: str
    """Architecture, as `tokenwatt.model_config.load_architecture` knows it."""
    dtype: str
    isl: Range
    """Prompt length, tokens."""
    osl: float
    """Output length, tokens."""
    concurrency: int
    """Requests in flight per replica."""
    gpus: int
    """GPUs per replica."""
    output_tokens_per_s_per_gpu: float
    tpot_s: float
    gpu_power_w: float
    """Board power per GPU, W."""
    source: str

    def __post_init__(self) -> None:
        if self.system not in HOPPER:
            raise UserError(
                f"row {self.row_id!r} was measured on {self.system}; a reference must be {' or '.join(HOPPER)}"
            )


def from_published(row: PublishedRow) -> ReferenceRow:
    """A published row as a reference.

    Raises:
        UserError: the row carries no speed or no power, or is not Hopper.
    """
    return ReferenceRow(
        row_id=row.row_id,
        system=row.system,
        model=row.architecture,
        dtype=row.dtype,
        isl=row.isl_range,
        osl=row.osl,
        concurrency=row.concurrency,
        gpus=row.gpus,
        output_tokens_per_s_per_gpu=_number(row.row_id, "output_tokens_per_s_per_gpu", row.output_tokens_per_s_per_gpu),
        tpot_s=_number(row.row_id, "tpot_s", row.tpot_s),
        gpu_power_w=_number(row.row_id, "gpu_power_w", row.gpu_power_w),
        source=f"{row.source} ({row.model}, {row.engine}, {row.workload}) [{row.grade.value}]",
    )


def from_measurement(row: Mapping[str, Any]) -> ReferenceRow:
    """A row of the `measurements` table (as `store.read` returns it) as a reference.

    Raises:
        UserError: the row failed, was imported, is not stable, has no valid energy or no model, or was not measured on
            Hopper SXM.
    """
    name = row["measurement_id"]
    if row["status"] != Status.OK:
        raise UserError(f"row {name!r} has status {row['status']}; a reference must be ok")
    if isinstance(row["imported_from"], str):
        raise UserError(f"row {name!r} was imported from {row['imported_from']}; a reference must be measured here")
    if row["is_stable"] is not True and not bool(row["is_stable"]):
        raise UserError(f"row {name!r} is not stable ({_words(row['reasons'])}); measure it with a longer window_s")
    if row["energy_status"] != EnergyStatus.VALID:
        reasons = _words(row["energy_reasons"])
        raise UserError(
            f"row {name!r} has energy_status {row['energy_status']} ({reasons}); a reference needs valid energy"
        )
    system = system_of_board(str(row["gpu_name"]))
    if system is None:
        raise UserError(f"row {name!r} was measured on {row['gpu_name']!r}; a reference must be {' or '.join(HOPPER)}")
    if row["model"] is None or row["dtype"] is None:
        raise UserError(f"row {name!r} has no model or no dtype; a reference needs both")
    if row["load"] != "closed":
        raise UserError(f"row {name!r} has load {row['load']!r}; a reference must be a closed loop")
    gpus = int(row["gpu_count"])
    return ReferenceRow(
        row_id=name,
        system=system,
        model=row["model"],
        dtype=row["dtype"],
        isl=Range.exact(_number(name, "isl", row["isl"])),
        osl=_number(name, "osl", row["osl"]),
        concurrency=int(row["concurrency"]),
        gpus=gpus,
        output_tokens_per_s_per_gpu=_number(name, "output_tokens_per_s_per_gpu", row["output_tokens_per_s_per_gpu"]),
        tpot_s=_number(name, "tpot_median_s", row["tpot_median_s"]),
        gpu_power_w=_number(name, "gpu_power_w", row["gpu_power_w"]) / gpus,
        source=(
            f"measurement {name} ({row['engine']} {row['engine_version']}, {row['workload']}, "
            f"{row['weights_source']} weights)"
        ),
    )


def _number(row_id: str, column: str, value: float | None) -> float:
    if value is None or not math.isfinite(value) or value <= 0:
        raise UserError(
            f"row {row_id!r} has no usable {column} (got {value}); a fleet study needs speed, TPOT and power"
        )
    return float(value)


def _words(reasons: object) -> str:
    listed = reasons if isinstance(reasons, Iterable) else ()
    return ", ".join(map(str, listed)) or "no reason given"
