"""A wall or rack meter that writes a CSV file by its own clock: rows are placed on the run's clock by time of day.

The file is read when a window has ended. Rows must have been written by then up to behind its end; `energy` waits a few
seconds for them. A last line without a newline is being written, and is left for the next look.

Both clocks must be kept, by NTP say: rows from the future and another time zone are noticed, two seconds are not.
"""

from __future__ import annotations

import io
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import pandas as pd

from tokenwatt.clock import RunClock
from tokenwatt.errors import UserError
from tokenwatt.power.external.energy import NodeEnergy, Readings, invalid, is_power, node_energy, zone_shift_s
from tokenwatt.power.external.node import NodeMeter
from tokenwatt.power.external.request import MeterRequest
from tokenwatt.power.meter import MeterError
from tokenwatt.record import Reason
from tokenwatt.units import SECONDS_PER_HOUR

JOULES_PER = {"energy_j": 1.0, "energy_wh": SECONDS_PER_HOUR, "energy_kwh": 1e3 * SECONDS_PER_HOUR}
"""Column of an energy counter -> joules in its unit."""
OPTIONS = ("time", "power_w", *JOULES_PER, "timezone", "offset_s")
"""`time`, `power_w` and `energy_*` name the file's columns where they are called otherwise (`timestamp` for time);
`timezone` (IANA) is that of times without an offset; `offset_s` is added to all times, and makes those UTC."""
MAX_WALL_STEP_S = 0.5
"""Half a period of a usual meter: further apart, the host's time of day was set during the run."""
MAX_FUTURE_S = 3.0
"""A row that is further ahead of the host's time of day has another time zone or a clock that runs fast."""
MAX_EPOCH_S = 1e11
"""Year 5138: a larger number counts milliseconds or less."""
_HAS_OFFSET = r"\d[T ]\d.*(?:[zZ]|[+-]\d{2}(?::?\d{2})?)$"


def open_log(request: MeterRequest, clock: RunClock) -> CsvLog:
    """The file that `csv:FILE` names.

    Raises:
        UserError: no such file, a wrong option, a missing column, a row that is malformed, a time without a zone.
    """
    request.only(OPTIONS)
    if not request.place:
        raise UserError("meter 'csv' needs a file: csv:rack.csv")
    if len(JOULES_PER.keys() & request.options.keys()) > 1:
        raise UserError(f"meter {request.text!r}: one energy column is allowed")
    log = CsvLog(request, clock)
    try:
        log.readings()
    except MeterError as error:
        raise UserError(str(error)) from None
    return log


class CsvLog(NodeMeter):
    """Reads the file whenever it is asked. Build it with `open_log`."""

    def __init__(self, request: MeterRequest, clock: RunClock) -> None:
        super().__init__(request)
        self._request = request
        self._path = Path(request.place)
        self._began_at = clock.began_at
        self._wall_step_s = clock.wall_step_s
        self._offset_s = request.number("offset_s")
        self._zone = _zone(request)

    def readings(self) -> Readings:
        """Every whole row.

        Raises:
            MeterError: the file cannot be read, or a row is malformed; names its line.
        """
        table = self._table()
        power, counter = self._columns(table)
        return Readings(
            self._at_s(self._text(table, self._request.options.get("time", "timestamp"))),
            None if power is None else self._powers(self._text(table, power)),
            None if counter is None else self._counts(self._text(table, counter[0])) * counter[1],
        )

    def energy(self, start_s: float, end_s: float) -> NodeEnergy:
        """Energy of the window, if the host's time of day held and the file's time agrees with it."""
        try:
            readings = self._reaching(end_s)
        except MeterError as error:
            return invalid(Reason.METER_ERROR, str(error))
        step_s = self._wall_step_s()
        if abs(step_s) > MAX_WALL_STEP_S:
            detail = f"this host's time of day moved by {step_s:+.1f} s during the run, so rows cannot be placed"
            return invalid(Reason.CLOCKS_APART, detail)
        if not len(readings.at_s):
            return invalid(Reason.EDGE_NOT_BRACKETED, f"{self._path} holds no rows")
        span_s = float(readings.at_s.min()), float(readings.at_s.max())
        latest_s = (datetime.now(UTC) - self._began_at).total_seconds() + MAX_FUTURE_S
        energy = node_energy(readings, start_s, end_s)
        if span_s[1] > latest_s:
            ahead_s = span_s[1] - latest_s + MAX_FUTURE_S
            energy = invalid(
                Reason.CLOCKS_APART, f"{self._path} holds rows up to {ahead_s:.0f} s in this host's future"
            )
        if Reason.CLOCKS_APART not in energy.reasons:
            return energy
        return invalid(Reason.CLOCKS_APART, f"{energy.detail}{self._hint(span_s, start_s, end_s, latest_s)}")

    def close(self) -> None:
        """Nothing to release: the file is open only while it is read."""

    def _hint(self, span_s: tuple[float, float], start_s: float, end_s: float, latest_s: float) -> str:
        """The request that would work if the file's time zone is wrong; empty where no zone explains it."""
        shift_s = zone_shift_s(span_s, start_s, end_s, latest_s)
        if shift_s is None:
            return ""
        options = {**self._request.options, "offset_s": f"{shift_s + (self._offset_s or 0.0):g}"}
        text = f"csv:{self._path}?{'&'.join(f'{name}={value}' for name, value in options.items())}"
        side = "ahead" if shift_s < 0 else "behind"
        return f"; wrong time zone? the file is {abs(shift_s) / SECONDS_PER_HOUR:g} h {side}: {text}"

    def _table(self) -> pd.DataFrame:
        """All columns as text, whole lines only; row i is line i + 2 of the file."""
        try:
            content = self._path.read_bytes()
        except OSError as error:
            raise MeterError(f"meter file {self._path} cannot be read ({error.strerror})") from None
        whole = content[: content.rfind(b"\n") + 1]
        try:
            table = pd.read_csv(
                io.BytesIO(whole), dtype=str, keep_default_na=False, skip_blank_lines=False, skipinitialspace=True
            )
        except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
            raise MeterError(f"meter file {self._path} is not a CSV table ({error})") from None
        if not isinstance(table.index, pd.RangeIndex):  # pandas takes a surplus first column for row names
            raise MeterError(f"meter file {self._path}, line 2: more values than the header has names")
        return table

    def _columns(self, table: pd.DataFrame) -> tuple[str | None, tuple[str, float] | None]:
        """Name of the power column, and name and joules per unit of the counter's; at least one is there."""
        asked = self._request.options
        power = asked.get("power_w", "power_w" if "power_w" in table else None)
        counters = [(asked.get(kind, kind), joules) for kind, joules in JOULES_PER.items()]
        chosen = [(asked[kind], joules) for kind, joules in JOULES_PER.items() if kind in asked]
        found = chosen or [(name, joules) for name, joules in counters if name in table]
        if power is None and not found:
            wanted = ", ".join(("power_w", *JOULES_PER))
            raise MeterError(
                f"meter file {self._path} has columns {', '.join(table.columns)}; one of {wanted} is needed, or its "
                "name: ?power_w=NAME"
            )
        return power, found[0] if found else None

    def _text(self, table: pd.DataFrame, name: str) -> pd.Series:
        if name not in table:
            raise MeterError(f"meter file {self._path} has no column {name!r}; it has {', '.join(table.columns)}")
        return table[name].astype("object").fillna("").str.strip()

    def _powers(self, text: pd.Series) -> np.ndarray:
        values = pd.to_numeric(text, errors="coerce").to_numpy(dtype=np.float64)
        bad = ~is_power(values)
        if bad.any():
            self._refuse(text, bad, f"{text.name} must be a number > 0")
        return values

    def _counts(self, text: pd.Series) -> np.ndarray:
        values = pd.to_numeric(text, errors="coerce").to_numpy(dtype=np.float64)
        bad = ~(np.isfinite(values) & (values >= 0))
        if bad.any():
            self._refuse(text, bad, f"{text.name} must be a number >= 0")
        return values

    def _at_s(self, text: pd.Series) -> np.ndarray:
        """Times on the run's clock: epoch seconds, or ISO 8601."""
        epoch_s = pd.to_numeric(text, errors="coerce").to_numpy(dtype=np.float64)
        if len(text) and np.isfinite(epoch_s[0]):
            bad = ~(np.abs(epoch_s) < MAX_EPOCH_S)
            if bad.any():
                self._refuse(text, bad, f"{text.name} must be epoch seconds, as in the first row")
            return epoch_s - self._began_at.timestamp() + (self._offset_s or 0.0)
        aware = text.str.contains(_HAS_OFFSET, regex=True).to_numpy(dtype=bool)
        if not aware.all() and self._zone is None and self._offset_s is None:
            advice = "say ?timezone=Europe/Berlin, or ?offset_s=SECONDS to UTC"
            self._refuse(text, ~aware, f"{text.name} must be ISO 8601 with an offset, or epoch seconds; {advice}")
        utc = pd.to_datetime(text.where(aware), format="ISO8601", errors="coerce", utc=True)
        naive = pd.to_datetime(text.where(~aware), format="ISO8601", errors="coerce")
        local = naive.dt.tz_localize(self._zone or UTC, ambiguous="NaT", nonexistent="NaT").dt.tz_convert(UTC)
        times = utc.where(aware, local)
        bad = times.isna().to_numpy()
        if bad.any():
            where = "" if self._zone is None else f" that exists once in {self._zone.key}"
            self._refuse(text, bad, f"{text.name} must be a time{where}")
        return (times - self._began_at).dt.total_seconds().to_numpy() + (self._offset_s or 0.0)

    def _refuse(self, text: pd.Series, bad: np.ndarray, rule: str) -> NoReturn:
        row = int(np.flatnonzero(bad)[0])
        raise MeterError(f"meter file {self._path}, line {row + 2}: {rule}, got {text.iloc[row]!r}")


def _zone(request: MeterRequest) -> ZoneInfo | None:
    name = request.options.get("timezone")
    if name is None:
        return None
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        raise UserError(f"meter {request.text!r}: unknown timezone {name!r}; write it like Europe/Berlin") from None
