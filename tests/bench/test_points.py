"""Points of a bench in one or several windows, in phases and at power caps, on the scripted engine."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import pytest
from tests.bench.instant_bench import Listener, suite_of, use_jumping_clock, write_workload

from tokenwatt import closure, power, store
from tokenwatt.analysis.results import results_of
from tokenwatt.analysis.statistics import has_converged
from tokenwatt.bench import run_suite, subject
from tokenwatt.bench.points import points_of
from tokenwatt.bench.resting import Resting
from tokenwatt.bench.stopping import Stopping
from tokenwatt.errors import UserError
from tokenwatt.record import EnergyStatus, Measurement, Reason, RequestRecord, Result, Status
from tokenwatt.spec import SuiteSpec, load_toml
from tokenwatt.workloads import library_folder


@pytest.fixture
def clock(monkeypatch):
    return use_jumping_clock(monkeypatch)


def end_of(row: Measurement) -> float:
    assert row.window_start_s is not None
    assert row.window_s is not None
    return row.window_start_s + row.window_s


def results_by_quantity(results: list[Result], point: int = 0) -> dict[str, Result]:
    return {result.quantity: result for result in results if result.point_id == f"run/p{point}"}


def test_windows_of_a_steady_engine_agree_at_once(clock, tmp_path):
    run = run_suite(suite_of({}), tmp_path, Listener())
    assert [row.window_index for row in run.measurements] == list(range(6))
    assert {row.point_id for row in run.measurements} == {"run/p0"}
    assert [row.measurement_id for row in run.measurements] == [f"run/{index}" for index in range(6)]
    starts_s = [row.window_start_s for row in run.measurements]
    ends_s = [end_of(row) for row in run.measurements]
    assert starts_s[1:] == pytest.approx(ends_s[:-1])  # one run, window after window
    result = results_by_quantity(run.results)["output_tokens_per_s"]
    # 4 slots, 32 tokens every 0.05 + 31 x 0.01 = 0.36 s.
    assert result.mean == pytest.approx(4 * 32 / 0.36, rel=0.01)
    assert (result.windows, result.method, result.has_converged) == (6, "t", True)
    # One ramp: the first answer comes after 50 ms, then six windows of 6 s. Without meters nothing is read after them.
    assert clock.now_s == pytest.approx(0.05 + 6 * 6.0, abs=0.2)


def test_noise_takes_more_windows(clock, tmp_path):
    noisy = {"options": {"ttft_s": 0.05, "tpot_s": 0.01, "jitter": 0.3}, "interval_width": 0.03, "max_windows": 40}
    run = run_suite(suite_of(noisy), tmp_path, Listener())
    result = results_by_quantity(run.results)["output_tokens_per_s"]
    assert 6 < result.windows < 40
    assert result.has_converged
    assert result.low is not None
    assert result.high is not None
    assert result.high - result.low <= 0.03 * result.mean
    # One window fewer was not enough, or the series would have ended there.
    shorter = store.to_table(run.measurements[:-1], Measurement).to_pandas()["output_tokens_per_s"]
    assert not has_converged(shorter.tolist(), 0.03)


@pytest.mark.parametrize(
    ("limits", "windows", "is_known"),
    [
        ({"interval_width": 0.0}, 1, None),
        ({"budget_s": 20.0}, 3, False),  # 3 x 6 s = 18 s; a fourth would make 24 s
        ({"budget_s": 2.0}, 1, False),
        ({"max_windows": 4}, 4, False),
    ],
)
def test_a_budget_ends_the_windows(clock, tmp_path, limits, windows, is_known):
    run = run_suite(suite_of(limits), tmp_path, Listener())
    assert len(run.measurements) == windows
    assert results_by_quantity(run.results)["output_tokens_per_s"].has_converged is is_known
    # Rows are good windows all the same: only the result says that they are too few.
    assert {reason for row in run.measurements for reason in row.reasons} == set()


@pytest.mark.parametrize(("open_j", "is_over"), [(0.04, True), (0.06, False)])
def test_windows_that_agree_better_than_their_meters_can_tell_go_on(open_j, is_over):
    # 2 J/token six times: 2 x 0.04 / sqrt(6) is 1.6 % of it, 2 x 0.06 / sqrt(6) 2.4 %; 2 % is asked for.
    stopping = Stopping(suite_of({}).bench[0], 6.0, [2.0] * 6, [open_j] * 6, [50.0] * 6)
    assert stopping.is_over is is_over


def test_each_request_is_filed_once(clock, tmp_path):
    run = run_suite(suite_of({}), tmp_path, Listener())
    requests = store.read(run.folder, RequestRecord)
    assert requests["request_index"].is_unique
    assert set(requests["measurement_id"]) == {row.measurement_id for row in run.measurements}
    ends_s = {row.measurement_id: end_of(row) for row in run.measurements}
    answered = requests[requests["first_token_s"].notna()]
    inside = answered[answered["measurement_id"] != "run/5"]
    assert (inside["first_token_s"] <= inside["measurement_id"].map(ends_s)).all()


def test_results_are_written_and_can_be_computed_again(clock, tmp_path):
    run = run_suite(suite_of({}), tmp_path, Listener())
    written = store.read(run.folder, Result)
    again = store.to_table(results_of(store.read(run.folder, Measurement), 0.02), Result).to_pandas()
    assert written.equals(again)


class Interrupting(Listener):
    """Ctrl-C some seconds after a window began."""

    def __init__(self, at_s: float) -> None:
        super().__init__()
        self.at_s = at_s

    def advance(self, elapsed_s: float) -> None:
        if elapsed_s > self.at_s:
            raise KeyboardInterrupt


def test_an_interrupted_point_keeps_its_full_windows(clock, tmp_path):
    listener = Interrupting(at_s=21.0)  # windows end at 6, 12 and 18 s; their readings 2 s later
    with pytest.raises(KeyboardInterrupt):
        run_suite(suite_of({}), tmp_path, listener)
    table = store.read(tmp_path, Measurement)
    assert table["status"].tolist() == ["ok", "ok", "ok", "interrupted"]
    assert table["window_index"].tolist() == [0, 1, 2, 3]
    last = listener.ends[-1]
    assert last is not None
    assert last.status is Status.INTERRUPTED


def test_an_engine_that_fails_in_the_fourth_window_leaves_three(clock, tmp_path):
    # 355.6 tokens/s: 20 s are 7112 tokens.
    failing = {"options": {"ttft_s": 0.05, "tpot_s": 0.01, "fail_after_tokens": 7400}}
    run = run_suite(suite_of(failing), tmp_path, Listener())
    assert [row.status for row in run.measurements] == ["ok", "ok", "ok", "failed"]
    assert run.measurements[-1].detail == "scripted failure after 7400 tokens"
    assert results_by_quantity(run.results)["output_tokens_per_s"].windows == 3
    assert run.has_failed


def test_phases_of_known_rates(clock, tmp_path):
    workload = write_workload(tmp_path, isl=1000, osl=400)
    run = run_suite(suite_of({"workloads": [workload], "phases": True}), tmp_path, Listener())
    assert [row.phase for row in run.measurements] == ["mixed"] * 6 + ["prefill"] * 6 + ["decode"] * 6
    assert all(row.is_stable for row in run.measurements)
    mixed, prefill, decode = (run.measurements[place] for place in (0, 6, 12))

    # Mixed: a request of 0.05 + 399 x 0.01 = 4.04 s; its tokens come after 1000 to 1399 tokens, 1199.5 on average.
    assert mixed.context == pytest.approx(1199.5, rel=0.02)
    # Prefill: each slot answers a prompt of 1000 tokens every 0.05 s, and none has a pace.
    rates = results_by_quantity(run.results, 1)
    assert rates["input_tokens_per_s"].mean == pytest.approx(4 * 1000 / 0.05, rel=0.02)
    assert rates["input_tokens_per_s"].has_converged
    assert "output_tokens_per_s" not in rates
    assert (prefill.osl, prefill.tpot_median_s) == (1.0, None)
    # Decode: four sequences of a token every 0.01 s, of which none begins or ends, at the context of the mixed point.
    assert results_by_quantity(run.results, 2)["output_tokens_per_s"].mean == pytest.approx(4 / 0.01, rel=0.01)
    assert decode.context == pytest.approx(mixed.context, rel=0.01)
    assert (decode.requests_completed, decode.input_tokens, decode.running) == (0, 0, 4.0)
    assert decode.window_s == pytest.approx(6.0, abs=0.02)
    # Each of its windows is a run of its own, with the same context.
    assert [row.context for row in run.measurements[12:]] == pytest.approx([decode.context] * 6, rel=1e-3)


def test_decode_of_a_short_workload_has_a_short_window_and_says_so(clock, tmp_path):
    run = run_suite(suite_of({"phases": True}), tmp_path, Listener())
    decode = run.measurements[-1]
    # The mean context is 64 + 31 / 2 = 79.5: from a prompt of one token that is 157 tokens, or 1.57 s.
    assert decode.phase == "decode"
    assert decode.window_s == pytest.approx(1.57, abs=0.03)
    assert decode.context == pytest.approx(79.5, abs=1.5)
    assert decode.reasons == (Reason.WINDOW_TOO_SHORT,)
    assert decode.detail is not None
    assert decode.detail.startswith("window shortened from 6 to 1.6 s")


class FakeCaps:
    """Remembers what was set, and that it was restored."""

    def __init__(self, calls: list[Any]) -> None:
        self.calls = calls

    def check(self, watts: float) -> None:
        if watts > 700:
            raise UserError(f"a power cap of {watts:g} W is outside what the boards allow")

    def set(self, watts: float) -> None:
        self.calls.append(watts)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.calls.append("restored")


def test_each_point_is_measured_at_each_cap_the_highest_first(clock, tmp_path):
    calls: list[Any] = []
    once = suite_of({"concurrency": [1, 4], "interval_width": 0.0})
    run = run_suite(once, tmp_path, Listener(), (500.0, 700.0), lambda _: FakeCaps(calls))
    assert calls == [700.0, 500.0, 700.0, 500.0, "restored"]
    found = [(row.concurrency, row.gpu_power_cap_w) for row in run.measurements]
    assert found == [(1, 700.0), (1, 500.0), (4, 700.0), (4, 500.0)]
    assert [result.gpu_power_cap_w for result in run.results if result.quantity == "output_tokens_per_s"] == [
        700.0, 500.0, 700.0, 500.0,
    ]  # fmt: skip


def test_caps_are_checked_before_anything_runs_and_restored_after_an_interrupt(clock, tmp_path):
    calls: list[Any] = []
    with pytest.raises(UserError, match="900 W"):
        run_suite(suite_of({}), tmp_path, Listener(), (500.0, 900.0), lambda _: FakeCaps(calls))
    assert calls == ["restored"]
    with pytest.raises(KeyboardInterrupt):
        run_suite(suite_of({}), tmp_path, Interrupting(1.0), (500.0,), lambda _: FakeCaps(calls))
    assert calls == ["restored", 500.0, "restored"]


class SlowListener(Listener):
    """Takes its time over each sign of progress."""

    def __init__(self, clock, takes_s: float) -> None:
        super().__init__()
        self.clock, self.takes_s = clock, takes_s

    def advance(self, elapsed_s: float) -> None:
        self.clock.sleep(self.takes_s)


@pytest.mark.parametrize(("takes_s", "is_bound"), [(0.0, False), (0.1, True)])
def test_whoever_listens_slowly_is_not_taken_for_a_slow_engine(clock, tmp_path, takes_s: float, is_bound: bool):
    run = run_suite(suite_of({"interval_width": 0.0}), tmp_path, SlowListener(clock, takes_s))
    (row,) = run.measurements
    # Progress is told every 0.2 s of tokens; then those of the next 0.1 s wait, 50 ms on average, the others do not.
    assert (0.01 < (row.client_lag_mean_s or 0.0) < 0.03) == is_bound
    assert (Reason.CLIENT_BOUND in row.reasons) == is_bound
    assert row.is_stable is not is_bound


def test_a_rest_has_the_half_width_that_its_energy_has():
    # 600 J +- 3 J in 6 s.
    energy = power.Energy(EnergyStatus.VALID, gpu_energy_j=600.0, half_width_j=3.0)
    assert Resting.of(energy, 6.0) == Resting(100.0, 0.5)
    assert Resting.of(power.Energy(EnergyStatus.INVALID), 6.0) is None


def test_a_closure_is_told_how_well_static_power_is_known_and_tells_what_it_meters(clock, tmp_path, monkeypatch):
    told = {}

    def measure(*_: Any, on_progress: Callable[[str], None], **options: Any) -> closure.Closure:
        told.update(options)
        on_progress("energy of matmul, decode")
        return closure.Closure(remarks=("nothing here",))

    monkeypatch.setattr(closure, "measure", measure)
    monkeypatch.setattr(subject, "resting_power", lambda *_: Resting(100.0, 0.5))
    listener = Listener()
    run = run_suite(suite_of({"interval_width": 0.0, "closure": True}), tmp_path, listener)
    assert told["static_half_width_w"] == 0.5
    assert run.measurements[0].gpu_static_power_w == 100.0
    assert "closure, chat-smoke x4: energy of matmul, decode" in listener.labels
    assert len(listener.ends) == len(listener.labels)


def test_a_closure_that_cannot_be_made_is_said(clock, tmp_path):
    run = run_suite(suite_of({"interval_width": 0.0, "closure": True}), tmp_path, Listener())
    assert run.closure == []
    assert run.remarks == ["closure of chat-smoke x4: the window has no trusted board energy: no_meter"]
    assert not (tmp_path / "run" / "closure.parquet").exists()


@pytest.mark.parametrize("path", sorted((library_folder() / "suites").glob("*.toml")), ids=lambda path: path.stem)
def test_every_suite_of_the_library_says_what_to_measure(path):
    suite = load_toml(path, SuiteSpec)
    assert suite.name == path.stem
    assert suite.description
    for bench in suite.bench:
        assert all(point.label.startswith(point.workload.name) for point in points_of(bench))
