"""Which format a file has, what all imports share, and the folder that they become."""

from __future__ import annotations

import doctest
import importlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.imports.speeds import output_tokens_per_s

from tokenwatt import imports, store
from tokenwatt.errors import UserError
from tokenwatt.imports import latencies
from tokenwatt.record import Measurement, RequestRecord

ALL = {
    "vllm_bench_detailed.json": "vllm-bench",
    "vllm_bench_rate.json": "vllm-bench",
    "aiperf_closed/profile_export_aiperf.json": "aiperf",
    "aiperf_rate/profile_export_aiperf.json": "aiperf",
    "guidellm_concurrent.json": "guidellm",
    "guidellm_poisson.json": "guidellm",
    "inferencex_power.json": "inferencex",
    "inferencex_disaggregated.json": "inferencex",
    "mlenergy_results.json": "mlenergy",
}


@pytest.mark.parametrize("module", ["source", "latencies", "columns", "aiperf"])
def test_doctests(module):
    found = doctest.testmod(importlib.import_module(f"tokenwatt.imports.{module}"))
    assert (found.failed, found.attempted > 0) == (0, True)


@pytest.mark.parametrize(("name", "form"), ALL.items())
def test_a_file_is_known_by_its_content(files, name, form):
    assert imports.detect(json.loads((files / name).read_text(encoding="utf-8")), name) == form


def test_a_file_of_no_format_names_those_there_are(tmp_path):
    path = tmp_path / "other.json"
    path.write_text('{"tokens": 5}', encoding="utf-8")
    with pytest.raises(UserError, match=r"looks like no format .*aiperf, guidellm, inferencex, mlenergy, vllm-bench"):
        imports.read(path)


def test_a_folder_is_asked_for_the_file_in_it(files, tmp_path):
    with pytest.raises(
        UserError, match=r"aiperf_closed: is a folder; name a file in it \(profile_export_aiperf\.json\)"
    ):
        imports.read(files / "aiperf_closed")
    with pytest.raises(UserError, match=r"is a folder; name a file in it \(it has no JSON\)"):
        imports.read(tmp_path)


def test_a_file_of_two_formats_asks_which(changed):
    path = changed("vllm_bench_rate.json", lambda d: d.update(hw="h200", conc=4, tput_per_gpu=1.0))
    with pytest.raises(UserError, match="looks like vllm-bench and inferencex; say which with --as"):
        imports.read(path)
    assert imports.read(path, "vllm-bench").measurements[0].imported_from == "vllm bench"


def test_another_format_than_was_said_names_the_first_key_that_is_missing(files):
    with pytest.raises(UserError, match=r"vllm_bench_rate\.json: \$\.aiperf_version: is missing"):
        imports.read(files / "vllm_bench_rate.json", "aiperf")
    with pytest.raises(UserError, match=r"unknown format 'guidelm' \(did you mean 'guidellm'\?\)"):
        imports.read(files / "vllm_bench_rate.json", "guidelm")


@pytest.mark.parametrize("form", imports.FORMATS)
def test_a_value_of_another_kind_is_refused_by_every_format(tmp_path, form):
    path = tmp_path / "text.json"
    path.write_text('["only text"]', encoding="utf-8")
    with pytest.raises(UserError, match=r"text\.json: \$"):
        imports.read(path, form)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b" \n", "the file is empty"),
        (b'{"date": "2026', r"not complete JSON \(line 1, column 10: unterminated string"),
        (b'{"ttfts": [0.1, ', "not complete JSON"),
        (b"\xff\xfe{}", "not JSON in UTF-8"),
        (b'{"duration": ' + b"1" * 5000 + b"}", "half.json: no JSON that can be read: a number is too long"),
        (b"[" * 100_000, "half.json: no JSON that can be read: a number is too long or its lists too deep"),
    ],
)
def test_half_a_file_is_one_line(tmp_path, content, message):
    path = tmp_path / "half.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        imports.read(path)


def test_counts_that_no_column_holds_are_refused(changed):
    with pytest.raises(UserError, match=r"\$\.total_input_tokens: found 1\d+, expected less than or equal to 10+"):
        imports.read(changed("vllm_bench_rate.json", lambda d: d.update(total_input_tokens=10**30)))
    rates = {"output_tput_per_gpu": 1e15, "tput_per_gpu": 1e15, "tp": 1000}
    with pytest.raises(UserError, match="row 0: input_tokens would be|row 0: output_tokens would be"):
        imports.read(changed("inferencex_disaggregated.json", lambda d: d.update(rates, num_decode_gpu=1000)))


@pytest.mark.parametrize("name", ALL)
def test_rows_survive_parquet_and_importing_twice_changes_nothing(files, tmp_path, name):
    first = imports.read(files / name)
    (run,) = imports.write([first], tmp_path)
    assert imports.write([imports.read(files / name)], tmp_path) == [run]
    assert run.name == first.measurements[0].run_id
    rows = store.read(tmp_path, Measurement)
    assert list(rows["measurement_id"]) == [row.measurement_id for row in first.measurements]
    assert list(rows["ttft_median_s"]) == [row.ttft_median_s for row in first.measurements]
    assert len(store.read_beside(tmp_path, RequestRecord)) == len(first.requests)
    speeds = [output_tokens_per_s(row) for row in first.measurements]
    assert list(rows["output_tokens_per_s"]) == pytest.approx(speeds)


def test_the_same_bytes_are_the_same_run_wherever_they_lie(files, tmp_path):
    copy = tmp_path / "renamed.json"
    copy.write_bytes((files / "vllm_bench_rate.json").read_bytes())
    theirs = imports.read(files / "vllm_bench_rate.json").measurements
    assert imports.read(copy).measurements == theirs
    copy.write_bytes(copy.read_bytes() + b"\n")
    assert imports.read(copy).measurements[0].run_id != theirs[0].run_id


@given(st.lists(st.floats(0, 1e3), min_size=1), st.floats(0, 1e3))
def test_computed_latencies_rise_and_never_replace_told_ones(values, told):
    columns = latencies.completed({"ttft_p90_s": told, "ttft_p99_s": None}, {"ttft": values})
    assert columns["ttft_p90_s"] == told
    computed = latencies.computed("ttft", values)
    rising = [computed[latencies.column("ttft", name)] for name in ("median", "p90", "p95", "p99", "p99_9")]
    known = [value for value in rising if value is not None]
    assert columns["ttft_p99_s"] == rising[3]
    assert len(known) == len(rising)
    # Interpolated by floats, so equal values may come out an ulp apart.
    assert known == pytest.approx(sorted(known), rel=1e-12)
    assert min(values) <= known[0]
    assert known[-1] <= max(values)
