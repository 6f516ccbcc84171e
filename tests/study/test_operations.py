"""Operations of a step, worked out by hand for a dense model, a mixture and latent attention."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwatt.architecture import DenseMlp, GroupedAttention
from tokenwatt.errors import UserError
from tokenwatt.perf_model.capacity import USABLE, WORKSPACE_BYTES, capacity_of, weight_bytes
from tokenwatt.perf_model.operations import Load, Operation
from tokenwatt.perf_model.parallelism import Parallelism
from tokenwatt.perf_model.precision import Precision, precision_of
from tokenwatt.perf_model.shape import Block, ModelShape
from tokenwatt.perf_model.shape_library import library_names, model_shape
from tokenwatt.perf_model.steps import step_operations

ONE = Parallelism(gpus=1, attention_tp=1, attention_dp=1, moe_tp=1, moe_ep=1, pp=1)
BF16 = Precision("bf16", "bf16", "bf16", "bf16")


def tensor_parallel(gpus: int, ep: int = 1) -> Parallelism:
    return Parallelism(gpus=gpus, attention_tp=gpus, attention_dp=1, moe_tp=gpus // ep, moe_ep=ep, pp=1)


def named(operators: list[Operation], name: str) -> Operation:
    (found,) = [operator for operator in operators if operator.name == name]
    return found


def sizes(operation: Operation) -> dict[str, float]:
    return dict(operation.shape)


def total(operators: list[Operation], quantity: str) -> float:
    return sum(operator.count * getattr(operator, quantity) for operator in operators)


def test_a_decode_step_of_llama_3_1_8b():
    # 32 layers, hidden 4096, 32 heads and 8 KV heads of 128, intermediate 14336, vocabulary 128256.
    operators = step_operations(model_shape("Llama-3.1-8B"), ONE, BF16, Load(decode_tokens=4, context=1000))
    qkv = named(operators, "attention.qkv")
    assert (qkv.count, sizes(qkv)) == (32, {"m": 4, "n": 6144, "k": 4096})
    assert qkv.flop == 2 * 4 * 6144 * 4096
    assert qkv.bytes == 2 * (6144 * 4096 + 4 * (6144 + 4096))
    attention = named(operators, "attention.decode")
    assert attention.flop == 4 * 1000 * 4 * 32 * 128  # q.k and p.v, two operations each
    # Keys and values, queries and answers in two bytes.
    assert attention.bytes == 4 * 1000 * 2 * 8 * 128 * 2 + 4 * 2 * 32 * 128 * 2
    up, down = named(operators, "mlp.up"), named(operators, "mlp.down")
    assert (sizes(up), sizes(down)) == ({"m": 4, "n": 28672, "k": 4096}, {"m": 4, "n": 4096, "k": 14336})
    head = named(operators, "head")
    assert (head.count, sizes(head)) == (1, {"m": 4, "n": 128256, "k": 4096})
    # 7,504,658,432 weights are multiplied with: 32 x (4096 x 6144 + 4096 x 4096 + 3 x 4096 x 14336) + 4096 x 128256.
    matmuls = [operator for operator in operators if operator.kind == "matmul"]
    assert total(matmuls, "flop") == 2 * 4 * 7_504_658_432
    assert not [operator for operator in operators if operator.name.startswith("comm")]


def test_tensor_parallel_splits_the_products_and_brings_sums_together():
    operators = step_operations(
        model_shape("Llama-3.1-8B"), tensor_parallel(4), BF16, Load(decode_tokens=4, context=1000)
    )
    # 8 query heads and 2 KV heads of 128 on each GPU.
    assert named(operators, "attention.qkv").size("n") == 8 * 128 + 2 * 2 * 128
    assert named(operators, "attention.out").size("k") == 8 * 128
    assert named(operators, "mlp.up").size("n") == 2 * 14336 / 4
    reduce = named(operators, "comm.all_reduce")
    assert (reduce.count, reduce.bytes, reduce.ranks) == (64, 4 * 4096 * 2, 4)
    assert named(operators, "comm.all_gather").bytes == 4 * 128256 / 4 * 2
    # Of 16 GPUs two share each KV head, and each keeps a copy of it.
    many = step_operations(model_shape("Llama-3.1-8B"), tensor_parallel(16), BF16, Load(decode_tokens=1, context=10))
    assert named(many, "attention.qkv").size("n") == 2 * 128 + 2 * 128


def test_a_decode_step_of_qwen3_30b_a3b():
    # 48 layers, hidden 2048, 128 experts of 768, 8 of them for each token.
    shape = model_shape("Qwen3-30B-A3B")
    experts = named(step_operations(shape, ONE, BF16, Load(decode_tokens=1, context=100)), "moe.experts")
    assert experts.count == 48
    assert sizes(experts) == {"tokens": 1, "hidden": 2048, "intermediate": 768, "top_k": 8, "experts": 128, "ep": 1}
    assert experts.flop == 8 * 2 * 3 * 2048 * 768
    # 8 experts of 3 x 2048 x 768 weights; each row reads 2048, writes 1536, reads 768, writes 2048: two bytes each.
    assert experts.bytes == pytest.approx(8 * 3 * 2048 * 768 * 2 + 8 * (2 * 2048 + 3 * 768) * 2)
    two = named(step_operations(shape, ONE, BF16, Load(decode_tokens=2, context=100)), "moe.experts")
    # 15.5 of 16 choices are distinct.
    assert two.bytes == pytest.approx(15.5 * 3 * 2048 * 768 * 2 + 16 * (2 * 2048 + 3 * 768) * 2)
    router = named(step_operations(shape, ONE, BF16, Load(decode_tokens=1, context=100)), "moe.router")
    assert (router.size("n"), router.size("k")) == (128, 2048)


def test_experts_of_other_ranks_are_reached_by_an_exchange():
    shape = model_shape("Qwen3-30B-A3B")
    split = Parallelism(gpus=8, attention_tp=1, attention_dp=8, moe_tp=1, moe_ep=8, pp=1)
    operators = step_operations(shape, split, BF16, Load(decode_tokens=16, context=100))
    experts = named(operators, "moe.experts")
    # 8 ranks send 16 tokens each; a GPU holds 16 experts and gets an eighth of the rows.
    assert (experts.size("tokens"), experts.size("ep")) == (128, 8)
    assert experts.flop == 128 * 8 / 8 * 2 * 3 * 2048 * 768
    dispatch = named(operators, "comm.dispatch")
    assert (dispatch.kind, dispatch.ranks, dispatch.bytes) == ("all_to_all", 8, 16 * 2048 * 2 * 8)
    assert not [operator for operator in operators if operator.name == "comm.all_reduce"]
    # Experts that all 8 ranks share need every token on each of them.
    shared = Parallelism(gpus=8, attention_tp=1, attention_dp=8, moe_tp=8, moe_ep=1, pp=1)
    dispatch = named(step_operations(shape, shared, BF16, Load(decode_tokens=16, context=100)), "comm.dispatch")
    assert (dispatch.ranks, dispatch.bytes) == (8, 16 * 2048 * 2 * 8)


def test_latent_attention_decodes_absorbed_and_prefills_expanded():
    # DeepSeek-V3: hidden 7168, 128 heads of 128 + 64, values of 128, latents of 1536 and 512 (+ 64 of the rotary key).
    shape, split = model_shape("DeepSeek-V3"), tensor_parallel(8)
    decode = step_operations(shape, split, precision_of("fp8", shape), Load(decode_tokens=1, context=1000))
    assert named(decode, "attention.down").size("n") == 1536 + 576
    assert sizes(named(decode, "attention.qkv")) == {"m": 1, "n": 16 * 192, "k": 1536}
    attention = named(decode, "attention.decode")
    assert attention.kind == "latent.decode"
    assert attention.flop == 1000 * 2 * 16 * (576 + 512)
    assert attention.bytes == 1000 * 576 * 2 + 16 * (576 + 512) * 2
    prefill = step_operations(shape, split, precision_of("fp8", shape), Load(prefill_tokens=2000, prompt=1000))
    assert named(prefill, "attention.expand").size("n") == 16 * (128 + 128)
    # Two prompts: 1000 x 1001 / 2 pairs each, 192 and 128 elements of 16 heads, two operations.
    assert named(prefill, "attention.prefill").flop == 2 * 500_500 * 2 * 16 * (192 + 128)
    assert named(prefill, "head").size("m") == 2


def test_a_window_and_an_index_limit_the_keys():
    operators = step_operations(model_shape("gpt-oss-120b"), ONE, BF16, Load(decode_tokens=1, context=5000))
    keys = sorted((o.size("context"), o.count) for o in operators if o.name == "attention.decode")
    assert keys == [(128, 18), (5000, 18)]
    shape = model_shape("GLM-5")
    sparse = step_operations(shape, ONE, precision_of("fp8", shape), Load(decode_tokens=1, context=5000))
    assert named(sparse, "attention.decode").size("context") == 2048
    assert named(sparse, "index.scores").flop == 2 * 5000 * 32 * 128


def test_a_recurrent_layer_reads_and_writes_its_state():
    operators = step_operations(model_shape("Qwen3.5-397B-A17B"), ONE, BF16, Load(decode_tokens=3, context=5000))
    state = named(operators, "recurrence.decode")
    # 64 value heads of 128 x 128 in float32, read and written for three sequences, and what goes
    # through the convolution; 45 of 60 layers.
    assert (state.count, state.bytes) == (45, 3 * 2 * 4 * 64 * 128 * 128 + 3 * 2 * (2 * 16 * 128 + 64 * 128) * 2)


def test_pipeline_stages_share_the_layers():
    shape = model_shape("Llama-3.1-8B")
    stages = Parallelism(gpus=4, attention_tp=1, attention_dp=1, moe_tp=1, moe_ep=1, pp=4)
    operators = step_operations(shape, stages, BF16, Load(decode_tokens=1, context=10))
    assert named(operators, "attention.qkv").count == 8
    assert named(operators, "comm.send").bytes == 4096 * 2


@pytest.mark.parametrize("name", library_names())
@pytest.mark.parametrize("gpus", [1, 2])
def test_the_weights_of_all_gpus_are_those_of_the_model(name, gpus):
    shape = model_shape(name)
    each = weight_bytes(shape, tensor_parallel(gpus), BF16)
    embedding = 0 if shape.tie_word_embeddings else shape.head_parameters
    assert gpus * each == pytest.approx(2 * (shape.matmul_parameters + embedding))


@pytest.mark.parametrize("name", library_names())
def test_a_step_multiplies_with_every_weight_that_its_tokens_touch(name):
    shape = model_shape(name)
    operators = step_operations(shape, ONE, BF16, Load(decode_tokens=1, context=1))
    products = [o for o in operators if o.kind in ("matmul", "grouped_matmul")]
    assert total(products, "flop") == pytest.approx(2 * shape.active_matmul_parameters, rel=1e-3)


def test_what_fits_beside_the_weights():
    shape = model_shape("Llama-3.1-8B")
    capacity = capacity_of(shape, ONE, BF16, 1000, 80e9)
    assert capacity.weight_bytes == 2 * (7_504_658_432 + 4096 * 128256)
    assert capacity.sequence_bytes == 1000 * 32 * 2 * 8 * 128 * 2
    assert capacity.largest_batch == pytest.approx((80e9 * USABLE - 16_059_990_016 - WORKSPACE_BYTES) / 131_072_000)
    too_large = capacity_of(model_shape("Llama-3.1-70B"), ONE, BF16, 1000, 80e9)
    with pytest.raises(UserError, match="does not fit: 141 GB of weights on each GPU, H100 SXM has 80 GB"):
        too_large.check("H100 SXM")


def test_what_parts_are_stored_in():
    assert precision_of("fp8", model_shape("Llama-3.1-8B")).mlp == "fp8"
    assert precision_of("fp8", model_shape("DeepSeek-V3")).experts == "fp8_block"
    nvfp4 = precision_of("fp4", model_shape("DeepSeek-V3"))
    assert (nvfp4.attention, nvfp4.experts, nvfp4.kv) == ("bf16", "nvfp4", "fp8")
    assert precision_of("fp4", model_shape("Llama-3.1-70B")).attention == "nvfp4"
    assert precision_of("mxfp4", model_shape("gpt-oss-20b"), "trtllm") == Precision("bf16", "bf16", "mxfp4", "bf16")


SMALL = ModelShape("small", 64, 100, (Block(GroupedAttention(4, 2, 16, 1.0), DenseMlp(128)),) * 3)


@given(st.floats(1, 1e4), st.floats(1, 1e5), st.floats(1.01, 3))
def test_more_tokens_are_more_work(tokens, context, factor):
    before = step_operations(SMALL, ONE, BF16, Load(decode_tokens=tokens, context=context))
    after = step_operations(SMALL, ONE, BF16, Load(decode_tokens=tokens * factor, context=context))
    assert total(after, "flop") == pytest.approx(factor * total(before, "flop"))
    assert total(before, "bytes") < total(after, "bytes") < factor * total(before, "bytes")
