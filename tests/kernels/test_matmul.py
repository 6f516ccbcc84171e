"""The public matmul: by hand, as an operator of torch, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tokenwatt_kernels.matmul.activations import activate_reference, interleave
from tokenwatt_kernels.matmul.call import matmul
from tokenwatt_kernels.matmul.dequantised import dequantised_blocks
from tokenwatt_kernels.matmul.operands import Operands
from tokenwatt_kernels.matmul.reference import matmul_reference
from tokenwatt_kernels.number_formats import float8
from tokenwatt_kernels.operators import OPERATORS

FLOAT8 = torch.float8_e4m3fn


def arguments(m: int = 3, n: int = 256, k: int = 384, dtype: torch.dtype = torch.bfloat16, **changes: Any) -> Any:
    generator = torch.Generator().manual_seed(0)
    a, weight = (torch.randn(size, k, generator=generator).to(dtype) for size in (m, n))
    return {"a": a, "weight": weight} | changes


def test_epilogue_by_hand():
    # [1 2] . [3 4] + 1 = 12 is the gate, [1 2] . [5 6] - 1 = 16 goes through it: 12 / (1 + e^-12) * 16 + 0.5.
    out = matmul(
        torch.tensor([[1.0, 2.0]]),
        torch.tensor([[3.0, 4.0], [5.0, 6.0]]),
        torch.tensor([1.0, -1.0]),
        torch.tensor([[0.5]]),
        activation="swiglu",
    )
    assert out.tolist() == [[pytest.approx(192 / (1 + 2.718281828**-12) + 0.5, rel=1e-6)]]


def test_scales_of_rows_and_channels_by_hand():
    # [1 2] * 2 . [3 4] * 10 = 220 and [1 2] * 2 . [5 6] * 0.5 = 17.
    out = matmul(
        torch.tensor([[1.0, 2.0]]).to(FLOAT8),
        torch.tensor([[3.0, 4.0], [5.0, 6.0]]).to(FLOAT8),
        a_scale=torch.tensor([2.0]),
        weight_scale=torch.tensor([10.0, 0.5]),
    )
    assert out.dtype == torch.bfloat16
    assert out.tolist() == [[220.0, 17.0]]


def test_scales_of_blocks_by_hand():
    # Ones: 128 terms in the first block and 2 in the second; 130 columns are blocks of 128 and of 2.
    a, weight = torch.ones(1, 130).to(FLOAT8), torch.ones(130, 130).to(FLOAT8)
    out = matmul(a, weight, a_scale=torch.tensor([[1.0, 2.0]]), weight_scale=torch.tensor([[1.0, 3.0], [0.5, 0.25]]))
    assert set(out[0, :128].tolist()) == {128 * 1.0 * 1.0 + 2 * 2.0 * 3.0}
    assert set(out[0, 128:].tolist()) == {128 * 1.0 * 0.5 + 2 * 2.0 * 0.25}


def test_block_scales_of_gate_and_up_come_in_turns():
    # 2 * 128 interleaved rows are one block of gate and one of up, then come the next two.
    scale = torch.tensor([[0.0, 10.0], [1.0, 11.0], [2.0, 12.0], [3.0, 13.0]])
    rows, ones = [0, 1, 2, 254, 255, 256, 257, 511], torch.ones(512, 130)
    for is_gated, wanted in ((True, [0, 1, 0, 0, 1, 2, 3, 3]), (False, [0, 0, 0, 1, 1, 2, 2, 3])):
        found = dequantised_blocks(ones, scale, is_gated=is_gated)[rows]
        assert found[:, 0].tolist() == found[:, 127].tolist() == wanted
        assert found[:, 128].tolist() == found[:, 129].tolist() == [10 + row for row in wanted]


@pytest.mark.parametrize("activation", ["swiglu", "geglu", "swiglu_clamped"])
@pytest.mark.parametrize("m", [3, 100])
def test_a_gated_activation_takes_the_block_scales_of_a_checkpoint(m, activation):
    # 130 rows of gate and 130 of up, each with scales for 128 rows and for 2.
    generator = torch.Generator().manual_seed(0)
    a, gate, up = (torch.randn(rows, 300, generator=generator).to(FLOAT8) for rows in (m, 130, 130))
    a_scale, gate_scale, up_scale = (torch.rand(rows, 3, generator=generator) / 16 for rows in (m, 2, 2))
    found = matmul(
        a,
        interleave(gate, up),
        a_scale=a_scale,
        weight_scale=interleave(gate_scale, up_scale),
        activation=activation,
    )
    products = [
        matmul(a, weight, a_scale=a_scale, weight_scale=scale).float()
        for weight, scale in ((gate, gate_scale), (up, up_scale))
    ]
    wanted = activate_reference(torch.stack(products, dim=-1).flatten(-2), activation)
    # Products and answers have 8 bits.
    torch.testing.assert_close(found.float(), wanted, rtol=2**-5, atol=2**-6)


@pytest.mark.parametrize("m", [3, 100])
@pytest.mark.parametrize("blocks", [False, True])
def test_it_takes_what_float8_quantises(m, blocks):
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(rows, 300, generator=generator) for rows in (m, 260))
    if blocks:
        (a, a_scale), (of_weight, weight_scale) = float8.quantise_blocks(x), float8.quantise_blocks(weight, rows=128)
        wide_a = float8.dequantise_blocks(a, a_scale)
        wide_weight = float8.dequantise_blocks(of_weight, weight_scale, rows=128)
    else:
        (a, a_scale), (of_weight, weight_scale) = float8.quantise_rows(x), float8.quantise_rows(weight)
        wide_a, wide_weight = float8.dequantise(a, a_scale), float8.dequantise(of_weight, weight_scale)
    found = matmul(a, of_weight, a_scale=a_scale, weight_scale=weight_scale)
    # The answer is rounded once, to 8 bits; the sums in fp32 are of some 300 numbers of about 1.
    torch.testing.assert_close(found.float(), wide_a @ wide_weight.T, rtol=2**-8, atol=1e-4)


@pytest.mark.parametrize("m", [3, 100])
@pytest.mark.parametrize("activation", ["none", "geglu"])
def test_it_is_an_operator(m, activation):
    given = arguments(m, bias=torch.ones(256, dtype=torch.bfloat16))
    torch.library.opcheck(OPERATORS["matmul"], (given["a"], given["weight"], given["bias"]), {"activation": activation})
    compiled = torch.compile(
        lambda given: matmul(**given, activation=activation) * 2, fullgraph=True, backend="aot_eager"
    )
    assert torch.equal(compiled(given), matmul(**given, activation=activation) * 2)


def test_float8_is_an_operator_with_a_bfloat16_answer():
    given = arguments(dtype=FLOAT8, a_scale=torch.ones(3), weight_scale=torch.ones(256))
    compiled = torch.compile(lambda given: matmul(**given), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(given), matmul(**given))
    assert compiled(given).dtype == torch.bfloat16


def test_the_reference_in_float64_is_exact_for_float8():
    given = arguments(dtype=FLOAT8, a_scale=torch.full((3,), 0.5), weight_scale=torch.full((256,), 4.0))
    wanted = 2.0 * (given["a"].double() @ given["weight"].double().T)
    assert torch.equal(matmul_reference(Operands(**given), torch.float64), wanted)


ONES = torch.ones(3), torch.ones(256)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"bias": torch.zeros(255).bfloat16()}, ValueError, "bias must have N = 256, got 255"),
        (
            {"bias": torch.zeros(256)},
            TypeError,
            r"bias must have the dtype of the output, torch.bfloat16, got torch.fl",
        ),
        ({"residual": torch.zeros(2, 256).bfloat16()}, ValueError, "residual must have M = 3, got 2"),
        ({"residual": torch.zeros(3, 128).bfloat16()}, ValueError, "residual must have N = 256, got 128"),
        (
            {"residual": torch.zeros(3, 256).bfloat16(), "activation": "swiglu"},
            ValueError,
            "residual must have N = 128, got 256",
        ),
        ({"activation": "relu"}, ValueError, "activation must be one of none, swiglu, geglu, swiglu_clamped, got relu"),
        ({"a_scale": ONES[0]}, ValueError, "a_scale must be None for torch.bfloat16, which has no scales, got a ten"),
        ({"dtype": FLOAT8}, ValueError, "a_scale must be a tensor for float8_e4m3fn, got None"),
        (
            {"dtype": FLOAT8, "a_scale": ONES[0]},
            ValueError,
            "weight_scale must be a tensor for float8_e4m3fn, got None",
        ),
        (
            {"dtype": FLOAT8, "a_scale": ONES[0].half(), "weight_scale": ONES[1]},
            TypeError,
            "a_scale must have dtype torch.float32, got torch.float16",
        ),
        (
            {"dtype": FLOAT8, "a_scale": ONES[0], "weight_scale": torch.ones(255)},
            ValueError,
            r"weight_scale must have shape \[1\], \[N\] = \[256\] or \[N / 128, K / 128\] = \[2, 3\], got \[255\]",
        ),
        (
            {"dtype": FLOAT8, "a_scale": ONES[0], "weight_scale": torch.ones(2, 2)},
            ValueError,
            r"weight_scale must have shape .* got \[2, 2\]",
        ),
        (
            {"dtype": FLOAT8, "a_scale": ONES[0], "weight_scale": torch.ones(2, 3)},
            ValueError,
            r"a_scale must have shape \[3, 3\] beside a weight_scale of \[2, 3\], got \[3\]",
        ),
        (
            {"n": 264, "dtype": FLOAT8, "a_scale": ONES[0], "weight_scale": torch.ones(3, 3), "activation": "swiglu"},
            ValueError,
            r"weight_scale must have shape .* or \[2 \(N / 256\), K / 128\] = \[4, 3\], got \[3, 3\]",
        ),
        (
            {"dtype": FLOAT8, "a_scale": torch.ones(3, 3), "weight_scale": ONES[1]},
            ValueError,
            r"a_scale must have shape \[1\] or \[3\] beside a weight_scale of \[256\], got \[3, 3\]",
        ),
    ],
)
def test_what_it_refuses(changes, error, message):
    with pytest.raises(error, match=message):
        matmul(**arguments(**changes))


def test_no_rows_and_no_terms_work():
    assert matmul(**arguments(m=0)).shape == (0, 256)
    bias = torch.arange(256.0).bfloat16()
    assert torch.equal(matmul(**arguments(k=0, bias=bias)), bias.expand(3, 256))
