"""Launchers refuse bad arguments by name, before anything runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tokenwatt_kernels.attention.decode.call import decode_attention
from tokenwatt_kernels.attention.prefill.call import prefill_attention
from tokenwatt_kernels.matmul.dense.call import matmul


def prefill_arguments(**changes: Any) -> dict[str, Any]:
    good: dict[str, Any] = {
        "q": torch.zeros(5, 4, 16),
        "k": torch.zeros(5, 2, 16),
        "v": torch.zeros(5, 2, 16),
        "cu_seqlens": torch.tensor([0, 5], dtype=torch.int32),
        "max_seqlen": 5,
    }
    return good | changes


def decode_arguments(**changes: Any) -> dict[str, Any]:
    good: dict[str, Any] = {
        "q": torch.zeros(2, 4, 16),
        "k_cache": torch.zeros(3, 8, 2, 16),
        "v_cache": torch.zeros(3, 8, 2, 16),
        "block_table": torch.zeros(2, 1, dtype=torch.int32),
        "context_lens": torch.tensor([1, 0], dtype=torch.int32),
    }
    return good | changes


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"q": [1.0]}, TypeError, "q must be a torch.Tensor, got list"),
        ({"q": torch.zeros(5, 64)}, ValueError, r"q must have shape \[T, Hq, D\], got \[5, 64\]"),
        ({"q": torch.zeros(5, 4, 16, dtype=torch.float64)}, TypeError, "q must have dtype .*, got torch.float64"),
        ({"q": torch.zeros(5, 3, 16)}, ValueError, "q must have a positive multiple of k's 2 heads, got 3 heads"),
        ({"q": torch.zeros(5, 16, 4).transpose(1, 2)}, ValueError, "q must be contiguous along its last axis"),
        ({"k": torch.zeros(4, 2, 16)}, ValueError, "k must have T = 5, got 4"),
        (
            {"k": torch.zeros(5, 2, 16).half()},
            TypeError,
            "k must have the dtype of q, torch.float32, got torch.float16",
        ),
        ({"v": torch.zeros(5, 1, 16)}, ValueError, "v must have Hkv = 2, got 1"),
        ({"v": torch.zeros(5, 2, 32)}, ValueError, "v must have D = 16, got 32"),
        ({"v": torch.zeros(5, 2, 16, device="meta")}, ValueError, "v must be on the device of q, cpu, got meta"),
        ({"cu_seqlens": torch.tensor([0, 5])}, TypeError, "cu_seqlens must have dtype torch.int32, got torch.int64"),
        ({"cu_seqlens": torch.empty(0, dtype=torch.int32)}, ValueError, "cu_seqlens must have at least one element"),
        ({"max_seqlen": -1}, ValueError, "max_seqlen must be >= 0, got -1"),
        ({"scale": 0.0}, ValueError, "scale must be > 0, got 0.0"),
    ],
)
def test_prefill_refuses(changes, error, message):
    with pytest.raises(error, match=message):
        prefill_attention(**prefill_arguments(**changes))


@pytest.mark.parametrize("head_dim", [8, 24, 512])
def test_prefill_refuses_head_dim(head_dim):
    changes = {"q": torch.zeros(5, 4, head_dim), "k": torch.zeros(5, 2, head_dim), "v": torch.zeros(5, 2, head_dim)}
    with pytest.raises(ValueError, match=f"head_dim must be a power of two from 16 to 256, got {head_dim}"):
        prefill_attention(**prefill_arguments(**changes))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"k_cache": torch.zeros(3, 8, 16)}, ValueError, r"k_cache must have shape \[pages, page_size, Hkv, D\]"),
        ({"v_cache": torch.zeros(2, 8, 2, 16)}, ValueError, "v_cache must have the shape and strides of k_cache"),
        ({"v_cache": torch.zeros(3, 8, 2, 32)}, ValueError, "v_cache must have D = 16, got 32"),
        ({"block_table": torch.zeros(1, 1, dtype=torch.int32)}, ValueError, "block_table must have B = 2, got 1"),
        ({"block_table": torch.zeros(2, 1)}, TypeError, "block_table must have dtype torch.int32, got torch.float32"),
        ({"context_lens": torch.tensor([1], dtype=torch.int32)}, ValueError, "context_lens must have B = 2, got 1"),
        ({"scale": -1.0}, ValueError, "scale must be > 0, got -1.0"),
    ],
)
def test_decode_refuses(changes, error, message):
    with pytest.raises(error, match=message):
        decode_attention(**decode_arguments(**changes))


@pytest.mark.parametrize(
    ("a", "weight", "error", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(4, 5), ValueError, "weight must have K = 3, got 5"),
        (torch.zeros(2, 3), torch.zeros(4, 3).half(), TypeError, "weight must have the dtype of a"),
        (torch.zeros(1, 2, 3), torch.zeros(4, 3), ValueError, r"a must have shape \[M, K\], got \[1, 2, 3\]"),
        (torch.zeros(2, 3), torch.zeros(3, 4).T, ValueError, "weight must be contiguous along its last axis"),
        (
            torch.zeros(2, 3, device="meta"),
            torch.zeros(4, 3, device="meta"),
            ValueError,
            "cpu or cuda device, got meta",
        ),
    ],
)
def test_matmul_refuses(a, weight, error, message):
    with pytest.raises(error, match=message):
        matmul(a, weight)


def test_cpu_path_imports_no_triton(run_python):
    script = """
import sys
import tokenwatt_kernels
assert "torch" not in sys.modules
import torch
from tokenwatt_kernels.attention.decode.call import decode_attention
from tokenwatt_kernels.attention.prefill.call import prefill_attention
from tokenwatt_kernels.matmul.dense.call import matmul
matmul(torch.zeros(2, 3), torch.zeros(4, 3))
x = torch.zeros(1, 1, 16)
one = torch.ones(1, dtype=torch.int32)
prefill_attention(x, x, x, torch.tensor([0, 1], dtype=torch.int32), 1)
decode_attention(x, x[None], x[None], 0 * one[None], one)
assert "triton" not in sys.modules
"""
    finished = run_python("-c", script)
    assert finished.returncode == 0, finished.stderr


def test_shapes_work_and_tiles_need_neither_torch_nor_triton(run_python):
    script = """
import sys
sys.modules["torch"] = sys.modules["triton"] = None
from tokenwatt_kernels.families import FAMILIES, part
for family in FAMILIES:
    problems, work, _ = (part(family, name) for name in ("problems", "work", "tiles"))
    for problem in problems.BENCH_PROBLEMS:
        assert work.work(problem, 2).flop > 0
"""
    finished = run_python("-c", script)
    assert finished.returncode == 0, finished.stderr
