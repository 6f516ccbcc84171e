"""The public matmul of NVFP4 numbers: by hand, against what the numbers stand for, as an operator, and its refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tokenwatt_kernels import device
from tokenwatt_kernels.matmul.call import matmul
from tokenwatt_kernels.matmul.nvfp4 import tiles
from tokenwatt_kernels.matmul.nvfp4.call import key_for, nvfp4_matmul
from tokenwatt_kernels.matmul.nvfp4.inputs import random_operands
from tokenwatt_kernels.matmul.nvfp4.problems import CAPABILITY, GATE_PROBLEMS, Nvfp4Problem
from tokenwatt_kernels.matmul.nvfp4.work import work
from tokenwatt_kernels.number_formats.nvfp4 import dequantise_nvfp4, pack_nvfp4

FLOAT8 = torch.float8_e4m3fn


def arguments(m: int = 3, n: int = 8, k: int = 64, **changes: Any) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    a, weight = (pack_nvfp4(torch.randn(size, k, generator=generator)) for size in (m, n))
    given = {"a": a.codes, "a_scale": a.scales, "a_tensor_scale": a.tensor_scale}
    given |= {"weight": weight.codes, "weight_scale": weight.scales, "weight_tensor_scale": weight.tensor_scale}
    return given | changes


def test_a_product_by_hand():
    # Codes 2 and 7 are 1 and 6. 16 terms of 1 * 6 with scales 0.5 and 2 are 96, and 0.25 * 4 for all leaves it: + 1.
    out = nvfp4_matmul(
        torch.full((1, 8), 0x22, dtype=torch.uint8),
        torch.full((1, 8), 0x77, dtype=torch.uint8),
        torch.full((1, 1), 0.5).to(FLOAT8),
        torch.full((1, 1), 2.0).to(FLOAT8),
        torch.tensor([0.25]),
        torch.tensor([4.0]),
        torch.ones(1, dtype=torch.bfloat16),
    )
    assert out.dtype == torch.bfloat16
    assert out.tolist() == [[97.0]]


def test_it_is_the_matmul_of_what_the_numbers_stand_for():
    generator = torch.Generator().manual_seed(0)
    a, weight = (pack_nvfp4(torch.randn(size, 256, generator=generator)) for size in (5, 32))
    residual = torch.randn(5, 16, generator=generator).bfloat16()
    parts = (a.codes, weight.codes, a.scales, weight.scales, a.tensor_scale, weight.tensor_scale)
    out = nvfp4_matmul(*parts, residual=residual, activation="swiglu")
    wanted = matmul(dequantise_nvfp4(a), dequantise_nvfp4(weight), residual=residual.float(), activation="swiglu")
    torch.testing.assert_close(out, wanted.bfloat16())


def test_it_is_an_operator():
    given = arguments()
    compiled = torch.compile(lambda given: nvfp4_matmul(**given) * 2, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(given), nvfp4_matmul(**given) * 2)


def test_a_problem_has_the_key_of_its_tensors():
    for problem in GATE_PROBLEMS:
        assert tiles.key_of(problem, "bfloat16") == key_for(random_operands(problem, torch.device("cpu"))), problem.name


def test_work_by_hand():
    # 2 rows and 4 columns of 32: 6 * (16 codes + 2 scales) + 8, and 16 answers and residuals, 4 biases, 2 bytes each.
    found = work(Nvfp4Problem("p", 2, 4, 32, has_bias=True, has_residual=True), "bfloat16")
    assert (found.flop, found.bytes) == (2 * 2 * 4 * 32, 108 + 8 + 2 * (2 * 8 + 4))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"a": torch.zeros(3, 32)}, TypeError, "a must have dtype torch.uint8, got torch.float32"),
        ({"weight": torch.zeros(8, 40).byte()}, ValueError, "weight must have K = 64, got 80"),
        (
            {"a": torch.zeros(3, 20).byte(), "weight": torch.zeros(8, 20).byte()},
            ValueError,
            "a must have K divisible by 16, got 40",
        ),
        ({"a_scale": torch.ones(3, 4)}, TypeError, "a_scale must have dtype torch.float8_e4m3fn, got torch.float32"),
        ({"weight_scale": torch.ones(8, 2).to(FLOAT8)}, ValueError, "weight_scale must have K / 16 = 4, got 2"),
        ({"a_tensor_scale": torch.ones(3)}, ValueError, "a_tensor_scale must have size = 1, got 3"),
        ({"bias": torch.ones(8)}, TypeError, "bias must have dtype torch.bfloat16, got torch.float32"),
        ({"residual": torch.ones(3, 4).bfloat16()}, ValueError, "residual must have N = 8, got 4"),
    ],
)
def test_it_refuses_in_plain_words(changes, error, message):
    with pytest.raises(error, match=message):
        nvfp4_matmul(**arguments(**changes))


def test_an_older_gpu_is_refused_in_plain_words(monkeypatch):
    monkeypatch.setattr(device, "capability", lambda _: 90)
    with pytest.raises(ValueError, match="nvfp4 needs a GPU of sm_100 or later, got sm_90"):
        device.check_nvfp4(torch.device("cuda"))
    monkeypatch.setattr(device, "capability", lambda _: CAPABILITY)
    device.check_nvfp4(torch.device("cuda"))
