"""Tables of an older schema version, read with the columns of this one."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.factories import measurement, request_row

from tokenwatt.record import Measurement, Reason, Record, RequestRecord, Result
from tokenwatt.store import read, to_table

ROOT = Path(__file__).parents[2]
V2 = ["load", "ramp_s", "import_losses", "itl_mean_s", "accuracy_status"]
STUDY = ROOT / "results" / "published" / "h200-2026-11-26"


def as_version_1(table: pa.Table, path: Path) -> Path:
    pq.write_table(table.replace_schema_metadata({b"grain": path.stem.encode(), b"schema_version": b"1"}), path)
    return path


def test_requests_of_version_1_have_a_status_and_were_sent_when_due(tmp_path):
    rows = [request_row(0), request_row(1)]
    table = to_table(rows, RequestRecord).drop_columns(["status", "detail", "conversation", "turn", "due_s"])
    table = table.append_column("is_complete", pa.array([True, False]))
    found = read(as_version_1(table, tmp_path / "requests.parquet"), RequestRecord)
    assert found["status"].tolist() == ["complete", "cut"]
    assert found["due_s"].tolist() == found["sent_s"].tolist() == [0.0, 0.5]
    assert found["conversation"].tolist() == [0, 1]
    assert found["turn"].tolist() == [0, 0]
    assert found["detail"].isna().all()


def test_measurements_of_version_1_are_closed_loops_and_name_their_failures_anew(tmp_path):
    row = measurement(requests_failed=3, reasons=(Reason.REQUESTS_FAILED, Reason.TOO_FEW_TOKENS))
    table = to_table([row], Measurement).drop_columns(V2)
    table = table.rename_columns({"requests_failed": "requests_refused"})
    place = table.column_names.index("reasons")
    old = pa.array([["requests_refused", "too_few_tokens"]], table.schema.field(place).type)
    table = table.set_column(place, table.field(place), old)
    (found,) = read(as_version_1(table, tmp_path / "measurements.parquet"), Measurement).to_dict("records")
    assert (found["load"], found["ramp_s"], found["requests_failed"]) == ("closed", 0.0, 3)
    assert list(found["reasons"]) == ["requests_failed", "too_few_tokens"]
    assert list(found["import_losses"]) == []
    assert found["accuracy_status"] == "not_checked"
    assert found["itl_mean_s"] != found["itl_mean_s"]  # nobody knew


@pytest.mark.parametrize("kind", [Measurement, Result, RequestRecord])
def test_a_published_study_of_version_1_is_still_read(kind: type[Record]):
    file = STUDY / f"{kind.grain}.parquet"
    assert pq.read_schema(file).metadata[b"schema_version"] == b"1"
    table = read(file, kind)
    assert len(table)
    if kind is not RequestRecord:
        assert set(table["load"]) == {"closed"}
