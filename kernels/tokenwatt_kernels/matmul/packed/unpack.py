"""Words of a packed weight as operands of tensor cores. How a word holds its numbers is told in `weights`.

On its way from memory to the tensor cores a register holds two numbers, so that an instruction serves both: a number
takes 1.4 instructions of int4, and 1.9 of mxfp4. From its own operations Triton would take every pair apart; hence PTX.
The interpreter goes the same steps in Triton, and a test reads the PTX and holds it to the formats for every word.
"""

from __future__ import annotations

from string import Template

import triton
import triton.language as tl

from tokenwatt_kernels.matmul.packed.formats import CHUNK, SUM_EXPONENT

# $4 holds words of two columns, $5 the scales of their row; $0 to $3 are the two numbers of each quarter.
# A code in the lowest bits of the bfloat16 128, or of the float16 1024, is as much too large. That goes with the zero
# point, in one addition, which is exact: the factor is 1.
_INT4 = Template("""{
    .reg .b32 q<4>, one, less;
    mov.b32 one, $one;
    prmt.b32 less, $$5, $$5, 0x1010;
    and.b32 less, less, 0x000F000F;
    or.b32 less, less, $negative;
    shr.u32 q1, $$4, 4;
    shr.u32 q2, $$4, 8;
    shr.u32 q3, $$4, 12;
    and.b32 q0, $$4, 0x000F000F;
    and.b32 q1, q1, 0x000F000F;
    and.b32 q2, q2, 0x000F000F;
    and.b32 q3, q3, 0x000F000F;
    or.b32 q0, q0, $positive;
    or.b32 q1, q1, $positive;
    or.b32 q2, q2, $positive;
    or.b32 q3, q3, $positive;
    fma.rn.$type $$0, q0, one, less;
    fma.rn.$type $$1, q1, one, less;
    fma.rn.$type $$2, q2, one, less;
    fma.rn.$type $$3, q3, one, less;
}""")
_INT4_BFLOAT16 = _INT4.substitute(one="0x3F803F80", positive="0x43004300", negative="0xC300C300", type="bf16x2")
_INT4_FLOAT16 = _INT4.substitute(one="0x3C003C00", positive="0x64006400", negative="0xE400E400", type="f16x2")

# Byte q of the scales becomes the exponent of a bfloat16, by which the codes of quarter q are multiplied.
_MXFP4 = """{
    .reg .b32 q<4>, f<4>, sign, upper, nothing, zero;
    mov.b32 nothing, 0x80008000;
    mov.b32 zero, 0;
    prmt.b32 f0, $5, zero, 0x4040;
    prmt.b32 f1, $5, zero, 0x4141;
    prmt.b32 f2, $5, zero, 0x4242;
    prmt.b32 f3, $5, zero, 0x4343;
    shl.b32 f0, f0, 7;
    shl.b32 f1, f1, 7;
    shl.b32 f2, f2, 7;
    shl.b32 f3, f3, 7;
    and.b32 q0, $4, 0x81C081C0;
    shl.b32 q1, $4, 3;
    and.b32 q1, q1, 0x81C081C0;
    shl.b32 q2, $4, 6;
    and.b32 q2, q2, 0x81C081C0;
    shl.b32 sign, $4, 1;
    and.b32 sign, sign, 0x80008000;
    shr.u32 upper, $4, 5;
    and.b32 upper, upper, 0x01000100;
    shr.u32 q3, $4, 4;
    and.b32 q3, q3, 0x00C000C0;
    or.b32 q3, q3, sign;
    or.b32 q3, q3, upper;
    fma.rn.bf16x2 $0, q0, f0, nothing;
    fma.rn.bf16x2 $1, q1, f1, nothing;
    fma.rn.bf16x2 $2, q2, f2, nothing;
    fma.rn.bf16x2 $3, q3, f3, nothing;
}"""

INT4_BFLOAT16, INT4_FLOAT16, MXFP4 = map(tl.constexpr, (_INT4_BFLOAT16, _INT4_FLOAT16, _MXFP4))
CONSTRAINTS = tl.constexpr("=r,=r,=r,=r,r,r,r")  # the scales come twice, once for each column
SUM_FACTOR = tl.constexpr(2.0**SUM_EXPONENT)
COLUMNS = tl.constexpr(CHUNK)
ZERO_MASK = tl.constexpr(15)


@triton.jit
def numbers(words, scales, NUMBER_FORMAT: tl.constexpr, DTYPE: tl.constexpr, PTX: tl.constexpr):
    """A chunk [R, 128] from words [R, 32] and scales [R]: of int4 without its scale, of mxfp4 times 2^-64."""
    if PTX:
        q0, q1, q2, q3 = _from_pairs(words, scales[:, None], NUMBER_FORMAT, DTYPE)
    else:
        wide, row = words.to(tl.int32), scales[:, None]
        q0 = _quarter(wide, row, 0, NUMBER_FORMAT).to(DTYPE)
        q1 = _quarter(wide, row, 1, NUMBER_FORMAT).to(DTYPE)
        q2 = _quarter(wide, row, 2, NUMBER_FORMAT).to(DTYPE)
        q3 = _quarter(wide, row, 3, NUMBER_FORMAT).to(DTYPE)
    return _beside(_beside(q0, q1), _beside(q2, q3))


@triton.jit
def int4_scales(scales):
    """What the sums of a chunk are multiplied by, for each row."""
    return (scales & -16).to(tl.float32, bitcast=True)


@triton.jit
def _from_pairs(words, row, NUMBER_FORMAT: tl.constexpr, DTYPE: tl.constexpr):
    if tl.float16 == DTYPE:
        tl.static_assert(NUMBER_FORMAT == "int4")
        quarters = tl.inline_asm_elementwise(
            INT4_FLOAT16, CONSTRAINTS, [words, row], (tl.float16, tl.float16, tl.float16, tl.float16), True, 2
        )
    else:
        asm: tl.constexpr = INT4_BFLOAT16 if NUMBER_FORMAT == "int4" else MXFP4
        quarters = tl.inline_asm_elementwise(
            asm, CONSTRAINTS, [words, row], (tl.bfloat16, tl.bfloat16, tl.bfloat16, tl.bfloat16), True, 2
        )
    return quarters


@triton.jit
def _quarter(words, row, QUARTER: tl.constexpr, NUMBER_FORMAT: tl.constexpr):
    """The same for one quarter, in fp32."""
    if NUMBER_FORMAT == "int4":
        found = ((words >> 4 * QUARTER & 15) - (row & 15)).to(tl.float32)
    else:
        bits = words << 3 * QUARTER & 0x81C0
        if QUARTER == 3:
            bits = words << 1 & 0x8000 | words >> 5 & 0x0100 | words >> 4 & 0x00C0
        factor = ((row >> 8 * QUARTER & 255) << 23).to(tl.float32, bitcast=True)
        found = (bits << 16).to(tl.float32, bitcast=True) * factor
    return found


@triton.jit
def _beside(left, right):
    """Two tiles [R, C] as one [R, 2 C]."""
    return tl.reshape(tl.permute(tl.join(left, right), (0, 2, 1)), [left.shape[0], 2 * left.shape[1]])
