"""Operator times: hand-computed work, recovered parameters, routing, stand-ins and the trend."""

import importlib.util
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwatt.errors import UserError
from tokenwatt.perf_model.operator_time.ceilings import ceilings_of
from tokenwatt.perf_model.operator_time.curves import Key, candidates, curves_of_rows, load_curves
from tokenwatt.perf_model.operator_time.fit import fit_curve
from tokenwatt.perf_model.operator_time.operators import OPERATORS, Ceilings, operator_of
from tokenwatt.perf_model.operator_time.precision import precision
from tokenwatt.perf_model.operator_time.refit import refit, rows_of, timed_the_host, write_rows
from tokenwatt.perf_model.operator_time.resolution import curve
from tokenwatt.perf_model.operator_time.routing import rank_load
from tokenwatt.perf_model.operator_time.serving import serving_rows
from tokenwatt.perf_model.operator_time.tables import data_folder, version_key
from tokenwatt.perf_model.operator_time.times import OperatorTimes
from tokenwatt.perf_model.operator_time.trend import GENERATIONS, Trend
from tokenwatt.perf_model.operator_time.work import seen_pairs
from tokenwatt.reference.operators import OperatorRow, load_operator_rows
from tokenwatt.reference.ranges import CASES
from tokenwatt.reference.systems import load_system
from tokenwatt.reference.tables import read_rows

HAS_TABLES = importlib.util.find_spec("aiconfigurator_core") is not None
FLAT = Ceilings(flop_per_s=1e15, hbm_bytes_per_s=4e12, link_bytes_per_s=4e11)
MATMUL = {
    "overhead_s": 4e-6,
    "step_s": 3e-10,
    "flop_efficiency": 0.7,
    "byte_efficiency": 0.9,
    "sharpness": 2.0,
    "copy_factor": 3.0,
}


def test_time_of_a_matmul_by_hand() -> None:
    # flop 2 * 16 * 1000 * 2000 = 6.4e7 -> / (0.7 * 1e15) = 9.142857e-8 s
    # bytes 2 * (1000 * 2000 + 16 * 2000 + 16 * 1000) = 4.096e6 -> / (0.9 * 4e12) = 1.137778e-6 s
    # met squarely: sqrt(9.142857e-8^2 + 1.137778e-6^2) = 1.1414456e-6 s
    # serial: 4e-6 + 2000 * 3e-10 + 3 * (2 * 16 * 2000) / 4e12 = 4e-6 + 6e-7 + 4.8e-8 = 4.648e-6 s
    shape = {"m": np.array([16.0]), "n": np.array([1000.0]), "k": np.array([2000.0])}
    found = OPERATORS["matmul"].seconds(shape, MATMUL, "bf16", FLAT)
    assert found == pytest.approx([5.7894456e-6], rel=1e-6)


def test_work_of_experts_by_hand() -> None:
    shape = {
        "tokens": np.array([10.0]),
        "hidden": np.array([100.0]),
        "intermediate": np.array([50.0]),
        "top_k": np.array([2.0]),
        "copies": np.array([5.0]),
        "touched": np.array([3.0]),
    }
    work = OPERATORS["grouped_matmul"].work(shape, {"row_pad": 4.0}, precision("fp8"))
    # An expert has 3 * 100 * 50 = 15000 weights; 5 + 3 * 4 = 17 rows are multiplied.
    assert work.flop == pytest.approx([2 * 15000 * 17])
    # 3 experts of one byte a weight; 5 copies of 2 * 100 + 3 * 50 bf16 elements.
    assert work.bytes == pytest.approx([3 * 15000 + 5 * 350 * 2])
    assert work.copied_bytes == pytest.approx([10 * 2 * 100 * 2])


def test_time_of_an_all_reduce_by_hand() -> None:
    parameters = {"latency_s": 9e-6, "link_efficiency": 0.5, "sharpness": 1.0}
    shape = {"bytes": np.array([4e6]), "gpus": np.array([4.0])}
    # 2 * 3 / 4 * 4e6 bytes at half of 4e11 byte/s: 3e-5 s, and 9e-6 s of latency.
    assert OPERATORS["all_reduce"].seconds(shape, parameters, "bf16", FLAT) == pytest.approx([3.9e-5])


@given(st.integers(1, 40), st.integers(0, 40), st.integers(0, 50))
def test_seen_pairs_count_what_a_loop_counts(tokens: int, prefix: int, window: int) -> None:
    expected = sum(min(prefix + i + 1, window or math.inf) for i in range(tokens))
    found = seen_pairs(np.array([float(tokens)]), np.array([float(prefix)]), np.array([float(window)]))
    assert found == pytest.approx([expected])


@given(st.integers(1, 4096), st.sampled_from([(128, 8), (256, 8), (32, 4)]), st.sampled_from([1, 2, 4, 8]))
def test_the_busiest_rank_has_its_share_at_least(tokens: int, layer: tuple[int, int], ep: int) -> None:
    experts, top_k = layer
    for routing in ("balanced", "uniform", "power_law_1.2"):
        copies, touched = rank_load(tokens, experts, top_k, ep, routing)
        assert 0 < touched <= experts / ep
        assert copies >= tokens * top_k / ep * (1 - 1e-9)
        assert copies <= max(tokens * top_k, 1)


def test_uniform_routing_by_hand() -> None:
    # 2 tokens, 2 of 4 experts each: an expert is spared with (1 - 1/2)^2 = 1/4, so 3 of 4 are touched.
    copies, touched = rank_load(2, 4, 2, 1, "uniform")
    assert (copies, touched) == (pytest.approx(4), pytest.approx(3))


def test_unknown_routing_is_refused() -> None:
    with pytest.raises(UserError, match="unknown routing 'zipf'; known: balanced, uniform, power_law_A"):
        rank_load(1, 8, 2, 1, "zipf")
    with pytest.raises(UserError, match="needs a number after 'power_law_'"):
        rank_load(1, 8, 2, 1, "power_law_x")


def _synthetic(noise: float = 0.0, seed: int = 0) -> pd.DataFrame:
    axes = np.meshgrid([1, 4, 16, 64, 256, 1024, 4096, 16384], [1024, 2048, 4096, 8192], [1024, 4096, 14336])
    rows = pd.DataFrame({name: axis.ravel().astype(float) for name, axis in zip("mnk", axes, strict=True)})
    shape = {name: rows[name].to_numpy() for name in "mnk"}
    time = OPERATORS["matmul"].seconds(shape, MATMUL, "bf16", FLAT)
    scatter = np.random.default_rng(seed).normal(0, noise, len(rows))
    return rows.assign(latency_s=time * np.exp(scatter))


@pytest.mark.slow
def test_a_fit_recovers_the_parameters_of_its_table() -> None:
    fit = fit_curve(_synthetic(), OPERATORS["matmul"], "bf16", FLAT)
    for name, value in MATMUL.items():
        assert fit.parameters[name] == pytest.approx(value, rel=0.02), name
        assert fit.low[name] <= fit.parameters[name] <= fit.high[name]
    assert fit.median_error < 0.002


@pytest.mark.slow
def test_a_fit_knows_the_scatter_of_its_table() -> None:
    rows = pd.concat([_synthetic(0.1, seed) for seed in range(6)], ignore_index=True)
    fit = fit_curve(rows, OPERATORS["matmul"], "bf16", FLAT)
    # 576 rows of a normal scatter of 0.1: quantiles estimate it to about 5 %, three times that is allowed.
    assert fit.log_sd == pytest.approx(0.1, rel=0.15)


def test_a_fit_needs_more_rows_than_parameters() -> None:
    with pytest.raises(UserError, match="matmul bf16: 6 parameters need more rows than 5"):
        fit_curve(_synthetic().head(5), OPERATORS["matmul"], "bf16", FLAT)


def test_rows_survive_writing_and_reading(tmp_path) -> None:
    fit = fit_curve(_synthetic(), OPERATORS["matmul"], "bf16", FLAT)
    rows = list(rows_of(fit, "H200 SXM", "vllm", OPERATORS["matmul"], "matmul", "bf16", "made up"))
    write_rows(rows, tmp_path / "rows.csv")
    back = read_rows(tmp_path / "rows.csv", OperatorRow, key=("parameter",))
    assert back == rows
    (found,) = curves_of_rows(back)["H200 SXM"].values()
    assert found.parameters["step_s"] == pytest.approx(fit.parameters["step_s"], rel=1e-4)


def test_a_table_of_a_slow_host_is_told() -> None:
    plain = pd.DataFrame({"latency_s": np.linspace(5e-6, 1e-4, 50)})
    assert timed_the_host(plain.assign(latency_s=6e-5), plain)
    assert not timed_the_host(plain * 2, plain)


def test_versions_are_ordered_by_number() -> None:
    names = ["1.3.0rc9", "1.3.0rc20", "1.0.0", "0.5.6.post2"]
    assert sorted(names, key=version_key) == ["0.5.6.post2", "1.0.0", "1.3.0rc9", "1.3.0rc20"]


def test_serving_rows_leave_out_what_serving_does_not_ask() -> None:
    rows = pd.DataFrame({"m": [1.0, 99999.0, 64.0], "n": [4096.0, 4096.0, 64.0], "k": [4096.0] * 3})
    assert list(serving_rows(rows, "matmul").index) == [0]


def test_own_precision_and_own_engine_come_first() -> None:
    order = [(key.dtype, key.engine) for key in candidates("trtllm", "matmul", "fp8_block")]
    assert order[:2] == [("fp8_block", "trtllm"), ("fp8_block", "sglang")]
    assert order[4] == ("fp8", "trtllm")


def test_shipped_rows_make_whole_curves() -> None:
    assert len(load_operator_rows()) > 4000
    for curves in load_curves().values():
        for key, each in curves.items():
            family = operator_of(key.operator)
            assert set(each.parameters) == {parameter.name for parameter in family.parameters}
            for parameter in family.parameters:
                low, high = parameter.low * 0.999, parameter.high * 1.001
                assert low <= each.parameters[parameter.name] <= high, (key, parameter.name)
            assert 0 < each.log_sd < 2


@pytest.mark.parametrize(
    "system", ["A100 SXM", "H200 SXM", "B200 SXM", "GB300 NVL72", "VR NVL72", "Rubin Ultra NVL144"]
)
@pytest.mark.parametrize("engine", ["vllm", "sglang", "trtllm"])
def test_every_system_answers_for_a_dense_model(system: str, engine: str) -> None:
    times = OperatorTimes(system, engine)
    small, large = times.matmul_s([1, 8192], 4096, 4096, "bf16")
    spec = ceilings_of(load_system(system), "bf16")
    # Not faster than the weight can be read from memory once (a fifth more may come from cache), nor than the peak.
    assert small > 2 * 4096 * 4096 / (1.2 * spec.hbm_bytes_per_s)
    assert large > 2 * 8192 * 4096 * 4096 / spec.flop_per_s
    decode = times.attention_decode_s([1, 64], 8192, 32, 8, 128, "bf16")
    assert 1e-6 < decode[0] < decode[1] < 1e-2
    prefill = times.attention_prefill_s(1, [512, 8192], 0, 32, 8, 128, "bf16")
    assert prefill[0] < prefill[1]
    reduced = times.all_reduce_s([1e4, 1e8], 8)
    assert reduced[0] < reduced[1]
    assert times.all_reduce_s([1e4], 1) == [0.0]


def test_a_system_without_tables_says_so() -> None:
    assert OperatorTimes("VR NVL72", "vllm").method == "specs"
    assert OperatorTimes("B200 SXM", "vllm").method == "silicon"
    blackwell = tuple(name for name, generation in GENERATIONS.items() if generation == "Blackwell")
    pretended = OperatorTimes("B200 SXM", "vllm", blackwell)
    assert pretended.method == "specs"
    found = pretended.resolve("matmul", "bf16")
    assert found.method == "specs"
    assert found.note == "from H100 SXM, H200 SXM"
    assert found.curve.log_sd > curve("B200 SXM", "vllm", "matmul", "bf16").curve.log_sd


def test_what_was_excluded_is_not_used() -> None:
    library = load_curves()
    nonsense = {name: each.__class__(each.key, each.parameters, 99.0) for name, each in library["B200 SXM"].items()}
    blackwell = [name for name, generation in GENERATIONS.items() if generation == "Blackwell"]
    poisoned = Trend({**library, "B200 SXM": nonsense}, blackwell).curve("B200 SXM", "vllm", "matmul", "bf16")
    plain = Trend(library, blackwell).curve("B200 SXM", "vllm", "matmul", "bf16")
    assert poisoned == plain


def test_the_spread_of_the_trend_widens_with_distance() -> None:
    trend = Trend(load_curves())
    near = trend.curve("VR NVL72", "vllm", "matmul", "bf16")
    far = trend.curve("Rubin Ultra NVL144", "vllm", "matmul", "bf16")
    assert near is not None
    assert far is not None
    assert near.curve.log_sd < far.curve.log_sd


def test_attention_is_carried_from_the_engine_that_is_fastest_at_it() -> None:
    blackwell = [name for name, generation in GENERATIONS.items() if generation == "Blackwell"]
    # On Hopper vLLM and SGLang are 3 to 7 times slower than TensorRT-LLM at latents in fp8, and as fast in bfloat16.
    slow = curve("H200 SXM", "sglang", "latent.decode", "fp8")
    assert (slow.method, slow.curve.key.engine) == ("silicon", "sglang")
    carried = curve("B200 SXM", "sglang", "latent.decode", "fp8", blackwell)
    assert (carried.method, carried.curve.key.engine, carried.curve.key.dtype) == ("specs", "trtllm", "fp8")
    assert "trtllm for sglang" in carried.note
    # Own precision comes before the fastest, and matmuls are each engine's own.
    assert curve("B200 SXM", "sglang", "latent.decode", "bf16", blackwell).curve.key.dtype == "bf16"
    assert curve("B200 SXM", "sglang", "matmul", "fp8", blackwell).curve.key.engine == "sglang"


def test_a_slope_that_was_never_tried_is_not_followed() -> None:
    library = load_curves()
    blackwell = [name for name, generation in GENERATIONS.items() if generation == "Blackwell"]
    assert Trend(library, blackwell).share("attention.decode") == 0
    hopper = library["H200 SXM"][Key("vllm", "matmul", "bf16")]
    found = Trend(library, ["A100 SXM", "H100 SXM", *blackwell]).curve("VR NVL72", "vllm", "matmul", "bf16")
    assert found is not None
    assert found.curve.parameters == pytest.approx(hopper.parameters)


def test_stand_ins_are_named() -> None:
    assert curve("H200 SXM", "vllm", "latent.decode", "fp8").note == "sglang for vllm"
    assert curve("H200 SXM", "sglang", "grouped_matmul", "int8").note == "int4 for int8"


def test_unknown_names_are_refused() -> None:
    with pytest.raises(UserError, match="unknown engine 'vlm' .did you mean 'vllm'"):
        curve("H200 SXM", "vlm", "matmul", "bf16")
    with pytest.raises(UserError, match="unknown dtype of an operator 'fp6'"):
        curve("H200 SXM", "vllm", "matmul", "fp6")
    with pytest.raises(UserError, match="unknown operator 'matmull' .did you mean 'matmul'"):
        OperatorTimes("H200 SXM", "vllm").resolve("matmull", "bf16")
    with pytest.raises(UserError, match="H200 SXM has no nvfp4; it has bf16, fp8"):
        OperatorTimes("H200 SXM", "vllm").matmul_s(1, 64, 64, "nvfp4")


def test_collectives_beyond_a_domain_cross_the_network() -> None:
    times = OperatorTimes("H100 SXM", "vllm")
    size = np.array([8e8])
    within = times.all_reduce_s(size, 8)
    # 800 MB on two nodes of 8: half of an eighth crosses at 50 GB/s, there and back, with a hop of 10 us each.
    assert times.all_reduce_s(size, 16) == pytest.approx(within + 2 * (0.5 * 1e8 / 5e10 + 1e-5))
    # Four nodes, two hops deep: three quarters of an eighth.
    gathered = times.all_gather_s(size, 32) - times.all_gather_s(size, 8)
    assert gathered == pytest.approx(0.75 * 1e8 / 5e10 + 2e-5)
    # Each sends half of its bytes to the other node, far slower than the other half within its own.
    assert times.all_to_all_s(size, 16) == pytest.approx(4e8 / 5e10 + 1e-5)
    assert times.all_to_all_s(size, 8) < 4e8 / 5e10
    # A rack of 72 is one domain: nothing crosses.
    rack = OperatorTimes("GB200 NVL72", "trtllm")
    assert rack.all_to_all_s(size, 72) < 0.2 * rack.all_to_all_s(size, 144)


@pytest.mark.parametrize("system", ["H100 SXM", "GB200 NVL72"])
@pytest.mark.parametrize("collective", ["all_reduce", "all_gather", "reduce_scatter", "all_to_all"])
def test_more_gpus_than_a_domain_are_never_faster(system: str, collective: str) -> None:
    times = OperatorTimes(system, "trtllm")
    domain = int(load_system(system).gpus_per_domain.value)
    for size in (1e4, 1e7, 1e9):
        within = times.collectives.seconds(collective, size, domain)
        found = [times.collectives.seconds(collective, size, gpus) for gpus in (domain + 1, 2 * domain, 3 * domain)]
        assert min(found) >= within
        assert found[1] <= found[2]
    # Nine GPUs on two nodes of five and four: half of what each sends crosses.
    if (system, collective) == ("H100 SXM", "all_to_all"):
        assert times.all_to_all_s(8e8, 9) == pytest.approx(4e8 / 5e10 + 1e-5)


def test_collectives_among_other_numbers_of_gpus_lie_between_or_beyond() -> None:
    times = OperatorTimes("H200 SXM", "vllm")
    four, six, eight = (float(times.all_gather_s(1e5, gpus)) for gpus in (4, 6, 8))
    assert min(four, eight) < six < max(four, eight)
    rack = OperatorTimes("GB200 NVL72", "trtllm")
    assert rack.all_reduce_s(1e4, 72) > rack.all_reduce_s(1e4, 16)


def test_uncertain_facts_have_two_ends() -> None:
    # A matmul of so many rows is bound by the peak, which is known within 15 % each way in the press.
    ends = [OperatorTimes("VR NVL72", "vllm", case=case).matmul_s(16384, 8192, 8192, "bf16") for case in CASES]
    assert ends[0] > ends[1] > ends[2]


@pytest.mark.skipif(HAS_TABLES, reason="aiconfigurator-core is installed")
def test_without_the_tables_the_extra_is_named() -> None:
    with pytest.raises(UserError, match=r"needs? aiconfigurator-core, which is not installed; .*tokenwatt.silicon."):
        data_folder()


@pytest.mark.slow
@pytest.mark.skipif(not HAS_TABLES, reason="aiconfigurator-core is not installed")
def test_a_refit_finds_the_shipped_rows() -> None:
    shipped = {
        (row.operator, row.dtype, row.parameter): row
        for row in load_operator_rows()
        if (row.subject, row.engine, row.operator) == ("H200 SXM", "vllm", "matmul")
    }
    refitted = list(refit("h200_sxm", "vllm", ["matmul"]))
    assert {(row.operator, row.dtype, row.parameter) for row in refitted} == set(shipped)
    for row in refitted:
        known = shipped[row.operator, row.dtype, row.parameter]
        assert (row.rows, row.source, row.unit) == (known.rows, known.source, known.unit)
        if row.parameter in ("log_sd", "median_error"):
            assert row.value == pytest.approx(known.value, rel=0.02)
        else:
            assert row.value == pytest.approx(known.value, rel=0.02) or known.low <= row.value <= known.high
