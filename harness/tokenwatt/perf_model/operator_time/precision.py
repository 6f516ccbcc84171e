"""What a precision means to an operator: which peak it runs at, and how wide its operands are."""

from __future__ import annotations

from dataclasses import dataclass

from tokenwatt.errors import unknown_name


@dataclass(frozen=True, slots=True)
class Precision:
    """Widths in byte per element, scales of blocks included."""

    peak: str
    """Name that the dense peak has in `SystemSpec.flop_per_s`."""
    weight_bytes: float
    activation_bytes: float
    """Of the input of a matmul as its kernel reads it."""
    nearest: tuple[str, ...]
    """Precisions whose curve stands in where this one was not measured, the best first."""


# Blocks: nvfp4 has one byte of scale for 16 elements, mxfp4 one for 32, int4 two for 128; fp8_block four for 128 x 128.
PRECISIONS = {
    "bf16": Precision("bfloat16", 2.0, 2.0, ("fp8", "fp8_block")),
    "fp8": Precision("fp8", 1.0, 1.0, ("fp8_block", "bf16_fp8", "bf16")),
    "fp8_block": Precision("fp8", 1 + 4 / 128**2, 1.0, ("fp8", "bf16")),
    "nvfp4": Precision("fp4", 0.5 + 1 / 16, 0.5 + 1 / 16, ("mxfp4_fp8", "fp8_block", "fp8", "bf16")),
    "mxfp4": Precision("bfloat16", 0.5 + 1 / 32, 2.0, ("int4", "bf16")),
    "mxfp4_fp8": Precision("fp8", 0.5 + 1 / 32, 1.0, ("nvfp4", "fp8_block", "fp8", "bf16")),
    "int4": Precision("bfloat16", 0.5 + 2 / 128, 2.0, ("mxfp4", "int8", "bf16")),
    "int8": Precision("bfloat16", 1.0, 2.0, ("int4", "bf16")),
    "int4_fp8": Precision("fp8", 0.5 + 2 / 128, 1.0, ("mxfp4_fp8", "fp8_block", "fp8", "bf16")),
    "bf16_fp8": Precision("bfloat16", 1.0, 2.0, ("fp8", "bf16")),
}
"""By name. Weights and activations of a matmul; in attention the width of a cached element is `weight_bytes`.

`int4`, `int8` and `mxfp4` keep bf16 activations; `mxfp4_fp8` and `int4_fp8` have fp8 ones; `bf16_fp8` is attention that
multiplies in bf16 over an fp8 cache, where `fp8` multiplies in fp8 too.
"""


def precision(name: str) -> Precision:
    """The precision `name`.

    Raises:
        UserError: there is none of that name.
    """
    if name not in PRECISIONS:
        raise unknown_name("dtype of an operator", name, PRECISIONS)
    return PRECISIONS[name]
