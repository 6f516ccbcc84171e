"""Weights of 4 bits in the order in which the kernels read them, made once when a model is loaded.

A word of 16 bits holds four numbers of a row, 32 columns apart: word j of a chunk of 128 columns holds the columns j,
j + 32, j + 64 and j + 96. So a tile of words, read as tensor cores want operands of 16 bits, gives four such operands
side by side, and no number moves to another thread. Chunk follows chunk, and in a chunk row follows row, so that a
tile of rows is one piece of memory. Each row of a chunk has one int32 with its scales.

int4: the code of quarter q is in bits 4 q to 4 q + 3. The int32 is the scale as fp32, with the zero point in its lowest
    4 bits, which no scale of 16 bits reaches.
mxfp4: the bits of a code lie where those of a bfloat16 do, or 3 or 6 bits lower; the fourth code has what is left. A
    code read as a bfloat16 is 2^-126 of what it means. Its scale makes that good but for 2^-64, so that no factor is
    out of range: byte q of the int32 is the exponent of a bfloat16, that of scale q plus 62. Sums get the rest.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import reduce

import torch
from torch import Tensor

from tokenwatt_kernels.arguments import check_device, check_tensor
from tokenwatt_kernels.matmul.packed.formats import CHUNK, EXPONENT_SHIFT, FORMATS, QUARTERS, WORDS, chunks
from tokenwatt_kernels.matmul.problem import COPY_BYTES
from tokenwatt_kernels.number_formats import e2m1
from tokenwatt_kernels.number_formats.int4 import Int4, check_int4
from tokenwatt_kernels.number_formats.mxfp4 import BIAS, GROUP, Mxfp4, check_mxfp4
from tokenwatt_kernels.number_formats.nibbles import unpack_nibbles

GPU_DTYPES = {"int4": (torch.float16, torch.bfloat16), "mxfp4": (torch.bfloat16,)}
"""What a weight is unpacked to on a GPU. A CPU takes float32 too, of any weight."""
LARGEST_ZERO = 15
LARGEST_MXFP4_SCALE = 254 - EXPONENT_SHIFT

MXFP4_BITS = ((15, 8, 7, 6), (12, 5, 4, 3), (9, 2, 1, 0), (14, 13, 11, 10))
"""For each quarter, where a word has the bits of its code: sign, both of the exponent, significand."""
_INT4_BITS = tuple(tuple(range(4 * quarter + 3, 4 * quarter - 1, -1)) for quarter in range(QUARTERS))


@dataclass(frozen=True, slots=True)
class PackedWeight:
    """A weight [..., N, K], with experts and the like in leading axes.

    words: int16 [..., ceil(K / 128), N, 32]. scales: int32 [..., ceil(K / 128), N]. Beyond K both are 0.
    terms: K. number_format: one of formats.FORMATS.
    """

    words: Tensor
    scales: Tensor
    terms: int
    number_format: str

    @property
    def columns(self) -> int:
        """N, columns of the product."""
        return self.words.shape[-2]

    @property
    def can_be_copied(self) -> bool:
        """Whether the hardware can copy tiles of words and scales."""
        return self.columns * self.scales.element_size() % COPY_BYTES == 0 and all(
            tensor.data_ptr() % COPY_BYTES == 0 and tensor.numel() > 0 for tensor in (self.words, self.scales)
        )

    @property
    def scale_rows(self) -> Tensor:
        """The scales as one matrix [rows of chunks, N], with the stride of whole rows even where there is one alone."""
        return self.scales.flatten().unflatten(0, (-1, self.columns))

    def to(self, device: torch.device) -> PackedWeight:
        """The same weight on another device."""
        return replace(self, words=self.words.to(device), scales=self.scales.to(device))

    def check(self, name: str, axes: tuple[str, ...]) -> None:
        """Raise TypeError or ValueError unless the parts have the dtypes and shapes of one weight; axes: of scales."""
        if self.number_format not in FORMATS:
            raise ValueError(f"{name} must have a format of {', '.join(FORMATS)}, got {self.number_format}")
        check_tensor(f"{name}.words", self.words, (*axes, str(WORDS)), (torch.int16,))
        check_tensor(f"{name}.scales", self.scales, axes, (torch.int32,))
        check_device(f"{name}.scales", self.scales, f"{name}.words", self.words)
        for part in ("words", "scales"):
            if not getattr(self, part).is_contiguous():
                raise ValueError(f"{name}.{part} must be contiguous, got strides {getattr(self, part).stride()}")
        if self.words.shape != (*self.scales.shape, WORDS):
            raise ValueError(
                f"{name}.words must have shape {[*self.scales.shape, WORDS]} for {name}.scales, "
                f"got {list(self.words.shape)}"
            )
        found, wanted = self.scales.shape[-2], chunks(self.terms)
        if found != wanted:
            raise ValueError(f"{name}.scales must have {wanted} chunks for K = {self.terms}, got {found}")


def check_aligned(name: str, weight: PackedWeight) -> None:
    """Raise unless a GPU may read words eight at a time, of one row: so `unpack` takes two for one register."""
    beyond = weight.words.data_ptr() % COPY_BYTES
    if beyond:
        raise ValueError(f"{name}.words must begin at a multiple of {COPY_BYTES} bytes, got {beyond} more")


def check_multiplies(name: str, a: Tensor, weight: PackedWeight) -> None:
    """Raise unless `a` lies beside the weight and, on a GPU, has a dtype that the weight is unpacked to."""
    check_device("weight", weight.words, name, a)
    allowed = GPU_DTYPES.get(weight.number_format, ())
    if a.is_cuda and a.dtype not in allowed:
        found = f"{a.dtype} beside {weight.number_format}"
        raise TypeError(f"{name} must have dtype {' or '.join(map(str, allowed))} on a GPU, got {found}")


def arrange_int4(packed: Int4) -> PackedWeight:
    """The weight as the kernels read it.

    Raises TypeError or ValueError as check_int4 does, and for zero points above 15.
    """
    check_int4(packed)
    _check_most("zeros", packed.zeros, LARGEST_ZERO)
    scales = packed.scales.float().view(torch.int32) | packed.zeros.int()
    return _arranged(packed.codes, _INT4_BITS, scales, "int4")


def arrange_mxfp4(packed: Mxfp4) -> PackedWeight:
    """The weight as the kernels read it.

    Raises TypeError or ValueError as check_mxfp4 does, and for scales above 2^65, code 192. What is less than 2^-60 may
    count as 0.
    """
    check_mxfp4(packed)
    _check_most("scales", packed.scales, LARGEST_MXFP4_SCALE)
    exponents = torch.nn.functional.pad(packed.scales + EXPONENT_SHIFT, (0, -packed.scales.shape[-1] % QUARTERS))
    quarters = exponents.int().unflatten(-1, (-1, QUARTERS)).unbind(-1)
    scales = _gathered(quarter << 8 * place for place, quarter in enumerate(quarters))
    return _arranged(packed.codes, MXFP4_BITS, scales, "mxfp4")


def dequantised(weight: PackedWeight, dtype: torch.dtype = torch.float32) -> Tensor:
    """The numbers [..., N, K] that a weight stands for: exact in float32."""
    if weight.number_format == "int4":
        codes, zeros, scales = int4_parts(weight)
        numbers = (codes.unflatten(-1, (-1, CHUNK)) - zeros[..., None]) * scales[..., None]
    else:
        bytes_ = [weight.scales.mT >> 8 * quarter & 255 for quarter in range(QUARTERS)]
        exponents = torch.stack(bytes_, -1).flatten(-2) - EXPONENT_SHIFT - BIAS
        values = e2m1.decode(_codes(weight.words, MXFP4_BITS)).unflatten(-1, (-1, GROUP))
        numbers = torch.ldexp(values, exponents[..., None])
    return numbers.flatten(-2)[..., : weight.terms].to(dtype)


def int4_parts(weight: PackedWeight) -> tuple[Tensor, Tensor, Tensor]:
    """Codes [..., N, K] int32, zero points [..., N, K / 128] int32 and scales of that shape, fp32."""
    scales = weight.scales.mT.contiguous()
    return _codes(weight.words, _INT4_BITS), scales & LARGEST_ZERO, (scales & ~LARGEST_ZERO).view(torch.float32)


def _arranged(codes: Tensor, places: tuple[tuple[int, ...], ...], scales: Tensor, number_format: str) -> PackedWeight:
    """codes: nibbles [..., N, K / 2]. scales: [..., N, chunks]."""
    terms = 2 * codes.shape[-1]
    padded = torch.nn.functional.pad(unpack_nibbles(codes), (0, -terms % CHUNK)).int()
    quarters = padded.unflatten(-1, (-1, QUARTERS, WORDS)).unbind(-2)
    words = _gathered(
        (quarter >> 3 - bit & 1) << place
        for quarter, row in zip(quarters, places, strict=True)
        for bit, place in enumerate(row)
    ).to(torch.int16)
    return PackedWeight(words.transpose(-2, -3).contiguous(), scales.mT.contiguous(), terms, number_format)


def _codes(words: Tensor, places: tuple[tuple[int, ...], ...]) -> Tensor:
    """The codes [..., N, chunks * 128] of words [..., chunks, N, 32]."""
    wide = words.int().transpose(-2, -3)
    quarters = [_gathered((wide >> place & 1) << 3 - bit for bit, place in enumerate(row)) for row in places]
    return torch.stack(quarters, -2).flatten(-3)


def _gathered(bits: Iterable[Tensor]) -> Tensor:
    """Bits of different places in one number; each is dropped before the next is made."""
    return reduce(torch.bitwise_or, bits)


def _check_most(name: str, codes: Tensor, most: int) -> None:
    largest = int(codes.max()) if codes.numel() else 0
    if largest > most:
        raise ValueError(f"{name} must be at most {most}, got {largest}")
