"""Two benches in turns: order, pairs, ratio, and what cannot be compared."""

from __future__ import annotations

import pytest
from tests.bench.instant_bench import Listener, suite_of, use_jumping_clock

from tokenwatt.bench import compare_suite
from tokenwatt.engines.fake import FakeEngine
from tokenwatt.errors import EngineError, UserError
from tokenwatt.record import Result
from tokenwatt.terminal import print_measurements

SLOW = {"options": {"ttft_s": 0.05, "tpot_s": 0.01}}
FAST = {"options": {"ttft_s": 0.05, "tpot_s": 0.008}}
NOISY = {"options": {"ttft_s": 0.05, "tpot_s": 0.01, "jitter": 0.2}}
RATE_RATIO = (0.05 + 31 * 0.01) / (0.05 + 31 * 0.008)  # 0.36 s a request against 0.298 s


@pytest.fixture(autouse=True)
def _jumping_clock(monkeypatch):
    use_jumping_clock(monkeypatch)


def ratio(results: list[Result], quantity: str = "output_tokens_per_s") -> Result:
    (found,) = [result for result in results if result.quantity == f"B/A of {quantity}"]
    return found


def test_windows_come_in_turns_and_the_ratio_is_the_script_s(tmp_path, capsys):
    run = compare_suite(suite_of(SLOW, FAST), tmp_path, Listener())
    assert "".join(str(row.variant) for row in run.measurements) == "ABBAABBAABBA"
    assert [row.window_index for row in run.measurements] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert len({row.point_id for row in run.measurements}) == 2
    found = ratio(run.results)
    assert found.mean == pytest.approx(RATE_RATIO, rel=0.01)
    assert (found.windows, found.has_converged, found.variant, found.unit) == (6, True, None, "1")
    assert {result.variant for result in run.results} == {"A", "B", None}
    print_measurements(run.measurements, "s", run.results)
    printed = capsys.readouterr().out
    assert "chat-smoke A" in printed
    assert "B/A of output_tokens_per_s: 1.2" in printed
    assert "6 pairs): a difference beyond noise" in printed


def test_the_same_twice_is_the_same_within_noise(tmp_path, capsys):
    limits = {"max_windows": 6, "seed": 1}
    run = compare_suite(suite_of({**NOISY, **limits}, {**NOISY, **limits, "seed": 2}), tmp_path, Listener())
    found = ratio(run.results)
    assert found.low is not None
    assert found.high is not None
    assert found.low < 1 < found.high
    print_measurements(run.measurements, "s", run.results)
    assert "the same within noise" in capsys.readouterr().out


def test_one_pair_has_a_ratio_without_interval(tmp_path):
    single = {"interval_width": 0.0}
    run = compare_suite(suite_of({**SLOW, **single}, {**FAST, **single}), tmp_path, Listener())
    assert [row.variant for row in run.measurements] == ["A", "B"]
    assert (ratio(run.results).low, ratio(run.results).has_converged) == (None, None)


@pytest.mark.parametrize(
    ("benches", "message"),
    [
        (({},), "--compare needs a suite with exactly two .*bench.*, 's' has 1"),
        (({}, {}, {}), "has 3"),
        (({}, {"concurrency": [8]}), r"the same concurrency on both sides, got \(4,\) and \(8,\) in suite 's'"),
        (({}, {"workloads": ["chat"]}), "the same workloads on both sides"),
        (({}, {"window_s": 5.0}), "the same window_s on both sides, got 6.0 and 5.0"),
        (({"phases": True}, {"phases": True}), "measures no phases"),
    ],
)
def test_what_cannot_be_compared_is_said_before_anything_runs(tmp_path, benches, message):
    with pytest.raises(UserError, match=message):
        compare_suite(suite_of(*benches), tmp_path, Listener())
    assert list(tmp_path.iterdir()) == []


def test_a_side_that_does_not_fit_fails_with_advice(tmp_path, monkeypatch):
    def load(self, max_concurrency: int, longest_context: int) -> None:
        if self._script.tpot_s < 0.01:
            raise EngineError("out of GPU memory")

    monkeypatch.setattr(FakeEngine, "load", load)
    run = compare_suite(suite_of(SLOW, FAST), tmp_path, Listener())
    (row,) = run.measurements
    assert (row.variant, row.status) == ("B", "failed")
    assert row.detail is not None
    assert row.detail.startswith("out of GPU memory; a comparison keeps both engines loaded, and this is side B")
