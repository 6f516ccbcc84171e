"""The store: whole files or none, units inside, damage named."""

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.factories import measurement

from tokenwatt import store
from tokenwatt.errors import UserError
from tokenwatt.record import Measurement, PowerRecord


def test_a_row_comes_back_as_it_went(tmp_path):
    row = measurement(gpu_uuids=("GPU-a", "GPU-b"), detail="ünïcode")
    store.write([row], Measurement, tmp_path)
    table = store.read(tmp_path, Measurement)
    assert table["output_tokens_per_s"].tolist() == [5.0]  # 10 tokens / 2 s
    assert list(table["gpu_uuids"].iloc[0]) == ["GPU-a", "GPU-b"]
    assert table["detail"].iloc[0] == "ünïcode"
    assert table["measured_at"].iloc[0] == pd.Timestamp("2026-01-01", tz="UTC")


def test_pandas_reads_it_and_every_number_has_a_unit(tmp_path):
    path = store.write([measurement()], Measurement, tmp_path)
    assert pd.read_parquet(path)["output_tokens"].tolist() == [10]
    for field in pq.read_schema(path):
        if pa.types.is_integer(field.type) or pa.types.is_floating(field.type):
            assert field.metadata[b"unit"], field.name
    assert b"output_tokens / window_s" in pq.read_schema(path).field("output_tokens_per_s").metadata[b"formula"]


def test_no_rows_still_make_a_readable_table(tmp_path):
    store.write([], PowerRecord, tmp_path)
    assert store.read(tmp_path, PowerRecord).empty


def test_a_folder_of_runs_is_one_table(tmp_path):
    for run in ("a", "b"):
        store.write([measurement(run_id=run)], Measurement, tmp_path / run)
    assert store.read(tmp_path, Measurement)["run_id"].tolist() == ["a", "b"]


def test_a_file_cut_short_is_named(tmp_path):
    path = store.write([measurement()], Measurement, tmp_path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"measurements\.parquet: not a complete parquet file"):
        store.read(tmp_path, Measurement)


def test_another_table_or_another_schema_is_refused(tmp_path):
    power = store.write([], PowerRecord, tmp_path)
    with pytest.raises(UserError, match="holds table 'power', expected 'measurements'"):
        store.read(power, Measurement)
    table = pq.read_table(power)
    pq.write_table(table.replace_schema_metadata({**table.schema.metadata, b"schema_version": b"99"}), power)
    with pytest.raises(UserError, match="schema version 99, this tokenwatt reads 1"):
        store.read(power, PowerRecord)


def test_a_table_without_one_of_its_columns_is_refused(tmp_path):
    path = store.write([], PowerRecord, tmp_path)
    pq.write_table(pq.read_table(path).drop_columns(["power_w"]), path)
    with pytest.raises(UserError, match="lacks column 'power_w'"):
        store.read(path, PowerRecord)


def test_nothing_there_says_what_to_do(tmp_path):
    with pytest.raises(UserError, match="no measurements.parquet under .*; run `make bench` first"):
        store.read(tmp_path, Measurement)


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = store.write([measurement()], Measurement, tmp_path)
    before = path.read_bytes()

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store.pq, "write_table", full)
    with pytest.raises(UserError, match="cannot write results there .No space left on device."):
        store.write([measurement(run_id="new")], Measurement, tmp_path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot write results there"):
        store.write([], PowerRecord, tmp_path / "file" / "run")


def test_the_committed_data_dictionary_is_current():
    committed = Path(__file__).parents[2] / "results" / "README.md"
    assert committed.read_text(encoding="utf-8") == store.data_dictionary(), "run `make schema`"
