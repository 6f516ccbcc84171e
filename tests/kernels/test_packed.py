"""Matmul with weights of 4 bits: the arrangement, the instructions that unpack it, the public call and its refusals."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenwatt_kernels.matmul.activations import interleave
from tokenwatt_kernels.matmul.call import matmul
from tokenwatt_kernels.matmul.packed import tiles, unpack
from tokenwatt_kernels.matmul.packed.call import key_for, packed_matmul
from tokenwatt_kernels.matmul.packed.formats import bytes_of
from tokenwatt_kernels.matmul.packed.inputs import random_operands, random_weight
from tokenwatt_kernels.matmul.packed.problems import GATE_PROBLEMS, PackedProblem
from tokenwatt_kernels.matmul.packed.weights import (
    PackedWeight,
    arrange_int4,
    arrange_mxfp4,
    check_aligned,
    dequantised,
)
from tokenwatt_kernels.matmul.packed.work import work
from tokenwatt_kernels.number_formats.int4 import Int4, dequantise_int4, pack_int4
from tokenwatt_kernels.number_formats.mxfp4 import Mxfp4, dequantise_mxfp4, pack_mxfp4
from tokenwatt_kernels.number_formats.nibbles import pack_nibbles
from tokenwatt_kernels.operators import OPERATORS
from tokenwatt_kernels.targets import TARGETS

BFLOAT16 = torch.bfloat16


def codes_of(columns: dict[int, int], terms: int = 128) -> torch.Tensor:
    """Nibbles [1, K / 2] that are 0 but for some columns."""
    codes = torch.zeros(1, terms, dtype=torch.uint8)
    for column, code in columns.items():
        codes[0, column] = code
    return pack_nibbles(codes)


def test_an_int4_word_by_hand():
    # Columns 3, 35, 67 and 99 share word 3, four bits each: 0x4321. The scale 1.5 is 0x3FC00000 as fp32, the zero 9.
    packed = Int4(codes_of({3: 1, 35: 2, 67: 3, 99: 4}), torch.tensor([[1.5]]).half(), torch.tensor([[9]]).byte())
    weight = arrange_int4(packed)
    assert weight.words.shape == (1, 1, 32)
    assert weight.words[0, 0].tolist() == [0, 0, 0, 0x4321, *[0] * 28]
    assert weight.scales.tolist() == [[0x3FC00009]]


def test_an_mxfp4_word_by_hand():
    # -6 is code 0b1111: in quarters 0 to 3 the bits 15 8 7 6, 12 5 4 3, 9 2 1 0 and 14 13 11 10. Of 128 columns the
    # exponents lie in bytes, the first the lowest: 127 + 62 = 189 is 0xBD.
    places = [(15, 8, 7, 6), (12, 5, 4, 3), (9, 2, 1, 0), (14, 13, 11, 10)]
    scales = torch.tensor([[127, 128, 126, 127]]).byte()
    for quarter, bits in enumerate(places):
        weight = arrange_mxfp4(Mxfp4(codes_of({32 * quarter + 5: 15}), scales))
        assert int(weight.words[0, 0, 5]) & 0xFFFF == sum(1 << bit for bit in bits)
        assert int(weight.scales[0, 0]) & 0xFFFFFFFF == 0xBDBCBEBD


def test_chunks_come_first_and_what_is_beyond_k_is_zero():
    packed = pack_mxfp4(torch.ones(3, 5, 160))
    weight = arrange_mxfp4(packed)
    assert weight.words.shape == (3, 2, 5, 32)
    assert weight.scales.shape == (3, 2, 5)
    assert weight.words.is_contiguous()
    # Of the second chunk only the first quarter exists. 1 is 4 * 2^-2: code 0b110 in bits 8 7 6, one byte of scales.
    assert set(weight.words[:, 1].flatten().tolist()) == {0b110 << 6}
    assert set((weight.scales[:, 1] >> 8).flatten().tolist()) == {0}


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 3), st.integers(1, 9), st.integers(0, 5), st.integers(0, 2**31))
def test_an_arranged_weight_means_what_its_format_means(experts, rows, groups, seed):
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randn(experts, rows, 128 * groups, generator=generator)
    int4 = pack_int4(numbers)
    zeros = torch.randint(0, 16, int4.zeros.shape, generator=generator, dtype=torch.uint8)
    int4 = int4._replace(zeros=zeros)
    assert torch.equal(dequantised(arrange_int4(int4)), dequantise_int4(int4))
    mxfp4 = pack_mxfp4(torch.randn(experts, rows, 32 * groups, generator=generator) * 2.0 ** (seed % 40 - 20))
    assert torch.equal(dequantised(arrange_mxfp4(mxfp4)), dequantise_mxfp4(mxfp4))


# The few PTX instructions that `unpack` uses, on registers of two numbers: arrays of uint32.
Registers = dict[str, np.ndarray]


def run_ptx(text: str, inputs: Registers) -> Registers:
    """Execute straight-line PTX, and fail at an instruction that is not known."""
    registers = dict(inputs)
    full = np.zeros_like(inputs["$4"])

    def value(operand: str) -> np.ndarray:
        return registers[operand] if operand in registers else full + np.uint32(int(operand, 0))

    for line in text.splitlines():
        words = re.findall(r"[\w.$]+", line)
        if not words or words[0] == ".reg":
            continue
        operation, target, *operands = words
        registers[target] = OPERATIONS[operation](*map(value, operands))
    return registers


def prmt(low: np.ndarray, high: np.ndarray, picks: np.ndarray) -> np.ndarray:
    """Four bytes of eight, by the nibbles of `picks`."""
    eight = high.astype(np.uint64) << np.uint64(32) | low
    found = np.zeros_like(low)
    for place in range(4):
        pick = (picks >> np.uint32(4 * place) & np.uint32(7)).astype(np.uint64)
        found |= ((eight >> np.uint64(8) * pick & np.uint64(255)).astype(np.uint32)) << np.uint32(8 * place)
    return found


def fma(a: np.ndarray, b: np.ndarray, c: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    """a * b + c of both halves of registers, rounded once: products of such numbers are exact in float64."""
    x, y, z = (torch.from_numpy(np.ascontiguousarray(part).view(np.uint16)).view(dtype).double() for part in (a, b, c))
    return (x * y + z).to(dtype).view(torch.uint16).numpy().view(np.uint32)


OPERATIONS: dict[str, Callable[..., np.ndarray]] = {
    "mov.b32": np.copy,
    "and.b32": np.bitwise_and,
    "or.b32": np.bitwise_or,
    "shr.u32": np.right_shift,
    "shl.b32": np.left_shift,
    "prmt.b32": prmt,
    "fma.rn.bf16x2": partial(fma, dtype=BFLOAT16),
    "fma.rn.f16x2": partial(fma, dtype=torch.float16),
}


def unpacked_by_ptx(text: str, weight: PackedWeight, dtype: torch.dtype) -> torch.Tensor:
    """What the instructions make of words [1, N, 32], [N, 128]; a register holds two columns of a row."""
    words = weight.words[0].numpy().view(np.uint32)  # [N, 16]
    scales = np.repeat(weight.scales[0].numpy()[:, None], 16, 1).view(np.uint32)
    registers = run_ptx(text, {"$4": words, "$5": scales, "$6": scales})
    quarters = [torch.from_numpy(registers[f"${q}"].view(np.uint16)).view(dtype).double() for q in range(4)]
    return torch.cat(quarters, 1)


def all_words() -> torch.Tensor:
    """Every word once, beside many others: int16 [1, 2048, 32]."""
    order = torch.randperm(65_536, generator=torch.Generator().manual_seed(0))
    return (order - 32_768).to(torch.int16).reshape(1, 2048, 32)


@pytest.mark.parametrize(("text", "dtype"), [(unpack._INT4_BFLOAT16, BFLOAT16), (unpack._INT4_FLOAT16, torch.float16)])
def test_the_instructions_for_int4_are_exact_for_every_word(text, dtype):
    scale = torch.tensor([0.7]).bfloat16().float().view(torch.int32)
    for zero in range(16):
        weight = PackedWeight(all_words(), (scale | zero).repeat(2048)[None], 128, "int4")
        steps = unpacked_by_ptx(text, weight, dtype)
        assert torch.equal(steps.float() * scale.view(torch.float32), dequantised(weight))


@pytest.mark.parametrize("exponents", [(127, 127, 127, 127), (120, 192, 127, 66), (64, 0, 191, 100)])
def test_the_instructions_for_mxfp4_are_exact_for_every_word(exponents):
    bytes_ = torch.tensor(exponents, dtype=torch.uint8) + 62
    weight = PackedWeight(all_words(), bytes_.view(torch.int32).repeat(2048)[None], 128, "mxfp4")
    found = unpacked_by_ptx(unpack._MXFP4, weight, BFLOAT16) * 2.0**64
    wanted = dequantised(weight, torch.float64)
    exact = torch.tensor(exponents).repeat_interleave(32) >= 64
    assert torch.equal(found[:, exact], wanted[:, exact])
    assert (found - wanted).abs().max() <= 2.0**-60


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, BFLOAT16])
def test_a_product_by_hand(dtype):
    # Codes 12, 5 with zero 8 and scale 0.5 are 2 and -1.5; the row sums 10 * 2 + 4 * -1.5 = 14.
    codes = codes_of({0: 12, 127: 5})
    codes[codes == 0] = 0x88  # the zero point everywhere else
    codes[0, 0], codes[0, 63] = 0x8C, 0x58
    weight = arrange_int4(Int4(codes, torch.tensor([[0.5]]).half(), torch.tensor([[8]]).byte()))
    a = torch.full((1, 128), 3.0)
    a[0, 0], a[0, 127] = 10.0, 4.0
    out = packed_matmul(a.to(dtype), weight, torch.ones(1, dtype=dtype), torch.full((1, 1), 0.25, dtype=dtype))
    assert out.dtype == dtype
    assert out.tolist() == [[15.25]]


@pytest.mark.parametrize("arrange", [lambda w: arrange_int4(pack_int4(w)), lambda w: arrange_mxfp4(pack_mxfp4(w))])
def test_it_is_the_matmul_of_what_the_weight_stands_for(arrange):
    generator = torch.Generator().manual_seed(0)
    gate, up = torch.randn(2, 24, 256, generator=generator)
    weight = arrange(interleave(gate, up))
    a, residual = torch.randn(5, 256, generator=generator), torch.randn(5, 24, generator=generator)
    bias = torch.randn(48, generator=generator)
    out = packed_matmul(a, weight, bias, residual, activation="swiglu")
    torch.testing.assert_close(out, matmul(a, dequantised(weight), bias, residual, activation="swiglu"))


def test_it_is_an_operator():
    a = torch.randn(3, 256)
    weight = random_weight((64, 256), "int4", torch.device("cpu"), torch.Generator().manual_seed(0))
    flat = (a, weight.words, weight.scales)
    torch.library.opcheck(
        OPERATORS["packed_matmul"], flat, {"terms": 256, "number_format": "int4", "activation": "none"}
    )
    compiled = torch.compile(lambda a: packed_matmul(a, weight) * 2, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(a), packed_matmul(a, weight) * 2)


def test_a_problem_has_the_key_of_its_tensors():
    for problem in GATE_PROBLEMS:
        operands = random_operands(problem, "bfloat16", torch.device("cpu"))
        assert tiles.key_of(problem, "bfloat16") == key_for(operands), problem.name


def test_bytes_are_those_of_the_format():
    # 256 x 512: 65,536 bytes of codes; int4 has 256 * 4 groups of 3 bytes, mxfp4 256 * 16 of one.
    assert bytes_of("int4", 256, 512) == 65_536 + 3072
    assert bytes_of("mxfp4", 256, 512) == 65_536 + 4096
    found = work(PackedProblem("p", 2, 256, 512, has_bias=True, has_residual=True), "bfloat16")
    assert found.flop == 2 * 2 * 256 * 512
    assert found.bytes == 65_536 + 3072 + 2 * (2 * 512 + 2 * 2 * 256 + 256)


def changed(**changes: Any) -> dict[str, Any]:
    weight = random_weight((64, 256), "int4", torch.device("cpu"), torch.Generator().manual_seed(0))
    parts = {name: changes.pop(name, getattr(weight, name)) for name in ("words", "scales", "terms", "number_format")}
    return {"a": torch.zeros(3, 256), "weight": PackedWeight(**parts)} | changes


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"a": torch.zeros(3, 128)}, ValueError, "weight must have K = 128, got 256"),
        ({"a": torch.zeros(3, 256).int()}, TypeError, "a must have dtype torch.float32 or .* got torch.int32"),
        ({"words": torch.zeros(2, 64, 32)}, TypeError, "weight.words must have dtype torch.int16, got torch.float32"),
        (
            {"words": torch.zeros(2, 63, 32).short()},
            ValueError,
            r"weight.words must have shape \[2, 64, 32\] for weight.scales, got \[2, 63, 32\]",
        ),
        (
            {"scales": torch.zeros(2, 128).int()[:, :64]},
            ValueError,
            r"weight.scales must be contiguous, got strides \(128, 1\)",
        ),
        ({"terms": 300}, ValueError, "weight.scales must have 3 chunks for K = 300, got 2"),
        ({"number_format": "int3"}, ValueError, "weight must have a format of int4, mxfp4, got int3"),
        (
            {"words": torch.zeros(5, 2, 64, 32).short(), "scales": torch.zeros(5, 2, 64).int()},
            ValueError,
            r"weight.words must have shape \[K / 128, N, 32\], got \[5, 2, 64, 32\]",
        ),
        ({"bias": torch.zeros(63)}, ValueError, "bias must have N = 64, got 63"),
        ({"residual": torch.zeros(3, 64), "activation": "geglu"}, ValueError, "residual must have N = 32, got 64"),
        ({"activation": "relu"}, ValueError, "activation must be one of"),
    ],
)
def test_it_refuses_in_plain_words(changes, error, message):
    with pytest.raises(error, match=message):
        packed_matmul(**changed(**changes))


def test_words_that_a_gpu_would_read_one_by_one_are_refused():
    words = torch.zeros(2 * 64 * 32 + 8, dtype=torch.int16)
    for shift, is_taken in ((0, True), (1, False), (8, True)):
        weight = PackedWeight(words[shift:][: 2 * 64 * 32].view(2, 64, 32), torch.zeros(2, 64).int(), 256, "int4")
        refused = pytest.raises(ValueError, match="weight.words must begin at a multiple of 16 bytes, got 2 more")
        with contextlib.nullcontext() if is_taken else refused:
            check_aligned("weight", weight)


def test_one_chunk_has_rows_of_scales():
    # A transposed row of N scales has the strides 1 and 1, and counts as contiguous.
    for weight in (arrange_int4(pack_int4(torch.ones(64, 128))), arrange_mxfp4(pack_mxfp4(torch.ones(64, 96)))):
        assert weight.scale_rows.stride() == (64, 1)


PAIRED = re.compile(
    r"#ttg\.(?:linear<\{register = \[\[0, 1\]|blocked<\{sizePerThread = \[1, (?:2|4|8)\]|dot_op<\{.*kWidth = 2)"
)


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90, 100, 107, 120])
def test_two_numbers_of_a_register_are_neighbours_of_a_row(capability):
    specimens = pytest.importorskip("tokenwatt_kernels.matmul.packed.specimens", reason="needs triton")
    compiling = pytest.importorskip("tokenwatt_kernels.compiling")
    target = TARGETS[capability]
    packed = [item for item in specimens.specimens(target, ("bfloat16",)) if "combine" not in item.name]
    for item in packed:
        text = compiling.compile_kernel(item, target).asm["ttgir"]
        names = dict(re.findall(r"^(#\w+) = (#ttg.*)$", text, re.MULTILINE))
        layouts = set(re.findall(r"pure = true\} .*? : tensor<\d+x32xi16, (.*?)>, tensor<\d+x32xi32", text))
        assert layouts, item.name
        assert all(PAIRED.search(names.get(layout, layout)) for layout in layouts), (item.name, layouts)


def test_weights_that_cannot_be_arranged_are_refused():
    int4, mxfp4 = pack_int4(torch.ones(2, 128)), pack_mxfp4(torch.ones(2, 128))
    with pytest.raises(ValueError, match="zeros must be at most 15, got 16"):
        arrange_int4(int4._replace(zeros=torch.full_like(int4.zeros, 16)))
    with pytest.raises(ValueError, match="scales must be at most 192, got 193"):
        arrange_mxfp4(mxfp4._replace(scales=torch.full_like(mxfp4.scales, 193)))
