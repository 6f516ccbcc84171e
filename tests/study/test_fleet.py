"""A gigawatt by hand, by property, and by refusal."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwatt import store
from tokenwatt.architecture import Architecture
from tokenwatt.economics.fleet import QUANTITIES, estimate, facts_used
from tokenwatt.economics.reference_row import ReferenceRow, from_measurement, from_published
from tokenwatt.economics.scaling import SpeedMethod, speed_ratio
from tokenwatt.economics.scenario import FleetScenario, find_reference, load_scenario, run_scenario, to_json
from tokenwatt.errors import UserError
from tokenwatt.perf_model.roofline import system_limit
from tokenwatt.record import EnergyStatus, FleetEstimate, Measurement, Reason, Status
from tokenwatt.reference.facts import FactBook, load_facts
from tokenwatt.reference.published import load_published
from tokenwatt.reference.ranges import Range
from tokenwatt.reference.systems import Ownership, load_system
from tokenwatt.spec import load_toml

SYSTEMS = ["H200 SXM", "B200 SXM", "GB200 NVL72", "GB300 NVL72", "VR NVL72"]
GIGAWATT = 1e9


def _case(rows: list[FleetEstimate], system: str, case: str = "central") -> FleetEstimate:
    return next(row for row in rows if row.system == system and row.case == case)


@pytest.fixture(scope="session")
def gigawatt(h100_row: ReferenceRow, llama_8b: Architecture) -> list[FleetEstimate]:
    return estimate(h100_row, llama_8b, SYSTEMS, GIGAWATT, speed="roofline")


@pytest.mark.parametrize(
    ("system", "gpus"),
    # 1e6 kW over all-in kW per GPU: 1.37, 1.71, 1.87, 2.12, 3.30.
    [
        ("H200 SXM", 730e3),
        ("B200 SXM", 585e3),
        ("GB200 NVL72", 535e3),
        ("GB300 NVL72", 472e3),
        ("VR NVL72", 303e3),
    ],
)
def test_gpus_per_gigawatt(gigawatt: list[FleetEstimate], system: str, gpus: float) -> None:
    assert _case(gigawatt, system).gpus == pytest.approx(gpus, rel=1e-3)


def test_h200_by_hand(gigawatt: list[FleetEstimate]) -> None:
    # The row is memory-bound on both: 7000 token/s * 4.8 / 3.35 = 10 029.85 token/s per GPU.
    row = _case(gigawatt, "H200 SXM")
    assert row.output_tokens_per_s_per_gpu == pytest.approx(10029.85, rel=1e-6)
    # $1.22 an hour over 10 029.85 * 0.0036 = 36.1075 Mtoken an hour = $0.033788.
    assert row.usd_per_mtok == pytest.approx(0.033788, rel=1e-4)
    # 1 / 0.016 s = 62.5 token/s per user, times 4.8 / 3.35 = 89.55.
    assert row.output_tokens_per_s_per_user == pytest.approx(89.552, rel=1e-4)
    # Same TDP, same watts: 660 W over 10 029.85 token/s = 65.80 mJ; all-in 1370 W: 136.59 mJ.
    assert row.gpu_power_w == pytest.approx(660.0)
    assert row.gpu_joules_per_output_token == pytest.approx(0.065804, rel=1e-4)
    assert row.all_in_joules_per_output_token == pytest.approx(0.136592, rel=1e-4)
    # 1e9 / 1370 = 729 927 GPUs, 7.3211e9 token/s, 7.3211e6 token/s per MW.
    assert row.output_tokens_per_s == pytest.approx(7.32106e9, rel=1e-5)
    assert row.output_tokens_per_s_per_mw == pytest.approx(7.32106e6, rel=1e-5)


def test_worst_ends_meet(gigawatt: list[FleetEstimate]) -> None:
    # H200 low: no gain, 7000 token/s, at $1.41: 1.41 / 25.2 = $0.055952. GPUs low: 1e9 / 1730 W = 578 035.
    low, high = _case(gigawatt, "H200 SXM", "low"), _case(gigawatt, "H200 SXM", "high")
    assert low.output_tokens_per_s_per_gpu == pytest.approx(7000.0)
    assert high.usd_per_mtok == pytest.approx(0.055952, rel=1e-4)
    assert low.gpus == pytest.approx(578035, rel=1e-5)
    assert low.output_tokens_per_s == pytest.approx(578035 * 7000, rel=1e-5)


def test_power_scales_with_tdp_and_stops_at_it(gigawatt: list[FleetEstimate]) -> None:
    # B200: 660 * 1000 / 700 = 942.86 W; from the row's own 660 W to its TDP.
    watts = [_case(gigawatt, "B200 SXM", case).gpu_power_w for case in ("low", "central", "high")]
    assert watts == pytest.approx([660.0, 942.857, 1000.0])


def test_a_row_above_its_tdp_is_cut_off(h100_row: ReferenceRow, llama_8b: Architecture) -> None:
    hot = dataclasses.replace(h100_row, gpu_power_w=705.0)
    rows = estimate(hot, llama_8b, ["H200 SXM"], GIGAWATT)
    assert [row.gpu_power_w for row in rows] == [700.0, 700.0, 700.0]


def test_fixed_overhead_speeds_up_only_what_the_roofline_explains(
    h100_row: ReferenceRow, llama_8b: Architecture
) -> None:
    # A row at exactly half of its limit (isl a point): 1 / (0.5 + 0.5 / r), r = 4.8 / 3.35 = 1.43284: 1.177914.
    h100, h200 = load_system("H100 SXM"), load_system("H200 SXM")
    half = system_limit(llama_8b, "bfloat16", 200, 400, 128, h100).central / 2
    row = dataclasses.replace(h100_row, isl=Range.exact(200.0), output_tokens_per_s_per_gpu=half)
    ratio = speed_ratio(row, llama_8b, h100, h200, "fixed_overhead")
    assert ratio.central == pytest.approx(1.177914, rel=1e-6)
    assert (ratio.low, ratio.high) == pytest.approx((1.0, 4.8 / 3.35))


def test_both_methods_have_the_same_range(h100_row: ReferenceRow, llama_8b: Architecture) -> None:
    h100, rubin = load_system("H100 SXM"), load_system("VR NVL72")
    first, second = (speed_ratio(h100_row, llama_8b, h100, rubin, way) for way in ("roofline", "fixed_overhead"))
    assert (first.low, first.high) == (second.low, second.high)
    assert second.central < first.central


def test_range_reaches_the_published_b200_pairs(h100_row: ReferenceRow, llama_8b: Architecture) -> None:
    # ML.ENERGY's dense bf16 models ran 1.29 to 1.86 times as fast on B200 as on H100.
    ratio = speed_ratio(h100_row, llama_8b, load_system("H100 SXM"), load_system("B200 SXM"))
    assert ratio.low <= 1.29
    assert ratio.high >= 1.86


def test_a_system_carried_to_itself_is_the_row(h100_row: ReferenceRow, llama_8b: Architecture) -> None:
    rows = estimate(h100_row, llama_8b, ["H100 SXM"], GIGAWATT)
    assert {row.output_tokens_per_s_per_gpu for row in rows} == {7000.0}
    assert {row.gpu_power_w for row in rows} == {660.0}


reference_rows = st.builds(
    lambda speed, tpot_s, power_w, concurrency, osl: {
        "output_tokens_per_s_per_gpu": speed,
        "tpot_s": tpot_s,
        "gpu_power_w": power_w,
        "concurrency": concurrency,
        "osl": osl,
    },
    st.floats(1.0, 1e5),
    st.floats(1e-4, 10.0),
    st.floats(50.0, 900.0),
    st.integers(1, 2048),
    st.floats(1.0, 20000.0),
)


@given(
    row=reference_rows,
    power_budget_w=st.floats(1e3, 1e11),
    speed=st.sampled_from(["roofline", "fixed_overhead"]),
    ownership=st.sampled_from(["hyperscaler", "rental"]),
)
def test_ranges_are_ordered(
    h100_row: ReferenceRow,
    llama_8b: Architecture,
    row: dict[str, Any],
    power_budget_w: float,
    speed: SpeedMethod,
    ownership: Ownership,
) -> None:
    reference = dataclasses.replace(h100_row, **row)
    rows = estimate(reference, llama_8b, SYSTEMS, power_budget_w, ownership, speed=speed)
    for system in SYSTEMS:
        for quantity in QUANTITIES:
            low, central, high = (getattr(_case(rows, system, case), quantity) for case in ("low", "central", "high"))
            assert 0 < low <= central <= high, (system, quantity)


@given(power_budget_w=st.floats(1e3, 1e10), factor=st.floats(1.5, 10.0))
def test_budget_buys_in_proportion_and_changes_nothing_else(
    h100_row: ReferenceRow, llama_8b: Architecture, power_budget_w: float, factor: float
) -> None:
    small = estimate(h100_row, llama_8b, SYSTEMS, power_budget_w)
    large = estimate(h100_row, llama_8b, SYSTEMS, power_budget_w * factor)
    for before, after in zip(small, large, strict=True):
        for quantity in QUANTITIES:
            expected = factor if quantity in ("gpus", "output_tokens_per_s") else 1.0
            assert getattr(after, quantity) == pytest.approx(expected * getattr(before, quantity))


@given(speed=st.floats(10.0, 1e4), factor=st.floats(1.01, 5.0))
def test_a_faster_row_is_never_dearer(
    h100_row: ReferenceRow, llama_8b: Architecture, speed: float, factor: float
) -> None:
    slow, fast = (
        estimate(dataclasses.replace(h100_row, output_tokens_per_s_per_gpu=each), llama_8b, SYSTEMS, GIGAWATT)
        for each in (speed, speed * factor)
    )
    for before, after in zip(slow, fast, strict=True):
        assert after.usd_per_mtok <= before.usd_per_mtok
        assert after.output_tokens_per_s >= before.output_tokens_per_s


@pytest.mark.parametrize("budget", [0.0, -1.0, float("nan"), float("inf")])
def test_a_budget_must_be_positive(h100_row: ReferenceRow, llama_8b: Architecture, budget: float) -> None:
    with pytest.raises(UserError, match="power_budget_w must be > 0"):
        estimate(h100_row, llama_8b, SYSTEMS, budget)


def test_unknown_system_is_refused(h100_row: ReferenceRow, llama_8b: Architecture) -> None:
    with pytest.raises(UserError, match="unknown system 'B2000'"):
        estimate(h100_row, llama_8b, ["B2000"], GIGAWATT)


def test_missing_price_is_refused(h100_row: ReferenceRow, llama_8b: Architecture) -> None:
    with pytest.raises(UserError, match="own_neocloud_usd_per_gpu_h"):
        estimate(h100_row, llama_8b, ["VR NVL72"], GIGAWATT, "neocloud")


@pytest.mark.parametrize(
    "name", ["all_in_power_w_per_gpu", "tdp_w", "hbm_bytes_per_s", "own_hyperscaler_usd_per_gpu_h"]
)
def test_no_constant_has_a_default(h100_row: ReferenceRow, llama_8b: Architecture, name: str) -> None:
    others = FactBook(tuple(fact for fact in load_facts().facts if (fact.subject, fact.name) != ("B200 SXM", name)))
    with pytest.raises(UserError, match=f"no Fact '{name}' for 'B200 SXM'"):
        estimate(h100_row, llama_8b, ["B200 SXM"], GIGAWATT, facts=others)


def test_sources_are_cited(gigawatt: list[FleetEstimate], h100_row: ReferenceRow) -> None:
    sources = " ".join(_case(gigawatt, "VR NVL72").sources)
    for name in ("H100 SXM tdp_w", "VR NVL72 hbm_bytes_per_s", "VR NVL72 all_in_power_w_per_gpu", "USD/h [analyst"):
        assert name in sources
    used = facts_used(h100_row, SYSTEMS, "hyperscaler")
    # Three constants of the H100, five of each of the five targets.
    assert len(used) == 3 + 5 * 5


def test_a_published_row_without_power_is_refused() -> None:
    row = next(iter(load_published().values())).model_copy(update={"gpu_power_w": None})
    with pytest.raises(UserError, match="no usable gpu_power_w"):
        from_published(row)


def test_a_row_that_is_not_hopper_is_refused() -> None:
    row = next(iter(load_published().values())).model_copy(update={"system": "B200 SXM"})
    with pytest.raises(UserError, match="must be H100 SXM or H200 SXM"):
        from_published(row)


def test_our_own_row_on_two_gpus(measurement: Callable[..., Measurement], table: Callable[..., pd.DataFrame]) -> None:
    # 300 000 tokens and 20 000 J in 30 s on two boards: 5000 token/s and 333.3 W each.
    row = find_reference("run-a/0", table(measurement(gpu_count=2, gpu_uuids=("a", "b"))))
    assert row.system == "H200 SXM"
    assert row.output_tokens_per_s_per_gpu == pytest.approx(5000.0)
    assert row.gpu_power_w == pytest.approx(20000 / 30 / 2)
    assert row.tpot_s == 0.0125
    assert row.gpus == 2


def test_a_row_read_back_from_parquet(measurement: Callable[..., Measurement], tmp_path: Path) -> None:
    doubtful = measurement(
        measurement_id="run-a/1", energy_status=EnergyStatus.SUSPECT, energy_reasons=(Reason.SAMPLE_GAP,)
    )
    store.write([measurement(), doubtful], Measurement, tmp_path)
    rows = store.read(tmp_path, Measurement)
    # 300 000 tokens in 30 s.
    assert find_reference("run-a/0", rows).output_tokens_per_s_per_gpu == pytest.approx(10_000.0)
    with pytest.raises(UserError, match=r"suspect \(sample_gap\)"):
        find_reference("run-a/1", rows)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"gpu_name": "NVIDIA B200"}, "measured on 'NVIDIA B200'"),
        ({"is_stable": False, "reasons": (Reason.TOKEN_RATE_DRIFTS,)}, "not stable .token_rate_drifts."),
        ({"energy_status": EnergyStatus.SUSPECT, "energy_reasons": (Reason.SAMPLE_GAP,)}, "suspect .sample_gap."),
        ({"energy_status": EnergyStatus.NO_METER, "gpu_energy_j": None}, "energy_status no_meter .no reason given."),
        ({"tpot_median_s": None}, "no usable tpot_median_s"),
        ({"model": None}, "no model or no dtype"),
        (
            {
                "status": Status.FAILED,
                "output_tokens": None,
                "energy_status": EnergyStatus.NO_METER,
                "gpu_energy_j": None,
            },
            "has status failed",
        ),
    ],
)
def test_a_row_that_cannot_carry_a_fleet_is_refused(
    measurement: Callable[..., Measurement],
    table: Callable[..., pd.DataFrame],
    changes: dict[str, object],
    complaint: str,
) -> None:
    rows = table(measurement(**changes))
    with pytest.raises(UserError, match=complaint):
        from_measurement({str(key): value for key, value in rows.iloc[0].to_dict().items()})


def test_unknown_reference_is_answered_with_the_known(
    measurement: Callable[..., Measurement], table: Callable[..., pd.DataFrame]
) -> None:
    with pytest.raises(UserError, match=r"unknown reference row 'run-a/1' .did you mean 'run-a/0'"):
        find_reference("run-a/1", table(measurement()))


def test_two_rows_of_one_name_are_refused(
    measurement: Callable[..., Measurement], table: Callable[..., pd.DataFrame]
) -> None:
    with pytest.raises(UserError, match="2 measurements are called 'run-a/0'"):
        find_reference("run-a/0", table(measurement(), measurement()))


def test_shipped_scenario_as_json() -> None:
    study = run_scenario(load_scenario())
    document = to_json(study)
    assert list(document["systems"]) == SYSTEMS
    assert document["reference"]["row_id"] == "mlenergy-h100-llama-3.1-8b-chat-c128"
    cell = document["systems"]["H200 SXM"]["usd_per_mtok"]
    # Bytes of a cycle on the H100: 404.6 passes x 15.009 GB + 128 x 131072 B x 162 568 tokens = 8.8001 TB, which takes
    # 2.6269 s at 3.35 TB/s for 128 x 404.6 tokens: a limit of 19 715 token/s, of which the row reaches 0.35692.
    # H200: 1 / (0.64308 + 0.35692 x 3.35 / 4.8) = 1.12085 times 7036.53 = 7886.9; 1.22 / (7886.9 x 0.0036) = $0.042969.
    assert cell["central"] == pytest.approx(0.042969, rel=1e-4)
    assert cell["low"] < cell["central"] < cell["high"]
    assert cell["unit"] == "USD/Mtoken"
    assert all(source["source"] and source["grade"] for source in document["sources"])


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('colour = "red"', "unknown key 'colour'"),
        ('ownership = "friend"', "ownership"),
        ('speed = "wish"', "speed"),
    ],
)
def test_a_bad_scenario_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "site.toml"
    path.write_text(f'name = "a"\npower_budget_w = 1e6\nsystems = ["B200 SXM"]\nreference = "x"\n{text}\n')
    with pytest.raises(UserError, match=complaint):
        load_toml(path, FleetScenario)


def test_a_system_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "site.toml"
    path.write_text('name = "a"\npower_budget_w = 1e6\nsystems = ["B200 SXM", "B200 SXM"]\nreference = "x"\n')
    with pytest.raises(UserError, match="names a system twice"):
        load_toml(path, FleetScenario)


def test_unknown_scenario_is_answered_with_the_known() -> None:
    with pytest.raises(UserError, match=r"unknown scenario 'two-gigawatt' .*one-gigawatt"):
        load_scenario("two-gigawatt")


@pytest.mark.parametrize("speed", ["roofline", "fixed_overhead"])
def test_the_method_is_stated(h100_row: ReferenceRow, llama_8b: Architecture, speed: SpeedMethod) -> None:
    rows = estimate(h100_row, llama_8b, ["B200 SXM"], GIGAWATT, speed=speed)
    assert speed.replace("_", " ") in rows[0].method
