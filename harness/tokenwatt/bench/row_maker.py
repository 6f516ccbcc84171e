"""The rows of one engine under measurement: what is known of them beforehand, and what its runs add."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from tokenwatt.bench.accuracy import Accuracy
from tokenwatt.bench.points import Point
from tokenwatt.bench.run import Run
from tokenwatt.engines.protocol import Engine
from tokenwatt.power.external import NodeMeter
from tokenwatt.record import Measurement, Reason, Status
from tokenwatt.rows import Recording, row_of, row_without_numbers
from tokenwatt.spec import BenchSpec

Ending = tuple[Status, Reason, str | None]
"""Why a run of an engine has no further window."""


@dataclass(slots=True)
class RowMaker:
    """Knows all that the rows of one [[bench]] of a suite have in common."""

    run: Run
    suite: str
    spec: BenchSpec
    engine: Engine
    began_at: datetime
    """When the run's clock stood at 0."""
    power_scope: str | None
    variant: Literal["A", "B"] | None = None
    node_meter: NodeMeter | None = None
    """Reads the whole machine meanwhile."""
    shared: dict[str, Any] = field(default_factory=dict)
    """Columns of machine and rest."""

    def asked(self, point: Point, accuracy: Accuracy) -> dict[str, Any]:
        """Columns of a point that are known before it is measured; the point has its name from now on."""
        identity = self.engine.identity
        return {
            **self.shared,
            "run_id": self.run.run_id,
            "point_id": self.run.new_point(self.spec.interval_width),
            "measured_at": datetime.now(UTC),
            "run_began_at": self.began_at,
            "detail": point.note,
            "phase": point.phase,
            "variant": self.variant,
            "gpu_power_cap_w": point.cap_w,
            "suite": self.suite,
            "workload": point.workload.name,
            "workload_sha256": point.workload.sha256(),
            "engine": identity.name,
            "engine_version": identity.version,
            "model": identity.model,
            "weights_source": identity.weights_source,
            "dtype": identity.dtype,
            "quantization": identity.quantization,
            "kv_cache_dtype": identity.kv_cache_dtype,
            "tp": identity.tp,
            "seed": self.spec.seed,
            **point.plan.columns(),
            **self._slo_columns(),
            "usd_per_gpu_h": self.spec.usd_per_gpu_h,
            "power_scope": self.power_scope,
            **accuracy.columns(),
        }

    def next_id(self, ahead: int = 0) -> str:
        """Name of the next row; ahead: rows that were made and are not yet kept."""
        return f"{self.run.run_id}/{len(self.run.measurements) + ahead}"

    def rows(self, asked: dict[str, Any], first: int, recording: Recording, ending: Ending | None) -> list[Measurement]:
        """A row for each full window; for one that is not full if there is no other; one without numbers if it failed.

        first: windows that the point has already.
        """
        count = recording.windows if ending is not None else max(1, recording.windows)
        report, spec = self.engine.report, self.spec
        rows = [
            self._with_node(
                row_of(asked | self._place(first, index), recording, index, report, spec.min_window_s, spec.slo)
            )
            for index in range(count)
        ]
        if ending is not None:
            rows.append(row_without_numbers(asked | self._place(first, count), *ending))
        return rows

    def _place(self, first: int, index: int) -> dict[str, Any]:
        """Columns that tell the windows of a point apart."""
        return {"measurement_id": self.next_id(index), "window_index": first + index}

    def _with_node(self, row: Measurement) -> Measurement:
        """The row with the whole machine's energy, where a meter of it was asked for."""
        if self.node_meter is None:
            return row
        if row.window_start_s is None or row.window_s is None:
            return row.model_copy(update={"node_meter": self.node_meter.text})
        energy = self.node_meter.energy(row.window_start_s, row.window_start_s + row.window_s)
        said = None if energy.detail is None else f"{self.node_meter.text}: {energy.detail}"
        columns = {
            **energy.columns(self.node_meter.text),
            "detail": "; ".join(filter(None, (row.detail, said))) or None,
        }
        return row.model_copy(update=columns)

    def _slo_columns(self) -> dict[str, float | None]:
        slo = self.spec.slo
        return {} if slo is None else {f"slo_{name}": getattr(slo, name) for name in ("ttft_s", "tpot_s", "e2el_s")}
