"""What `tokenwatt bench` measured is predicted, scored and fitted on like published rows."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tokenwatt import store
from tokenwatt.perf_model.cases import check_cases, measured_columns, read_table
from tokenwatt.perf_model.plan import plan_case
from tokenwatt.record import Measurement

PUBLISHED = Path(__file__).parents[2] / "results" / "published" / "h200-2026-11-26" / "measurements.parquet"


def test_published_windows_are_cases() -> None:
    table, whole = read_table(PUBLISHED), store.read(PUBLISHED, Measurement)
    cases, measured = check_cases(table), measured_columns(table)
    assert not cases.refused
    assert len(cases.valid) == len(whole)
    row = cases.valid.iloc[0]
    assert (row["system"], row["family"], row["num_gpus"]) == ("H200 SXM", "Qwen3-8B", 1)
    assert (row["scenario"], row["concurrency"], row["weight_dtype"]) == ("closed_loop", 64, "bfloat16")
    assert measured["output_tokens_per_s_per_gpu"][0] == pytest.approx(whole["output_tokens_per_s"][0])
    assert measured["tpot_s"][0] == pytest.approx(whole["tpot_median_s"][0])
    # Energy that is suspect is not a measurement to be fitted on.
    is_valid = (whole["energy_status"] == "valid").to_numpy()
    assert (measured["gpu_power_w"].notna().to_numpy() == is_valid).all()
    assert measured["gpu_power_w"][0] == pytest.approx(whole["gpu_power_w"][0])


def test_our_engine_has_overheads_of_its_own() -> None:
    (row, *_) = check_cases(read_table(PUBLISHED)).valid.to_dict("records")
    assert plan_case(row).group == "native"
    assert plan_case({**row, "engine": "vllm"}).group == "vllm"


@pytest.mark.parametrize(("column", "value"), [("status", "failed"), ("phase", "decode"), ("gpu_count", 0)])
def test_what_is_no_operating_point_of_a_gpu_is_left_out(tmp_path: Path, column: str, value: object) -> None:
    whole = pq.read_table(PUBLISHED)
    place, cells = whole.schema.get_field_index(column), whole[column].to_pylist()
    changed = whole.set_column(place, whole.schema.field(column), pa.array([value, *cells[1:]], whole[column].type))
    pq.write_table(changed, tmp_path / "measurements.parquet")
    assert len(read_table(tmp_path / "measurements.parquet")) == len(whole) - 1
