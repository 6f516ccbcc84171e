"""Plans: how many sequences run, what a step carries, and what contradicts itself."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from tokenwatt.errors import UserError
from tokenwatt.perf_model.capacity import capacity_of
from tokenwatt.perf_model.cases import check_cases
from tokenwatt.perf_model.parallelism import Parallelism
from tokenwatt.perf_model.plan import (
    LARGEST_BATCH,
    OTHER_LARGEST_BATCH,
    Plan,
    engine_of,
    plan_case,
)
from tokenwatt.perf_model.precision import Precision, precision_of
from tokenwatt.perf_model.shape_library import model_shape

GOOD = {"model": "Qwen3-32B", "gpu": "H100", "num_gpus": 4, "tp": 4, "isl": 1000, "osl": 500, "concurrency": 16}
POOLS = {"disaggregated": "true", "num_gpus": None, "tp": None, "prefill_gpus_each": 2, "decode_gpus_each": 4}


def plan(**changes: Any) -> Plan:
    cases = check_cases(pd.DataFrame([GOOD | {"weight_dtype": "bf16"} | changes], dtype="object"))
    assert not cases.refused, cases.refused
    return plan_case(cases.valid.iloc[0].to_dict())


def test_a_closed_loop():
    found = plan()
    assert (found.batch, found.waits, found.concurrency, found.gpus) == (16, 16, 16, 4)
    # 8 prompts of 1000 tokens fit into 8192.
    assert found.chunk == 8000
    assert (found.group, found.setting) == ("vllm", "closed loop")
    attention = next(o for o in found.decode_operations() if o.name == "attention.decode")
    assert (attention.size("batch"), attention.size("context")) == (16, 1250)
    prefill = next(o for o in found.prefill_operations() if o.name == "attention.prefill")
    assert (prefill.size("batch"), prefill.size("tokens")) == (8, 1000)


@pytest.mark.parametrize(
    ("isl", "concurrency", "chunk"),
    [(20_000, 16, 20_000), (1, 16, 16), (1000, 2, 2000), (1000, 1, 1000), (8192, 4, 8192), (4097, 4, 4097)],
)
def test_a_prefill_step_is_of_whole_prompts_of_requests_that_run(isl: int, concurrency: int, chunk: int):
    assert plan(isl=isl, concurrency=concurrency).chunk == chunk


def test_as_many_as_fit_run_and_the_others_wait():
    found = plan(concurrency=100_000, osl=4000)
    # 64 layers, 2 of 8 KV heads on a GPU, keys and values of 128 in two bytes, isl + osl / 2 tokens.
    sequence = 64 * 2 * 2 * 128 * 2 * 3000
    assert found.capacity.sequence_bytes == sequence
    assert found.batch == pytest.approx(found.capacity.largest_batch)
    assert 50 < found.batch < 500
    assert found.waits == found.concurrency == 100_000


def test_offline_counts_all_tokens_of_a_sequence_and_stops_at_the_engine_s_limit():
    found = plan(concurrency=None, osl=4000)
    assert found.is_offline
    assert found.capacity.sequence_bytes == 64 * 2 * 2 * 128 * 2 * 5000
    assert found.batch == pytest.approx(found.capacity.largest_batch)
    assert plan(concurrency=None, isl=10, osl=10).batch == OTHER_LARGEST_BATCH
    assert plan(concurrency=None, isl=10, osl=10, engine="TensorRT-LLM").batch == LARGEST_BATCH["trtllm"]


def test_a_run_that_ends_has_fewer_in_flight():
    lone = plan(concurrency=None, isl=10, osl=100, num_requests=1)
    assert (lone.batch, lone.taking_in) == (pytest.approx(1, rel=2e-4), pytest.approx(0, abs=2e-4))
    endless = plan(concurrency=None, isl=10, osl=100)
    assert (endless.batch, endless.taking_in) == (OTHER_LARGEST_BATCH, 1.0)
    # Two instances of four GPUs: 512 requests each, all of which fit.
    two = plan(concurrency=None, isl=10, osl=100, num_requests=1024, num_gpus=8)
    one = plan(concurrency=None, isl=10, osl=100, num_requests=512)
    assert two.batch == one.batch < 512
    # A fixed number in flight is what it is.
    assert plan(concurrency=64, num_requests=100).batch == 64


def test_published_runs_of_tensorrt_llm_have_their_number_of_requests():
    case = {"concurrency": None, "isl": 1000, "osl": 1000, "engine": "TensorRT-LLM", "weight_dtype": "fp8"}
    assert plan(**case, source_set="trtllm") == plan(**case, source_set="trtllm", num_requests=3000)
    assert plan(**case, source_set="trtllm").batch < plan(**case, source_set="ours").batch


def test_tensorrt_llm_keeps_the_cache_of_mxfp4_in_fp8_where_there_is_fp4():
    case = {"model": "gpt-oss-20b", "num_gpus": 1, "tp": 1, "weight_dtype": "mxfp4", "engine": "TensorRT-LLM"}
    assert plan(**case, gpu="H200").precision.kv == "bf16"
    assert plan(**case, gpu="B200").precision.kv == "fp8"
    assert plan(**case | {"engine": "vllm"}, gpu="B200").precision.kv == "bf16"


def test_attention_ranks_share_the_requests():
    mixture = {"model": "DeepSeek-V3", "gpu": "H200", "num_gpus": 8, "tp": 1, "dp": 8, "ep": 8, "weight_dtype": "fp8"}
    found = plan(**mixture, concurrency=64)
    assert (found.parallelism.attention_dp, found.batch, found.concurrency) == (8, 8, 64)
    # Fewer requests than ranks: each rank has one half of the time, and the experts see what is there.
    half = plan(**mixture, concurrency=4)
    assert half.batch == 0.5
    experts = next(o for o in half.decode_operations() if o.name == "moe.experts")
    assert experts.size("tokens") == 4
    assert half.chunk == half.isl


def test_little_room_is_still_some():
    # 64.02 GB of weights on a board of 80: what is left is less than the share that a server which starts has.
    shape = model_shape("Qwen3-32B")
    one = Parallelism(1, 1, 1, 1, 1, 1)
    capacity = capacity_of(shape, one, Precision("bf16", "bf16", "bf16", "bf16"), 1250, 70e9)
    assert 70e9 * 0.92 - capacity.weight_bytes < 0
    # 98 % of it less the weights, which is less than 6 % of it.
    assert capacity.largest_batch == pytest.approx((70e9 * 0.98 - capacity.weight_bytes) / capacity.sequence_bytes)
    found = plan(num_gpus=1, tp=1, concurrency=1000)
    assert (
        found.batch * found.capacity.sequence_bytes + found.capacity.weight_bytes < 0.981 * found.capacity.memory_bytes
    )
    # 145.4 GB of weights on 151: nothing that starts promises more than there is.
    tight = plan(model="Qwen2.5-72B", gpu="H200", num_gpus=1, tp=1, concurrency=1000)
    used = tight.capacity.weight_bytes + tight.batch * tight.capacity.sequence_bytes
    assert 0.97 < used / tight.capacity.memory_bytes < 0.981


def test_a_sequence_that_does_not_fit():
    # 64 layers x 2 x 2 heads x 128 x 2 byte = 65.5 KB a token on each of 4 GPUs, times 10 million.
    with pytest.raises(UserError, match="16 GB of weights and 655 GB of cache of one sequence on each GPU, H100 has"):
        plan(isl=10_000_000)


def test_two_pools():
    found = plan(**POOLS, prefill_workers=3, decode_workers=2, concurrency=64)
    assert found.prefill == Parallelism(2, 2, 1, 2, 1, 1)
    assert (found.prefill_workers, found.decode_workers, found.gpus) == (3, 2, 14)
    assert (found.batch, found.concurrency) == (32, 32)
    prefill = next(o for o in found.prefill_operations() if o.name == "attention.prefill")
    assert prefill.size("heads") == 32


def test_a_prefill_worker_that_is_too_small():
    pools = POOLS | {"prefill_gpus_each": 1, "decode_gpus_each": 8}
    with pytest.raises(UserError, match="673 GB of weights on each GPU, H200 of a prefill worker has"):
        plan(**pools, model="DeepSeek-V3", gpu="H200", weight_dtype="fp8")


def test_a_prefill_worker_shares_heads_as_any_other():
    with pytest.raises(UserError, match="tp 3 does not divide the 64 heads of Qwen3-32B"):
        plan(**POOLS | {"prefill_gpus_each": 3})


def test_drafted_tokens():
    found = plan(draft_tokens=3, accepted_length=2.5)
    assert (found.queries, found.accepted_length) == (4, 2.5)
    operations = {o.name: o for o in found.decode_operations()}
    assert operations["attention.qkv"].size("m") == 16 * 4
    assert operations["attention.decode"].size("batch") == 16
    assert plan(draft_tokens=0).queries == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"draft_tokens": 2, "accepted_length": 3.5}, "accepted_length 3.5 must be from 1 to draft_tokens [+] 1 = 3"),
        ({"accepted_length": 2}, "accepted_length 2 must be from 1 to draft_tokens [+] 1 = 1"),
        ({"draft_tokens": 4, "accepted_length": 0.5}, "accepted_length 0.5 must be from 1 to draft_tokens [+] 1 = 5"),
    ],
)
def test_drafted_tokens_that_contradict_themselves(changes: dict[str, Any], words: str):
    with pytest.raises(UserError, match=words):
        plan(**changes)


def test_stages_share_the_sequences():
    found = plan(num_gpus=4, tp=2, pp=2)
    attention = next(o for o in found.decode_operations() if o.name == "attention.decode")
    assert (found.gpus, attention.size("batch"), attention.count) == (4, 8, 32)


@pytest.mark.parametrize(
    ("name", "engine"),
    [
        ("vLLM", "vllm"),
        ("SGLang 0.5", "sglang"),
        ("dynamo-trt", "trtllm"),
        ("TRT-LLM", "trtllm"),
        ("tensorrt_llm", "trtllm"),
        ("", "vllm"),
        ("one of our own", "vllm"),
    ],
)
def test_engines(name: str, engine: str):
    assert engine_of(name) == engine


def test_an_engine_that_a_source_never_ran_has_its_own_overheads():
    found = plan(engine="sglang", source_set="mlenergy")
    assert (found.group, found.setting) == ("sglang mlenergy", "mlenergy")


def test_formats_of_a_dense_model():
    dense, mixture = model_shape("Llama-3.1-8B"), model_shape("Qwen3-30B-A3B")
    for kind in ("mxfp4", "int4"):
        assert precision_of(kind, dense) == Precision(kind, kind, kind, "bf16")
        assert precision_of(kind, mixture) == Precision("bf16", "bf16", kind, "bf16")
