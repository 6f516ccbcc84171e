"""Grouped matmuls: hand-computed answers, refusals, tiles, work, contests, and the layer that is made of them."""

from __future__ import annotations

from dataclasses import replace
from itertools import product as combinations
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tokenwatt_kernels.contests import run
from tokenwatt_kernels.matmul.activations import interleave
from tokenwatt_kernels.matmul.packed.inputs import random_weight
from tokenwatt_kernels.matmul.packed.weights import arrange_mxfp4, dequantised
from tokenwatt_kernels.moe.grouped import tiles
from tokenwatt_kernels.moe.grouped.call import (
    grouped_matmul,
    grouped_matmul_combine,
    packed_grouped_matmul,
    packed_grouped_matmul_combine,
)
from tokenwatt_kernels.moe.grouped.contest import contest
from tokenwatt_kernels.moe.grouped.inputs import make_inputs, shapes_of
from tokenwatt_kernels.moe.grouped.problems import (
    BENCH_PROBLEMS,
    GroupedProblem,
    balanced,
    down,
    gate_up,
    skewed,
    takes,
)
from tokenwatt_kernels.moe.grouped.tiles import GroupedKey, GroupedTile
from tokenwatt_kernels.moe.grouped.work import work
from tokenwatt_kernels.moe.mlp import moe_mlp
from tokenwatt_kernels.moe.route.call import route_top_k
from tokenwatt_kernels.number_formats.mxfp4 import pack_mxfp4
from tokenwatt_kernels.operators import OPERATORS
from tokenwatt_kernels.targets import TARGETS
from tokenwatt_kernels.work import Work

CPU = torch.device("cpu")
FP8 = torch.float8_e4m3fn


def key_of(rows: int, element_bytes: int, **changes: Any) -> GroupedKey:
    """The key of a weight that is not packed, whose tiles may be copied and whose sums may stay where they are."""
    usual = {"is_mxfp4": False, "block_scaled": False, "is_fast": True, "copies": True}
    return GroupedKey(rows, element_bytes, **usual | changes)


def int32(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


def test_rows_meet_the_weight_of_their_expert():
    # Expert 0 doubles and has one row, expert 1 has none, expert 2 triples.
    weight = torch.tensor([[[2.0]], [[100.0]], [[3.0]]])
    a = torch.tensor([[1.0], [10.0], [20.0]])
    assert grouped_matmul(a, weight, int32(0, 1, 1, 3)).tolist() == [[2], [30], [60]]


def test_rows_are_read_from_their_tokens():
    # Two tokens of two slots; sorted rows 3, 0, 1, 2 are of tokens 1, 0, 0, 1.
    tokens = torch.tensor([[1.0], [10.0]])
    weight = torch.tensor([[[2.0]], [[3.0]]])
    found = grouped_matmul(tokens, weight, int32(0, 1, 4), int32(3, 0, 1, 2), torch.tensor([[0.5], [0.25]]))
    assert found.tolist() == [[20.5], [3.25], [3.25], [30.25]]


def test_combining_weighs_the_slots_of_each_token():
    # Sorted rows 1, 5 of expert 0 are slot 1 of token 0 and slot 0 of token 1.
    a = torch.tensor([[1.0], [5.0], [2.0], [4.0]])
    order, weights = int32(1, 2, 0, 3), torch.tensor([[0.5, 2.0], [3.0, 1.0]])
    weight = torch.tensor([[[10.0]], [[100.0]]])
    # Token 0: 0.5 * 200 + 2 * 10 = 120. Token 1: 3 * 50 + 1 * 400 = 550.
    found = grouped_matmul_combine(a, weight, int32(0, 2, 4), order, weights, residual=torch.tensor([[1.0], [2.0]]))
    assert found.tolist() == [[121], [552]]


def test_float8_factors_by_hand():
    a, weight = torch.ones(2, 1).to(FP8), torch.full((1, 2, 1), 2.0).to(FP8)
    a_scale, weight_scale = torch.tensor([3.0, 5.0]), torch.tensor([[1.0, 10.0]])
    found = grouped_matmul(a, weight, int32(0, 2), None, None, a_scale, weight_scale)
    assert found.dtype == torch.bfloat16
    assert found.tolist() == [[6, 60], [10, 100]]


def test_block_factors_of_gate_and_up_by_hand():
    # 128 times 1/8 is 16, and the factors make 4 of the gates and 2 of what they let through.
    a, weight = torch.ones(1, 128).to(FP8), torch.full((1, 4, 128), 0.125).to(FP8)
    factors = torch.tensor([[[0.25], [0.125]]])
    found = grouped_matmul(a, weight, int32(0, 1), None, None, torch.ones(1, 1), factors, activation="swiglu")
    assert found.tolist() == [[pytest.approx(8 / (1 + 2.718281828**-4), rel=2**-8)] * 2]


@pytest.mark.parametrize("activation", ["swiglu", "swiglu_clamped"])
def test_a_layer_is_what_its_tokens_see_one_by_one(activation):
    generator = torch.Generator().manual_seed(0)
    hidden, logits = (torch.randn(7, size, generator=generator) for size in (12, 5))
    gate, up, down_weight = (torch.randn(5, *size, generator=generator) for size in ((6, 12), (6, 12), (12, 6)))
    residual = torch.randn(7, 12, generator=generator)
    found = moe_mlp(
        hidden, route_top_k(logits, 2), interleave(gate, up), down_weight, residual=residual, activation=activation
    )
    for token in range(7):
        weights, experts = logits[token].softmax(-1).topk(2)
        expected = residual[token].clone()
        for weight, expert in zip(weights / weights.sum(), experts, strict=True):
            of_gate, of_up = gate[expert] @ hidden[token], up[expert] @ hidden[token]
            if activation == "swiglu":
                inner = of_gate * of_gate.sigmoid() * of_up
            else:
                of_gate, of_up = of_gate.clamp(max=7), of_up.clamp(-7, 7)
                inner = of_gate * (1.702 * of_gate).sigmoid() * (of_up + 1)
            expected += weight * (down_weight[expert] @ inner)
        torch.testing.assert_close(found[token], expected, rtol=1e-4, atol=1e-4)


def test_a_layer_in_mxfp4_is_that_of_what_its_weights_stand_for():
    generator = torch.Generator().manual_seed(0)
    hidden, logits = (torch.randn(7, size, generator=generator) for size in (64, 5))
    gate_up, down_weight = (
        arrange_mxfp4(pack_mxfp4(torch.randn(5, *size, generator=generator))) for size in ((64, 64), (64, 32))
    )
    bias, routing = torch.randn(5, 64, generator=generator), route_top_k(logits, 2)
    found = moe_mlp(hidden, routing, gate_up, down_weight, bias, bias, activation="swiglu_clamped")
    wide = dequantised(gate_up), dequantised(down_weight)
    expected = moe_mlp(hidden, routing, wide[0], wide[1], bias, bias, activation="swiglu_clamped")
    torch.testing.assert_close(found, expected)


def test_a_compiler_takes_packed_experts_whole():
    weight = random_weight((3, 8, 64), "mxfp4", torch.device("cpu"), torch.Generator().manual_seed(0))
    a, offsets, order = torch.randn(2, 64), int32(0, 2, 2, 4), int32(3, 0, 2, 1)
    flat = (a, weight.words, weight.scales, offsets, order)
    options = {"terms": 64, "number_format": "mxfp4", "activation": "swiglu", "validate": False}
    torch.library.opcheck(OPERATORS["packed_grouped_matmul"], flat, options)

    def layer(a: torch.Tensor) -> torch.Tensor:
        inner = packed_grouped_matmul(a, weight, offsets, order)
        wide = torch.nn.functional.pad(inner, (0, 56))
        return packed_grouped_matmul_combine(wide, weight, offsets, order, torch.ones(2, 2))

    assert torch.equal(torch.compile(layer, fullgraph=True, backend="aot_eager")(a), layer(a))


def test_experts_in_int4_are_refused():
    weight = random_weight((3, 8, 128), "int4", torch.device("cpu"), torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="weight must have the format mxfp4 for experts, got int4"):
        packed_grouped_matmul(torch.zeros(6, 128), weight, int32(0, 2, 2, 6))


def test_a_layer_without_tokens_is_empty():
    routing = route_top_k(torch.zeros(0, 4), 2)
    found = moe_mlp(torch.zeros(0, 8), routing, torch.zeros(4, 12, 8), torch.zeros(4, 8, 6))
    assert found.shape == (0, 8)


def arguments(**changes: Any) -> dict[str, Any]:
    good: dict[str, Any] = {
        "a": torch.zeros(6, 16),
        "weight": torch.zeros(3, 8, 16),
        "offsets": int32(0, 2, 2, 6),
        "order": None,
    }
    return good | changes


def float8(k: int = 128, **changes: Any) -> dict[str, Any]:
    return arguments(a=torch.zeros(6, k).to(FP8), weight=torch.zeros(3, 8, k).to(FP8)) | changes


BLOCKS = {"a_scale": torch.ones(6, 1), "weight_scale": torch.ones(3, 1, 1)}


@pytest.mark.parametrize(
    ("found", "error", "message"),
    [
        (arguments(a=torch.zeros(6, 16, dtype=torch.float64)), TypeError, "a must have dtype .*, got torch.float64"),
        (arguments(a=torch.zeros(96)), ValueError, r"a must have shape \[R, K\], got \[96\]"),
        (arguments(a=torch.zeros(16, 6).T), ValueError, "a must be contiguous along its last axis"),
        (arguments(a=torch.zeros(6, 16).half()), TypeError, "weight must have the dtype of a, torch.float16, got"),
        (arguments(weight=torch.zeros(8, 16)), ValueError, r"weight must have shape \[E, N, K\], got \[8, 16\]"),
        (arguments(weight=torch.zeros(3, 8, 12)), ValueError, "weight must have K = 16, got 12"),
        (arguments(weight=torch.zeros(513, 1, 16)), ValueError, "weight must have E from 1 to 512, got 513"),
        (arguments(weight=torch.zeros(3, 8, 16, device="meta")), ValueError, "weight must be on the device of a"),
        (arguments(offsets=int32(0, 6)), ValueError, r"offsets must have E \+ 1 = 4, got 2"),
        (arguments(offsets=torch.tensor([0, 2, 2, 6])), TypeError, "offsets must have dtype torch.int32, got"),
        (arguments(offsets=int32(0, 2, 1, 6)), ValueError, r"offsets must rise from 0 to R = 6, got \[0, 2, 1, 6\]"),
        (arguments(offsets=int32(0, 2, 2, 7)), ValueError, r"offsets must rise from 0 to R = 6, got \[0, 2, 2, 7\]"),
        (arguments(order=int32(0, 1, 2, 3)), ValueError, "order must have a multiple of a's 6 tokens, got 4 rows"),
        (arguments(order=int32()), ValueError, "order must have rows exactly where a has tokens, got 0 and 6"),
        (arguments(order=int32(0, 1, 2, 3, 4, 6)), ValueError, "order must hold each of 0 to 5 once, got .* 0 to 6"),
        (arguments(order=int32(0, 1, 2, 3, 5, 5)), ValueError, "order must hold each of 0 to 5 once"),
        (arguments(bias=torch.zeros(3, 7)), ValueError, "bias must have N = 8, got 7"),
        (arguments(bias=torch.zeros(2, 8)), ValueError, "bias must have E = 3, got 2"),
        (arguments(bias=torch.zeros(3, 8).half()), TypeError, "bias must have dtype .*, got torch.float16"),
        (arguments(activation="relu"), ValueError, "activation must be one of none, swiglu, .*, got relu"),
        (
            arguments(weight=torch.zeros(3, 7, 16), activation="swiglu"),
            ValueError,
            "weight must have an even N for swiglu, gate and up in turns, got 7",
        ),
        (arguments(a_scale=torch.ones(1)), ValueError, "a_scale and weight_scale must be None for torch.float32"),
        (float8(), ValueError, "a_scale and weight_scale must be tensors for float8_e4m3fn, got None"),
        (float8(a_scale=torch.ones(6), weight_scale=torch.ones(2)), ValueError, r"got \[6\] with \[2\] and K = 128"),
        (float8(a_scale=torch.ones(5), weight_scale=torch.ones(3, 8)), ValueError, r"got \[5\] with \[3, 8\]"),
        (float8(a_scale=torch.ones(6).half(), weight_scale=torch.ones(3)), TypeError, "a_scale must have dtype torch"),
        (float8(160, **BLOCKS), ValueError, r"for K a multiple of 128 \[6, 1\] with \[3, 1, 1\], got .* and K = 160"),
        (float8(**{**BLOCKS, "weight_scale": torch.ones(3, 2, 1)}), ValueError, r"got \[6, 1\] with \[3, 2, 1\]"),
    ],
)
def test_bad_arguments_are_refused(found, error, message):
    with pytest.raises(error, match=message):
        grouped_matmul(**found)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"token_weights": torch.ones(2, 2)}, ValueError, r"token_weights must have T \* k = 6, got 4"),
        ({"token_weights": torch.ones(3, 2).half()}, TypeError, "token_weights must have dtype torch.float32, got"),
        ({"order": int32(0, 1)}, ValueError, "order must have R = 6, got 2"),
        ({"residual": torch.zeros(2, 8)}, ValueError, "residual must have T = 3, got 2"),
        ({"residual": torch.zeros(3, 9)}, ValueError, "residual must have N = 8, got 9"),
        ({"residual": torch.zeros(3, 8).half()}, TypeError, "residual must have dtype torch.float32, got"),
    ],
)
def test_bad_arguments_of_a_combination_are_refused(changes, error, message):
    good = arguments(order=int32(0, 1, 2, 3, 4, 5), token_weights=torch.ones(3, 2))
    assert grouped_matmul_combine(**good).shape == (3, 8)
    with pytest.raises(error, match=message):
        grouped_matmul_combine(**good | changes)


def test_a_compiler_takes_both_whole():
    inputs = make_inputs(gate_up("g", (3, 0, 5), 12, 16, 2, has_bias=True), "float32", CPU, poisoned=False).product
    tensors = (inputs.a, inputs.weight, inputs.offsets, inputs.order, inputs.bias)
    torch.library.opcheck(OPERATORS["grouped_matmul"], tensors, {"activation": "swiglu"})
    made = make_inputs(down("d", (3, 0, 5), 12, 16, 2, has_residual=True), "float32", CPU, poisoned=False)
    product = made.product
    tensors = (product.a, product.weight, product.offsets, product.order, product.token_weights, None, made.residual)
    torch.library.opcheck(OPERATORS["grouped_matmul_combine"], tensors)
    routing = route_top_k(torch.randn(4, 3), 2)
    hidden, weights = torch.randn(4, 8), (torch.randn(3, 12, 8), torch.randn(3, 8, 6))
    compiled = torch.compile(lambda x: moe_mlp(x, routing, *weights) * 2, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(hidden), moe_mlp(hidden, routing, *weights) * 2)


# --- tiles and work


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda target: target.name)
def test_every_candidate_is_valid(target):
    for dtype_name in ("float32", "bfloat16", "float8_e4m3fn"):
        taken = [problem for problem in BENCH_PROBLEMS if takes(problem, dtype_name, target.capability)]
        for key in {tiles.key_of(problem, dtype_name) for problem in taken}:
            found = tiles.candidates(key, target.capability)
            assert found[0] == tiles.default(key, target.capability)
            assert all(tiles.is_valid_on(tile, key, target.capability) for tile in found)


def test_float8_is_refused_before_sm_89():
    with pytest.raises(ValueError, match="no grouped tile of sm_86 takes"):
        tiles.default(key_of(16, 1), 86)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        # Four stages of (128 + 256) * 64 elements of 2 bytes are 196,608 bytes.
        (key_of(0, 2), "128x256x64 g8 w8 s4 p1 desc"),
        (key_of(0, 1, block_scaled=True, is_fast=False), "128x128x128 g8 w8 s4 p1 desc"),
        # 128 * 256 / 256 threads are 128 sums of a thread: beside as many of a step they do not fit 255 registers.
        (key_of(0, 1), "128x256x128 g8 w8 s4 p1"),
        (key_of(0, 1, is_fast=False), "128x128x128 g8 w8 s4 p1"),
        # Two programs of four stages of (16 + 64) * 128 elements of 2 bytes are 163,840 bytes; three would be 245,760.
        (key_of(16, 2), "16x64x128 g1 w4 s4 p2 swap desc"),
        (key_of(16, 2, copies=False), "16x64x128 g1 w4 s4 p2 swap"),
    ],
)
def test_h200_tiles(key, name):
    assert tiles.default(key, 90).name == name


@pytest.mark.parametrize(
    "changes",
    [
        {"block_n": 96},
        {"block_m": 8},
        {"num_stages": 0},
        {"num_warps": 3},
        {"group_m": 0},
        {"num_stages": 5},  # 5 * (128 + 256) * 64 * 2 = 245,760 bytes
        {"programs_per_multiprocessor": 2},
    ],
)
def test_bad_tiles_are_invalid(changes):
    key, tile = key_of(0, 2), GroupedTile(128, 256, 64, 8, 8, 4, 1)
    assert tiles.is_valid_on(tile, key, 90)
    assert not tiles.is_valid_on(replace(tile, **changes), key, 90)


@pytest.mark.parametrize(
    ("capability", "changes", "leaves"),
    [
        (89, {}, True),
        (90, {}, True),
        (100, {}, False),
        (90, {"is_fast": True}, False),
        (100, {"block_scaled": True}, True),
        (90, {"element_bytes": 2}, False),
    ],
)
def test_float8_sums_leave_an_accumulator_that_is_too_short(capability, changes, leaves):
    options: dict[str, Any] = {"element_bytes": 1, "block_scaled": False, "is_fast": False} | changes
    key = tiles.make_key(512, 1, is_mxfp4=False, copies=False, **options)
    assert key.leaves_accumulator(capability) == leaves
    wide = GroupedTile(128, 256, 64, 8, 8, 2, 1)
    assert tiles.is_valid_on(wide, key, capability) == (not leaves and capability >= 90)


def test_the_launch_and_the_tile_agree_on_what_leaves_the_accumulator():
    for scales, fast_accumulation, dtype_name in combinations(
        ("tensor", "channel", "block"), (True, False), ("bfloat16", "float8_e4m3fn")
    ):
        problem = gate_up("p", (3, 0, 5), 8, 128, 2, scales=scales, fast_accumulation=fast_accumulation)
        product = shapes_of(problem, dtype_name, torch.device("meta"))
        key = tiles.key_of(problem, dtype_name)
        for capability in (89, 90, 100, 120):
            # Factors of blocks are multiplied in at every step, whatever the tensor cores keep.
            leaves = product.promotes(capability) or product.scales == "block"
            assert key.leaves_accumulator(capability) == leaves
        assert not product.promotes(100)


def test_a_block_scaled_tile_lies_within_a_block():
    key, tile = key_of(0, 1, block_scaled=True, is_fast=False), GroupedTile(128, 128, 128, 8, 8, 3, 1)
    assert tiles.is_valid_on(tile, key, 90)
    assert not tiles.is_valid_on(replace(tile, block_n=256), key, 90)
    assert not tiles.is_valid_on(replace(tile, block_k=64), key, 90)


@pytest.mark.parametrize(
    ("rows", "experts", "bound"), [(0, 8, 16), (4, 128, 16), (128, 8, 16), (129, 8, 32), (1024, 8, 0)]
)
def test_rows_of_a_key_are_the_average_of_experts_that_can_have_some(rows, experts, bound):
    assert tiles.row_bound(rows, experts) == bound


@given(tokens=st.integers(0, 300), experts=st.integers(1, 40), top_k=st.integers(1, 8))
def test_rows_of_experts_add_up(tokens, experts, top_k):
    top_k = min(top_k, experts)
    for rows in (balanced(tokens, experts, top_k), skewed(tokens, experts, top_k)):
        assert len(rows) == experts
        assert sum(rows) == tokens * top_k
        assert 0 <= min(rows) <= max(rows) <= tokens


def test_packed_experts_are_read_in_their_format():
    # Two touched experts of 8 x 64: 256 bytes of codes and 16 scales each. 4 rows of 64, 32 answers, 4 offsets.
    found = work(GroupedProblem("p", (1, 0, 3), 8, 64, is_mxfp4=True), "bfloat16")
    assert found.bytes == 2 * (256 + 16) + 2 * (4 * 64 + 4 * 8) + 4 * 4


def test_only_touched_experts_are_read():
    # 4 rows of 2 tokens, 2 of 3 experts, N = 6, K = 8: 2 * 4 * 6 * 8 = 384 flop.
    # bf16: 2*8 tokens, 2*6*8 weights, 4*3 answers = 124 elements, 248 bytes. 4 offsets and 4 places: 32 bytes.
    assert work(gate_up("hand", (1, 0, 3), 6, 8, 2), "bfloat16") == Work(flop=384, bytes=280)
    # 4*8 rows, 96 weights, 2*6 answers, 2*6 residuals, 2*6 biases = 164 elements of 2 bytes; 4 + 8 numbers: 48 bytes.
    problem = down("hand", (1, 0, 3), 6, 8, 2, has_bias=True, has_residual=True)
    assert work(problem, "bfloat16") == Work(flop=384, bytes=376)


@pytest.mark.parametrize(
    ("scales", "numbers"),
    # 2 tokens, 2 touched experts, one block of K; in blocks gate and up have a row each.
    [("tensor", 1 + 2), ("channel", 2 + 2 * 6), ("block", 2 + 2 * 2)],
)
def test_float8_reads_its_factors(scales, numbers):
    problem = gate_up("hand", (1, 0, 3), 6, 128, 2, scales=scales)
    # (2*128 + 2*6*128) bytes, 4*3 answers of 2 bytes, 4 offsets and 4 places.
    assert work(problem, "float8_e4m3fn").bytes == 1792 + 24 + 4 * (8 + numbers)


# --- contests and inputs


@pytest.mark.parametrize(
    ("problem", "dtype_name"),
    [
        (GroupedProblem("plain", (3, 0, 5), 8, 16), "float32"),
        (gate_up("gate_up", (3, 0, 5), 8, 16, 2, has_bias=True), "float32"),
        (down("down", (3, 0, 5), 8, 16, 2, has_residual=True, has_bias=True), "bfloat16"),
        (gate_up("float8", (3, 0, 5), 16, 128, 2, scales="block"), "float8_e4m3fn"),
    ],
    ids=lambda value: value.name if isinstance(value, GroupedProblem) else value,
)
def test_contests_agree(problem, dtype_name):
    found = run(contest(problem, dtype_name, CPU), sampler=lambda function: [1.0, 1.0])
    assert {row.status for row in found} == {"measured"}, found
    assert len(found) == (2 if dtype_name == "float32" else 3)


@pytest.mark.parametrize("dtype_name", ["bfloat16", "float8_e4m3fn"])
@pytest.mark.parametrize("scales", ["tensor", "channel", "block"])
@pytest.mark.parametrize("make", [gate_up, down])
def test_shapes_are_those_of_inputs(make, scales, dtype_name):
    problem = make("p", (3, 0, 5), 8, 128, 2, scales=scales, has_bias=True)
    product = make_inputs(problem, dtype_name, CPU).product
    product.check()
    shapes = shapes_of(problem, dtype_name, torch.device("meta"))
    for name in ("a", "weight", "offsets", "order", "token_weights", "bias", "a_scale", "weight_scale"):
        value, shape = getattr(product, name), getattr(shapes, name)
        assert (value is None) == (shape is None)
        assert value is None or (value.shape, value.dtype) == (shape.shape, shape.dtype)
