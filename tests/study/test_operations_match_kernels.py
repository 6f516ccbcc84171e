"""FLOP and bytes of an operation are those that the kernels count for the same problem.

Both sides count for themselves, since the kernels import nothing of the harness and the study wing no kernel. Known to
differ: kernels count the block tables and context lengths that a paged cache has and every scale of activations; the
study counts rows of experts as they are between their two products, read and written once.
"""

from __future__ import annotations

import pytest

from tokenwatt.perf_model.operations import Load, Operation
from tokenwatt.perf_model.parallelism import Parallelism
from tokenwatt.perf_model.precision import Precision, weight_bytes_of
from tokenwatt.perf_model.shape_library import model_shape
from tokenwatt.perf_model.steps import step_operations
from tokenwatt_kernels.attention.problem import AttentionProblem
from tokenwatt_kernels.attention.work import work as attention_work
from tokenwatt_kernels.matmul.nvfp4.problems import Nvfp4Problem
from tokenwatt_kernels.matmul.nvfp4.work import work as nvfp4_work
from tokenwatt_kernels.matmul.packed.formats import bytes_of
from tokenwatt_kernels.matmul.problem import MatmulProblem
from tokenwatt_kernels.matmul.problem import work as matmul_work
from tokenwatt_kernels.moe.grouped.problems import GroupedProblem
from tokenwatt_kernels.moe.grouped.work import NUMBER_BYTES
from tokenwatt_kernels.moe.grouped.work import work as grouped_work

BF16 = Precision("bf16", "bf16", "bf16", "bf16")


def operation(model: str, name: str, load: Load, tp: int = 1, precision: Precision = BF16) -> Operation:
    """The first operation of that name in one step."""
    split = Parallelism(tp, tp, 1, tp, 1, 1)
    return next(o for o in step_operations(model_shape(model), split, precision, load) if o.name == name)


@pytest.mark.parametrize("tokens", [1, 7, 640])
@pytest.mark.parametrize("name", ["attention.qkv", "attention.out", "mlp.up", "mlp.down", "head"])
def test_matmul(name: str, tokens: int):
    found = operation("Llama-3.1-8B", name, Load(decode_tokens=tokens, context=10), tp=2)
    m, n, k = (int(found.size(each)) for each in "mnk")
    kernel = matmul_work(MatmulProblem("same", m, n, k), "bfloat16")
    assert (found.flop, found.bytes) == (kernel.flop, kernel.bytes)


def test_matmul_of_fp8_blocks():
    found = operation(
        "Llama-3.1-8B",
        "mlp.down",
        Load(decode_tokens=1, context=10),
        precision=Precision("fp8_block", "fp8_block", "fp8_block", "bf16"),
    )
    m, n, k = (int(found.size(each)) for each in "mnk")
    kernel = matmul_work(MatmulProblem("same", m, n, k, scaling="block"), "float8_e4m3fn")
    assert found.flop == kernel.flop
    # Activations have two bytes here, before they are brought into float8: a byte more, less a scale for 128.
    assert found.bytes == kernel.bytes + m * k - m * k // 128 * 4


def test_weights_of_packed_formats():
    n, k = 4096, 14336
    assert weight_bytes_of("mxfp4") * n * k == bytes_of("mxfp4", n, k)
    # The kernels' int4 has a zero point of one byte for each 128; published checkpoints of it are symmetric.
    assert weight_bytes_of("int4") * n * k == bytes_of("int4", n, k) - n * k // 128


def test_weights_of_nvfp4():
    n, k = 4096, 14336
    # No row of activations: the weight, its scales, and two factors of a tensor.
    assert weight_bytes_of("nvfp4") * n * k == nvfp4_work(Nvfp4Problem("same", 0, n, k), "bfloat16").bytes - 8


@pytest.mark.parametrize(("model", "tp"), [("Llama-3.1-8B", 1), ("Llama-3.1-70B", 4), ("Qwen3-32B", 8)])
def test_attention_decode(model: str, tp: int):
    found = operation(model, "attention.decode", Load(decode_tokens=5, context=300), tp)
    heads, kv_heads, width = (int(found.size(each)) for each in ("heads", "kv_heads", "head_dim"))
    problem = AttentionProblem("same", (1,) * 5, (300,) * 5, heads, kv_heads, width)
    kernel = attention_work(problem, "bfloat16")
    assert (found.flop, found.bytes) == (kernel.flop, kernel.bytes)
    # Paged: five lengths, and 19 pages of 16 keys each, of four bytes.
    paged = attention_work(
        AttentionProblem("same", (1,) * 5, (300,) * 5, heads, kv_heads, width, page_size=16), "bfloat16"
    )
    assert found.bytes == paged.bytes - 4 * (5 + 5 * 19)


def test_attention_decode_over_an_fp8_cache():
    load = Load(decode_tokens=5, context=300)
    found = operation("Llama-3.1-8B", "attention.decode", load, precision=Precision("bf16", "bf16", "bf16", "fp8"))
    problem = AttentionProblem("same", (1,) * 5, (300,) * 5, 32, 8, 128, kv_dtype="float8_e4m3fn")
    kernel = attention_work(problem, "bfloat16")
    assert (found.flop, found.bytes) == (kernel.flop, kernel.bytes)


def test_attention_decode_of_a_window():
    # The first layer of gpt-oss sees 128 keys; 64 heads of 64 on 8 KV heads.
    found = operation("gpt-oss-120b", "attention.decode", Load(decode_tokens=2, context=1000))
    kernel = attention_work(AttentionProblem("same", (1, 1), (1000, 1000), 64, 8, 64, window=128), "bfloat16")
    assert (found.flop, found.bytes) == (kernel.flop, kernel.bytes)


@pytest.mark.parametrize("model", ["Llama-3.1-8B", "gpt-oss-120b"])
def test_attention_prefill(model: str):
    found = operation(model, "attention.prefill", Load(prefill_tokens=900, prompt=300))
    heads, kv_heads, width = (int(found.size(each)) for each in ("heads", "kv_heads", "head_dim"))
    window = int(found.size("window")) or None
    problem = AttentionProblem("same", (300,) * 3, (300,) * 3, heads, kv_heads, width, window=window)
    kernel = attention_work(problem, "bfloat16")
    assert (found.flop, found.bytes) == (kernel.flop, kernel.bytes)


@pytest.mark.parametrize("tp", [1, 8])
def test_latent_attention_decode(tp: int):
    found = operation("DeepSeek-V3", "attention.decode", Load(decode_tokens=3, context=500), tp)
    problem = AttentionProblem("same", (1,) * 3, (500,) * 3, 128 // tp, 1, 576, value_dim=512, is_latent=True)
    kernel = attention_work(problem, "bfloat16")
    assert (found.flop, found.bytes) == (kernel.flop, kernel.bytes)


def test_latent_attention_prefill():
    found = operation("DeepSeek-V3", "attention.prefill", Load(prefill_tokens=600, prompt=300), 8)
    kernel = attention_work(AttentionProblem("same", (300,) * 2, (300,) * 2, 16, 16, 192, value_dim=128), "bfloat16")
    assert (found.flop, found.bytes) == (kernel.flop, kernel.bytes)


def test_grouped_matmul():
    # 4096 tokens of Qwen3-30B-A3B: each of its 128 experts is touched, by 256 rows.
    found = operation("Qwen3-30B-A3B", "moe.experts", Load(decode_tokens=4096, context=10))
    rows = (4096 * 8 // 128,) * 128
    up = grouped_work(GroupedProblem("up", rows, 2 * 768, 2048), "bfloat16")
    down = grouped_work(GroupedProblem("down", rows, 2048, 768), "bfloat16")
    assert found.flop == up.flop + down.flop
    # Where each expert's rows begin, for each of the two.
    integers = 2 * (128 + 1) * NUMBER_BYTES
    assert found.bytes == pytest.approx(up.bytes + down.bytes - integers, rel=1e-12)
