"""Files that external meters write by their own clocks, good and bad, line by line."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from tokenwatt.clock import RunClock
from tokenwatt.errors import UserError
from tokenwatt.power.external import node, open_node_meter
from tokenwatt.record import EnergyStatus, Reason

BEFORE_S = 60


@pytest.fixture(autouse=True)
def _short_wait(monkeypatch):
    """A row that does not come is waited for less long."""
    monkeypatch.setattr(node, "MIN_WAIT_S", 1.5)
    monkeypatch.setattr(node, "MAX_WAIT_S", 1.5)


def run_clock(ago_s: float = 30.0) -> RunClock:
    """A run that began so many seconds ago."""
    return RunClock(datetime.now(UTC) - timedelta(seconds=ago_s), time.perf_counter() - ago_s)


def log(path: Path, clock: RunClock, zone=UTC, until_s: float = 31.0, form=datetime.isoformat, power_w: float = 250.0):
    """A row a second, from a minute before the run until `until_s` of its clock."""
    rows = ["timestamp,power_w"]
    for second in range(-BEFORE_S, int(until_s) + 1):
        rows.append(f"{form((clock.began_at + timedelta(seconds=second)).astimezone(zone))},{power_w}")
    path.write_text("\n".join(rows) + "\n")
    return path


def naive(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S.%f}"


@pytest.mark.parametrize(
    ("zone", "form", "options"),
    [
        (UTC, datetime.isoformat, ""),
        (timezone(timedelta(hours=-5)), datetime.isoformat, ""),
        (UTC, lambda moment: f"{moment:%Y-%m-%dT%H:%M:%S.%fZ}", ""),
        (UTC, lambda moment: f"{moment.timestamp():.3f}", ""),
        (ZoneInfo("Europe/Berlin"), naive, "?timezone=Europe/Berlin"),
        (timezone(timedelta(hours=2)), naive, "?offset_s=-7200"),
    ],
    ids=["UTC", "offset", "Z", "epoch", "zone", "shift"],
)
def test_rows_are_placed_by_time_of_day(tmp_path, zone, form, options):
    clock = run_clock()
    path = log(tmp_path / "rack.csv", clock, zone, form=form)
    with open_node_meter(f"csv:{path}{options}", clock) as meter:
        columns = meter.energy(5.25, 25.75).columns(meter.text)
    assert columns == {
        "node_meter": f"csv:{path}{options}",
        "node_energy_j": pytest.approx(250 * 20.5),
        "node_energy_status": EnergyStatus.VALID,
        "node_energy_reasons": (),
    }


def test_columns_may_have_other_names_and_counters_other_units(tmp_path):
    clock = run_clock()
    # 3.6 MJ in 1000 s: 3600 W, 0.001 kWh a second.
    rows = [f"{clock.began_at.timestamp() + s:.3f}; {100 + s * 0.001:.3f}".replace("; ", ", ") for s in range(-9, 32)]
    (tmp_path / "pdu.csv").write_text("\n".join(["when, Total", *rows]) + "\n")
    with open_node_meter(f"csv:{tmp_path}/pdu.csv?time=when&energy_kwh=Total", clock) as meter:
        assert meter.energy(0.5, 25.0).energy_j == pytest.approx(3600 * 24.5, rel=1e-6)


@pytest.mark.parametrize(("hours", "side"), [(2, "2 h ahead"), (-1, "1 h behind"), (5.5, "5.5 h ahead")])
@pytest.mark.parametrize("options", ["", "?power_w=power_w&offset_s=3600"])
def test_a_wrong_time_zone_is_named_with_the_request_that_works(tmp_path, hours, side, options):
    clock = run_clock()
    already_s = 3600 if options else 0
    mistaken = timedelta(hours=hours, seconds=-already_s)
    path = log(tmp_path / "rack.csv", clock, form=lambda moment: (moment + mistaken).isoformat())
    with open_node_meter(f"csv:{path}{options}", clock) as meter:
        energy = meter.energy(5.0, 25.0)
    assert (energy.energy_j, energy.reasons) == (None, (Reason.CLOCKS_APART,))
    assert f"wrong time zone? the file is {side}: csv:{path}?" in (energy.detail or "")
    with open_node_meter((energy.detail or "").rpartition(": ")[2], clock) as meter:
        assert meter.energy(5.0, 25.0).energy_j == pytest.approx(250 * 20)


def test_a_long_file_from_the_future_is_not_taken_for_a_good_one(tmp_path):
    # It reaches over the window, but ends an hour ahead: its rows in the window are an hour old.
    clock = run_clock()
    path = log(tmp_path / "rack.csv", clock, until_s=3631)
    with open_node_meter(f"csv:{path}", clock) as meter:
        energy = meter.energy(5.0, 25.0)
    assert energy.reasons == (Reason.CLOCKS_APART,)
    assert "offset_s=-3600" in (energy.detail or "")


def test_a_host_whose_time_of_day_was_set_cannot_place_rows(tmp_path):
    # Ninety seconds by the time of day, thirty by the monotonic clock.
    clock = RunClock(datetime.now(UTC) - timedelta(seconds=90), time.perf_counter() - 30)
    path = log(tmp_path / "rack.csv", clock, until_s=89)
    with open_node_meter(f"csv:{path}", clock) as meter:
        energy = meter.energy(5.0, 25.0)
    assert energy.reasons == (Reason.CLOCKS_APART,)
    assert "time of day moved by +60.0 s" in (energy.detail or "")


def test_the_row_behind_the_edge_is_waited_for_and_half_a_line_is_left_alone(tmp_path):
    clock = run_clock()
    path = log(tmp_path / "rack.csv", clock, until_s=29)
    with path.open("a") as file:
        file.write(f"{(clock.began_at + timedelta(seconds=30)).isoformat()},2")

    def finish() -> None:
        with path.open("a") as file:
            file.write("50.0\n")

    with open_node_meter(f"csv:{path}", clock) as meter:
        timer = threading.Timer(0.5, finish)
        timer.start()
        energy = meter.energy(9.5, 29.5)
        timer.join()
    assert (energy.status, energy.energy_j) == (EnergyStatus.VALID, pytest.approx(250 * 20))


def test_a_meter_that_stopped_writing_gives_no_joules(tmp_path):
    clock = run_clock()
    path = log(tmp_path / "rack.csv", clock, until_s=20)
    with open_node_meter(f"csv:{path}", clock) as meter:
        energy = meter.energy(5.0, 25.0)
    assert (energy.energy_j, energy.reasons) == (None, (Reason.EDGE_NOT_BRACKETED,))


HEAD = "timestamp,power_w\n2026-01-01T00:00:00Z,250\n"


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (
            "timestamp,power_w\n2026-01-01 00:00:00,250\n",
            "",
            "line 2: timestamp must be ISO 8601 with an offset, or ep",
        ),
        (
            HEAD + "2026-01-01T00:00:01,250\n",
            "",
            "line 3: timestamp must be ISO 8601 with an offset, or epoch seconds; ",
        ),
        (HEAD + "2026-01-01T00:00:01Z,n/a\n", "", "line 3: power_w must be a number > 0, got 'n/a'"),
        (HEAD + "2026-01-01T00:00:01Z\n", "", "line 3: power_w must be a number > 0, got ''"),
        (HEAD + "2026-01-01T00:00:01Z,-5\n", "", "line 3: power_w must be a number > 0, got '-5'"),
        (HEAD + "2026-01-01T00:00:01Z,0\n", "", "line 3: power_w must be a number > 0, got '0'"),
        (HEAD + "2026-01-01T00:00:01Z,inf\n", "", "line 3: power_w must be a number > 0, got 'inf'"),
        (HEAD + "yesterday,250\n", "?offset_s=0", "line 3: timestamp must be a time, got 'yesterday'"),
        (HEAD + "2026-01-01T00:00:01Z,250,7\n", "", "not a CSV table"),
        (
            "timestamp,power_w\n1767225600,250\n2026-01-01T00:00:01Z,250\n",
            "",
            "line 3: timestamp must be epoch seconds",
        ),
        ("timestamp,power_w\n1767225600000,250\n", "", "line 2: timestamp must be epoch seconds"),
        ("timestamp,power_w\n2026-10-25 02:30:00,250\n", "?timezone=Europe/Berlin", "exists once in Europe/Berlin"),
        (HEAD, "?timezone=Berlin", "unknown timezone 'Berlin'; write it like Europe/Berlin"),
        (HEAD, "?offset=3600", "unknown option of meter csv 'offset' (did you mean 'offset_s'?)"),
        (HEAD, "?offset_s=1h", "offset_s must be a number, got '1h'"),
        (HEAD, "?power_w=watts", "has no column 'watts'; it has timestamp, power_w"),
        ("timestamp,watts\n", "", "one of power_w, energy_j, energy_wh, energy_kwh is needed"),
        ("", "", "not a CSV table"),
        (None, "", "cannot be read (No such file or directory)"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_one_line(tmp_path, content, options, message):
    path = tmp_path / "rack.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError) as refused:
        open_node_meter(f"csv:{path}{options}", RunClock())
    assert message in str(refused.value)


def test_a_row_that_breaks_during_the_run_spoils_the_node_energy_alone(tmp_path):
    clock = run_clock()
    path = log(tmp_path / "rack.csv", clock)
    with open_node_meter(f"csv:{path}", clock) as meter:
        with path.open("a") as file:
            file.write("reboot\n")
        energy = meter.energy(5.0, 25.0)
    assert (energy.status, energy.reasons) == (EnergyStatus.INVALID, (Reason.METER_ERROR,))
    assert "line 94: " in (energy.detail or "")  # the header, 60 s before the run, its seconds 0 to 31, and this one
