"""Number formats, held to their definitions: codes by hand, bounds on the error, and repacking what was packed."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenwatt_kernels.number_formats import e2m1, float8
from tokenwatt_kernels.number_formats.int4 import Int4, dequantise_int4, pack_int4
from tokenwatt_kernels.number_formats.mxfp4 import Mxfp4, dequantise_mxfp4, pack_mxfp4
from tokenwatt_kernels.number_formats.nibbles import pack_nibbles, unpack_nibbles
from tokenwatt_kernels.number_formats.nvfp4 import Nvfp4, dequantise_nvfp4, pack_nvfp4

MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
GROUPS = {pack_int4: 128, pack_mxfp4: 32, pack_nvfp4: 16}


@st.composite
def matrices(draw, columns: int) -> torch.Tensor:
    """Normal numbers of many sizes, some rows or single numbers zero."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    rows, groups = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16]))
    x = torch.randn(rows, groups * columns, generator=generator) * 2.0 ** draw(st.integers(-40, 40))
    x[:, : draw(st.integers(0, columns))] = 0
    return x.to(dtype)


# float8


def test_float8_of_one_scale_by_hand():
    quantised, scale = float8.quantise_per_tensor(torch.tensor([[896.0, -2.0], [0.0, 34.0]]))
    assert scale.tolist() == [2.0]
    assert quantised.dtype == torch.float8_e4m3fn
    # 17 lies between 16 and 18: the even significand wins.
    assert quantised.float().tolist() == [[448, -1], [0, 16]]


def test_float8_of_rows_has_a_scale_each():
    x = torch.tensor([[448.0, 1.0], [-4.48, 0.0], [0.0, 0.0]])
    quantised, scale = float8.quantise_rows(x)
    assert scale.tolist() == pytest.approx([1.0, 0.01, 1.0])
    assert quantised.float()[1].tolist() == [-448, 0]
    assert torch.allclose(float8.dequantise(quantised, scale), x, rtol=1e-6)


def test_float8_counts_less_than_2_to_the_minus_100_as_zero():
    quantised, scale = float8.quantise_rows(torch.tensor([[2.0**-100, 0.0], [-(2.0**-101), 0.0], [2.0**-149, 0.0]]))
    assert scale.tolist() == [pytest.approx(2.0**-100 / 448), 1, 1]
    assert quantised.float().tolist() == [[448, 0], [0, 0], [0, 0]]


def test_float8_scales_have_a_finite_reciprocal():
    x = torch.tensor([[0.0], [2.0**-149], [2.0**-100], [torch.finfo(torch.float32).max]])
    quantised, scale = float8.quantise_rows(x)
    assert bool((scale.reciprocal().isfinite() & (scale >= torch.finfo(torch.float32).tiny)).all())
    assert quantised.flatten().float().tolist() == [0, 0, 448, 448]


def test_float8_rows_of_experts():
    x = torch.randn(3, 4, 8)
    quantised, scale = float8.quantise_rows(x)
    assert (quantised.shape, scale.shape) == ((3, 4, 8), (3, 4))
    assert torch.equal(scale, x.abs().amax(-1) / 448)
    assert float8.dequantise(quantised, scale).shape == (3, 4, 8)


def test_float8_of_a_lone_row_and_of_empty_rows():
    quantised, scale = float8.quantise_rows(torch.tensor([448.0, 1.0]))
    assert (scale.tolist(), float8.dequantise(quantised, scale).tolist()) == (1.0, [448, 1])
    assert float8.quantise_rows(torch.empty(2, 0))[1].tolist() == [1, 1]


def test_float8_blocks_have_a_scale_each():
    x = torch.ones(130, 200)
    x[:128, :128], x[:128, 128:], x[128:, :128] = 448, 896, 4.48
    quantised, scale = float8.quantise_blocks(x, rows=128)
    assert scale.tolist() == [[1.0, 2.0], [pytest.approx(0.01), pytest.approx(1 / 448)]]
    assert bool((quantised.float() == 448).all())
    assert torch.allclose(float8.dequantise_blocks(quantised, scale, rows=128), x)


def test_float8_blocks_of_rows_are_as_rows():
    x = torch.randn(3, 256)
    quantised, scale = float8.quantise_blocks(x)
    assert scale.shape == (3, 2)
    wanted, row_scale = float8.quantise_rows(x[:, 128:])
    assert torch.equal(quantised[:, 128:].float(), wanted.float())
    assert torch.equal(scale[:, 1], row_scale)


@pytest.mark.parametrize("quantise", [float8.quantise_per_tensor, float8.quantise_rows, float8.quantise_blocks])
def test_float8_of_nothing(quantise):
    quantised, _ = quantise(torch.empty(0, 128))
    assert quantised.shape == (0, 128)


@given(matrices(16))
@settings(deadline=None)
def test_float8_errs_by_a_sixteenth_at_most(x):
    for quantised, scale in (float8.quantise_per_tensor(x), float8.quantise_rows(x)):
        assert bool(scale.isfinite().all())
        error = (float8.dequantise(quantised, scale) - x.float()).abs()
        # Half a step: 2^-4 of a normal number, 2^-10 scales of a subnormal one; a little more for the rounded scale.
        assert bool((error <= torch.maximum(x.float().abs() * 2**-4, scale[:, None] * 2**-10) * 1.0001).all())


@given(matrices(16))
@settings(deadline=None)
def test_float8_again_is_the_same(x):
    quantised, scale = float8.quantise_rows(x)
    again, scale_again = float8.quantise_rows(float8.dequantise(quantised, scale))
    assert torch.equal(again.float(), quantised.float())
    assert torch.allclose(scale_again, scale, rtol=2**-22, atol=0)


def test_float8_refuses_scales_of_other_rows():
    quantised, scale = float8.quantise_rows(torch.ones(4, 256))
    with pytest.raises(ValueError, match=r"scale must have shape \[1\] or \[4\], got \[4, 1\]"):
        float8.dequantise(quantised, scale[:, None])


def test_float8_refuses_scales_of_other_blocks():
    quantised, scale = float8.quantise_blocks(torch.ones(4, 256))
    with pytest.raises(ValueError, match=r"scale must have shape \[1, 2\] for blocks of 128 x 128, got \[4, 2\]"):
        float8.dequantise_blocks(quantised, scale, rows=128)
    with pytest.raises(ValueError, match="a block must have at least 1 row and 1 column, got 0 x 128"):
        float8.quantise_blocks(torch.ones(4, 256), rows=0)


# e2m1 and nibbles


def test_e2m1_codes_of_every_number():
    numbers = torch.tensor([*MAGNITUDES, *(-magnitude for magnitude in MAGNITUDES)])
    assert e2m1.encode(numbers).tolist() == list(range(16))
    decoded = e2m1.decode(torch.arange(16, dtype=torch.uint8))
    assert torch.equal(decoded, numbers)
    assert bool(decoded[8].signbit())


@pytest.mark.parametrize(
    ("number", "code"),
    # Between 0 and .5, .5 and 1, and so on: the code whose significand bit is 0.
    [(0.25, 0), (0.75, 2), (1.25, 2), (1.75, 4), (2.5, 4), (3.5, 6), (5.0, 6)],
)
def test_e2m1_ties_go_to_the_even_code(number, code):
    beside = torch.tensor([number, -number, math.nextafter(number, 0), math.nextafter(number, 9)], dtype=torch.float64)
    lower = MAGNITUDES.index(max(magnitude for magnitude in MAGNITUDES if magnitude < number))
    assert e2m1.encode(beside).tolist() == [code, code + 8, lower, lower + 1]


def test_e2m1_saturates():
    assert e2m1.encode(torch.tensor([6.1, 100.0, -7.9])).tolist() == [7, 7, 15]


def test_the_first_code_is_in_the_low_nibble():
    codes = torch.tensor([[1, 2, 15, 0]], dtype=torch.uint8)
    packed = pack_nibbles(codes)
    assert packed.tolist() == [[0x21, 0x0F]]
    assert torch.equal(unpack_nibbles(packed), codes)


# int4


def test_int4_by_hand():
    weight = torch.zeros(1, 256)
    weight[0, :6] = torch.tensor([7.0, -7.0, 1.0, 0.5, 1.5, -0.6])
    packed = pack_int4(weight)
    # 0.5 and 1.5 lie half-way: to the even steps 0 and 2.
    assert packed.codes[0, :4].tolist() == [0x1F, 0x89, 0x7A, 0x88]
    assert packed.scales.tolist() == [[1.0, 1.0]]
    assert packed.zeros.tolist() == [[8, 8]]
    assert dequantise_int4(packed)[0, :6].tolist() == [7, -7, 1, 0, 2, -1]


def test_int4_every_code_with_a_zero_point():
    codes = torch.arange(16, dtype=torch.uint8).repeat(8)[None]
    packed = Int4(
        pack_nibbles(codes), torch.tensor([[0.5]], dtype=torch.float16), torch.tensor([[3]], dtype=torch.uint8)
    )
    assert dequantise_int4(packed)[0, :16].tolist() == [(code - 3) / 2 for code in range(16)]


@given(matrices(128))
@settings(deadline=None)
def test_int4_errs_by_half_a_scale_at_most(x):
    packed = pack_int4(x)
    scale = packed.scales.float().repeat_interleave(128, -1)
    error = (dequantise_int4(packed) - x.float()).abs()
    # At the ends the scale's own rounding to bfloat16 comes on top: 7 * 2^-9 of a scale, which clamping may add.
    assert bool((error <= scale * (0.5 + 7 * 2**-8)).all())


@given(matrices(128))
@settings(deadline=None)
def test_int4_again_is_the_same(x):
    packed = pack_int4(x)
    again = pack_int4(dequantise_int4(packed))
    assert all(torch.equal(new, old) for new, old in zip(again, packed, strict=True))


def test_int4_takes_the_dtype_of_a_16_bit_weight():
    dtypes = (torch.float16, torch.bfloat16, torch.float32)
    found = [pack_int4(torch.ones(1, 128, dtype=dtype)).scales.dtype for dtype in dtypes]
    assert found == [torch.float16, torch.bfloat16, torch.bfloat16]


# mxfp4


def test_mxfp4_by_hand():
    weight = torch.zeros(1, 64)
    # 14 = 1.75 * 2^3: a scale of 2^(3 - 2) = 2, and 7 scales become 6. 3 is 1.5 scales, -1 half of one.
    weight[0, :3] = torch.tensor([14.0, 3.0, -1.0])
    packed = pack_mxfp4(weight)
    assert packed.codes[0, :3].tolist() == [0x37, 0x09, 0]
    assert packed.scales.tolist() == [[128, 127]]
    assert dequantise_mxfp4(packed)[0, :4].tolist() == [12, 3, -1, 0]


@pytest.mark.parametrize(("number", "scale"), [(4.0, 127), (7.99, 127), (8.0, 128), (3.99, 126), (2.0**-140, 0)])
def test_mxfp4_exponents(number, scale):
    assert pack_mxfp4(torch.full((32,), number)).scales.tolist() == [scale]


def test_mxfp4_every_code_and_scale_is_exact_in_bfloat16():
    codes = pack_nibbles(torch.arange(32, dtype=torch.uint8)[None].expand(252, -1) % 16)
    packed = Mxfp4(codes, torch.arange(252, dtype=torch.uint8)[:, None])
    wanted = torch.tensor([[*MAGNITUDES, *(-m for m in MAGNITUDES)] * 2], dtype=torch.float64)
    wanted = wanted * torch.exp2(torch.arange(252, dtype=torch.float64) - 127)[:, None]
    assert torch.equal(dequantise_mxfp4(packed, torch.bfloat16).double(), wanted)


def test_mxfp4_of_experts_is_that_of_each():
    weight = torch.randn(2, 3, 4, 64)
    packed = pack_mxfp4(weight)
    assert (packed.codes.shape, packed.scales.shape) == ((2, 3, 4, 32), (2, 3, 4, 2))
    alone = pack_mxfp4(weight[1, 2])
    assert torch.equal(packed.codes[1, 2], alone.codes)
    assert torch.equal(packed.scales[1, 2], alone.scales)


@given(matrices(32))
@settings(deadline=None)
def test_mxfp4_errs_by_a_quarter_at_most(x):
    packed = pack_mxfp4(x)
    scale = torch.exp2(packed.scales.float() - 127).repeat_interleave(32, -1)
    error = (dequantise_mxfp4(packed) - x.float()).abs()
    # Half a step: a quarter of a scale below 2, half up to 4, one up to 6; and from 6 to 8 what is cut off, up to 2.
    magnitude = x.float().abs() / scale
    bound = torch.where(magnitude <= 2, 0.25, torch.where(magnitude <= 4, 0.5, torch.where(magnitude <= 6, 1.0, 2.0)))
    assert bool((error <= bound * scale).all())


@given(matrices(32))
@settings(deadline=None)
def test_mxfp4_again_is_the_same(x):
    packed = pack_mxfp4(x)
    again = pack_mxfp4(dequantise_mxfp4(packed))
    assert torch.equal(again.codes, packed.codes)
    assert torch.equal(again.scales, packed.scales)


# nvfp4


def test_nvfp4_by_hand():
    weight = torch.zeros(1, 48)
    weight[0, 0], weight[0, 1] = 2688.0, -448.0  # 448 * 6: a tensor scale of 1, a scale of 448
    weight[0, 16], weight[0, 17] = 12.0, 5.0  # a scale of 2; 5 is 2.5 of it, half-way from 2 to 3
    packed = pack_nvfp4(weight)
    assert packed.tensor_scale.tolist() == [1.0]
    assert packed.scales.float().tolist() == [[448, 2, 1]]
    assert packed.codes[0, [0, 8, 16]].tolist() == [0xA7, 0x47, 0]
    assert dequantise_nvfp4(packed)[0, [0, 1, 16, 17, 32]].tolist() == [2688, -448, 12, 4, 0]


def test_nvfp4_of_far_smaller_groups_keeps_a_scale():
    weight = torch.full((1, 32), 2688.0)
    weight[0, 16:] = 2.0**-12
    assert pack_nvfp4(weight).scales.float().tolist() == [[448, 2.0**-9]]


@given(matrices(16))
@settings(deadline=None)
def test_nvfp4_errs_by_a_sixth_of_the_largest_at_most(x):
    packed = pack_nvfp4(x)
    largest = x.float().unflatten(-1, (-1, 16)).abs().amax(-1).repeat_interleave(16, -1)
    error = (dequantise_nvfp4(packed) - x.float()).abs()
    # Half the step from 4 to 6, one scale; scales are rounded by a sixteenth, and at least 2^-9 of the tensor's.
    scale = (largest / 6 * (1 + 2**-4)).clamp(min=packed.tensor_scale * 2**-9)
    assert bool((error <= scale * 1.0001).all())


@given(matrices(16))
@settings(deadline=None)
def test_nvfp4_again_is_the_same(x):
    packed = pack_nvfp4(x)
    again = pack_nvfp4(dequantise_nvfp4(packed), packed.tensor_scale)
    # A subnormal scale is rounded by up to a third, so that the largest number of a group may not be 6 scales.
    is_normal = packed.scales.float() >= 2**-6
    assert torch.equal(again.scales.float()[is_normal], packed.scales.float()[is_normal])
    new, old = (unpack_nibbles(one.codes).unflatten(-1, (-1, 16))[is_normal] for one in (again, packed))
    assert torch.equal(new, old)


# refusals


@pytest.mark.parametrize(("pack", "group"), list(GROUPS.items()))
def test_packing_refuses(pack, group):
    with pytest.raises(ValueError, match=f"weight must have K divisible by {group}, got {group + 1}"):
        pack(torch.ones(2, group + 1))
    with pytest.raises(TypeError, match=r"weight must have dtype .*, got torch.float64"):
        pack(torch.ones(2, group, dtype=torch.float64))
    with pytest.raises(TypeError, match=r"weight must be a torch.Tensor, got list"):
        pack([1.0])
    with pytest.raises(ValueError, match=r"weight must have at least 1 axes, got \[\]"):
        pack(torch.tensor(1.0))
    for wrong in (math.nan, math.inf):
        with pytest.raises(ValueError, match="weight must be finite, got NaN or infinity"):
            pack(torch.full((2, group), wrong))


@pytest.mark.parametrize("quantise", [float8.quantise_per_tensor, float8.quantise_rows, float8.quantise_blocks])
def test_quantising_refuses(quantise):
    with pytest.raises(ValueError, match="x must be finite, got NaN or infinity"):
        quantise(torch.full((2, 128), math.nan))
    with pytest.raises(TypeError, match=r"x must have dtype .*, got torch.int32"):
        quantise(torch.ones(2, 128, dtype=torch.int32))


def test_dequantising_refuses():
    weight = torch.ones(2, 128)
    int4, mxfp4, nvfp4 = pack_int4(weight), pack_mxfp4(weight), pack_nvfp4(weight)
    with pytest.raises(TypeError, match=r"codes must have dtype torch.uint8, got torch.int8"):
        dequantise_int4(int4._replace(codes=int4.codes.to(torch.int8)))
    with pytest.raises(ValueError, match=r"scales must have shape \[2, 1\] for codes \[2, 64\], got \[2, 2\]"):
        dequantise_int4(int4._replace(scales=torch.ones(2, 2, dtype=torch.float16)))
    with pytest.raises(TypeError, match=r"scales must have dtype torch.float16 or torch.bfloat16, got torch.float32"):
        dequantise_int4(int4._replace(scales=int4.scales.float()))
    with pytest.raises(ValueError, match=r"zeros must have the shape of scales, \[2, 1\], got \[2, 2\]"):
        dequantise_int4(int4._replace(zeros=torch.zeros(2, 2, dtype=torch.uint8)))
    with pytest.raises(TypeError, match=r"scales must have dtype torch.uint8, got torch.float32"):
        dequantise_mxfp4(mxfp4._replace(scales=mxfp4.scales.float()))
    with pytest.raises(ValueError, match=r"scales must have shape \[2, 8\] for codes \[2, 64\], got \[2, 4\]"):
        dequantise_nvfp4(Nvfp4(nvfp4.codes, nvfp4.scales[:, :4], nvfp4.tensor_scale))
    with pytest.raises(ValueError, match="tensor_scale must have 1 element, got 2"):
        dequantise_nvfp4(nvfp4._replace(tensor_scale=torch.ones(2)))
