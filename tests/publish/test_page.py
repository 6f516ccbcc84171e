"""The page of a study: each figure by hand, and rows that failed shown as such."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.factories import closure_term
from tests.publish.conftest import MakeRun, baseline, call, mean, window

from tokenwatt.errors import UserError
from tokenwatt.publish import Choice, publish, rewrite
from tokenwatt.record import EnergyStatus, Reason, Status


def page(tmp_path: Path, *runs: Path, **choice: Any) -> str:
    place = publish("study", Choice(tuple(runs), **choice), tmp_path / "published")
    return (place / "README.md").read_text()


def line(text: str, *parts: str) -> str:
    """The one line of the page that holds all parts."""
    (found,) = [each for each in text.splitlines() if all(part in each for part in parts)]
    return found


def test_a_problem_stands_beside_its_limit_and_every_baseline(tmp_path: Path, make_run: MakeRun) -> None:
    # Limit: 4e9 flop / 4e12 = 1 ms; 1e9 bytes / 8e11 = 1.25 ms, the greater; 1.25 / 2 ms = 62.5 %.
    # cublas 3 ms / 2 ms = 1.5; its 900 J over our 600 J for as many calls = 1.5. cutlass 1 ms: 0.5, without joules.
    nothing = {"energy_status": EnergyStatus.NO_METER, "gpu_energy_j": None, "window_calls": None, "window_s": None}
    rows = [
        call("r"),
        baseline("r", 1, "cublas", 3e-3, gpu_energy_j=900.0),
        baseline("r", 2, "cutlass", 1e-3, **nothing),
    ]
    text = page(tmp_path, make_run("r", kernels=rows))
    head = line(text, "| problem | dtype |", "cublas: time (J) over ours", "cutlass")
    assert head.index("cublas") < head.index("cutlass")
    assert line(text, "llama3.1-8b_gate_up_m4096", "tile 64") == (
        "| llama3.1-8b_gate_up_m4096 | bfloat16 | 2,000 | 1,000 to 3,000 | 1,250 | 62 % | 1.5 (1.5) | 0.5 | 600 mJ |"
        " `tile 64` |"
    )
    assert "| matmul.dense | llama3.1-8b_gate_up_m4096 | bfloat16 | cutlass | 0.5 |" in text


def test_a_family_is_summed_up_by_geometric_means(tmp_path: Path, make_run: MakeRun) -> None:
    # Ratios 0.5 and 8: geometric mean 2. Joules of the fastest baseline: 300 / 600 and 1200 / 600: mean 1.
    # Limits of both 1.25 ms over 2 ms.
    rows = [
        call("r"),
        baseline("r", 1, "cublas", 1e-3, gpu_energy_j=300.0),
        call("r", 2, problem="other"),
        baseline("r", 3, "cublas", 16e-3, problem="other", gpu_energy_j=1200.0),
    ]
    text = page(tmp_path, make_run("r", kernels=rows))
    assert "| matmul.dense | bfloat16 | 2 | 2 (0.5 to 8) | 1 (0.5 to 2) | 62 % (62 % to 62 %) |" in text


def test_the_newest_run_of_a_problem_is_shown_and_the_page_says_so(tmp_path: Path, make_run: MakeRun) -> None:
    old = make_run("a", kernels=[call("a", hour=1, median_s=2e-3, configuration="old")])
    new = make_run("b", kernels=[call("b", hour=2, median_s=1.6e-3, configuration="new")])
    text = page(tmp_path, new, old)
    assert "Contests that a later run repeated: 1." in text
    assert "`new`" in text
    assert "`old`" not in text


def test_rows_without_a_time_or_with_doubted_joules_are_listed_with_their_reasons(
    tmp_path: Path, make_run: MakeRun
) -> None:
    nothing: dict[str, Any] = {"median_s": None, "low_s": None, "high_s": None, "samples": None, "window_calls": None}
    nothing |= {"gpu_energy_j": None, "energy_status": EnergyStatus.NO_METER, "window_s": None}
    doubted = {"energy_status": EnergyStatus.SUSPECT, "energy_reasons": (Reason.SAMPLE_GAP,)}
    rows = [
        call("r", **doubted),
        call("r", 1, contender="cublas", **nothing, status="disagrees", reasons=("RMS | <b>",)),
    ]
    text = page(tmp_path, make_run("r", kernels=rows))
    assert "| r | matmul.dense | cublas | disagrees |  | RMS \\| &lt;b> | llama3.1-8b_gate_up_m4096 bfloat16 |" in text
    assert "| r | matmul.dense | tokenwatt | measured | suspect | sample gap |" in text
    assert "600 mJ (suspect)" in text
    assert "| disagrees |" in line(text, "`tile 64`")


def test_an_engine_row_has_its_interval_verdict_and_limit(tmp_path: Path, make_run: MakeRun) -> None:
    # 1.2e12 bytes / 3e12 bytes/s = 0.4 s of the 2 s: 20 % of the limit.
    work = {"flop": 1e9, "bytes": 1.2e12, "ceiling_flop_per_s": 7e14, "ceiling_memory_bytes_per_s": 3e12}
    rows = [
        window("r", 0, **work),
        window("r", 1, **work, energy_status=EnergyStatus.SUSPECT, energy_reasons=(Reason.HOST_BOUND,)),
    ]
    means = [
        mean("r", "output_tokens_per_s", 500.0),
        mean("r", "joules_per_output_token", 0.6, 0.006),
        mean("r", "gpu_power_w", 300.0),
    ]
    text = page(tmp_path, make_run("r", measurements=rows, results=means))
    assert line(text, "| r | native |") == (
        "| r | native | Qwen3-8B (random weights) | bfloat16, –, – | w | x1 | mixed | 500 | 600 mJ | 594 to 606 mJ |"
        " 300 W | 20.0 % | – | – | 2, 2 stable | 1 suspect, 1 valid: host bound |"
    )
    assert "* *host bound*: the host may have kept the device waiting." in text


def test_rows_above_their_limit_are_counted(tmp_path: Path, make_run: MakeRun) -> None:
    # The limit is 1.25 ms.
    rows = [call("r", median_s=1.2e-3), call("r", 1, problem="other", median_s=1.3e-3)]
    assert "Rows above their limit, whose ceilings were therefore measured too low: 1." in page(
        tmp_path, make_run("r", kernels=rows)
    )


def test_rows_that_failed_or_are_invalid_stay_on_the_page(tmp_path: Path, make_run: MakeRun) -> None:
    failed: dict[str, Any] = {"status": Status.FAILED, "reasons": (Reason.ENGINE_ERROR,), "detail": "out of memory"}
    failed |= {
        "window_s": None,
        "output_tokens": None,
        "energy_status": EnergyStatus.NO_METER,
        "gpu_energy_j": None,
        "is_stable": None,
    }
    invalid = {"energy_status": EnergyStatus.INVALID, "gpu_energy_j": None, "energy_reasons": (Reason.COUNTER_RESET,)}
    rows = [
        window("r", 0, **failed, point_id="r/p0", concurrency=8),
        window("r", 1, **invalid, point_id="r/p1", concurrency=64),
    ]
    text = page(tmp_path, make_run("r", measurements=rows))
    assert "failed engine error out of memory" in line(text, "| x8 | mixed |")
    assert "1 invalid: counter reset" in line(text, "| x64 | mixed |")
    assert "1 of 1 windows of points have no joules" in text


def test_engines_with_the_same_model_and_workload_stand_beside_each_other(tmp_path: Path, make_run: MakeRun) -> None:
    ours = make_run(
        "a",
        measurements=[window("a")],
        results=[mean("a", "output_tokens_per_s", 500.0), mean("a", "joules_per_output_token", 0.6)],
    )
    theirs = make_run(
        "b",
        measurements=[window("b", engine="hf_transformers", weights_source="random")],
        results=[
            mean("b", "output_tokens_per_s", 125.0, engine="hf_transformers"),
            mean("b", "joules_per_output_token", 1.8, engine="hf_transformers"),
        ],
    )
    alone = make_run("c", measurements=[window("c", workload_sha256="1", engine="other")])
    text = page(tmp_path, ours, theirs, alone)
    beside = text.partition("### Engines beside each other")[2].partition("## Repeat")[0]
    assert "| x1 | hf_transformers, bfloat16, – | 125 | 0.25 | 1.80 J | 3 |" in beside
    assert "| x1 | native, bfloat16, – | 500 | 1 | 600 mJ | 1 |" in beside
    assert "other" not in beside


def test_closure_is_told_in_shares(tmp_path: Path, make_run: MakeRun) -> None:
    terms = [closure_term(term, joules) for term, joules in {"static": 240.0, "matmul": 330.0, "rest": 30.0}.items()]
    text = page(tmp_path, make_run("r", measurements=[window("r")], closure=terms))
    # 240 / 600, 330 / 600 and 30 / 600.
    assert "| 40.0 % | – | 55.0 % | – | – | 5.0 % | 600 J | 1 |" in text


def test_repeated_rows_are_held_against_two_percent(tmp_path: Path, make_run: MakeRun) -> None:
    runs = []
    for run_id, hour, speed, joules in (("a", 1, 500.0, 0.600), ("b", 4, 505.0, 0.618)):
        means = [mean(run_id, "output_tokens_per_s", speed, 5.0), mean(run_id, "joules_per_output_token", joules)]
        kernels = [call(run_id, 9, hour, median_s=2e-3 if run_id == "a" else 2.1e-3)]
        rows = [window(run_id, 0, hour)]
        runs.append(make_run(run_id, measurements=rows, results=means, kernels=kernels))
    text = page(tmp_path, *runs)
    assert "1 of 3 quantities that were measured in two runs or more agree within 2 %" in text
    # 5 / 502.5 = 1.00 %, of which the interval's half, 5, is as much; 0.018 / 0.609 = 2.96 %; 0.1 / 2.05 = 4.88 %,
    # and half of 1 ms to 3 ms is 48.78 %.
    assert line(text, "output tokens per s |").endswith("| 2 | 3.0 h | same | 500, 505 | 1.00 % | 1.00 % | yes |")
    assert line(text, "joules per output token |").endswith("| 600.0 mJ, 618.0 mJ | 2.96 % | – | no |")
    assert line(text, "µs, 2,100 µs").endswith("| 4.88 % | 48.78 % | no |")


def test_a_changed_tile_is_no_repeat(tmp_path: Path, make_run: MakeRun) -> None:
    runs = [make_run(name, kernels=[call(name, configuration=f"tile {name}")]) for name in ("a", "b")]
    assert "Nothing was measured in two runs." in page(tmp_path, *runs)


TILES = {
    "gpu": "Board",
    "capability": 90,
    "made_by": "tokenwatt kernels tune",
    "rows": {
        "matmul.dense": [
            {
                "key": {"n": 4096},
                "tile": {"block_m": 128},
                "median_s": 2e-3,
                "default_median_s": 3e-3,
                "problems": ["p"],
                "date": "2026-01-01",
                "triton": "3.6.0",
                "torch": "2.11.0",
            }
        ]
    },
}


def test_tuning_says_what_each_tile_gained_and_notes_stand_as_they_are(tmp_path: Path, make_run: MakeRun) -> None:
    tiles = tmp_path / "board.json"
    tiles.write_text(json.dumps(TILES))
    page(tmp_path, make_run("r", kernels=[call("r")]), tiles=tiles)
    place = tmp_path / "published" / "study"
    (place / "notes.md").write_text("Predicted | 10 % <sic>\n")
    rewrite("study", tmp_path / "published")
    text = (place / "README.md").read_text()
    # 3 ms / 2 ms.
    assert "| matmul.dense | `n=4096` | `block_m=128` | 3,000 | 2,000 | 1.5 | p | 2026-01-01 | 3.6.0, 2.11.0 |" in text
    assert "## Notes\n\nPredicted | 10 % <sic>\n" in text


def test_who_measured_what_when_with_which_commit(tmp_path: Path, make_run: MakeRun) -> None:
    text = page(tmp_path, make_run("r", kernels=[call("r", git_commit="abc+dirty", hour=5)]), measured_by="us")
    head = line(text, "Measured on Board, 2026-01-01 (UTC), by us, with tokenwatt 0")
    assert "commit `abc+dirty` (`+dirty`: files differed from it)" in head
    run = line(text, "| r | 2026-01-01 05:00 |")
    assert run.endswith("| `tokenwatt bench energy --results raw` | `abc+dirty` | 1 kernels | yes |")
    assert "Kernel families without a measured row: attention.prefill," in text


def test_a_commit_that_no_row_names_is_told_as_stated(tmp_path: Path, make_run: MakeRun) -> None:
    run = make_run("r", kernels=[call("r")])
    assert "at a commit that no row names." in page(tmp_path, run)
    assert "commit `abc`, as stated when it was published: the rows name none." in page(tmp_path, run, commit="abc")


def test_a_study_of_a_processor_says_that_no_gpu_was_measured(tmp_path: Path, make_run: MakeRun) -> None:
    alone = {"device": "cpu", "gpu_name": None, "gpu_count": 0, "gpu_uuids": (), "gpu_energy_j": None}
    row = window("r", **alone, energy_status=EnergyStatus.NO_METER)
    assert "No GPU was measured: nothing here says what a GPU does." in page(
        tmp_path, make_run("r", measurements=[row])
    )


PREDICTIONS = """quantity,unit,predicted,low,high,made_at,measured
cuBLAS over ours,1,1.2,1.0,1.4,2025-12-31,only kernels.time_over_ours contender=cublas
joules,J,0.5,0.4,0.7,2025-12-31,mean results.mean quantity=joules_per_output_token dtype=bfloat16 quantization=null
too late,W,300,290,310,2026-01-02,max measurements.gpu_power_w engine=native
share of the rest,1,0.1,0.0,0.2,2025-12-31,only closure.share term=rest
another engine,W,300,290,310,2025-12-31,max measurements.gpu_power_w engine=vllm
"""


def test_predictions_are_held_against_what_was_measured(tmp_path: Path, make_run: MakeRun) -> None:
    run = make_run(
        "r",
        measurements=[window("r")],
        results=[mean("r", "joules_per_output_token", 0.6)],
        closure=[closure_term("static", 570.0), closure_term("rest", 30.0)],
        kernels=[call("r", 1), baseline("r", 2, "cublas", 3e-3)],
    )
    place = tmp_path / "published" / "study"
    place.mkdir(parents=True)
    (place / "predictions.csv").write_text(PREDICTIONS)
    text = page(tmp_path, run)
    assert "3 of 5 predictions were made before they were measured; of these 2 lie within" in text
    # 1.5 / 1.2 - 1 = 25 %; 0.6 / 0.5 - 1 = 20 %; 600 J / 2 s = 300 W; 30 / 600 = 0.05, half of 0.1.
    assert "| 1.2 | 1 to 1.4 | 2025-12-31 00:00 | 1.5 | +25.0 % | no | 1 |" in text
    assert "| 500 mJ | 400 mJ to 700 mJ | 2025-12-31 00:00 | 600 mJ | +20.0 % | yes | 1 |" in text
    assert "| 2026-01-02 00:00, after the first of its rows | 300 W | +0.0 % | yes | 1 |" in text
    assert "| 0.05 | -50.0 % | yes | 1 |" in line(text, "share of the rest")
    assert "| not measured | – | – | 0 |" in line(text, "another engine")


@pytest.mark.parametrize(
    ("measured", "message"),
    [
        ("kernels.median_s", "measured must be RULE TABLE.COLUMN [COLUMN=VALUE ...], got 'kernels.median_s'"),
        ("mean kernels.median_s family", "measured must be RULE TABLE.COLUMN"),
        ("median kernels.median_s", "unknown rule 'median'"),
        ("mean kernel.median_s", "unknown table 'kernel' (did you mean 'kernels'?)"),
        ("mean kernels.medan_s", "unknown column of kernels 'medan_s' (did you mean 'median_s'?)"),
        ("mean kernels.median_s familie=x", "unknown column of kernels 'familie' (did you mean 'family'?)"),
        ("mean kernels.family", "kernels.family holds no numbers"),
        ("only kernels.median_s", "`only` needs one row, found 2; add a COLUMN=VALUE, or take `mean`"),
    ],
)
def test_a_prediction_that_cannot_be_decided_is_refused_and_the_old_study_stays(
    tmp_path: Path, make_run: MakeRun, measured: str, message: str
) -> None:
    run = make_run("r", kernels=[call("r"), baseline("r", 1, "cublas", 3e-3)])
    page(tmp_path, run)
    place = tmp_path / "published" / "study"
    text = f"quantity,unit,predicted,low,high,made_at,measured\nx,s,1,1,1,2025-12-31,{measured}\n"
    (place / "predictions.csv").write_text(text)
    before = {path.name: path.read_bytes() for path in place.iterdir()}
    with pytest.raises(UserError) as refused:
        page(tmp_path, run)
    assert message in str(refused.value)
    assert {path.name: path.read_bytes() for path in place.iterdir()} == before
    assert [path.name for path in place.parent.iterdir()] == ["study"]
