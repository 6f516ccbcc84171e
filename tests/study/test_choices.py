"""What a case leaves open is chosen: the split of the model, and the batch under a limit on TPOT."""

from __future__ import annotations

import pandas as pd
import pytest

from tokenwatt.perf_model.cases import check_cases
from tokenwatt.perf_model.choices import at_mean, candidates, settled, with_batch
from tokenwatt.perf_model.fit import shipped_fit
from tokenwatt.perf_model.predict import predict_cases
from tokenwatt.reference.mlperf import load_mlperf


def predicted(**columns: object) -> pd.DataFrame:
    cases = check_cases(pd.DataFrame([columns], dtype="object"))
    assert not cases.refused, cases.refused
    return pd.concat([cases.valid, predict_cases(cases.valid, shipped_fit())], axis=1)


def reason(**columns: object) -> str:
    return check_cases(pd.DataFrame([columns], dtype="object")).refused[0]


LLAMA = {"model": "llama2-70b", "gpu": "H200", "weight_dtype": "fp8", "engine": "trtllm", "source_set": "mlperf"}
SPEED = "predicted_output_tokens_per_s_per_gpu"


def test_mlperf_lengths_and_limits_stand_in_where_a_case_says_none() -> None:
    (row,) = check_cases(pd.DataFrame([{**LLAMA, "scenario": "Interactive"}])).valid.to_dict("records")
    assert (row["isl"], row["osl"], row["tpot_limit_s"]) == (314, 294.45, 0.04)
    said = {**LLAMA, "scenario": "server", "isl": 100, "tpot_limit_s": 0.1}
    (row,) = check_cases(pd.DataFrame([said])).valid.to_dict("records")
    assert (row["isl"], row["osl"], row["tpot_limit_s"]) == (100, 294.45, 0.1)
    assert "tp" in row["assumed"].split()


def test_a_limit_on_tpot_is_kept_and_costs_tokens() -> None:
    offline, server, interactive = (
        predicted(**LLAMA, num_gpus=8, scenario=name) for name in ("offline", "server", "interactive")
    )
    assert interactive["predicted_tpot_s"][0] <= 0.04
    assert server["predicted_tpot_s"][0] <= 0.2
    assert interactive[SPEED][0] < server[SPEED][0] <= offline[SPEED][0]


def test_the_best_split_is_at_least_as_good_as_each() -> None:
    case = {**LLAMA, "num_gpus": 8, "scenario": "offline"}
    best = predicted(**case)[SPEED][0]
    each = [predicted(**case, tp=tp, dp=8 // tp)[SPEED][0] for tp in (1, 2, 4, 8)]
    assert best == pytest.approx(max(each))


def test_a_mixture_may_spread_its_experts_and_a_dense_model_may_not() -> None:
    def ways(model: str) -> set[tuple[int, int]]:
        table = pd.DataFrame([{"model": model, "gpu": "B200", "num_gpus": 4, "scenario": "offline"}])
        (row,) = check_cases(table).valid.to_dict("records")
        return {(plan.parallelism.attention_tp, plan.parallelism.moe_ep) for plan in candidates(row)}

    assert ways("Qwen3-32B") == {(1, 1), (2, 1), (4, 1)}
    assert ways("Qwen3-30B-A3B") == {(1, 1), (2, 1), (4, 1), (1, 2), (1, 4)}


def test_a_rack_is_filled_with_instances_that_divide_heads() -> None:
    for model in ("DeepSeek-R1", "Llama-3.1-405B", "gpt-oss-120b"):
        found = predicted(model=model, gpu="GB300", num_gpus=72, scenario="offline")
        assert found["status"][0] == "ok", found["reason"][0]
    assert "tp 72 does not divide" in reason(model="DeepSeek-R1", gpu="GB300", num_gpus=72, tp=72, scenario="offline")


def test_an_instance_leaves_its_domain_only_where_it_must() -> None:
    def largest(model: str, gpus: int) -> list[int]:
        table = pd.DataFrame([{"model": model, "gpu": "H100", "num_gpus": gpus, "scenario": "offline"}])
        (row,) = check_cases(table).valid.to_dict("records")
        return sorted({plan.parallelism.gpus for plan in candidates(row)})

    assert max(largest("DeepSeek-R1", 32)) == 16  # 673 GB fit no 8 GPUs of 86
    assert max(largest("Llama-3.1-70B", 32)) == 8


def test_a_limit_on_ttft_is_kept() -> None:
    case = {**LLAMA, "num_gpus": 8, "scenario": "server"}
    free, tight = predicted(**case, ttft_limit_s=100)[SPEED][0], predicted(**case, ttft_limit_s=0.3)
    assert tight["predicted_ttft_s"][0] <= 0.3
    assert tight[SPEED][0] < free


def test_limits_hold_for_the_99th_percentile_of_what_arrives_at_random() -> None:
    case = {**LLAMA, "num_gpus": 8, "tp": 8}
    interactive, mean = (
        predicted(**case, scenario=name, tpot_limit_s=0.04, ttft_limit_s=10.0) for name in ("interactive", "offline")
    )
    assert 0.036 < mean["predicted_tpot_s"][0] <= 0.04
    assert 0.8 * mean[SPEED][0] < interactive[SPEED][0] < 0.97 * mean[SPEED][0]
    (row,) = check_cases(pd.DataFrame([{**case, "scenario": "offline"}])).valid.to_dict("records")
    (plan,) = candidates(row)
    # 2.3263 (2/3)^(1/2) = 1.8995: with 100 on average 99 of 100 requests meet 118.995 or fewer.
    assert at_mean(with_batch(plan, 118.995)).batch == pytest.approx(100, abs=0.01)


def test_a_limit_that_decides_nothing_is_compared() -> None:
    loose, tight = (
        predicted(model="Qwen3-8B", gpu="H200", num_gpus=1, tp=1, concurrency=64, tpot_limit_s=limit)
        for limit in (1.0, 0.001)
    )
    assert loose[SPEED][0] == tight[SPEED][0]
    assert "limit" not in loose["assumptions"][0]
    assert "TPOT is over its limit of 0.001 s" in tight["assumptions"][0]
    # Where it decides and no way keeps it, the fastest is taken.
    lost = predicted(**LLAMA, num_gpus=8, scenario="server", tpot_limit_s=1e-4)
    assert "TPOT is over its limit of 0.0001 s" in lost["assumptions"][0]
    assert "how GPUs share the model is not said: the best way is taken, 8 for an instance" in lost["assumptions"][0]


def test_what_waits_for_the_prefill_pool_does_not_decode() -> None:
    pools = {"disaggregated": "true", "prefill_gpus_each": 4, "decode_gpus_each": 32, "prefill_workers": 2}
    case = {"model": "DeepSeek-R1", "gpu": "GB300", "weight_dtype": "fp4", "isl": 8192, "osl": 1024}
    few, many = (predicted(**case, **pools, concurrency=load) for load in (2000, 8000))
    assert many[SPEED][0] == pytest.approx(few[SPEED][0], rel=0.02)
    assert many["predicted_tpot_s"][0] == pytest.approx(few["predicted_tpot_s"][0], rel=0.02)
    assert many["predicted_ttft_s"][0] > 3 * few["predicted_ttft_s"][0]
    # Little's law: what decodes is what arrives times how long it takes.
    (row,) = check_cases(pd.DataFrame([case | pools | {"concurrency": 2000}])).valid.to_dict("records")
    (plan,) = settled(candidates(row), shipped_fit())
    arriving = few[SPEED][0] * 40 / 1024
    assert plan.batch == pytest.approx(arriving * few["predicted_tpot_s"][0] * 1024, rel=0.06)


def test_limits_hold_for_pools_as_they_settle() -> None:
    pools = {"disaggregated": "true", "prefill_gpus_each": 4, "decode_gpus_each": 8, "weight_dtype": "fp4"}
    case = {"model": "DeepSeek-R1", "gpu": "GB300", "isl": 8192, "osl": 1024, "scenario": "offline"}
    before = 0.0
    for limit in (2.0, 10.0, 60.0):
        found = predicted(**case, **pools, ttft_limit_s=limit)
        assert 0.6 * limit < found["predicted_ttft_s"][0] <= limit * (1 + 1e-9)
        assert "limit" not in found["assumptions"][0]
        assert found[SPEED][0] >= before * (1 - 1e-9)
        before = found[SPEED][0]


def test_what_fits_is_the_99th_percentile_too() -> None:
    case = {"model": "Llama-3.1-405B", "gpu": "H200", "num_gpus": 8, "tp": 8, "isl": 8192, "osl": 1024}
    speeds = [
        predicted(**case, scenario="server", ttft_limit_s=1000.0, tpot_limit_s=limit)[SPEED][0]
        for limit in (0.12, 0.129, 0.13, 0.14, 1.0)
    ]
    # No jump where the limit stops to decide, and memory does.
    assert speeds == sorted(speeds)
    assert speeds[2] < 1.03 * speeds[1]
    assert speeds[4] == pytest.approx(speeds[3])


def test_a_limit_on_ttft_alone_is_one() -> None:
    found = predicted(model="Qwen3-8B", gpu="H200", num_gpus=1, tp=1, scenario="server", ttft_limit_s=0.5)
    assert 0.3 < found["predicted_ttft_s"][0] <= 0.5


def test_what_is_said_is_not_chosen() -> None:
    table = pd.DataFrame([{**LLAMA, "num_gpus": 8, "tp": 8, "scenario": "offline"}])
    (row,) = check_cases(table).valid.to_dict("records")
    assert "tp" not in row["assumed"].split()
    assert [plan.parallelism.attention_tp for plan in candidates(row)] == [8]


def test_a_limit_that_nobody_set_is_asked_for() -> None:
    assert reason(model="Qwen3-8B", gpu="H100", scenario="server") == (
        "scenario server of Qwen3-8B needs tpot_limit_s, ttft_limit_s or concurrency (MLPerf: none)"
    )
    assert "needs tpot_limit_s" in reason(model="mixtral-8x7b", gpu="H100", scenario="interactive")
    assert "unknown scenario 'serve' (did you mean 'server'?)" in reason(model="Qwen3-8B", gpu="H100", scenario="serve")


def test_mlperf_tasks_are_models_of_the_library() -> None:
    from tokenwatt.perf_model.shape_library import model_family

    assert all(model_family(name) == name for name in load_mlperf())
