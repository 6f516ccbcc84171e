"""Launchers refuse bad arguments by name, before anything runs."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from tokenwatt_kernels import device
from tokenwatt_kernels.attention.decode import call as decode_call
from tokenwatt_kernels.attention.decode.call import decode_attention, mla_decode_attention
from tokenwatt_kernels.attention.options import Options
from tokenwatt_kernels.attention.prefill import call as prefill_call
from tokenwatt_kernels.attention.prefill.call import paged_prefill_attention, prefill_attention
from tokenwatt_kernels.matmul.call import matmul

FLOAT8 = torch.float8_e4m3fn


def int32(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


def prefill_arguments(**changes: Any) -> dict[str, Any]:
    good: dict[str, Any] = {
        "q": torch.zeros(5, 4, 16),
        "k": torch.zeros(5, 2, 16),
        "v": torch.zeros(5, 2, 16),
        "cu_seqlens": int32(0, 5),
        "max_seqlen": 5,
    }
    return good | changes


def paged_arguments(**changes: Any) -> dict[str, Any]:
    good: dict[str, Any] = {
        "q": torch.zeros(5, 4, 16),
        "k_cache": torch.zeros(3, 8, 2, 16),
        "v_cache": torch.zeros(3, 8, 2, 16),
        "block_table": torch.zeros(2, 1, dtype=torch.int32),
        "context_lens": int32(6, 2),
        "cu_seqlens": int32(0, 4, 5),
        "max_seqlen": 4,
    }
    return good | changes


def decode_arguments(**changes: Any) -> dict[str, Any]:
    good: dict[str, Any] = {
        "q": torch.zeros(2, 4, 16),
        "k_cache": torch.zeros(3, 8, 2, 16),
        "v_cache": torch.zeros(3, 8, 2, 16),
        "block_table": torch.zeros(2, 1, dtype=torch.int32),
        "context_lens": int32(1, 0),
    }
    return good | changes


def latent_arguments(**changes: Any) -> dict[str, Any]:
    good: dict[str, Any] = {
        "q": torch.zeros(2, 4, 48),
        "latent_cache": torch.zeros(3, 8, 1, 48),
        "block_table": torch.zeros(2, 1, dtype=torch.int32),
        "context_lens": int32(1, 0),
        "value_dim": 32,
        "options": Options(scale=1.0),
    }
    return good | changes


CALLS = {
    "prefill": (prefill_attention, prefill_arguments),
    "paged prefill": (paged_prefill_attention, paged_arguments),
    "decode": (decode_attention, decode_arguments),
    "latent decode": (mla_decode_attention, latent_arguments),
}


@pytest.mark.parametrize("name", CALLS)
def test_good_arguments_are_taken(name):
    function, arguments = CALLS[name]
    good = arguments()
    assert function(**good).shape == (*good["q"].shape[:-1], good.get("value_dim", 16))


QUERIES = [
    ({"q": [1.0]}, TypeError, "q must be a torch.Tensor, got list"),
    ({"q": torch.zeros(5, 64)}, ValueError, r"q must have shape \[Tq, Hq, D\], got \[5, 64\]"),
    ({"q": torch.zeros(5, 4, 16, dtype=torch.float64)}, TypeError, "q must have dtype .*, got torch.float64"),
    ({"q": torch.zeros(5, 16, 4).transpose(1, 2)}, ValueError, "q must be contiguous along its last axis"),
    ({"q": torch.zeros(5, 4, 16, device="meta")}, ValueError, "must be on a cpu or cuda device, got meta"),
    ({"cu_seqlens": torch.tensor([0, 5])}, TypeError, "cu_seqlens must have dtype torch.int32, got torch.int64"),
    ({"cu_seqlens": int32(0, 5)[None]}, ValueError, r"cu_seqlens must have shape \[B \+ 1\], got \[1, 2\]"),
    ({"cu_seqlens": int32(0, 5).to("meta")}, ValueError, "cu_seqlens must be on the device of q, cpu, got meta"),
    ({"cu_seqlens": int32()}, ValueError, r"cu_seqlens must have at least one element, got shape \[0\]"),
    ({"max_seqlen": -1}, ValueError, "max_seqlen must be >= 0, got -1"),
    ({"lse": torch.zeros(5)}, ValueError, r"lse must have shape \[q's 5, q's 4\], got \[5\]"),
    ({"lse": torch.zeros(5, 4).half()}, TypeError, "lse must have dtype torch.float32, got torch.float16"),
    ({"lse": torch.zeros(5, 3)}, ValueError, r"lse must be contiguous with shape \[5, 4\], got \[5, 3\] and \(3, 1\)"),
    ({"lse": torch.zeros(5, 8)[:, :4]}, ValueError, r"lse must be contiguous .*, got \[5, 4\] and \(8, 1\)"),
    ({"lse": torch.zeros(5, 4, device="meta")}, ValueError, "lse must be on the device of q, cpu, got meta"),
]


@pytest.mark.parametrize(("changes", "error", "message"), QUERIES)
@pytest.mark.parametrize("name", ["prefill", "paged prefill"])
def test_both_prefills_refuse_queries(name, changes, error, message):
    function, arguments = CALLS[name]
    with pytest.raises(error, match=message):
        function(**arguments(**changes))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"q": torch.zeros(5, 3, 16)}, ValueError, "q must have a positive multiple of k's 2 heads, got 3 heads"),
        ({"q": torch.zeros(5, 0, 16)}, ValueError, "q must have a positive multiple of k's 2 heads, got 0 heads"),
        ({"k": torch.zeros(5, 32)}, ValueError, r"k must have shape \[Tk, Hkv, D\], got \[5, 32\]"),
        ({"k": torch.zeros(5, 2, 32)}, ValueError, "k must have D = 16, got 32"),
        ({"k": torch.zeros(4, 2, 16)}, ValueError, "v must have Tk = 4, got 5"),
        (
            {"k": torch.zeros(4, 2, 16), "v": torch.zeros(4, 2, 16)},
            ValueError,
            "k must have Tk = 5 like q, unless cu_seqlens_k is given, got 4",
        ),
        (
            {"k": torch.zeros(5, 2, 16).half()},
            TypeError,
            "k must have the dtype of q, torch.float32, or torch.float8_e4m3fn, got torch.float16",
        ),
        (
            {"k": torch.zeros(5, 2, 16).to(FLOAT8)},
            TypeError,
            "v must have the dtype of k, torch.float8_e4m3fn, got torch.float32",
        ),
        ({"k": torch.zeros(5, 2, 16, device="meta")}, ValueError, "k must be on the device of q, cpu, got meta"),
        ({"k": torch.zeros(5, 16, 2).transpose(1, 2)}, ValueError, "k must be contiguous along its last axis"),
        ({"v": torch.zeros(5, 32)}, ValueError, r"v must have shape \[Tk, Hkv, Dv\], got \[5, 32\]"),
        ({"v": torch.zeros(5, 1, 16)}, ValueError, "v must have Hkv = 2, got 1"),
        ({"v": torch.zeros(5, 2, 0)}, ValueError, "v must have Dv >= 1, got 0"),
        ({"v": torch.zeros(5, 2, 16, device="meta")}, ValueError, "v must be on the device of q, cpu, got meta"),
        ({"cu_seqlens_k": int32(0, 3, 5)}, ValueError, r"cu_seqlens_k must have B \+ 1 = 2, got 3"),
        (
            {"cu_seqlens_k": torch.tensor([0, 5])},
            TypeError,
            "cu_seqlens_k must have dtype torch.int32, got torch.int64",
        ),
        (
            {"cu_seqlens_k": int32(0, 5).to("meta")},
            ValueError,
            "cu_seqlens_k must be on the device of q, cpu, got meta",
        ),
    ],
)
def test_prefill_refuses(changes, error, message):
    with pytest.raises(error, match=message):
        prefill_attention(**prefill_arguments(**changes))


@pytest.mark.parametrize("head_dim", [8, 24, 33, 112, 136])
def test_prefill_refuses_head_dim(head_dim):
    changes = {"q": torch.zeros(5, 4, head_dim), "k": torch.zeros(5, 2, head_dim), "v": torch.zeros(5, 2, head_dim)}
    with pytest.raises(ValueError, match=f"D must be a power of two >= 16 or the sum of two such, got {head_dim}"):
        prefill_attention(**prefill_arguments(**changes))


CACHES = [
    ({"k_cache": torch.zeros(3, 8, 16)}, ValueError, r"k_cache must have shape \[pages, page_size, Hkv, D\]"),
    ({"k_cache": torch.zeros(3, 8, 2, 32)}, ValueError, "k_cache must have D = 16, got 32"),
    (
        {"k_cache": torch.zeros(3, 8, 2, 16).half(), "v_cache": torch.zeros(3, 8, 2, 16).half()},
        TypeError,
        "k_cache must have the dtype of q, torch.float32, or torch.float8_e4m3fn, got torch.float16",
    ),
    (
        {"k_cache": torch.zeros(3, 8, 3, 16), "v_cache": torch.zeros(3, 8, 3, 16)},
        ValueError,
        "q must have a positive multiple of k_cache's 3 heads, got 4 heads",
    ),
    ({"v_cache": torch.zeros(3, 8, 16)}, ValueError, r"v_cache must have shape \[pages, page_size, Hkv, Dv\]"),
    ({"v_cache": torch.zeros(2, 8, 2, 16)}, ValueError, "v_cache must have pages = 3, got 2"),
    ({"v_cache": torch.zeros(3, 4, 2, 16)}, ValueError, "v_cache must have page_size = 8, got 4"),
    ({"v_cache": torch.zeros(3, 8, 1, 16)}, ValueError, "v_cache must have Hkv = 2, got 1"),
    ({"v_cache": torch.zeros(3, 8, 2, 0)}, ValueError, "v_cache must have Dv >= 1, got 0"),
    ({"v_cache": torch.zeros(3, 8, 2, 16).to(FLOAT8)}, TypeError, "v_cache must have the dtype of k_cache"),
    ({"v_cache": torch.zeros(3, 8, 2, 16).to("meta")}, ValueError, "v_cache must be on the device of q, cpu, got meta"),
]
TABLES = [
    ({"block_table": torch.zeros(1, 1, dtype=torch.int32)}, ValueError, "block_table must have B = 2, got 1"),
    ({"block_table": int32(0, 0)}, ValueError, r"block_table must have shape \[B, max_pages\], got \[2\]"),
    ({"block_table": torch.zeros(2, 1)}, TypeError, "block_table must have dtype torch.int32, got torch.float32"),
    ({"block_table": int32(0, 0)[:, None].to("meta")}, ValueError, "block_table must be on the device of q, cpu"),
    ({"context_lens": int32(1)}, ValueError, "context_lens must have B = 2, got 1"),
    ({"context_lens": int32(1, 0)[None]}, ValueError, r"context_lens must have shape \[B\], got \[1, 2\]"),
    ({"context_lens": torch.tensor([1, 0])}, TypeError, "context_lens must have dtype torch.int32, got torch.int64"),
    ({"context_lens": int32(1, 0).to("meta")}, ValueError, "context_lens must be on the device of q, cpu, got meta"),
]


@pytest.mark.parametrize(("changes", "error", "message"), [*CACHES, *TABLES])
@pytest.mark.parametrize("name", ["paged prefill", "decode"])
def test_paged_calls_refuse(name, changes, error, message):
    function, arguments = CALLS[name]
    with pytest.raises(error, match=message):
        function(**arguments(**changes))


def test_decode_names_the_batch_that_the_table_must_have():
    with pytest.raises(ValueError, match="block_table must have B = 3, got 2"):
        decode_attention(**decode_arguments(q=torch.zeros(3, 4, 16)))
    with pytest.raises(ValueError, match="block_table must have B = 1, got 2"):
        paged_prefill_attention(**paged_arguments(cu_seqlens=int32(0, 5)))


@pytest.mark.parametrize("name", ["decode", "latent decode"])
@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"q": [1.0]}, TypeError, "q must be a torch.Tensor, got list"),
        ({"q": torch.zeros(2, 64)}, ValueError, r"q must have shape \[B, Hq, D\], got \[2, 64\]"),
        ({"q": torch.zeros(2, 1, 1, 4, 16)}, ValueError, r"q must have shape \[B, Hq, D\], got \[2, 1, 1, 4, 16\]"),
        ({"q": torch.zeros(2, 4, 16).to(FLOAT8)}, TypeError, "q must have dtype .*, got torch.float8_e4m3fn"),
        ({"q": torch.zeros(2, 4, 16, device="meta")}, ValueError, "must be on a cpu or cuda device, got meta"),
        ({"lse": torch.zeros(2, 3)}, ValueError, r"lse must be contiguous with shape \[2, 4\], got \[2, 3\]"),
        ({"lse": torch.zeros(2, 1, 4)}, ValueError, r"lse must have shape \[q's 2, q's 4\], got \[2, 1, 4\]"),
    ],
)
def test_both_decodes_refuse_queries(name, changes, error, message):
    function, arguments = CALLS[name]
    with pytest.raises(error, match=message):
        function(**arguments(**changes))


@pytest.mark.parametrize(("name", "head_dim"), [("decode", 16), ("latent decode", 48)])
def test_decode_of_several_tokens_refuses(name, head_dim):
    function, arguments = CALLS[name]
    with pytest.raises(ValueError, match="q must have Q >= 1 queries per sequence, got 0"):
        function(**arguments(q=torch.zeros(2, 0, 4, head_dim)))
    with pytest.raises(ValueError, match=r"lse must have shape \[q's 2, q's 3, q's 4\], got \[2, 4\]"):
        function(**arguments(q=torch.zeros(2, 3, 4, head_dim), lse=torch.zeros(2, 4)))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"options": Options()}, ValueError, "options must have a scale: .* is not the model's, got None"),
        ({"latent_cache": torch.zeros(3, 8, 2, 48)}, ValueError, "latent_cache must have heads = 1, got 2"),
        ({"value_dim": 49}, ValueError, "value_dim must be from 1 to D = 48, got 49"),
        ({"value_dim": -1}, ValueError, "value_dim must be from 1 to D = 48, got -1"),
        ({"value_dim": 16}, ValueError, "value_dim must be 32, the largest power of two in D, got 16"),
        ({"value_dim": 48}, ValueError, "value_dim must be 32, the largest power of two in D, got 48"),
        *TABLES,
    ],
)
def test_latent_decode_refuses(changes, error, message):
    with pytest.raises(error, match=message):
        mla_decode_attention(**latent_arguments(**changes))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"scale": 0.0}, ValueError, "scale must be a finite number > 0, got 0.0"),
        ({"scale": -1.0}, ValueError, "scale must be a finite number > 0, got -1.0"),
        ({"scale": math.nan}, ValueError, "scale must be a finite number > 0, got nan"),
        ({"softcap": 0.0}, ValueError, "softcap must be a finite number > 0, got 0.0"),
        ({"softcap": math.inf}, ValueError, "softcap must be a finite number > 0, got inf"),
        ({"window": 0}, ValueError, "window must be >= 1 key, the query's own position included, got 0"),
        ({"sinks": torch.zeros(3)}, ValueError, "sinks must have 4 elements, got 3"),
        ({"sinks": torch.zeros(1)}, ValueError, "sinks must have 4 elements, got 1"),
        ({"sinks": torch.zeros(4).half()}, TypeError, "sinks must have dtype torch.float32, got torch.float16"),
        ({"sinks": torch.zeros(1, 4)}, ValueError, r"sinks must have shape \[heads\], got \[1, 4\]"),
        ({"sinks": torch.zeros(4, device="meta")}, ValueError, "sinks must be on the device of q, cpu, got meta"),
        ({"k_scale": 0.5}, TypeError, "k_scale must be a torch.Tensor, got float"),
        ({"k_scale": torch.ones(8)[::2]}, ValueError, r"k_scale must be contiguous .*, got strides \(2,\)"),
        ({"k_scale": torch.ones(4)}, ValueError, "k_scale must have 1( or .)? elements, got 4"),
        ({"v_scale": torch.ones(3)}, ValueError, "v_scale must have 1( or .)? elements, got 3"),
        ({"v_scale": torch.ones(1).double()}, TypeError, "v_scale must have dtype torch.float32, got torch.float64"),
    ],
)
@pytest.mark.parametrize("name", CALLS)
def test_every_call_refuses_options(name, changes, error, message):
    function, arguments = CALLS[name]
    with pytest.raises(error, match=message):
        function(**arguments(options=Options(**{"scale": 1.0} | changes)))


@pytest.mark.parametrize("name", ["decode", "latent decode"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Options(scale=1.0, causal=False), "options must be causal for decode attention, got causal=False"),
        (Options(scale=1.0, q_scale=torch.ones(1)), "q_scale must be None for decode attention"),
    ],
)
def test_both_decodes_refuse_options_that_they_do_not_have(name, options, message):
    call, arguments = CALLS[name]
    with pytest.raises(ValueError, match=message):
        call(**arguments(options=options))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"latent_cache": [1.0]}, TypeError, "latent_cache must be a torch.Tensor, got list"),
        ({"latent_cache": torch.zeros(3, 8, 48)}, ValueError, "latent_cache must have shape"),
        ({"latent_cache": torch.zeros(3, 8, 1, 16)}, ValueError, "latent_cache must have D = 48, got 16"),
        ({"value_dim": 0}, ValueError, "value_dim must be from 1 to D = 48, got 0"),
    ],
)
def test_latent_decode_names_its_own_arguments(changes, error, message):
    with pytest.raises(error, match=message):
        mla_decode_attention(**latent_arguments(**changes))


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("decode", {"context_lens": int32(9, 0)}, r"context_lens must be from 0 to the 8 keys .* got 0\.\.9"),
        ("decode", {"context_lens": int32(-1, 0)}, r"context_lens must be from 0 to the 8 keys .* got -1\.\.0"),
        (
            "decode",
            {"block_table": int32(3, 0)[:, None]},
            r"block_table must name pages 0 to 2 of the cache, got 3\.\.3",
        ),
        ("decode", {"block_table": int32(-1, 0)[:, None]}, r"block_table must name pages 0 to 2 .* got -1\.\.-1"),
        ("prefill", {"cu_seqlens": int32(0, 6)}, r"cu_seqlens must rise from 0 to at most 5, got \[0, 6\]"),
        ("prefill", {"cu_seqlens": int32(0, 5, 3)}, r"cu_seqlens must rise from 0 to at most 5, got \[0, 5, 3\]"),
    ],
)
def test_values_are_checked_on_a_cpu(name, changes, message):
    function, arguments = CALLS[name]
    with pytest.raises(ValueError, match=message):
        function(**arguments(**changes))


@pytest.mark.parametrize(
    ("name", "module", "changes", "message"),
    [
        ("decode", decode_call, {"context_lens": int32(9, 0)}, "context_lens must be from 0 to the 8 keys"),
        ("prefill", prefill_call, {"cu_seqlens": int32(0, 6)}, "cu_seqlens must rise from 0 to at most 5"),
    ],
)
def test_validation_comes_before_any_launch(monkeypatch, name, module, changes, message):
    launched = []
    monkeypatch.setattr(module, "attend", lambda *_: launched.append(name))
    function, arguments = CALLS[name]
    with pytest.raises(ValueError, match=message):
        function(**arguments(**changes), validate=True)
    assert launched == []


def test_a_gpu_is_not_interpreted(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    device.check_supported(torch.device("cuda"))
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    device.check_supported(torch.device("cpu"))
    with pytest.raises(RuntimeError, match="TRITON_INTERPRET must not be 1 for tensors on a GPU"):
        device.check_supported(torch.device("cuda"))


def test_entries_behind_the_context_may_be_anything():
    # The second sequence has no key, so its entry is never read.
    decode_attention(**decode_arguments(block_table=int32(0, 99)[:, None]))


@pytest.mark.parametrize(
    ("capability", "version", "is_mixed", "is_taken"),
    [
        (80, "3.9.0", False, False),
        (89, "3.6.0", False, True),
        (89, "3.6.0", True, False),
        (89, "3.9.0", True, True),
        (90, "3.6.0", True, True),
    ],
)
def test_float8_needs_a_gpu_that_has_it(monkeypatch, capability, version, is_mixed, is_taken):
    triton = pytest.importorskip("triton")
    monkeypatch.setattr(device, "capability", lambda _: capability)
    monkeypatch.setattr(triton, "__version__", version)
    refused = pytest.raises(ValueError, match=f"got sm_{capability} and triton {version}")
    with contextlib.nullcontext() if is_taken else refused:
        device.check_float8(torch.device("cuda"), is_mixed=is_mixed)


@pytest.mark.parametrize("name", ["prefill", "paged prefill"])
def test_prefill_refuses_scales_of_the_queries(name):
    function, arguments = CALLS[name]
    with pytest.raises(ValueError, match="q_scale must have 1 or 2 elements, got 4"):
        function(**arguments(options=Options(q_scale=torch.ones(4))))


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
from tokenwatt_kernels.attention.decode.call import decode_attention, mla_decode_attention
from tokenwatt_kernels.attention.options import Options
from tokenwatt_kernels.attention.prefill.call import paged_prefill_attention, prefill_attention
from tokenwatt_kernels.matmul.call import matmul
matmul(torch.zeros(2, 3), torch.zeros(4, 3))
x = torch.zeros(1, 1, 16)
one, starts = torch.ones(1, dtype=torch.int32), torch.tensor([0, 1], dtype=torch.int32)
cache = x[None], x[None], 0 * one[None], one
prefill_attention(x, x, x, starts, 1)
paged_prefill_attention(x, *cache, starts, 1)
decode_attention(x, *cache)
mla_decode_attention(x, x[None], 0 * one[None], one, value_dim=16, options=Options(scale=1.0))
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
        assert all(work.work(problem, dtype_name).flop > 0 for dtype_name in problems.DTYPE_NAMES)
"""
    finished = run_python("-c", script)
    assert finished.returncode == 0, finished.stderr
