"""The steady state by hand: steps of one second, parameters of one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwatt.perf_model.engine_model import GROUPS, Loop, Served, multipliers, priors, served
from tokenwatt.perf_model.operation_kinds import TERMS

NOTHING = -60.0
"""Logarithm of a parameter that is switched off."""
OFF = ("launch_s", "host_s", "per_sequence_s", "eager_s", "ttft_crowd", "ttft_steps", "ttft_s")


def parameters(**values: float) -> np.ndarray:
    """Multipliers of one and no overheads, but what is named."""
    found = []
    for prior in priors():
        name = prior.name.split(":")[0]
        value = values.get(name)
        found.append(np.log(value) if value else NOTHING if name in OFF else 0.0)
    return np.array(found)


def loop(decode_s: float = 0.01, prefill_s: float = 0.2, **changes: Any) -> Loop:
    """One case: 8 sequences in one GPU, prompts of which a prefill step holds two."""
    seconds = np.zeros((1, 2, len(TERMS)))
    seconds[0, :, TERMS.index("matmul.bf16")] = decode_s, prefill_s
    numbers = {
        "least_s": 0.0,
        "batch": 8.0,
        "fits": changes.get("batch", 8.0),
        "waits": 8.0,
        "isl": 1000.0,
        "osl": 100.0,
        "share_of_chunk": 0.5,
        "taking_in": 1.0,
        "ranks": 1.0,
        "coupled": 1.0,
        "stages": 1.0,
        "layers": 4.0,
        "host_ratio": 1.0,
        "gpus": 1.0,
        "concurrency": 8.0,
        "accepted": 1.0,
        "prefill_workers": 1.0,
        "decode_workers": 1.0,
    }
    flags = dict.fromkeys(("is_gap", "is_offline", "has_pools"), False)
    arrays = {name: np.array([changes.get(name, value)]) for name, value in (numbers | flags).items()}
    return Loop(seconds=seconds, launches=np.zeros((1, 2)), group=np.array([0]), **arrays)


def found(vector: np.ndarray, case: Loop) -> dict[str, float]:
    result: Served = served(vector, case)
    return {name: float(getattr(result, name)[0]) for name in Served.__dataclass_fields__}


def test_no_step_is_shorter_than_its_bytes_take():
    fast = served(parameters(), loop(decode_s=0.01, least_s=0.015, stages=2.0))
    assert fast.decode_s[0] == pytest.approx(0.03)
    known_to_be_faster = served(parameters(), loop(decode_s=0.02, least_s=0.015), np.log(0.5))
    assert known_to_be_faster.decode_s[0] == pytest.approx(0.015)


def test_a_closed_loop_of_one_operation():
    now = found(parameters(), loop())
    assert now["decode_s"] == pytest.approx(0.01)
    assert now["prompt_s"] == pytest.approx(0.1)  # half of a step of 0.2 s
    # Of 100 steps 8 are of prompts of 0.1 s: 10 ms + 8 x 100 ms / 100.
    assert now["tpot_s"] == pytest.approx(0.018)
    assert now["ttft_s"] == pytest.approx(0.1)
    # 8 requests of 100 tokens in 0.1 s + 99 x 18 ms.
    assert now["tokens_per_s_per_gpu"] == pytest.approx(8 * 100 / (0.1 + 99 * 0.018))


def test_no_loop_takes_in_prompts_faster_than_they_are_computed():
    # Two tokens an answer: 8 requests bring 4 prompts of 0.1 s a step, and a step of 10 ms is between them.
    now = found(parameters(), loop(osl=2.0))
    assert now["tokens_per_s_per_gpu"] == pytest.approx(8 / (0.01 + 4 * 0.1))
    # One token an answer is its prompt; a lone request waits for nothing else.
    one = found(parameters(), loop(osl=1.0, batch=1.0, waits=1.0, concurrency=1.0))
    assert one["tokens_per_s_per_gpu"] == pytest.approx(1 / 0.11)


def test_offline_is_the_mixed_step_and_a_gap_has_no_prompts():
    assert found(parameters(), loop(is_offline=True))["tokens_per_s_per_gpu"] == pytest.approx(8 / 0.018)
    gap = found(parameters(), loop(is_gap=True))
    assert gap["tpot_s"] == pytest.approx(0.01)
    assert gap["tokens_per_s_per_gpu"] == pytest.approx(8 * 100 / (0.1 + 99 * 0.018))


def test_the_parts_of_a_first_token():
    vector = parameters(ttft_prompt=2.0, ttft_crowd=0.5, ttft_steps=3.0, ttft_s=0.25)
    # 2 x 0.1 x (1 + 0.5 x 7) + 3 x 0.01 + 0.25
    assert found(vector, loop())["ttft_s"] == pytest.approx(0.9 + 0.03 + 0.25)


def test_those_that_do_not_fit_wait_for_the_others():
    # 24 want to run and 8 do: two rounds of 0.1 s + 99 steps of 18 ms go before.
    now = found(parameters(), loop(waits=24.0, concurrency=24.0))
    assert now["tpot_s"] == pytest.approx(0.018)
    assert now["ttft_s"] == pytest.approx(0.1 + 2 * (0.1 + 99 * 0.018))
    # All 24 are in flight, but no more is served than 8 at once can be.
    assert now["tokens_per_s_per_gpu"] == pytest.approx(8 * 100 / (0.1 + 99 * 0.018))


def test_two_pools_go_at_the_pace_of_the_slower():
    pools = {"has_pools": True, "gpus": 3.0}
    alone = found(parameters(), loop(**pools))
    assert alone["tpot_s"] == pytest.approx(0.01)  # no prompt interrupts
    # 8 requests in 0.1 s + 100 x 0.01 s are 7.3 a second; one prefill worker does 10.
    assert alone["tokens_per_s_per_gpu"] == pytest.approx(8 / 1.1 * 100 / 3)
    assert alone["ttft_s"] == pytest.approx(0.1)
    # Two decode workers ask for 14.5: the prefill worker's 10 decide, requests queue there: 16 / 10 - 1.
    two = found(parameters(), loop(**pools, decode_workers=2.0))
    assert two["tokens_per_s_per_gpu"] == pytest.approx(10 * 100 / 3)
    assert two["ttft_s"] == pytest.approx(0.6)
    # More decode workers do not help; a second prefill worker does.
    four = found(parameters(), loop(**pools, decode_workers=4.0))
    assert four["tokens_per_s_per_gpu"] == pytest.approx(two["tokens_per_s_per_gpu"])
    more = found(parameters(), loop(**pools, decode_workers=2.0, prefill_workers=2.0))
    assert more["tokens_per_s_per_gpu"] == pytest.approx(16 / 1.1 * 100 / 3)


def test_who_is_in_the_prefill_pool_waits_for_no_memory():
    # 8 requests in flight, of which 5 decode at once: the other 3 are prompts, not a queue.
    all_decode, settled = (found(parameters(), loop(has_pools=True, gpus=3.0, batch=b, fits=8.0)) for b in (8.0, 5.0))
    assert settled["ttft_s"] == all_decode["ttft_s"] == pytest.approx(0.1)


def test_accepted_tokens_divide_the_step():
    now = found(parameters(), loop(accepted=2.5))
    # 40 steps for 100 tokens: 10 ms + 8 x 100 ms / 40 = 30 ms for 2.5 tokens.
    assert now["tpot_s"] == pytest.approx(0.012)
    assert found(parameters(), loop(accepted=2.5, is_gap=True))["tpot_s"] == pytest.approx(0.004)
    offline = found(parameters(), loop(accepted=2.5, is_offline=True))
    assert offline["tokens_per_s_per_gpu"] == pytest.approx(8 * 2.5 / 0.03)


def test_stages_follow_one_another():
    now = found(parameters(), loop(stages=2.0, gpus=2.0, is_gap=True))
    assert now["tpot_s"] == pytest.approx(0.02)
    assert now["ttft_s"] == pytest.approx(0.2)  # a prompt goes through both
    # Workers of prompts are not cut into the stages of the decoding ones.
    assert found(parameters(), loop(stages=2.0, gpus=3.0, has_pools=True))["ttft_s"] == pytest.approx(0.1)


def test_the_host_works_beside_the_gpu():
    # 2 ms + 8 x 1 ms beside 10 ms: p = 1 + overlap = 2.
    vector = parameters(host_s=0.002, per_sequence_s=0.001, overlap=1.0)
    assert found(vector, loop())["decode_s"] == pytest.approx(0.01 * 2**0.5)
    apart = parameters(host_s=0.002, per_sequence_s=0.001, overlap=1e-9)
    assert found(apart, loop())["decode_s"] == pytest.approx(0.02)
    hidden = parameters(host_s=0.0002, per_sequence_s=1e-5, overlap=1e3)
    assert found(hidden, loop())["decode_s"] == pytest.approx(0.01)
    # Three times as slow a host: 3 x 10 ms beside 10 ms.
    slow = found(vector, loop(host_ratio=3.0))
    assert slow["decode_s"] == pytest.approx((0.01**2 + 0.03**2) ** 0.5)


def test_a_step_with_prompts_is_launched_layer_by_layer():
    # 4 layers of 10 ms beside 10 ms of decoding and 100 ms of a prompt, or one after the other.
    one = found(parameters(eager_s=0.01), loop())
    assert one["prompt_s"] == pytest.approx((0.11**2 + 0.04**2) ** 0.5 - 0.01)
    apart = parameters(eager_s=0.01, overlap=1e-9)
    assert found(apart, loop())["prompt_s"] == pytest.approx(0.14)
    # 800 sequences of 100 tokens bring 8 prompts a step, which is launched once for them.
    many = found(apart, loop(batch=800.0, waits=800.0, concurrency=800.0))
    assert many["prompt_s"] == pytest.approx(0.1 + 0.04 / 8)
    # Two ranks of the same instance wait for each other's prompts: 16 steps of 100 hold one, not 8.
    ranks = found(apart, loop(ranks=2.0, coupled=2.0))
    assert ranks["tpot_s"] == pytest.approx(0.01 + 0.08 * 0.1 + 0.16 * 0.04)
    # Prompts that come in a hundredth of the steps come eight at a time.
    burst = found(apart, loop(taking_in=0.01))
    assert burst["tpot_s"] == pytest.approx(0.01 + 0.08 * 0.1 + 0.01 * 0.04)
    # Workers of prompts alone launch each step of two prompts.
    assert found(apart, loop(has_pools=True))["prompt_s"] == pytest.approx((0.2 + 0.04) / 2)


def test_who_waits_for_room_does_not_slow_the_loop():
    vector = parameters(ttft_crowd=0.5)
    rates = [found(vector, loop(waits=w, concurrency=w))["tokens_per_s_per_gpu"] for w in (8.0, 16.0, 64.0, 1024.0)]
    assert rates == pytest.approx([rates[0]] * 4)


def test_launches_of_small_kernels():
    case = replace(loop(), launches=np.array([[100.0, 0.0]]))
    assert found(parameters(launch_s=1e-5), case)["decode_s"] == pytest.approx(0.011)


def test_a_factor_of_all_times():
    vector = parameters(host_s=0.002)
    one, two = served(vector, loop()), served(vector, loop(), np.array([np.log(2)]))
    np.testing.assert_allclose(two.tpot_s, 2 * one.tpot_s)
    np.testing.assert_allclose(two.tokens_per_s_per_gpu, one.tokens_per_s_per_gpu / 2)


def test_a_multiplier_is_of_its_kind_and_group():
    vector = parameters()
    names = [prior.name for prior in priors()]
    vector[names.index("experts.fp8:sglang")] = np.log(3)
    vector[names.index("experts:sglang")] = np.log(2)
    vector[names.index("term:experts.fp8")] = np.log(5)
    table = multipliers(vector)
    fp8, int4 = TERMS.index("experts.fp8"), TERMS.index("experts.int4")
    np.testing.assert_allclose(table[:, fp8], [30 if group == "sglang" else 5 for group in GROUPS])
    np.testing.assert_allclose(table[:, int4], [2 if group == "sglang" else 1 for group in GROUPS])
    np.testing.assert_allclose(np.delete(table, [fp8, int4], axis=1)[0], 1)


@given(st.floats(1, 512), st.floats(1, 8), st.integers(1, 4000), st.floats(1e-4, 1), st.floats(1e-4, 10))
def test_no_loop_serves_more_than_its_steps_yield(batch, rounds, osl, decode_s, prefill_s):
    case = loop(decode_s, prefill_s, batch=batch, waits=batch * rounds, concurrency=batch * rounds, osl=float(osl))
    now = found(parameters(), case)
    assert 0 < now["tokens_per_s_per_gpu"] <= batch / now["tpot_s"] * osl / max(osl - 1, 1) * (1 + 1e-9)
