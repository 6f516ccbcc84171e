"""Closure: figures from loops, terms that add up, and a scripted board whose law is found again."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.bench.scripted_board import ScriptedBoard, pretend_loops
from tests.factories import measurement

from tokenwatt import metered_loop, power, store
from tokenwatt.closure import (
    Closure,
    Coefficient,
    Observation,
    WindowEnergy,
    close,
    coefficients,
    measure,
    meter_probe,
)
from tokenwatt.engines.fake import FakeEngine
from tokenwatt.engines.protocol import Engine, Family, Probe, Probes
from tokenwatt.errors import EngineError
from tokenwatt.record import ClosureTerm, EnergyStatus, Measurement, Reason
from tokenwatt.spec import BenchSpec

WINDOW = WindowEnergy("r", "r/0", energy_j=1000.0, half_width_j=6.0, window_s=5.0, static_power_w=100.0)


def seen(flop: float, bytes_: float, energy_j: float, steps: float = 1, **changes: Any) -> Observation:
    settings: dict[str, Any] = {"family": "matmul", "call_s": 1e-3, **changes}
    return Observation(flop=flop, bytes=bytes_, steps=steps, energy_j=energy_j, **settings)


def figures_of(*observations: Observation, balance: float | None = None) -> Coefficient:
    (figure,) = coefficients(observations, balance).values()
    return figure


def test_two_shapes_tell_operations_from_bytes():
    # 2 J for an operation, 3 J for a byte: 100 x 2 + 50 x 3 = 350, 1000 x 2 + 60 x 3 = 2180.
    figure = figures_of(seen(100, 50, 350), seen(1000, 60, 2180))
    assert (figure.joules_per_flop, figure.joules_per_byte) == pytest.approx((2.0, 3.0))
    assert (figure.loops, figure.misfit) == (2, pytest.approx(0.0, abs=1e-9))


@pytest.mark.parametrize(
    ("balance", "expected"),
    [
        (1.9, (3.5, 0.0)),  # two operations for a byte are more than the balance: 350 J / 100
        (2.1, (0.0, 7.0)),  # fewer: 350 J / 50 bytes
        (None, (0.0, 7.0)),
    ],
)
def test_what_cannot_be_told_apart_goes_to_the_resource_that_binds(balance, expected):
    for observations in ([seen(100, 50, 350)], [seen(100, 50, 350), seen(200, 100, 700)]):
        figure = figures_of(*observations, balance=balance)
        assert (figure.joules_per_flop, figure.joules_per_byte) == pytest.approx(expected)


def test_work_without_operations_has_bytes_alone():
    figure = figures_of(seen(0, 50, 100), balance=0.0)
    assert (figure.joules_per_flop, figure.joules_per_byte) == pytest.approx((0.0, 2.0))


def test_the_sum_over_the_window_is_that_of_the_loops_where_no_plane_holds_them():
    # Nine steps of 50 J and one of 100 J are 550 J; their bytes are 9 x 100 + 1000 = 1900.
    figure = figures_of(seen(10, 100, 50, steps=9), seen(100, 1000, 100, steps=1))
    assert figure.joules_per_byte == pytest.approx(550 / 1900)
    # Of the loops' energy 450 J are explained as 260.5, off by 0.421, and 100 J as 289.5, off by 1.895:
    # sqrt((450 x 0.421^2 + 100 x 1.895^2) / 550) = 0.893.
    assert figure.misfit == pytest.approx(0.893, abs=1e-3)


def test_a_step_that_was_not_in_the_window_splits_and_does_not_count():
    # The same law as above; the second shape stands for no step, and the busy time is that of ten of the first.
    figure = figures_of(seen(100, 50, 350, steps=10), seen(1000, 60, 2180, steps=0))
    assert (figure.joules_per_flop, figure.joules_per_byte) == pytest.approx((2.0, 3.0))
    assert figure.busy_s == pytest.approx(10 * 1e-3)
    assert coefficients([seen(1000, 60, 2180, steps=0)]) == {}


def test_loops_that_draw_no_more_than_static_power_cost_nothing():
    figure = figures_of(seen(100, 50, -1.0), seen(1000, 60, 0.0))
    assert (figure.joules_per_flop, figure.joules_per_byte, figure.relative_half_width) == (0.0, 0.0, None)


def test_intervals_of_loops_become_one_of_the_family():
    # 4 steps x 3 J and 1 step x 16 J beside 4 x 350 + 2180 = 3580 J: sqrt(12^2 + 16^2) / 3580 = 20 / 3580.
    loops = [seen(100, 50, 350, steps=4, half_width_j=3.0), seen(1000, 60, 2180, half_width_j=16.0)]
    assert figures_of(*loops).relative_half_width == pytest.approx(20 / 3580)
    assert figures_of(loops[0], replace(loops[1], half_width_j=None)).relative_half_width is None


positive = st.floats(1e-3, 1e3)
shapes = st.tuples(st.floats(1.0, 1e6), st.floats(1.0, 1e6), st.floats(0.0, 100.0))


@given(positive, positive, st.floats(1.0, 1e6), st.floats(4.0, 1e4), st.floats(1e-3, 1e3))
def test_a_known_law_is_recovered(per_flop, per_byte, bytes_, ratio, scale):
    """Two shapes, of which one has at least four times as many operations for a byte."""
    law = [(bytes_, bytes_), (scale * ratio * bytes_, scale * bytes_)]
    figure = figures_of(*(seen(flop, moved, flop * per_flop + moved * per_byte) for flop, moved in law))
    for flop, moved in law:
        assert figure.energy_j(flop, moved) == pytest.approx(flop * per_flop + moved * per_byte)
    assert (figure.joules_per_flop, figure.joules_per_byte) == pytest.approx((per_flop, per_byte), rel=1e-5)


@given(st.lists(st.tuples(shapes, st.floats(1e-3, 1e6)), min_size=1, max_size=5), st.floats(0.0, 10.0))
def test_figures_are_never_negative_and_keep_the_sum(loops, balance):
    observations = [seen(flop, bytes_, energy_j, steps) for (flop, bytes_, steps), energy_j in loops]
    for figure in coefficients(observations, balance).values():
        assert figure.joules_per_flop >= 0
        assert figure.joules_per_byte >= 0
        explained = sum(each.steps * figure.energy_j(each.flop, each.bytes) for each in observations)
        assert explained == pytest.approx(sum(each.steps * each.energy_j for each in observations))


def figure(per_flop: float, per_byte: float, share: float | None = 0.1, busy_s: float = 1.0) -> Coefficient:
    return Coefficient(per_flop, per_byte, loops=2, busy_s=busy_s, misfit=0.0, relative_half_width=share)


def test_terms_by_hand():
    terms = close(
        WINDOW, {"matmul": 50.0, "fused": 0.0}, {"matmul": 20.0, "fused": 40.0},
        {"matmul": figure(4.0, 5.0), "fused": figure(0.0, 2.0)},
    )  # fmt: skip
    # static 100 W x 5 s; matmul 50 x 4 + 20 x 5; fused 40 x 2; rest 1000 - 500 - 300 - 80.
    assert [(term.term, term.energy_j) for term in terms] == [
        ("static", 500.0), ("matmul", 300.0), ("fused", 80.0), ("rest", 120.0),
    ]  # fmt: skip
    # A tenth of each family, and 6 J of the window: sqrt(30^2 + 8^2 + 6^2) = sqrt(1000).
    assert [term.half_width_j for term in terms] == [None, 30.0, 8.0, pytest.approx(math.sqrt(1000))]
    assert (terms[1].flop, terms[1].bytes, terms[1].joules_per_flop, terms[1].loops) == (50.0, 20.0, 4.0, 2)
    assert (terms[3].flop, terms[3].loops) == (None, 0)


def test_an_error_of_static_power_counts_in_the_rest_only_while_no_kernel_runs():
    exact: dict[Family, Coefficient] = {"matmul": figure(4.0, 5.0, share=0.0, busy_s=3.0)}
    window = replace(WINDOW, half_width_j=0.0, static_half_width_w=2.0)
    static, matmul, rest = close(window, {"matmul": 50.0}, {"matmul": 20.0}, exact)
    # 2 W for 5 s, for the 3 s of the kernels, and for the 2 s that are left.
    assert (static.half_width_j, matmul.half_width_j, rest.half_width_j) == (10.0, 6.0, 4.0)


def test_static_power_of_unknown_width_leaves_every_term_without_an_interval():
    window = replace(WINDOW, static_half_width_w=None)
    terms = close(window, {"matmul": 50.0}, {"matmul": 20.0}, {"matmul": figure(4.0, 5.0)})
    assert [term.half_width_j for term in terms] == [None, None, None]


def test_a_family_without_figures_stays_in_the_rest():
    terms = close(WINDOW, {"moe": 1.0}, {"moe": 1.0}, {})
    assert [(term.term, term.energy_j, term.half_width_j) for term in terms] == [
        ("static", 500.0, None), ("rest", 500.0, None),
    ]  # fmt: skip


def test_no_interval_of_the_window_is_none_of_the_rest():
    *_, rest = close(replace(WINDOW, half_width_j=None), {}, {}, {})
    assert rest.half_width_j is None


@given(
    st.floats(0, 1e6), st.floats(0.1, 1e3), st.floats(0, 1e3),
    st.dictionaries(st.sampled_from(["attention", "matmul", "moe", "fused"]), st.tuples(positive, positive)),
)  # fmt: skip
def test_terms_add_up(energy_j, window_s, static_w, families):
    window = replace(WINDOW, energy_j=energy_j, window_s=window_s, static_power_w=static_w)
    work = {family: flop for family, (flop, _) in families.items()}
    terms = close(window, work, work, {family: figure(1.0, per) for family, (_, per) in families.items()})
    assert math.fsum(term.energy_j for term in terms) == pytest.approx(energy_j, abs=1e-6)
    assert [term.term for term in terms].count("rest") == 1


def test_terms_are_written(tmp_path):
    store.write(close(WINDOW, {"matmul": 50.0}, {"matmul": 20.0}, {"matmul": figure(4.0, 5.0)}), ClosureTerm, tmp_path)
    assert list(store.read(tmp_path, ClosureTerm)["term"]) == ["static", "matmul", "rest"]


LAW: dict[Family, tuple[float, float]] = {"attention": (1e-3, 5e-3), "matmul": (2e-3, 1e-3), "fused": (0.0, 4e-3)}


@dataclass
class Scripted:
    """An engine that is nothing but its probes."""

    found: Probes

    def probes(self, start_s: float, end_s: float) -> Probes:
        assert (start_s, end_s) == (1.0, 11.0)
        return self.found


def nothing() -> Callable[[], object]:
    return lambda: None


def cannot() -> Callable[[], object]:
    raise EngineError("out of GPU memory")


# Ten steps that decode and two that compute prompts.
PROBES = (
    Probe("attention", "decode", 10, 4.0, 40.0, nothing),
    Probe("matmul", "decode", 10, 100.0, 50.0, nothing),
    Probe("fused", "decode", 10, 1.0, 10.0, nothing),
    Probe("attention", "mixed", 2, 80.0, 60.0, nothing),
    Probe("matmul", "mixed", 2, 1000.0, 60.0, nothing),
    Probe("fused", "mixed", 2, 10.0, 100.0, nothing),
)


def worked(probes: tuple[Probe, ...], board: ScriptedBoard) -> Probes:
    """A window of just these steps, whose calls take a millisecond of the board."""
    flop: dict[Family, float] = dict.fromkeys(LAW, 0.0)
    bytes_ = dict(flop)
    for probe in probes:
        flop[probe.family] += probe.steps * probe.flop
        bytes_[probe.family] += probe.steps * probe.bytes
    return Probes(flop, bytes_, tuple(board.drawing(probe, time.perf_counter, 1e-3) for probe in probes), "")


def window_of(board: ScriptedBoard, probes: Probes, extra_j: float = 0.0) -> Measurement:
    """Ten seconds in which the board drew what its law says, and something more."""
    explained = sum(board.work_j(family, flop, probes.bytes[family]) for family, flop in probes.flop.items())
    return measurement(
        window_start_s=1.0, window_s=10.0, energy_status=EnergyStatus.VALID, gpu_static_power_w=board.static_w,
        gpu_energy_j=10 * board.static_w + explained + extra_j,
    )  # fmt: skip


def closed(board: ScriptedBoard, probes: Probes, row: Measurement, **options: Any) -> Closure:
    return measure(cast("Engine", Scripted(probes)), board.meters, time.perf_counter, row, **options)


def test_the_law_of_a_scripted_board_is_found(monkeypatch):
    pretend_loops(monkeypatch.setattr, window_s=0.2)
    monkeypatch.setattr(metered_loop, "MARGIN_S", 0.02)
    board, told = ScriptedBoard(50.0, LAW), list[str]()
    probes = worked(PROBES, board)
    row = window_of(board, probes, extra_j=7.0)
    found = closed(board, probes, row, integrate=board.integrate, on_progress=told.append)
    # The pretended device is the host itself, which spends all of the loop on queueing: suspect, counted, and said.
    loops = "; ".join(f"{probe.family}, {probe.shape}" for probe in probes.probes)
    assert found.remarks == (f"suspect (host_bound), and counted: {loops}",)
    assert told[0] == "energy of attention, decode"
    by_term = {term.term: term for term in found.terms}
    assert list(by_term) == ["static", "attention", "matmul", "fused", "rest"]
    for family in ("attention", "matmul"):
        figures = (by_term[family].joules_per_flop, by_term[family].joules_per_byte)
        assert figures == pytest.approx(LAW[family], rel=1e-3)
    assert by_term["rest"].energy_j == pytest.approx(7.0, abs=0.01)
    assert (by_term["matmul"].loops, by_term["matmul"].measurement_id) == (2, "r/0")


@pytest.mark.slow
def test_the_law_is_found_with_the_real_sampler_and_integral(monkeypatch):
    pretend_loops(monkeypatch.setattr)
    board = ScriptedBoard(50.0, LAW)
    probes = worked(PROBES, board)
    row = window_of(board, probes)
    found = closed(board, probes, row)
    assert [remark.partition(" (")[0] for remark in found.remarks] == ["suspect"]  # the host is the device here
    # Readings every 62 ms, in each of which some 60 calls of up to 2 J end: 2 % of a loop, and less of the window.
    assert abs(found.terms[-1].energy_j) <= 0.02 * (row.gpu_energy_j or 0.0)


def test_an_invalid_loop_gives_no_figure(monkeypatch):
    pretend_loops(monkeypatch.setattr, window_s=0.05)
    monkeypatch.setattr(metered_loop, "MARGIN_S", 0.02)
    board = ScriptedBoard(50.0, LAW)

    def integrate(*_: Any) -> power.Energy:
        return power.Energy(EnergyStatus.INVALID, (Reason.SAMPLE_GAP,))

    probes = worked(PROBES[:1], board)
    found = closed(board, probes, window_of(board, probes), integrate=integrate)
    assert [term.term for term in found.terms] == ["static", "rest"]
    assert found.remarks == (
        "attention, decode: sample_gap, host_bound",  # the pretended device is the host itself
        "attention has no valid loop; its energy is in the rest",
    )


def test_a_family_that_lacks_one_of_its_shapes_has_no_half_width(monkeypatch):
    pretend_loops(monkeypatch.setattr, window_s=0.05)
    monkeypatch.setattr(metered_loop, "MARGIN_S", 0.02)
    board = ScriptedBoard(50.0, LAW)
    probes = worked((PROBES[1], replace(PROBES[4], prepare=cannot)), board)
    found = closed(board, probes, window_of(board, probes), integrate=board.integrate)
    assert [(term.term, term.half_width_j, term.loops) for term in found.terms] == [
        ("static", None, 0), ("matmul", None, 1), ("rest", None, 0),
    ]  # fmt: skip
    assert found.remarks == (
        "matmul, mixed: out of GPU memory",
        "suspect (host_bound), and counted: matmul, decode",  # the pretended device is the host itself
    )


def test_a_probe_that_cannot_be_made_says_why(monkeypatch):
    pretend_loops(monkeypatch.setattr, window_s=0.05)
    probe = replace(PROBES[0], prepare=cannot)
    board = ScriptedBoard(50.0, LAW)
    assert meter_probe(probe, 50.0, board.meters, time.perf_counter) == "attention, decode: out of GPU memory"


def test_a_meter_that_dies_says_so(monkeypatch):
    pretend_loops(monkeypatch.setattr, window_s=0.05)

    class Dying(ScriptedBoard):
        def read(self, clock: Callable[[], float]) -> Any:
            if self.calls_s:
                raise power.MeterError("GPU-x is lost")
            return super().read(clock)

    board = Dying(50.0, LAW)
    probe = board.drawing(PROBES[0], time.perf_counter, 1e-3)
    board.calls_s.clear()
    assert meter_probe(probe, 50.0, board.meters, time.perf_counter) == "attention, decode: GPU-x is lost"


@pytest.mark.parametrize(
    ("changes", "remark"),
    [
        (
            {"energy_status": EnergyStatus.INVALID, "energy_reasons": (Reason.SAMPLE_GAP,), "gpu_energy_j": None},
            "the window has no trusted board energy: sample_gap",
        ),
        ({"energy_status": EnergyStatus.NO_METER, "gpu_energy_j": None}, "trusted board energy: no_meter"),
        ({"gpu_static_power_w": None}, "static power was not measured"),
    ],
)
def test_a_window_that_cannot_be_explained_has_no_terms(changes, remark):
    board = ScriptedBoard(50.0, LAW)
    row = window_of(board, worked(PROBES, board)).model_copy(update=changes)
    found = closed(board, Probes(), row)
    assert found.terms == ()
    assert remark in found.remarks[0]


def test_an_engine_without_probes_has_no_terms():
    engine = FakeEngine(BenchSpec.model_validate({"engine": "fake", "workloads": ("chat",), "concurrency": (1,)}))
    board = ScriptedBoard(50.0, LAW)
    found = measure(engine, board.meters, time.perf_counter, window_of(board, worked(PROBES, board)))
    assert found == Closure(remarks=("this engine cannot run its kernel families one by one",))
