"""Where time and energy of a case go, against sums by hand and against what is predicted."""

import math

import numpy as np
import pandas as pd
import pytest

from tokenwatt.errors import UserError
from tokenwatt.perf_model.assumptions import assumptions_of
from tokenwatt.perf_model.attribution import HOST, LAUNCHES, STATIC, Attribution, Floor, Part, attribute
from tokenwatt.perf_model.cases import check_cases
from tokenwatt.perf_model.choices import chosen_plans
from tokenwatt.perf_model.explanation import chosen, explain
from tokenwatt.perf_model.fit import at_expected, central, planned, shipped_fit
from tokenwatt.perf_model.plan import Plan, plan_case
from tokenwatt.perf_model.predict import predict_cases
from tokenwatt.perf_model.predictions import empty_answers

DENSE = {"model": "Qwen3-8B", "gpu": "H100", "engine": "vllm", "weight_dtype": "bf16", "concurrency": "64"}
MIXTURE = {"model": "DeepSeek-V3", "gpu": "B200", "engine": "sglang", "num_gpus": "8", "tp": "8", "concurrency": "64"}
KINDS = {
    "dense": DENSE,
    "mixture": MIXTURE,
    "gap": DENSE | {"source_set": "mlenergy"},
    "offline": DENSE | {"engine": "TensorRT-LLM", "concurrency": ""},
    "more than fit": DENSE | {"concurrency": "5000"},
    "two stages": DENSE | {"num_gpus": "4", "tp": "2", "pp": "2"},
    "two pools": MIXTURE
    | {"num_gpus": "16", "disaggregated": "true", "prefill_gpus_each": "8", "decode_gpus_each": "8"},
    "recurrent": {"model": "Qwen3-Next-80B-A3B", "gpu": "A100", "num_gpus": "4", "tp": "4", "weight_dtype": "bf16"},
    "sparse": {"model": "DeepSeek-V3.2", "gpu": "Rubin", "num_gpus": "8", "tp": "8", "concurrency": "32"},
    "data parallel": MIXTURE | {"tp": "", "task": "DEP8", "concurrency": "", "scenario": "offline"},
    "drafted": DENSE | {"draft_tokens": "3", "accepted_length": "2.5"},
}


def case(row: dict[str, str]) -> pd.DataFrame:
    checked = check_cases(pd.DataFrame([row]))
    assert not checked.refused
    return checked.valid


def plan_of(row: dict[str, str]) -> Plan:
    return plan_case(case(row).to_dict("records")[0])


def part(shares: Attribution, name: str) -> Part:
    return next(part for part in shares.parts if part.name == name)


@pytest.mark.parametrize("kind", KINDS)
def test_parts_add_up_to_what_is_predicted(kind: str) -> None:
    plan, fit = plan_of(KINDS[kind]), shipped_fit()
    shares = attribute(fit, plan)
    cases = planned([plan])
    now, found = at_expected(fit, cases), central(fit, cases)
    assert shares.seconds.decode == pytest.approx(now.decode_s[0])
    assert shares.seconds.prompt == pytest.approx(now.prompt_s[0])
    assert shares.joules.token == pytest.approx(found["joules_per_output_token"][0])
    # GPUs that compute or wait: all of the time that a token takes them.
    assert shares.seconds.token + shares.waiting_s == pytest.approx(1 / found["output_tokens_per_s_per_gpu"][0])
    for each in (shares.time_share, shares.energy_share):
        columns = np.array([[s.decode, s.prompt, s.token] for s in map(each, shares.parts)])
        np.testing.assert_allclose(columns.sum(axis=0), 1.0)
        assert (columns >= 0).all()
    assert shares.waiting_s >= 0


def test_an_output_token_of_a_loop_is_its_step_and_its_share_of_a_prompt() -> None:
    # 16 sequences, one GPU: step / 16 + prompt / 100.
    shares = attribute(shipped_fit(), plan_of(DENSE | {"concurrency": "16", "osl": "100", "isl": "300"}))
    seconds = shares.seconds
    assert seconds.token == pytest.approx(seconds.decode / 16 + seconds.prompt / 100)


@pytest.mark.parametrize(("kind", "stages"), [("dense", 1), ("two stages", 2)])
def test_host_is_what_the_gpu_does_not_hide(kind: str, stages: int) -> None:
    shares, logs = attribute(shipped_fit(), plan_of(KINDS[kind])), shipped_fit().log_parameters
    each = stages * shares.cell_factor
    gpu = sum(part.seconds.decode for part in shares.parts if part.name != HOST) / each
    host = math.exp(logs["host_s:vllm"]) + 64 * math.exp(logs["per_sequence_s:vllm"])
    sharpness = 1 + math.exp(logs["overlap:vllm"])
    step = (gpu**sharpness + host**sharpness) ** (1 / sharpness)
    assert part(shares, HOST).seconds.decode == pytest.approx((step - gpu) * each)
    # 36 layers with two norms, a rotation and an activation over the stages; embedding and the last norm on each, and
    # what one stage sends to the next.
    kernels = 36 * 4 / stages + 2 + (stages > 1)
    assert part(shares, LAUNCHES).seconds.decode == pytest.approx(kernels * math.exp(logs["launch_s:vllm"]) * each)


@pytest.mark.parametrize("kind", ["offline", "data parallel"])
def test_where_nothing_waits_gpus_compute_all_the_time(kind: str) -> None:
    plan = plan_of(KINDS[kind])
    found = central(shipped_fit(), planned([plan]))
    # GPU-seconds of a token, against tokens/s of a GPU.
    assert attribute(shipped_fit(), plan).seconds.token == pytest.approx(1 / found["output_tokens_per_s_per_gpu"][0])


def test_energy_of_an_operator_by_hand() -> None:
    # H200 SXM: 0.8169 pJ/FLOP in bfloat16, 59.4 pJ/byte, 119.9 W static; output head of 151,936 x 4,096, 64 tokens.
    shares = attribute(shipped_fit(), plan_of(DENSE | {"gpu": "H200"}))
    weights = 151936 * 4096
    flop, moved = 2 * 64 * weights, 2 * weights + 2 * 64 * (151936 + 4096)
    joules = 0.8169e-12 * flop + 59.4e-12 * moved
    static = 119.9 * shares.seconds.decode
    head, idle = part(shares, "head"), part(shares, STATIC)
    assert head.joules.decode / idle.joules.decode == pytest.approx(joules / static)
    # Before they are scaled to the board's power.
    assert head.joules.decode * shares.operators_share == pytest.approx(joules)
    # 989 TFLOP/s and 4.8 TB/s by the data sheet.
    assert head.decode_floor.bytes_s == pytest.approx(moved / 4.8e12, rel=0.01)
    assert head.decode_floor.flop_s == pytest.approx(flop / 989e12, rel=0.01)


def test_kernels_that_keep_a_board_busy_draw_more() -> None:
    # 150.3 W of attention over the cache while it runs, beside its bytes.
    shares = attribute(shipped_fit(), plan_of(DENSE | {"gpu": "H200"}))
    attention = part(shares, "attention.decode")
    work = 0.8169e-12 * attention.decode_floor.flop_s * 989e12 + 59.4e-12 * attention.decode_floor.bytes_s * 4.8e12
    busy = attention.joules.decode * shares.operators_share - work
    assert busy / attention.seconds.decode == pytest.approx(150.3, rel=0.01)


def test_what_bounds_a_step() -> None:
    shares = attribute(shipped_fit(), plan_of(DENSE))
    assert (shares.decode_floor.bound, shares.prompt_floor.bound) == ("bytes", "FLOP")
    exchanged = part(attribute(shipped_fit(), plan_of(MIXTURE)), "comm.all_reduce")
    assert exchanged.decode_floor.bound == "links"
    # 61 layers of attention and as many MLPs; 64 tokens x 7,168 x 2 bytes; 2 x 7 / 8 of it leaves; 900 GB/s one way.
    assert exchanged.decode_floor.links_s == pytest.approx(61 * 2 * 64 * 7168 * 2 * 1.75 / 900e9)
    assert Floor(3.0, 2.0, 1.0).bound == "FLOP"
    assert Floor(0.0, 0.0, 0.0).bound == ""


def assumed(row: dict[str, str]) -> list[str]:
    valid = case(row).to_dict("records")[0]
    return assumptions_of(valid, plan_case(valid), shipped_fit())


def test_assumptions_are_said() -> None:
    found = assumed({"model": "Qwen3-8B", "gpu": "Rubin"})
    assert "isl is not said: 1024 is assumed" in found
    assert "engine is not said: vllm stands in" in found
    assert "scenario is not said: offline is assumed" in found
    best = "how GPUs share the model is not said: the best way is taken, 1 for an instance, attention tp 1, dp 1"
    assert best in found
    assert any(line.startswith("curve of matmul in bf16: from ") and "B200 SXM" in line for line in found)
    assert any("memory bandwidth: between" in line for line in found)
    # An H200 was measured itself.
    own = assumed(DENSE | {"gpu": "H200", "num_gpus": "1", "isl": "10", "osl": "10", "concurrency": "1"})
    assert not any("from" in line or "not said" in line for line in own)


def test_what_is_chosen_is_said_and_not_what_it_replaces() -> None:
    row = case({"model": "Llama-3.1-405B", "gpu": "H200"}).to_dict("records")[0]
    ((plan,), _, _) = chosen_plans(pd.DataFrame([row]), shipped_fit())
    found = assumptions_of(row, plan, shipped_fit())
    assert not any(line.startswith("num_gpus") for line in found)
    assert any("the best way is taken, 8 for an instance" in line for line in found)


def test_an_instance_beyond_a_domain_says_what_its_network_is() -> None:
    found = assumed({"model": "Kimi-K2.5", "gpu": "GB300", "num_gpus": "96", "tp": "1", "ep": "96", "dp": "96"})
    assert any(line.startswith("96 GPUs are more than a domain of 72: collectives cross the network") for line in found)
    assert any("network between domains: between 5e+10 and 1.3e+11" in line for line in found)


def test_drafted_tokens_without_their_length_yield_one() -> None:
    found = assumed(DENSE | {"gpu": "H200", "num_gpus": "1", "draft_tokens": "3"})
    assert "accepted_length is not said: 1 is assumed" in found


def test_the_case_that_is_asked_for() -> None:
    given = pd.DataFrame({"case_id": ["a", "b", None]})
    answers = empty_answers(given.index)
    answers.loc[0, ["status", "reason"]] = ("refused", "too large")
    assert chosen(given, answers, None) == 1
    assert chosen(given, answers, "b") == 1
    assert chosen(given, answers, "row 3") == 2
    with pytest.raises(UserError, match="'a' is refused: too large"):
        chosen(given, answers, "a")
    with pytest.raises(UserError, match="no case is called 'row3'; the nearest of 3: row 3"):
        chosen(given, answers, "row3")
    with pytest.raises(UserError, match="no column case_id"):
        chosen(given.drop(columns="case_id"), answers, "b")


def test_memory_by_hand() -> None:
    valid, fit = case(DENSE), shipped_fit()
    answer = predict_cases(valid, fit).to_dict("records")[0]
    found = explain(valid.to_dict("records")[0], answer, 0, fit)
    held = found.memory
    # 36 layers, 8 KV heads of 128, keys and values of 2 bytes, 1,024 + 512 tokens.
    assert held["sequence_bytes"] == 36 * 2 * 8 * 128 * 2 * (1024 + 512)
    assert held["cache_bytes"] == pytest.approx(0.92 * held["memory_bytes"] - held["weight_bytes"] - 2e9)
    assert held["largest_batch"] == pytest.approx(held["cache_bytes"] / held["sequence_bytes"])
    assert found.numbers["tpot_s"][0] == answer["predicted_tpot_s"]
