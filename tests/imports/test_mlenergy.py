"""ML.ENERGY results as rows: a file written by hand after its sources."""

from __future__ import annotations

import pytest

from tokenwatt import imports
from tokenwatt.errors import UserError
from tokenwatt.record import EnergyStatus, Reason

RESULT = "mlenergy_results.json"


def test_the_row_is_the_steady_window_and_its_energy(files):
    imported = imports.read(files / RESULT)
    (row,) = imported.measurements
    # 6 kJ in 10 s on two boards; at 0.5 J a token those are 12,000 tokens.
    assert (row.window_s, row.gpu_energy_j, row.gpu_energy_by_gpu_j) == (10.0, 6000.0, (3500.0, 2500.0))
    assert (row.output_tokens, row.gpu_count, row.engine) == (12_000, 2, "vllm")
    assert (row.energy_status, row.energy_reasons) == (EnergyStatus.SUSPECT, (Reason.IMPORTED,))
    assert (row.is_stable, row.requests_completed, row.input_tokens) == (None, None, None)
    assert (row.load, row.requests_at_once) == ("offline", 4)
    assert imported.requests == []


def test_latencies_are_of_the_whole_run_and_filled_from_its_requests(files):
    (row,) = imports.read(files / RESULT).measurements
    assert (row.ttft_median_s, row.ttft_p99_s) == (1.0, pytest.approx(1.98))
    # e2el is not in the summary: of the answered requests it is 1, 2 and 4 s.
    assert (row.e2el_median_s, row.e2el_mean_s) == (2.0, pytest.approx(7 / 3))
    # Gaps: 0.2, 0.3, 1, 0, 1 and 1 s; the third and fourth sorted are 0.3 and 1.
    assert row.itl_median_s == pytest.approx(0.65)
    assert row.requests_failed == 1
    assert (row.isl, row.osl) == (100.0, 3.0)


def test_an_older_file_has_lists_instead(changed):
    def make_old(document):
        answers = document.pop("results")
        lists = {"ttfts": "ttft", "itls": "itl", "output_lens": "output_len", "errors": "error"}
        document.update({name: [answer[key] for answer in answers] for name, key in lists.items()})
        document.pop("p99_ttft_ms")

    (row,) = imports.read(changed(RESULT, make_old)).measurements
    # 0.5, 1 and 2 s: p99 lies at 1.98 of the three.
    assert row.ttft_p99_s == pytest.approx(1.98)
    assert row.e2el_mean_s is None


@pytest.mark.parametrize(
    ("do", "message"),
    [
        (lambda d: d.update(steady_state_energy=5000.0), r"found 5000, expected 6000, the sum of"),
        (lambda d: d.update(completed=9), r"\$\.completed: found 9, expected at most 4, its \$\.num_prompts"),
        (lambda d: d["results"][1].update(ttft=-1.0), r"\$\.results\[1\]\.ttft: found -1\.0, expected greater than"),
        (lambda d: d.pop("completed"), r"\$\.completed: is missing"),
        (
            lambda d: d["steady_state_measurement"]["gpu_energy"].update({"0": "much"}),
            r"\$\.steady_state_measurement\.gpu_energy\.0: found 'much', expected a valid number",
        ),
        (lambda d: d["results"][1].pop("ttft"), r"\$\.results\[1\]\.ttft: is missing"),
    ],
)
def test_what_is_wrong_is_one_line_with_its_place(changed, do, message):
    with pytest.raises(UserError, match=message):
        imports.read(changed(RESULT, do))
