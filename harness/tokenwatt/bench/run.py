"""The rows of one invocation, and the folder that they are kept in."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from tokenwatt import power, store
from tokenwatt.analysis.results import results_of
from tokenwatt.record import (
    ClosureTerm,
    EnergyStatus,
    Measurement,
    PowerRecord,
    Reason,
    RequestRecord,
    Result,
    Status,
)
from tokenwatt.rows import MARGIN_S, Recording
from tokenwatt.steady_state import RequestTrace


@dataclass(slots=True)
class Run:
    """Everything that was measured so far."""

    run_id: str
    folder: Path
    measurements: list[Measurement] = field(default_factory=list)
    requests: list[pa.Table] = field(default_factory=list)
    """Of each run of an engine: as tables, because phases of minutes have 100,000 of them, and each save writes all."""
    power: list[pa.Table] = field(default_factory=list)
    """Readings, a few tables for each row."""
    closure: list[ClosureTerm] = field(default_factory=list)
    """What the energy of some windows went into."""
    found: list[Result] = field(default_factory=list)
    """Results that are no means over windows: the outcome of a search."""
    remarks: list[str] = field(default_factory=list)
    """What a person must know of it that no row says."""
    interval_widths: dict[str, float] = field(default_factory=dict)
    """Point -> the width of its interval that was asked for; 0 for none."""

    def new_point(self, interval_width: float) -> str:
        """Name of a point that is about to be measured."""
        point_id = f"{self.run_id}/p{len(self.interval_widths)}"
        self.interval_widths[point_id] = interval_width
        return point_id

    @property
    def results(self) -> list[Result]:
        """What the windows of each point say together."""
        if not self.measurements:
            return self.found
        table = store.to_table(self.measurements, Measurement).to_pandas()
        widths = table["point_id"].map(self.interval_widths)
        means = [result for width, rows in table.groupby(widths, sort=False) for result in results_of(rows, width)]
        return means + self.found

    def keep(self, rows: Sequence[Measurement], recording: Recording) -> None:
        """File the rows of one run of an engine with its requests and readings, and write everything.

        A request is filed once, under the window in which it was first answered. Readings are filed under the window
        that they are in, and those of a margin under its neighbour as well; the ramp's are nobody's. A row without a
        window, which comes last, has all that follows the window before.
        """
        self.measurements += rows
        ends_s = [row.window_start_s + row.window_s for row in rows if row.window_s and row.window_start_s is not None]
        requests = list[RequestRecord]()
        for trace in recording.timeline.traces.values():
            place = len(rows) - 1 if trace.first_token_s is None else bisect_left(ends_s, trace.first_token_s)
            requests.append(_request_record(rows[min(place, len(rows) - 1)], trace))
        for row in rows:
            if row.window_s is not None and row.window_start_s is not None:
                near = recording.readings(row.window_start_s, row.window_start_s + row.window_s)
            else:
                near = recording.log.readings(ends_s[-1] - MARGIN_S if ends_s else 0.0)
            self.power += power.power_tables(near, row.run_id, row.measurement_id)
        self.requests.append(store.to_table(requests, RequestRecord))
        self.save()

    def save(self) -> None:
        """Write everything so far; measurements last, so that a row is there only with its requests and readings."""
        store.write_tables(self.power, PowerRecord, self.folder)
        store.write_tables(self.requests, RequestRecord, self.folder)
        store.write(self.results, Result, self.folder)
        if self.closure:
            store.write(self.closure, ClosureTerm, self.folder)
        store.write(self.measurements, Measurement, self.folder)

    @property
    def has_failed(self) -> bool:
        """Whether a row is not `ok`, is our client's speed, has requests that failed, or energy that is invalid."""
        return any(
            row.status is not Status.OK
            or row.energy_status is EnergyStatus.INVALID
            or (row.client_busy is not None and Reason.CLIENT_BOUND in row.reasons)
            or row.requests_failed
            for row in self.measurements
        )


def _request_record(row: Measurement, trace: RequestTrace) -> RequestRecord:
    return RequestRecord(
        run_id=row.run_id,
        measurement_id=row.measurement_id,
        request_index=trace.sent.request_index,
        conversation=trace.sent.conversation,
        turn=trace.sent.turn,
        isl=trace.sent.isl,
        osl=trace.sent.osl,
        output_tokens=trace.output_tokens,
        due_s=trace.sent.due_s,
        sent_s=trace.sent.sent_s,
        first_token_s=trace.first_token_s,
        last_token_s=trace.last_token_s,
        is_ramp=trace.sent.is_ramp,
        status=trace.status,
        detail=None if trace.failure is None else trace.failure.detail,
    )
