"""The multiplication that the float8 ceiling is measured with."""

from __future__ import annotations

import torch

from tokenwatt.environment import _float8_matmul


def test_the_float8_ceiling_multiplies_in_float8():
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(32, 64, generator=generator), torch.randn(64, 48, generator=generator)
    kind = torch.float8_e4m3fn
    answer = _float8_matmul(left, right, kind)()
    assert answer.dtype == torch.bfloat16
    # Rounded to bf16 once: half a step of 2^-8, at values up to 32.
    expected = left.to(kind).float() @ right.to(kind).float()
    torch.testing.assert_close(answer.float(), expected, rtol=2**-8, atol=2**-8)
