"""Rotary embedding with its append on a CPU: numbers by hand, refusals, the operators, tiles, work and contests."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tokenwatt_kernels import contests, testing
from tokenwatt_kernels.fused.norm.call import rms_norm
from tokenwatt_kernels.fused.rope import tiles
from tokenwatt_kernels.fused.rope.call import rotate_and_append, rotate_and_append_latent
from tokenwatt_kernels.fused.rope.contest import contest
from tokenwatt_kernels.fused.rope.problems import RopeProblem
from tokenwatt_kernels.fused.rope.tiles import RopeTile
from tokenwatt_kernels.fused.rope.work import work
from tokenwatt_kernels.operators import OPERATORS
from tokenwatt_kernels.targets import TARGETS
from tokenwatt_kernels.work import Work

CPU = torch.device("cpu")
FLOAT8 = torch.float8_e4m3fn
NAN = float("nan")


def tables(positions: int, pairs: int) -> tuple[Tensor, Tensor]:
    angles = torch.arange(positions * pairs, dtype=torch.float32).view(positions, pairs)
    return angles.cos(), angles.sin()


def quarter_turns() -> tuple[Tensor, Tensor]:
    """Position 0 does not turn, position 1 turns by 90 degrees."""
    return torch.tensor([[1.0, 1.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [1.0, 1.0]])


def good(**changes: Any) -> dict[str, Any]:
    cos, sin = tables(10, 2)
    return {
        "q": torch.randn(3, 4, 6),
        "k": torch.randn(3, 2, 6),
        "v": torch.randn(3, 2, 5),
        "cos": cos,
        "sin": sin,
        "positions": torch.tensor([4, 0, 9]),
        "k_cache": torch.full((3, 2, 2, 6), NAN),
        "v_cache": torch.full((3, 2, 2, 5), NAN),
        "slots": torch.tensor([5, -1, 2]),
    } | changes


@pytest.mark.parametrize(
    ("interleaved", "turned"), [(False, [-3.0, -4.0, 1.0, 2.0, 9.0]), (True, [-2.0, 1.0, -4.0, 3.0, 9.0])]
)
def test_a_quarter_turn_by_hand(interleaved, turned):
    cos, sin = quarter_turns()
    q = torch.tensor([1.0, 2.0, 3.0, 4.0, 9.0]).expand(2, 1, 5)
    out = rotate_and_append(q, q, q, cos, sin, torch.tensor([1, 0]), interleaved=interleaved)
    assert out.tolist() == [[turned], [[1, 2, 3, 4, 9]]]


def test_only_slots_are_written():
    arguments = good()
    k_out, v_out = torch.empty(3, 2, 6), torch.empty(3, 2, 5)
    rotate_and_append(**arguments, k_out=k_out, v_out=v_out)
    k_cache, v_cache = arguments["k_cache"].flatten(0, 1), arguments["v_cache"].flatten(0, 1)
    # Token 0 is at slot 5, token 2 at slot 2, token 1 nowhere.
    assert torch.equal(k_cache[[5, 2]], k_out[[0, 2]])
    assert torch.equal(v_cache[[5, 2]], arguments["v"][[0, 2]])
    assert torch.equal(v_out, arguments["v"])
    for cache in (k_cache, v_cache):
        assert cache[[0, 1, 3, 4]].isnan().all()


def test_rotation_keeps_dot_products_of_equal_distance():
    cos, sin = tables(10, 3)
    q, k = torch.randn(2, 1, 6), torch.randn(2, 1, 6)
    q[1], k[1] = q[0], k[0]
    angles = torch.arange(10)[:, None] * torch.tensor([1.0, 0.3, 0.1])
    cos, sin = angles.cos(), angles.sin()
    k_out = torch.empty_like(k)
    out = rotate_and_append(q, k, k, cos, sin, torch.tensor([7, 4]), k_out=k_out)
    shifted = torch.empty_like(k)
    rotate_and_append(q, k, k, cos, sin, torch.tensor([5, 2]), k_out=shifted)
    assert float((out[0] * shifted[0]).sum()) == pytest.approx(float((out[1] * shifted[1]).sum()), rel=1e-4)


def test_the_norm_comes_first():
    cos, sin = tables(10, 3)
    q, k, weight = torch.randn(3, 4, 6), torch.randn(3, 2, 6), torch.randn(6)
    positions = torch.tensor([1, 5, 3])
    k_out, expected = torch.empty_like(k), torch.empty_like(k)
    fused = rotate_and_append(
        q, k, k, cos, sin, positions, q_weight=weight, k_weight=weight * 2, k_out=k_out, eps=1e-5, unit_offset=True
    )
    normed_q, normed_k = (rms_norm(x, w, eps=1e-5, unit_offset=True) for x, w in ((q, weight), (k, weight * 2)))
    apart = rotate_and_append(normed_q, normed_k, k, cos, sin, positions, k_out=expected)
    torch.testing.assert_close(fused, apart)
    torch.testing.assert_close(k_out, expected)


def test_a_float8_cache_holds_what_attention_multiplies_back():
    cos, sin = quarter_turns()
    k = torch.tensor([[[1.0, 2.0, 3.0, 100.0], [4.0, 8.0, 12.0, 16.0]]])
    k_cache, v_cache = torch.zeros(1, 1, 2, 4, dtype=FLOAT8), torch.zeros(1, 1, 2, 4, dtype=FLOAT8)
    rotate_and_append(
        k, k, k, cos, sin, torch.tensor([0]), k_cache, v_cache, torch.tensor([0]),
        torch.tensor([0.125, 0.5]), torch.tensor([0.25]),
    )  # fmt: skip
    # 100 / 0.125 = 800 is out of range; 100 / 0.25 = 400 lies between 384 and 416 and goes to the even 384.
    assert k_cache.float().tolist() == [[[[8, 16, 24, 448], [8, 16, 24, 32]]]]
    assert v_cache.float().tolist() == [[[[4, 8, 12, 384], [16, 32, 48, 64]]]]


def test_latents_and_rotary_keys_share_a_row():
    cos, sin = tables(10, 2)
    q, k, latent = torch.randn(3, 4, 4), torch.randn(3, 4), torch.randn(3, 7)
    cache, positions, slots = torch.full((2, 2, 1, 11), NAN), torch.tensor([1, 2, 3]), torch.tensor([3, -1, 0])
    out = rotate_and_append_latent(q, k, latent, cos, sin, positions, cache, slots)
    expected = torch.empty(3, 1, 4)
    assert torch.equal(out, rotate_and_append(q, k[:, None], k[:, None], cos, sin, positions, k_out=expected,
                                              interleaved=True))  # fmt: skip
    rows = cache.view(4, 11)
    assert torch.equal(rows[[3, 0], :7], latent[[0, 2]])
    assert torch.equal(rows[[3, 0], 7:], expected[[0, 2], 0])
    assert rows[[1, 2]].isnan().all()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"q": torch.zeros(3, 4)}, ValueError, r"q must have shape \[T, Hq, D\], got \[3, 4\]"),
        ({"k": torch.zeros(2, 2, 6)}, ValueError, "k must have T = 3, got 2"),
        ({"k": torch.zeros(3, 2, 8)}, ValueError, "k must have D = 6, got 8"),
        ({"k": torch.zeros(3, 2, 6).half()}, TypeError, "k must have the dtype of q"),
        ({"v": torch.zeros(3, 1, 5)}, ValueError, "v must have Hkv = 2, got 1"),
        ({"v": torch.zeros(3, 2, 1025)}, ValueError, "v must have .* of 1 to 1024 elements, got 2 of 1025"),
        ({"cos": torch.zeros(10, 2).half()}, TypeError, "cos must have dtype torch.float32, got torch.float16"),
        ({"sin": torch.zeros(9, 2)}, ValueError, r"sin must have the shape of cos, \[10, 2\], got \[9, 2\]"),
        ({"cos": torch.zeros(10, 4), "sin": torch.zeros(10, 4)}, ValueError, "cos must have .* 3 columns, got 4"),
        ({"positions": torch.zeros(3)}, TypeError, "positions must have dtype torch.int32 or torch.int64"),
        ({"positions": torch.zeros(2).long()}, ValueError, "positions must have T = 3, got 2"),
        ({"positions": torch.tensor([0, 10, 1])}, ValueError, r"positions must be from 0 to 9, got \[0, 10, 1\]"),
        ({"slots": torch.tensor([0, 6, 1])}, ValueError, r"slots must be below .* = 6, got \[0, 6, 1\]"),
        ({"slots": torch.tensor([1, 2, 1])}, ValueError, r"slots must be different for each token"),
        ({"slots": None}, ValueError, "k_cache, v_cache and slots must be given together, got 2 of them"),
        ({"k_scale": torch.ones(1)}, ValueError, "k_scale must be None for a cache of torch.float32, got a tensor"),
        ({"k_cache": torch.zeros(3, 2, 2, 6).half()}, TypeError, "k_cache must have dtype .*float32 or .*e4m3fn"),
        ({"v_cache": torch.zeros(4, 2, 2, 5)}, ValueError, "v_cache must have dtype, pages and page_size of k_cache"),
        ({"v_cache": torch.zeros(3, 2, 2, 6)}, ValueError, "v_cache must have D = 5, got 6"),
        ({"q_weight": torch.ones(6)}, ValueError, "q_weight and k_weight must both be tensors or both None"),
        ({"q_weight": torch.ones(6), "k_weight": torch.ones(5)}, ValueError, "k_weight must have D = 6, got 5"),
        ({"k_out": torch.zeros(3, 2, 5)}, ValueError, r"k_out must have the shape of k, \[3, 2, 6\], got \[3, 2, 5\]"),
        ({"eps": math.inf}, ValueError, "eps must be a finite number >= 0, got inf"),
    ],
)  # fmt: skip
def test_bad_arguments_are_refused(changes, error, message):
    with pytest.raises(error, match=message):
        rotate_and_append(**good(**changes))


def test_a_refused_call_writes_nothing():
    arguments = good(slots=torch.tensor([0, 1, 6]))
    with pytest.raises(ValueError, match="slots"):
        rotate_and_append(**arguments)
    assert arguments["k_cache"].isnan().all()


def test_scales_have_one_or_all_heads():
    caches = {"k_cache": torch.zeros(3, 2, 2, 6, dtype=FLOAT8), "v_cache": torch.zeros(3, 2, 2, 5, dtype=FLOAT8)}
    with pytest.raises(ValueError, match="v_scale must have 1 or Hkv = 2 elements, got 3"):
        rotate_and_append(**good(**caches, v_scale=torch.ones(3)))


def test_bad_latents_are_refused():
    cos, sin = tables(10, 2)
    q, k, latent, one = torch.randn(3, 4, 4), torch.randn(3, 4), torch.randn(3, 7), torch.tensor([0, 1, 2])
    with pytest.raises(ValueError, match=r"latent_cache must have L \+ R = 11, got 12"):
        rotate_and_append_latent(q, k, latent, cos, sin, one, torch.zeros(2, 2, 1, 12), one)
    with pytest.raises(ValueError, match=r"k must have shape \[T, R\], got \[3, 1, 4\]"):
        rotate_and_append_latent(q, k[:, None], latent, cos, sin, one, torch.zeros(2, 2, 1, 11), one)


def test_compilers_take_the_operators_whole():
    arguments = good(k_cache=torch.zeros(3, 2, 2, 6), v_cache=torch.zeros(3, 2, 2, 5))
    # Up to v_out, the last that is written to, the operator has no defaults.
    absent = dict.fromkeys(("k_scale", "v_scale", "q_weight", "k_weight", "k_out", "v_out"))
    torch.library.opcheck(OPERATORS["rotate_and_append"], (), {**absent, **arguments})
    cos, sin = tables(10, 2)
    one = torch.tensor([0, 1, 2])
    torch.library.opcheck(
        OPERATORS["rotate_and_append_latent"],
        (torch.randn(3, 4, 4), torch.randn(3, 4), torch.randn(3, 7), cos, sin, one, torch.zeros(2, 2, 1, 11), one),
    )

    def layer(q, k_cache):
        arguments = good(q=q, k=q[:, :2] * 2, v=q[:, 2:, :5], k_cache=k_cache, v_cache=torch.zeros(3, 2, 2, 5))
        return rotate_and_append(**arguments) + k_cache.sum()

    q = torch.randn(3, 4, 6)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(q, torch.zeros(3, 2, 2, 6)), layer(q, torch.zeros(3, 2, 2, 6)))


def test_cpu_path_imports_no_triton(run_python):
    script = """
import sys
import torch
from tokenwatt_kernels.fused.rope.call import rotate_and_append
x, one = torch.zeros(1, 1, 2), torch.zeros(1, dtype=torch.int64)
rotate_and_append(x, x, x, torch.ones(1, 1), torch.ones(1, 1), one, x[None], x[None].clone(), one)
assert "triton" not in sys.modules
"""
    finished = run_python("-c", script)
    assert finished.returncode == 0, finished.stderr


def test_the_gate_sees_a_write_beside_the_slots():
    pytest.importorskip("triton")
    from tokenwatt_kernels.fused.rope import cases

    problem = RopeProblem("p", 3, 2, 1, 8, page_size=4)

    def by_reference(wrong: bool):
        def launch(q, k, v, rotation, append, out, k_out, v_out, tile):
            out.copy_(q)
            append.k_cache.flatten(0, 1)[append.slots] = rotated(k, rotation)
            append.v_cache.flatten(0, 1)[append.slots] = v
            if wrong:
                append.v_cache[0, 0] = 0.0

        return launch

    def rotated(k, rotation):
        return cases.make_inputs(problem, "float32", CPU).rotated("k", torch.float32)

    def verdicts(wrong):
        made = cases.cases(problem, "float32", CPU, launch=by_reference(wrong), tiles=(RopeTile(32, 2),))
        return {case.name.split(" e32 w2 ")[1]: testing.check(case, runs=1).status for case in made}

    assert verdicts(False) == {"q": "failed", "k cache": "passed", "v cache": "passed"}
    assert verdicts(True) == {"q": "failed", "k cache": "passed", "v cache": "failed"}


@given(
    head_dim=st.integers(1, 1024), element_bytes=st.sampled_from([2, 4]), capability=st.sampled_from(sorted(TARGETS))
)
def test_every_head_has_a_valid_tile(head_dim, element_bytes, capability):
    key = tiles.make_key(head_dim, element_bytes)
    assert tiles.is_valid_on(tiles.default(key, capability), key, capability)


@pytest.mark.parametrize(
    ("dim", "heads", "at_once"), [(128, 32, 8), (128, 5, 8), (64, 128, 16), (512, 1, 1), (96, 3, 4), (2048, 4, 1)]
)
def test_heads_of_a_program(dim, heads, at_once):
    assert RopeTile(1024, 2).heads_of(dim, heads) == at_once


@pytest.mark.parametrize("tile", [RopeTile(1000, 2), RopeTile(1024, 16), RopeTile(64, 2), RopeTile(2048, 1)])
def test_bad_tiles_are_invalid(tile):
    assert not tiles.is_valid(tile, tiles.make_key(128, 2))


def test_work_by_hand():
    # 3 tokens, 4 + 2 heads of 8 that turn: 3 * 48 pairs' elements * 3 flop = 432.
    # q 32 elements twice, k and v 32 twice: 128 * 2 bytes = 256; tables 8 * 4 = 32; position and slot 16: 304 each.
    assert work(RopeProblem("p", 3, 4, 2, 8), "bfloat16") == Work(flop=432, bytes=912)
    # With a norm 4 * 48 flop more for each token, and two weights of 8.
    assert work(RopeProblem("p", 3, 4, 2, 8, has_norm=True), "bfloat16") == Work(flop=1008, bytes=944)
    # A float8 cache: 32 bytes instead of 64 for each token, 32 multiplications, and two scales.
    assert work(RopeProblem("p", 3, 4, 2, 8, kv_dtype="float8_e4m3fn"), "bfloat16") == Work(flop=528, bytes=824)
    # Queries alone: 32 * 3 flop, 64 * 2 bytes, a row of 4 fp32 cosines and sines, a position of 4 bytes.
    problem = RopeProblem("p", 1, 4, 2, 8, page_size=0, index_name="int32")
    assert work(problem, "bfloat16") == Work(flop=96, bytes=164)


@pytest.mark.parametrize(
    "problem",
    [
        RopeProblem("plain", 3, 4, 2, 16),
        RopeProblem("packed", 3, 4, 2, 16, rotary_dim=8, interleaved=True, is_packed=True),
        RopeProblem("norm", 3, 4, 2, 16, has_norm=True, unit_offset=True),
        RopeProblem("float8", 3, 4, 2, 16, kv_dtype="float8_e4m3fn", scales="head"),
        RopeProblem("latent", 3, 4, 1, 16, value_dim=48, interleaved=True, is_latent=True),
    ],
    ids=lambda problem: problem.name,
)
def test_contests_agree(problem):
    found = contests.run(contest(problem, "float16", CPU), sampler=lambda function: [1.0, 1.0])
    assert [(row.contender, row.status, row.reasons) for row in found] == [
        ("tokenwatt", "measured", ()),
        ("torch", "measured", ()),
    ]
