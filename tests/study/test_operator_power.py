"""Power of an operator: work of a problem, the form, its fit, its trend, its rows."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwatt.errors import UserError
from tokenwatt.perf_model.operator_power import refit, tables
from tokenwatt.perf_model.operator_power.fit import cap_fraction, cells, fit_power, solve_with_meter
from tokenwatt.perf_model.operator_power.hold_out import generations_apart, hold_out_score
from tokenwatt.perf_model.operator_power.model import Coefficients, parts_w, slowdown, soft_minimum
from tokenwatt.perf_model.operator_power.prediction import OperatorPower, load_operator_power
from tokenwatt.perf_model.operator_power.rows import Name, PowerRow, load_power_rows, read_power_rows
from tokenwatt.perf_model.operator_power.trend import generation
from tokenwatt.perf_model.operator_power.work import attention_work, gemm_work, moe_work, with_rates

BOARD = OperatorPower(
    system="test",
    method="silicon",
    coefficients=Coefficients(
        static_w=100.0,
        busy_w={"gemm": 0.0, "moe": 50.0},
        j_per_flop={"bfloat16": 1e-12, "fp8": 0.5e-12},
        j_per_byte=50e-12,
        j_per_link_byte=80e-12,
    ),
    part_log_sd={"static": 0.3, "bytes": 0.4},
    error_log_sd=0.0,
    cap_w=700.0,
    clock_exponent=2.0,
)

rates = st.floats(0, 2e15)
traffic = st.floats(0, 1e13)
shares = st.floats(0, 1)


def array(value: float) -> np.ndarray:
    return np.array([value])


# Work of a problem


def test_matmul_moves_each_operand_once():
    # 2 * 2 * 3 * 4 = 48 FLOP; weights 12 and activations 8 of 2 bytes, 6 results of 2 bytes.
    flop, moved = gemm_work(array(2), array(3), array(4), array(2))
    assert (flop[0], moved[0]) == (48, 52)


def test_mixture_reads_the_experts_that_have_a_token():
    # One token, 2 of 4 experts: 4 * (1 - 1/2) = 2 touched, 2 * 3 * 4 * 2 elements of 2 bytes = 96 bytes of weights.
    # Two pairs move 2 * (2 * 4 * 2 + 3 * 2 * 2) = 56 bytes, the token itself 2 * 4 * 2 = 16. FLOP 6 * 2 * 4 * 2 = 96.
    shape = {"num_tokens": 1, "hidden": 4, "intermediate": 2, "top_k": 2, "num_experts": 4, "moe_tp": 1, "moe_ep": 1}
    flop, moved = moe_work(**{name: array(value) for name, value in shape.items()}, size=array(2))
    assert (flop[0], moved[0]) == (96, 168)


def test_a_share_of_the_experts_has_that_share_of_the_pairs():
    # 8 tokens that each take 2 of 4 experts, spread over 2 GPUs: 8 pairs here. 6 * 8 * 4 * 2 = 384 FLOP.
    shape = {"num_tokens": 8, "hidden": 4, "intermediate": 2, "top_k": 2, "num_experts": 4, "moe_tp": 1, "moe_ep": 2}
    flop, _ = moe_work(**{name: array(value) for name, value in shape.items()}, size=array(2))
    assert flop[0] == 384


def test_decode_attention_reads_the_cache():
    # One query sees 7 + 1 tokens: 4 * 4 heads * 8 * 8 = 1024 FLOP. Query and answer 2 * 4 * 8 * 2 bytes = 128,
    # keys and values of 8 tokens 8 * 2 * 2 heads * 8 * 2 bytes = 512.
    shape = {"batch": 1, "isl": 1, "step": 7, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8}
    flop, moved = attention_work(**{name: array(value) for name, value in shape.items()}, size=array(2))
    assert (flop[0], moved[0]) == (1024, 640)


def test_prefill_attention_is_causal():
    # Three queries see 1, 2 and 3 keys: 6 pairs of 4 * 2 FLOP with one head of 2.
    shape = {"batch": 1, "isl": 3, "step": 0, "num_heads": 1, "num_kv_heads": 1, "head_dim": 2}
    flop, _ = attention_work(**{name: array(value) for name, value in shape.items()}, size=array(2))
    assert flop[0] == 48


def gemm_table(**changes: object) -> pd.DataFrame:
    row = {"gpu": "H200", "op": "gemm", "dtype": "bfloat16", "latency_s": 2.0, "power_w": 300.0, "m": 2, "n": 3, "k": 4}
    return pd.DataFrame([row | changes])


def test_rates_are_work_over_time():
    row = with_rates(gemm_table()).iloc[0]
    assert (row["system"], row["flop_per_s"], row["bytes_per_s"]) == ("H200 SXM", 24.0, 26.0)


def test_block_scaled_fp8_counts_as_fp8_of_one_byte():
    # 12 + 8 bytes of operands and 12 of results.
    row = with_rates(gemm_table(dtype="fp8_block", latency_s=1.0)).iloc[0]
    assert (row["dtype"], row["bytes_per_s"]) == ("fp8", 32.0)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (gemm_table().drop(columns="power_w"), "lacks columns power_w"),
        (gemm_table(gpu="A100"), "gpu 'A100' is unknown; known: H200, B200, GB200"),
        (gemm_table(op="conv"), "op 'conv' is unknown"),
        (gemm_table().drop(columns="k"), "gemm needs columns k"),
        (gemm_table(dtype="int4_wo"), "no row has a dtype"),
        (gemm_table(power_w=0.0), "no row has a dtype"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(table, message):
    with pytest.raises(UserError, match=message):
        with_rates(table)


# The form


def test_demand_is_the_sum_of_its_parts():
    # 100 static, half of the time in experts 25, 1e14 FLOP/s 100, 2e12 byte/s 100, 1e11 byte/s over links 8.
    demand = BOARD.demand_w({"bfloat16": 1e14}, 2e12, {"moe": 0.5}, 1e11)
    assert float(demand) == pytest.approx(333)


def test_power_stops_at_the_cap():
    # 100 + 5e14 * 1e-12 + 4e12 * 50e-12 = 800.
    assert BOARD.power_w({"bfloat16": [5e14, 1e14]}, [4e12, 0]).tolist() == pytest.approx([700, 200])


def test_clocks_fall_until_power_fits():
    # 400 W beside static must become 200 W: the clock falls by 2 ** (1 / 2).
    assert float(slowdown(500, cap_w=300, static_w=100, exponent=2)) == pytest.approx(math.sqrt(2))
    assert float(slowdown(299, cap_w=300, static_w=100, exponent=2)) == 1


def test_energy_at_the_cap_is_the_cap_for_longer():
    # 1300 W wanted: 1200 W beside static where 600 W fit, so 2 s become 2 * sqrt(2) s of 700 W.
    assert float(BOARD.energy_j({"bfloat16": 2.4e15}, 0, 2.0, at_full_clocks=True)) == pytest.approx(
        1400 * math.sqrt(2)
    )
    assert float(BOARD.energy_j({"bfloat16": 2.4e15}, 0, 2.0)) == pytest.approx(1400)


def test_spread_counts_parts_by_their_share():
    # 100 W static with 0.3 and 100 W of memory with 0.4, half each: sqrt(0.15 ** 2 + 0.2 ** 2) = 0.25.
    assert float(BOARD.log_sd({}, 2e12)) == pytest.approx(0.25)
    low, high = BOARD.range_w({}, 2e12)
    assert float(high / 200) == pytest.approx(math.exp(0.25 * 1.2815515655))
    assert float(low * high) == pytest.approx(200**2)


def test_an_unknown_dtype_names_the_known():
    with pytest.raises(UserError, match="no power is known for dtype 'fp4'; known: bfloat16, fp8"):
        BOARD.power_w({"fp4": 1e14}, 0)


def test_soft_minimum_meets_the_cap_from_below():
    # At the corner a width of 0.1 takes 10 * log 2 W off 100.
    assert float(soft_minimum(100, 100, 0.1)) == pytest.approx(100 - 10 * math.log(2))
    assert float(soft_minimum(20, 100, 0.01)) == pytest.approx(20)


@given(rates, rates, traffic, traffic, shares)
def test_more_work_never_draws_less_nor_more_than_the_cap(flop, more_flop, moved, more_bytes, busy):
    power = BOARD.power_w(
        {"bfloat16": [flop, flop + more_flop, flop]}, [moved, moved, moved + more_bytes], {"moe": busy}
    )
    assert power[0] <= min(power[1], power[2])
    assert power.max() <= BOARD.cap_w


@given(st.floats(0, 3e14), st.floats(0, 3e14), st.floats(0.1, 10), st.floats(0.1, 10))
def test_energy_adds_below_the_cap(first, second, first_s, second_s):
    def energy(flop: float, seconds: float) -> float:
        return float(BOARD.energy_j({"bfloat16": flop}, 2 * flop / 300, seconds))

    together = energy(first * first_s + second * second_s, first_s + second_s)
    assert energy(first * first_s, first_s) + energy(second * second_s, second_s) == pytest.approx(together)


@given(st.floats(0, 5000), st.floats(0, 5000))
def test_slowdown_is_monotone_and_at_least_one(demand, more):
    less_time, more_time = BOARD.slowdown([demand, demand + more])
    assert 1 <= less_time <= more_time


# The fit

TRUE = Coefficients(
    static_w=130.0,
    busy_w={"gemm": 0.0, "moe": 150.0},
    j_per_flop={"bfloat16": 0.8e-12, "fp8": 0.4e-12},
    j_per_byte=70e-12,
)


def measured(noise: float = 0.03, spoilt: float = 0.15, rows: int = 4000) -> pd.DataFrame:
    """Rows of a board with parameters that we know, some of them read before the meter had caught up."""
    generator = np.random.default_rng(3)
    table = pd.DataFrame(
        {
            "family": generator.choice(["gemm", "moe"], rows),
            "dtype": generator.choice(["bfloat16", "fp8"], rows),
            "flop_per_s": 10 ** generator.uniform(12, 15, rows),
            "bytes_per_s": 10 ** generator.uniform(11, 12.6, rows),
        }
    )
    flop = {dtype: np.where(table["dtype"] == dtype, table["flop_per_s"], 0.0) for dtype in TRUE.j_per_flop}
    busy = {"moe": (table["family"] == "moe").to_numpy(dtype=float)}
    demand = sum(parts_w(TRUE, flop, table["bytes_per_s"], busy).values())
    power = np.minimum(demand, 690.0) * np.exp(noise * generator.standard_normal(rows))
    idle = generator.random(rows) < spoilt
    return table.assign(power_w=np.where(idle, generator.uniform(100, power), np.minimum(power, 692.0)))


def test_the_fit_finds_parameters_that_we_know():
    values = fit_power(measured(), tdp_w=700.0).values
    expected: dict[Name, float] = {
        ("static_w", ""): 130.0,
        ("busy_moe_w", ""): 150.0,
        ("pj_per_flop", "bfloat16"): 0.8,
        ("pj_per_flop", "fp8"): 0.4,
        ("pj_per_byte", ""): 70.0,
    }
    for name, truth in expected.items():
        low, value, high = values[name]
        assert value == pytest.approx(truth, rel=0.1), name
        assert low <= value <= high


def test_a_meter_that_lags_is_seen_through():
    # Each reading is 40 % its own and 60 % the one before it, row by row within a family.
    table = measured(noise=0.01, spoilt=0.0)
    for _, rows in table.groupby("family"):
        read = rows["power_w"].to_numpy().copy()
        for at in range(1, len(read)):
            read[at] = 0.4 * read[at] + 0.6 * read[at - 1]
        table.loc[rows.index, "power_w"] = read
    names: list[Name] = [
        ("static_w", ""),
        ("busy_moe_w", ""),
        ("pj_per_flop", "bfloat16"),
        ("pj_per_flop", "fp8"),
        ("pj_per_byte", ""),
    ]
    parameters, own = solve_with_meter(table, names, cap_w=690.0)
    assert own == pytest.approx({"gemm": 0.4, "moe": 0.4}, abs=0.02)
    assert parameters == pytest.approx([130, 150, 0.8, 0.4, 70], rel=0.1)


def test_the_fit_is_the_same_each_time():
    table = measured(rows=1500)
    assert fit_power(table, 700.0, draws=3).values == fit_power(table, 700.0, draws=3).values


def test_cells_are_medians_of_equal_work():
    # Four rows of equal work, one spoilt: the median of 100, 300, 310 and 320 is 305. Two other rows are too few.
    table = pd.DataFrame(
        {
            "family": "gemm",
            "dtype": "fp8",
            "flop_per_s": [1e14] * 4 + [1e12] * 2,
            "bytes_per_s": [1e12] * 6,
            "power_w": [300.0, 310.0, 320.0, 100.0, 150.0, 150.0],
        }
    )
    found = cells(table)
    assert found["power_w"].tolist() == [305.0]
    assert found["count"].tolist() == [4]


def test_the_cap_is_where_rows_crowd():
    # Of a limit of 700 W: 690, 693 and 696 are near; their median is 693.
    assert cap_fraction(pd.Series([100.0, 500.0, 690.0, 693.0, 696.0]), 700.0) == pytest.approx(0.99)
    assert cap_fraction(pd.Series([100.0, 500.0]), 700.0) == 1


def test_too_few_cells_are_refused():
    with pytest.raises(UserError, match=r"parameters of power \(0\) need more cells of 3 rows of equal work, got 0"):
        fit_power(measured(rows=12), 700.0)


# Rows, and what is carried to other GPUs


def row(subject: str, parameter: str, value: float, unit: str, dtype: str = "", width: float = 0.0) -> PowerRow:
    ends = {"low": value * math.exp(-width), "high": value * math.exp(width)}
    return PowerRow.model_validate(
        {"subject": subject, "parameter": parameter, "dtype": dtype, "value": value, "unit": unit, "rows": 1}
        | {"source": "test", "grade": "measured"}
        | ends
    )


HOPPER_ONLY = (
    row("H200 SXM", "static_w", 140.0, "W"),
    row("H200 SXM", "busy_moe_w", 70.0, "W"),
    row("H200 SXM", "pj_per_flop", 0.8, "pJ/flop", "bfloat16"),
    row("H200 SXM", "pj_per_flop", 0.4, "pJ/flop", "fp8"),
    row("H200 SXM", "pj_per_byte", 70.0, "pJ/byte"),
    row("H200 SXM", "cap_fraction", 0.98, "1"),
    row("H200 SXM", "error_log_sd", 0.2, "1"),
    row("", "pj_per_link_byte", 80.0, "pJ/byte"),
    row("", "clock_exponent", 2.5, "1"),
    row("", "generation_log_sd", 0.3, "1"),
)


def test_blackwell_from_hopper_and_data_sheets():
    power = load_operator_power("B200 SXM", rows=HOPPER_ONLY)
    assert power.method == "specs"
    # Static keeps its share of the limit: 140 / 700 * 1000.
    assert power.coefficients.static_w == pytest.approx(200)
    assert power.coefficients.busy_w["moe"] == pytest.approx(100)
    assert power.cap_w == pytest.approx(980)
    # 0.8 pJ, or 0.8 * (989 / 700) * (1000 / 2250) pJ: the geometric mean.
    kept_share = 0.8 * 989 / 700 * 1000 / 2250
    assert power.coefficients.j_per_flop["bfloat16"] == pytest.approx(1e-12 * math.sqrt(0.8 * kept_share))
    # 70 pJ, or 70 * (4.8 / 700) * (1000 / 8) = 60 pJ.
    assert power.coefficients.j_per_byte == pytest.approx(1e-12 * math.sqrt(70 * 60))
    # One generation away, where neither boards of one generation nor a step are known: 0.3 for each.
    assert power.part_log_sd["static"] == pytest.approx(math.hypot(0.3, 0.3))
    assert power.part_log_sd["bytes"] == pytest.approx(math.hypot(0.3, 0.3, math.log(70 / 60) / 2))


def test_a_format_that_no_known_board_has_costs_half_of_the_next_wider():
    energy = load_operator_power("B200 SXM", rows=HOPPER_ONLY).coefficients.j_per_flop
    assert energy["fp4"] == pytest.approx(energy["fp8"] / 2)
    assert "fp4" not in load_operator_power("H100 SXM", rows=HOPPER_ONLY).coefficients.j_per_flop


def test_a_measured_board_uses_its_own_rows_until_it_is_excluded():
    own = load_operator_power("H200 SXM", rows=HOPPER_ONLY)
    assert (own.method, own.coefficients.static_w) == ("silicon", 140.0)
    with pytest.raises(UserError, match="needs fitted rows of at least one GPU"):
        load_operator_power("H200 SXM", rows=HOPPER_ONLY, exclude_gpus=("H200 SXM",))


def test_a_misspelt_name_excludes_nothing_silently():
    with pytest.raises(UserError, match="unknown system 'B200'"):
        load_operator_power("H200 SXM", exclude_gpus=("B200",))


def test_no_measurement_of_an_excluded_board_is_left():
    # What remains are rows of the H200, so the answer is that of a file that never had the other two.
    hopper = [each for each in load_power_rows() if each.subject in ("", "H200 SXM")]
    excluded = load_operator_power("B200 SXM", exclude_gpus=("B200 SXM", "GB200 NVL72"))
    assert excluded == load_operator_power("B200 SXM", rows=hopper)


def test_a_lower_limit_moves_the_cap():
    assert load_operator_power("H200 SXM", rows=HOPPER_ONLY, limit_w=500.0).cap_w == pytest.approx(490)
    with pytest.raises(UserError, match="must be above 140 W, got 100"):
        load_operator_power("H200 SXM", rows=HOPPER_ONLY, limit_w=100.0)


@pytest.mark.parametrize(
    ("system", "expected"), [("H100 SXM", 0), ("GB300 NVL72", 1), ("VR NVL72", 2), ("Rubin Ultra", 2), ("Feynman", 3)]
)
def test_a_generation_is_told_by_name(system, expected):
    assert generation(system) == expected


def test_every_shipped_system_has_a_power():
    for system, method in {
        "H100 SXM": "specs",
        "H200 SXM": "silicon",
        "B200 SXM": "silicon",
        "GB200 NVL72": "silicon",
        "GB300 NVL72": "specs",
        "VR NVL72": "specs",
    }.items():
        power = load_operator_power(system)
        assert power.method == method
        # Streaming memory at its peak, without a FLOP, stays below the limit and above static.
        assert power.coefficients.static_w < float(power.demand_w({}, 4e12)) < power.cap_w


def test_less_knowledge_is_a_wider_range():
    silicon = load_operator_power("B200 SXM")
    specs = load_operator_power("B200 SXM", exclude_gpus=("B200 SXM", "GB200 NVL72"))
    work = {"bfloat16": 1e14}, 3e12
    assert float(specs.log_sd(*work)) > float(silicon.log_sd(*work))
    far = load_operator_power("VR NVL72"), load_operator_power("GB300 NVL72")
    assert far[0].part_log_sd["static"] > far[1].part_log_sd["static"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"low": 200.0}, "needs low <= value <= high"),
        ({"unit": "kW"}, "static_w must be in 'W', got 'kW'"),
        ({"dtype": "fp8"}, "pj_per_flop and nothing else has a dtype"),
    ],
)
def test_a_row_that_contradicts_itself_is_refused(change, message):
    good = row("H200 SXM", "static_w", 140.0, "W").model_dump()
    with pytest.raises(ValueError, match=message):
        PowerRow.model_validate(good | change)


# Boards that are withheld


def test_a_withheld_board_is_scored_by_its_rows():
    # H200: 140 W static and 70 pJ/byte ask for 210 W at 1e12 byte/s, which stands in two rows of three. The third reads
    # 105 W: 210 is 100 % above. The range of 0.2 alone reaches from 210 / 1.29 = 163 to 271 W.
    rows = pd.DataFrame(
        {
            "system": "H200 SXM",
            "family": "gemm",
            "dtype": "fp8",
            "power_w": [210.0, 210.0, 105.0],
            "flop_per_s": 0.0,
            "bytes_per_s": 1e12,
        }
    )
    found = hold_out_score(rows, "H200 SXM", HOPPER_ONLY).loc["gemm"]
    assert found["rows"] == 3
    assert found["median_error_percent"] == pytest.approx(0)
    assert found["covered_percent"] == pytest.approx(200 / 3)


def test_older_generations_are_those_left():
    systems = ["B200 SXM", "GB200 NVL72", "H200 SXM"]
    assert generations_apart(systems, "GB200 NVL72") == ["B200 SXM", "GB200 NVL72"]
    assert generations_apart(systems, "H200 SXM") == systems


# Writing the rows anew


def operator_table() -> pd.DataFrame:
    """Matmuls of a board with 150 W static, 0.5 pJ/FLOP and 60 pJ/byte, below its cap."""
    sizes = [256, 512, 1024, 2048]
    table = pd.DataFrame([(m, n, k, s) for m in sizes for n in sizes for k in sizes for s in (1, 1.5, 2.5, 5)])
    table.columns = ["m", "n", "k", "spread"]
    flop, moved = gemm_work(*(table[name].to_numpy(dtype=float) for name in "mnk"), size=np.full(len(table), 2.0))
    latency = np.maximum(flop / 6e14, moved / 3e12) * table["spread"]
    power = 150 + 0.5e-12 * flop / latency + 60e-12 * moved / latency
    table = pd.concat([table.assign(latency_s=latency, power_w=power)] * 3, ignore_index=True)
    return table.assign(gpu="H200", op="gemm", dtype="bfloat16")


def test_refit_writes_rows_that_read_back(tmp_path, capsys):
    table = tmp_path / "operators.parquet"
    operator_table().to_parquet(table)
    for name in ("first.csv", "second.csv"):
        assert refit.main(["-o", str(tmp_path / name), "--table", str(table)]) == 0
    assert (tmp_path / "first.csv").read_bytes() == (tmp_path / "second.csv").read_bytes()
    values = {(each.subject, each.parameter): each.value for each in read_power_rows(tmp_path / "first.csv")}
    assert values["H200 SXM", "static_w"] == pytest.approx(150, rel=0.05)
    assert values["H200 SXM", "pj_per_byte"] == pytest.approx(60, rel=0.1)
    assert "H200 SXM gemm" in " ".join(capsys.readouterr().out.split())


def test_refit_answers_a_wrong_file_in_one_line(tmp_path, capsys):
    assert refit.main(["-o", str(tmp_path / "out.csv"), "--table", str(tmp_path / "none.parquet")]) == 2
    assert capsys.readouterr().err.startswith("no such file: ")


def test_a_file_that_is_no_parquet_is_refused(tmp_path):
    path = tmp_path / "text.parquet"
    path.write_text("no parquet")
    with pytest.raises(UserError, match="cannot be read as parquet"):
        tables.read_table(path)


def test_shipped_rows_have_the_assumptions_of_refit():
    assert [each for each in load_power_rows() if not each.subject] == refit.assumed_rows()
