"""RMS normalisation on a CPU: numbers by hand, refusals, the operators, tiles, work and contests."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tokenwatt_kernels import contests
from tokenwatt_kernels.fused.norm import tiles
from tokenwatt_kernels.fused.norm.call import quantise_activations, rms_norm, rms_norm_quantised
from tokenwatt_kernels.fused.norm.contest import contest
from tokenwatt_kernels.fused.norm.problems import NormProblem
from tokenwatt_kernels.fused.norm.tiles import NormKey, NormTile
from tokenwatt_kernels.fused.norm.work import work
from tokenwatt_kernels.number_formats import float8
from tokenwatt_kernels.operators import OPERATORS
from tokenwatt_kernels.targets import TARGETS
from tokenwatt_kernels.work import Work

CPU = torch.device("cpu")
FLOAT8 = torch.float8_e4m3fn


def test_a_row_by_hand():
    # Squares 1 + 49 = 50, their mean 25, its root 5.
    x, weight = torch.tensor([[1.0, 7.0]]), torch.tensor([10.0, 2.0])
    assert rms_norm(x, weight, eps=0.0).tolist() == [pytest.approx([2.0, 2.8])]
    assert rms_norm(x, weight, eps=0.0, unit_offset=True).tolist() == [pytest.approx([2.2, 4.2])]
    # With eps = 11 the root is that of 36.
    assert rms_norm(x, weight, eps=11.0).tolist() == [pytest.approx([10 / 6, 14 / 6])]


def test_the_residual_becomes_the_rounded_sum_that_is_normed():
    # 256 + 1 is not a bfloat16: it is stored as 256, and the row (256, 256) has the root 256.
    x, residual = torch.tensor([[1.0, 0.0]]).bfloat16(), torch.tensor([[256.0, 256.0]]).bfloat16()
    out = rms_norm(x, torch.tensor([1.0, 2.0]).bfloat16(), residual, eps=0.0)
    assert residual.tolist() == [[256, 256]]
    assert out.tolist() == [[1, 2]]
    assert out.dtype == torch.bfloat16


def test_each_head_is_a_row():
    x = torch.tensor([[[1.0, 7.0], [0.0, 0.0]], [[5.0, 5.0], [-7.0, 1.0]]])
    assert rms_norm(x, torch.ones(2)).tolist() == [
        [pytest.approx([0.2, 1.4]), [0, 0]],
        [pytest.approx([1, 1]), pytest.approx([-1.4, 0.2])],
    ]


def test_a_given_scale_saturates():
    # Normed: 0.2 and -1.4. Over 1/800 they are 160, which is a float8, and -1120.
    out = rms_norm(torch.tensor([[1.0, -7.0]]), torch.ones(2), None, torch.tensor([1 / 800]))
    assert out.dtype == FLOAT8
    assert out.float().tolist() == [[160, -448]]


def test_scales_per_token_make_the_largest_448():
    x = torch.tensor([[1.0, -7.0], [0.0, 0.0]])
    out, scale = rms_norm_quantised(x, torch.tensor([1.0, 2.0]), eps=1e-12)
    # Normed: 0.2 and -2.8, so the scale is 2.8 / 448 = 1/160, and 0.2 is 32.
    assert scale.tolist() == pytest.approx([1 / 160, 1.0])
    assert out.float().tolist() == [[32, -448], [0, 0]]


@pytest.mark.parametrize("scales", ["token", "block"])
def test_scales_follow_the_rule_of_the_format(scales):
    # 2^-60 after weights of 2^-40 is 2^-100, the least that counts; half as much does not.
    x = torch.randn(4, 256)
    x[1], x[2], x[3] = 2.0**-60, 2.0**-61, 0.0
    weight = torch.full((256,), 2.0**-40)
    out, scale = rms_norm_quantised(x, weight, scales=scales, eps=1.0)
    normed = rms_norm(x, weight, eps=1.0)
    wanted, wanted_scale = float8.quantise_rows(normed) if scales == "token" else float8.quantise_blocks(normed)
    assert torch.equal(scale, wanted_scale)
    assert torch.equal(out.float(), wanted.float())
    assert scale[1:].flatten().unique().tolist() == [pytest.approx(2.0**-100 / 448), 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scales", ["token", "block"])
def test_activations_are_quantised_as_weights_are(scales, dtype):
    x = torch.randn(3, 256, dtype=dtype)
    x[1] = 0.0
    out, scale = quantise_activations(x, scales=scales)
    wanted, wanted_scale = float8.quantise_rows(x) if scales == "token" else float8.quantise_blocks(x)
    assert torch.equal(scale, wanted_scale)
    assert torch.equal(out.float(), wanted.float())


def test_scales_per_block_look_at_128_elements_each():
    x = torch.ones(1, 384)
    x[:, 128:256] = 0.0
    x[0, 300] = -4.0
    out, scale = rms_norm_quantised(x, torch.ones(384), scales="block", eps=0.0)
    root = ((255 + 16) / 384) ** 0.5
    assert scale.tolist() == [pytest.approx([1 / root / 448, 1.0, 4 / root / 448])]
    assert out.float()[0, [0, 130, 256, 300]].tolist() == [448, 0, 112, -448]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_equals_torch(dtype):
    x, weight = torch.randn(7, 33).to(dtype), torch.randn(33).to(dtype)
    expected = torch.nn.functional.rms_norm(x, (33,), weight, 1e-6)
    torch.testing.assert_close(rms_norm(x, weight), expected, rtol=1e-5 if dtype == torch.float32 else 0, atol=0)


def good(**changes: Any) -> dict[str, Any]:
    return {"x": torch.zeros(2, 256), "weight": torch.zeros(256)} | changes


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"x": 1}, TypeError, "x must be a torch.Tensor, got int"),
        ({"x": torch.zeros(256)}, ValueError, r"x must have shape \[T, H\], got \[256\]"),
        ({"x": torch.zeros(2, 256).double()}, TypeError, "x must have dtype .*, got torch.float64"),
        ({"x": torch.zeros(256, 2).T}, ValueError, "x must be contiguous along its last axis"),
        ({"x": torch.zeros(2, 0)}, ValueError, "x must have H from 1 to 16384, got 0"),
        ({"x": torch.zeros(2, 16_385)}, ValueError, "x must have H from 1 to 16384, got 16385"),
        ({"weight": torch.zeros(255)}, ValueError, "weight must have H = 256, got 255"),
        ({"weight": torch.zeros(256).half()}, TypeError, "weight must have the dtype of x"),
        (
            {"residual": torch.zeros(3, 256)},
            ValueError,
            r"residual must have the shape of x, \[2, 256\], got \[3, 256\]",
        ),
        ({"residual": torch.zeros(2, 256).half()}, TypeError, "residual must have the dtype of x"),
        ({"eps": -1.0}, ValueError, "eps must be a finite number >= 0, got -1.0"),
        ({"eps": float("nan")}, ValueError, "eps must be a finite number >= 0, got nan"),
    ],
)
@pytest.mark.parametrize("function", [rms_norm, rms_norm_quantised])
def test_bad_arguments_are_refused(function, changes, error, message):
    with pytest.raises(error, match=message):
        function(**good(**changes))


def test_bad_scales_are_refused():
    with pytest.raises(ValueError, match="scale must have elements = 1, got 2"):
        rms_norm(**good(scale=torch.ones(2)))
    with pytest.raises(TypeError, match="scale must have dtype torch.float32, got torch.float16"):
        rms_norm(**good(scale=torch.ones(1).half()))
    with pytest.raises(ValueError, match="scales must be token or block, got row"):
        rms_norm_quantised(**good(scales="row"))
    with pytest.raises(ValueError, match="x must have H in multiples of 128 for scales of blocks, got 100"):
        rms_norm_quantised(torch.zeros(2, 100), torch.zeros(100), scales="block")
    with pytest.raises(ValueError, match=r"x must have shape \[T, H\], got \[1, 2, 128\]"):
        rms_norm_quantised(torch.zeros(1, 2, 128), torch.zeros(128))


def test_compilers_take_the_operators_whole():
    x, weight = torch.randn(3, 128), torch.randn(128)
    torch.library.opcheck(OPERATORS["rms_norm"], (x, weight, torch.randn(3, 128)), {"eps": 1e-5})
    torch.library.opcheck(OPERATORS["rms_norm"], (x, weight, None))
    torch.library.opcheck(OPERATORS["rms_norm_quantised"], (x, weight, torch.randn(3, 128)), {"scales": "block"})
    torch.library.opcheck(OPERATORS["quantise_activations"], (x,), {"scales": "block"})

    def layer(x, residual):
        residual = residual * 1.0
        out = rms_norm(x * 2, weight, residual)
        return out + residual

    residual = torch.randn(3, 128)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x, residual), layer(x, residual))


def test_cpu_path_imports_no_triton(run_python):
    script = """
import sys
import torch
from tokenwatt_kernels.fused.norm.call import rms_norm, rms_norm_quantised
rms_norm(torch.zeros(2, 3), torch.zeros(3), torch.zeros(2, 3))
rms_norm_quantised(torch.zeros(2, 3), torch.zeros(3))
assert "triton" not in sys.modules
"""
    finished = run_python("-c", script)
    assert finished.returncode == 0, finished.stderr


@given(
    width=st.integers(1, tiles.MAX_WIDTH),
    element_bytes=st.sampled_from([2, 4]),
    capability=st.sampled_from(sorted(TARGETS)),
)
def test_every_width_has_a_valid_tile(width, element_bytes, capability):
    key = tiles.make_key(width, element_bytes)
    assert width <= key.block_width < 2 * width
    assert tiles.is_valid_on(tiles.default(key, capability), key, capability)


@pytest.mark.parametrize(
    ("width", "tile"),
    [
        (128, NormTile(16, 4)),
        (2048, NormTile(1, 4)),
        (4096, NormTile(1, 8)),
        (5120, NormTile(1, 16)),
        (16384, NormTile(1, 16)),
    ],
)
def test_tiles_of_models(width, tile):
    assert tiles.default(tiles.make_key(width, 2), 90) == tile


@pytest.mark.parametrize("tile", [NormTile(3, 4), NormTile(1, 64), NormTile(0, 4), NormTile(2, 4), NormTile(1, 3)])
def test_bad_tiles_are_invalid(tile):
    assert not tiles.is_valid(tile, NormKey(4096, 2))


def test_work_by_hand():
    # 3 * 4 = 12 elements. Four flop each; x, residual twice and out of 2 bytes each, 96; the weight 8.
    assert work(NormProblem("p", 3, 4, has_residual=True), "bfloat16") == Work(flop=60, bytes=104)
    # Two heads: 24 elements of 4 bytes read and written, 192, and the weight 16.
    assert work(NormProblem("p", 3, 4, heads=2), "float32") == Work(flop=96, bytes=208)
    # 2 * 256 elements: read in 2 bytes, written in one, 1536; the weight 512; 4 scales of 4 bytes.
    assert work(NormProblem("p", 2, 256, scales="block"), "float16") == Work(flop=5 * 512, bytes=2064)
    assert work(NormProblem("p", 2, 256, scales="token"), "float16").bytes == 2056
    assert work(NormProblem("p", 2, 256, scales="tensor"), "float16").bytes == 2052


@pytest.mark.parametrize(
    "problem",
    [
        NormProblem("plain", 3, 100),
        NormProblem("residual", 3, 100, has_residual=True, unit_offset=True),
        NormProblem("heads", 3, 16, heads=2),
        NormProblem("tensor", 3, 100, scales="tensor"),
        NormProblem("token", 3, 100, has_residual=True, scales="token"),
        NormProblem("block", 3, 256, scales="block"),
    ],
    ids=lambda problem: problem.name,
)
def test_contests_agree(problem):
    found = contests.run(contest(problem, "float16", CPU), sampler=lambda function: [1.0, 1.0])
    assert [(row.contender, row.status, row.reasons) for row in found] == [
        ("tokenwatt", "measured", ()),
        ("torch", "measured", ()),
    ]
