"""The folder of a study: whole or absent, the same bytes from its own files, and every wrong input refused."""

from __future__ import annotations

import doctest
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.factories import reading, request_row
from tests.publish.conftest import MakeRun, baseline, call, mean, window

from tokenwatt import store
from tokenwatt.errors import UserError
from tokenwatt.publish import (
    Choice,
    collect,
    contests,
    differences,
    markdown,
    numbers,
    publish,
    repeat_section,
    rewrite,
    write_kernel_part,
)
from tokenwatt.publish.readings import size_bytes, thinned
from tokenwatt.record import KernelTiming, Measurement, PowerRecord, RequestRecord, Result

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(make_run: MakeRun) -> Path:
    """A run with a bit of everything."""
    return make_run(
        "r",
        measurements=[window("r")],
        results=[mean("r", "joules_per_output_token", 0.6, 0.01)],
        kernels=[call("r", 1), baseline("r", 2, "cublas", 3e-3)],
        power=[reading(0.1 * index, 300.0) for index in range(20)] + [reading(0.0, 1.0, measurement_id="r/7")],
        requests=[request_row(index) for index in range(5)],
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Folder of studies."""
    return tmp_path / "published"


@pytest.mark.parametrize("module", [markdown, numbers, repeat_section, collect], ids=lambda module: module.__name__)
def test_examples_hold(module: ModuleType) -> None:
    outcome = doctest.testmod(module)
    assert (outcome.attempted > 0, outcome.failed) == (True, 0)


def test_every_file_is_in_the_manifest_with_its_hash_and_rows(run: Path, root: Path) -> None:
    place = publish("study", Choice((run,)), root)
    found = json.loads((place / "manifest.json").read_text())
    assert set(found["files"]) == {path.name for path in place.iterdir()} - {"manifest.json"}
    for name, file in found["files"].items():
        content = (place / name).read_bytes()
        assert (file["sha256"], file["size_bytes"]) == (hashlib.sha256(content).hexdigest(), len(content))
    rows = {name: file["rows"] for name, file in found["files"].items()}
    # The reading of r/7, which has no row here, is left out.
    assert rows == {
        "README.md": None,
        "environment.json": None,
        "kernels.parquet": 2,
        "measurements.parquet": 1,
        "power.parquet": 20,
        "requests.parquet": 5,
        "results.parquet": 1,
    }
    assert found["runs"][0]["command"] == "tokenwatt bench energy --results raw"


def test_tables_keep_their_rows_units_and_metrics(run: Path, root: Path) -> None:
    place = publish("study", Choice((run,)), root)
    for kind in (Measurement, Result, KernelTiming, RequestRecord):
        before, after = (store.read(folder, kind) for folder in (run, place))
        assert before.equals(after)
        assert pq.read_schema(place / f"{kind.grain}.parquet") == pq.read_schema(run / f"{kind.grain}.parquet")


def test_the_environment_has_ceilings_limits_and_clocks(make_run: MakeRun, root: Path) -> None:
    rows = [
        window("r", 0, gpu_sm_clock_min_hz=1.2e9, gpu_sm_clock_hz=1.5e9, gpu_power_limit_w=650.0),
        window("r", 1, gpu_sm_clock_min_hz=1.3e9, gpu_sm_clock_hz=1.9e9, gpu_power_limit_w=700.0),
    ]
    place = publish("study", Choice((make_run("r", measurements=rows, kernels=[call("r", 2)]),)), root)
    (found,) = json.loads((place / "environment.json").read_text())
    assert found["gpu_name"] == "Board"
    assert found["extremes"]["gpu_sm_clock_min_hz"] == [1.2e9, 1.9e9]
    assert found["extremes"]["gpu_power_limit_w"] == [650.0, 700.0]
    assert found["ceilings"] == [
        {
            "run_id": "r",
            "dtype": "bfloat16",
            "ceiling_memory_bytes_per_s": 8e11,
            "ceiling_flop_per_s": 4e12,
        }
    ]


def test_the_folder_alone_gives_the_same_bytes(run: Path, root: Path) -> None:
    place = publish("study", Choice((run,)), root)
    before = {path.name: path.read_bytes() for path in place.iterdir()}
    for path in run.iterdir():
        path.unlink()
    assert differences("study", root) == []
    rewrite("study", root)
    assert {path.name: path.read_bytes() for path in place.iterdir()} == before


@pytest.mark.parametrize("name", ["README.md", "environment.json", "requests.parquet"])
def test_a_file_that_somebody_changed_is_found(run: Path, root: Path, name: str) -> None:
    place = publish("study", Choice((run,)), root)
    if name == "requests.parquet":
        store.write([request_row(0)], RequestRecord, place)
    else:
        (place / name).write_bytes((place / name).read_bytes() + b" ")
    (found,) = differences("study", root)
    assert found.startswith(f"{place / name}: not ")


def test_a_table_that_changed_is_not_written_about_anew(run: Path, root: Path) -> None:
    place = publish("study", Choice((run,)), root)
    store.write([window("r", output_tokens=10**6)], Measurement, place)
    with pytest.raises(UserError, match="measurements.parquet is not what was published"):
        rewrite("study", root)


def test_what_people_wrote_is_kept_when_runs_are_collected_again(run: Path, root: Path) -> None:
    (root / "study").mkdir(parents=True)
    (root / "study" / "notes.md").write_text("Ours.\n")
    publish("study", Choice((run,)), root)
    place = publish("study", Choice((run,)), root)
    assert (place / "notes.md").read_text() == "Ours.\n"
    assert differences("study", root) == []


def test_a_file_that_no_study_has_is_not_thrown_away(run: Path, root: Path) -> None:
    (root / "study").mkdir(parents=True)
    (root / "study" / "thesis.md").write_text("Ours.\n")
    with pytest.raises(UserError, match=r"holds thesis.md, which no study has"):
        publish("study", Choice((run,)), root)
    assert [path.name for path in (root / "study").iterdir()] == ["thesis.md"]


@given(
    windows=st.lists(st.integers(1, 60), min_size=1, max_size=4),
    share=st.floats(0.3, 1.0),
)
def test_thinning_keeps_every_nth_reading_of_each_window(windows: list[int], share: float) -> None:
    rows = [reading(float(at), 1.0, measurement_id=f"r/{name}") for name, n in enumerate(windows) for at in range(n)]
    table = store.to_table(rows, PowerRecord)
    limit = int(size_bytes(table) * share)
    kept, every = thinned(table, limit)
    assert size_bytes(kept) <= limit or every > len(rows)
    expected = [(f"r/{name}", float(at)) for name, n in enumerate(windows) for at in range(0, n, every)]
    assert list(zip(kept["measurement_id"].to_pylist(), kept["at_s"].to_pylist(), strict=True)) == expected


def test_thinned_readings_and_left_out_requests_are_told(
    make_run: MakeRun, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = {
        "power": [reading(0.1 * index, 300.0 + index % 7) for index in range(3000)],
        "requests": [request_row(index) for index in range(50)],
    }
    run = make_run("r", measurements=[window("r")], **rows)
    whole = size_bytes(store.read_arrow(run / "power.parquet", PowerRecord))
    monkeypatch.setattr(collect, "thinned", lambda table: thinned(table, whole - 1))
    monkeypatch.setattr(collect, "MAX_REQUESTS_BYTES", 100)
    place = publish("study", Choice((run,)), root)
    text = (place / "README.md").read_text()
    assert "`power.parquet` was thinned: it has 1,500 of 3,000 readings, one of every 2 of each window" in text
    assert "`requests.parquet` was left out: its 50 rows are too large" in text
    assert not (place / "requests.parquet").exists()
    assert differences("study", root) == []


PAGE = "# Kernels\n<!-- measured kernels: begin -->\nold\n<!-- measured kernels: end -->\nrest\n"


def test_the_page_of_the_kernels_gets_each_family_with_board_and_day(run: Path, root: Path, tmp_path: Path) -> None:
    publish("study", Choice((run,)), root)
    path = tmp_path / "page.md"
    path.write_text(PAGE)
    write_kernel_part("study", root, path)
    text = path.read_text()
    assert (
        "| matmul.dense | bfloat16 | 1 | 1.5 (1.5 to 1.5) | 1 (1 to 1) | 62 % (62 % to 62 %) | Board | 2026-01-01 |"
        in text
    )
    assert text.startswith("# Kernels\n<!-- measured kernels: begin -->\n")
    assert text.endswith("<!-- measured kernels: end -->\nrest\n")
    assert "old" not in text


def test_no_kernel_is_called_measured_that_no_gpu_has_run(make_run: MakeRun, root: Path, tmp_path: Path) -> None:
    run = make_run("r", kernels=[call("r", device="cpu", gpu_name=None)])
    publish("study", Choice((run,)), root)
    path = tmp_path / "page.md"
    path.write_text(PAGE)
    with pytest.raises(UserError, match="has no kernel that a GPU has measured"):
        write_kernel_part("study", root, path)
    assert path.read_text() == PAGE


def test_the_page_of_the_kernels_has_a_place_for_them() -> None:
    from tokenwatt.publish.kernel_part import check_place

    check_place(ROOT / "kernels" / "README.md")


def test_the_facts_of_a_family_name_problems_that_have_no_baseline(make_run: MakeRun, root: Path) -> None:
    run = make_run("r", kernels=[call("r"), baseline("r", 1, "cublas", 4e-3), call("r", 2, problem="alone")])
    place = publish("study", Choice((run,)), root)
    (found,) = contests.summaries(contests.newest_contests(store.read(place, KernelTiming)))
    assert (found.problems, found.best_over_ours, found.joules_over_ours) == (2, (2.0,), (1.0,))
    assert found.fraction_of_limit == (0.625, 0.625)


def test_every_committed_study_is_what_its_own_files_give() -> None:
    studies = [path.parent for path in (ROOT / "results" / "published").glob("*/manifest.json")]
    assert [line for place in studies for line in differences(place.name, place.parent)] == []


def test_it_runs_without_torch() -> None:
    code = (
        "import sys, tokenwatt.publish\n"
        "sys.exit(','.join({'torch', 'triton', 'pynvml', 'plotly', 'jinja2'} & set(sys.modules)) or None)"
    )
    paths = ":".join(path for path in sys.path if path)
    found = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": paths}, capture_output=True, text=True)
    assert (found.returncode, found.stderr) == (0, "")


def with_version(path: Path, version: bytes) -> None:
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({**(table.schema.metadata or {}), b"schema_version": version}), path)


def test_rows_of_a_newer_schema_are_refused(run: Path, root: Path) -> None:
    with_version(run / "kernels.parquet", b"99")
    with pytest.raises(UserError, match="schema version 99, this tokenwatt reads 1"):
        publish("study", Choice((run,)), root)
    assert not root.exists()


def test_a_study_of_a_newer_schema_is_refused(run: Path, root: Path) -> None:
    place = publish("study", Choice((run,)), root)
    found = json.loads((place / "manifest.json").read_text())
    (place / "manifest.json").write_text(json.dumps({**found, "schema_version": 99}))
    with pytest.raises(UserError, match=r"manifest.json: schema version 99, this tokenwatt reads 1"):
        differences("study", root)


def test_boards_of_two_names_need_a_word(make_run: MakeRun, root: Path) -> None:
    runs = (make_run("a", kernels=[call("a")]), make_run("b", kernels=[call("b", gpu_name="Other")]))
    with pytest.raises(UserError, match="the runs are of Board and of Other; publish a study for each, or add --allow"):
        publish("study", Choice(runs), root)
    assert not root.exists()
    place = publish("study", Choice(runs, may_mix_gpus=True), root)
    assert "Measured on Board and Other," in (place / "README.md").read_text()


def test_a_run_that_was_cut_short_needs_a_word_and_is_told(make_run: MakeRun, root: Path) -> None:
    run = make_run("r", is_finished=False, kernels=[call("r")])
    with pytest.raises(UserError, match=r"run r has no run.json, so it was cut short or runs still"):
        publish("study", Choice((run,)), root)
    place = publish("study", Choice((run,), may_be_unfinished=True), root)
    assert "did not say that they ended: r." in (place / "README.md").read_text()


def test_a_table_of_tiles_of_another_board_is_refused(run: Path, root: Path, tmp_path: Path) -> None:
    tiles = tmp_path / "tiles.json"
    tiles.write_text(json.dumps({"gpu": "Other", "capability": 90, "made_by": "x", "rows": {}}))
    with pytest.raises(UserError, match="is of Other, the rows are of Board"):
        publish("study", Choice((run,), tiles=tiles), root)
    assert not root.exists()


def test_a_run_without_rows_is_refused(make_run: MakeRun, root: Path) -> None:
    with pytest.raises(UserError, match="holds no row of measurements or kernels: an unfinished run"):
        publish("study", Choice((make_run("r", kernels=[]),)), root)


def test_a_run_is_named_once(run: Path, root: Path) -> None:
    with pytest.raises(UserError, match="run r is named 2 times; name each run once"):
        publish("study", Choice((run, run.parent)), root)


def test_a_folder_of_runs_stands_for_its_runs(make_run: MakeRun, root: Path) -> None:
    runs = [make_run(name, kernels=[call(name, hour=hour)]) for name, hour in (("b", 1), ("a", 2))]
    place = publish("study", Choice((runs[0].parent,)), root)
    assert [found["run_id"] for found in json.loads((place / "manifest.json").read_text())["runs"]] == ["b", "a"]


def test_a_damaged_table_is_refused(run: Path, root: Path) -> None:
    (run / "kernels.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="not a complete parquet file"):
        publish("study", Choice((run,)), root)


def test_readings_of_an_empty_table_are_not_thinned() -> None:
    empty: pa.Table = store.to_table([], PowerRecord)
    assert thinned(empty, 0)[0].num_rows == 0
