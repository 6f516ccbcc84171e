"""The work of a step is that of the kernels that it runs, by their own count."""

from __future__ import annotations

from collections.abc import Sequence as Listed
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenwatt.architecture import Architecture, DenseMlp, GroupedAttention, Layer, MixtureOfExperts, Rotary
from tokenwatt.engines.native.accounting import FAMILIES, Accounting, StepLog, StepShape, total
from tokenwatt.engines.native.scheduler import Step
from tokenwatt.engines.native.sequence import Sequence
from tokenwatt.model_config import load_architecture
from tokenwatt.workloads import Request
from tokenwatt_kernels.attention.problem import AttentionProblem
from tokenwatt_kernels.attention.work import work as attention_work
from tokenwatt_kernels.matmul.packed.problems import PackedProblem
from tokenwatt_kernels.matmul.packed.work import work as packed_work
from tokenwatt_kernels.matmul.problem import MatmulProblem
from tokenwatt_kernels.matmul.problem import work as matmul_work
from tokenwatt_kernels.moe.grouped.problems import GroupedProblem
from tokenwatt_kernels.moe.grouped.work import work as grouped_work
from tokenwatt_kernels.work import Work

ROTARY = Rotary(dim=64, theta=1e4)
DENSE = Architecture(
    name="tiny",
    model_type="llama",
    hidden_size=256,
    vocab_size=1000,
    max_position_embeddings=4096,
    rms_norm_eps=1e-6,
    tie_word_embeddings=True,
    attention=GroupedAttention(num_attention_heads=4, num_key_value_heads=2, head_dim=64, scale=0.125),
    layers=(Layer(DenseMlp(512), ROTARY), Layer(DenseMlp(512), ROTARY, window=50)),
)


def accounting(architecture: Architecture = DENSE, quantization: str = "none", **changes: Any) -> Accounting:
    settings: dict[str, Any] = {"kv_dtype": "bfloat16", "page_size": 16, **changes}
    return Accounting(architecture, "bfloat16", quantization, **settings)


def step(decodes: list[int], chunks: Listed[tuple[int, int]] = (), sampled: int | None = None) -> Step:
    """Contexts before the step of those that decode, (context before, new tokens) of chunks."""
    starts = np.array([*decodes, *(start for start, _ in chunks)], dtype=np.int32)
    counts = np.array([*(1 for _ in decodes), *(count for _, count in chunks)], dtype=np.int32)
    sequence = Sequence(Request(0, np.zeros(1, dtype=np.int32), 1))
    many = len(starts) if sampled is None else sampled
    rows = np.arange(len(starts), dtype=np.int32)
    return Step(rows, starts, counts, len(decodes), len(chunks) * [sequence], rows[:many], many * [sequence])


def by_family(works: tuple[Work, ...]) -> dict[str, Work]:
    return dict(zip(FAMILIES, works, strict=True))


@settings(max_examples=50)
@given(
    decodes=st.lists(st.integers(1, 300), max_size=5),
    chunks=st.lists(st.tuples(st.integers(0, 300), st.integers(1, 200)), max_size=3),
)
def test_attention_is_that_of_the_kernels(decodes, chunks):
    if not decodes and not chunks:
        return
    queries = tuple([1] * len(decodes) + [count for _, count in chunks])
    contexts = tuple([start + 1 for start in decodes] + [start + count for start, count in chunks])
    problems = [AttentionProblem("", queries, contexts, 4, 2, 64, page_size=16, window=window) for window in (None, 50)]
    expected = total(attention_work(problem, "bfloat16") for problem in problems)
    assert by_family(accounting().of(step(decodes, chunks)))["attention"] == expected


def test_a_float8_cache_halves_the_keys():
    problem = AttentionProblem("", (1, 1), (101, 8), 4, 2, 64, page_size=16, kv_dtype="float8_e4m3fn")
    windowed = replace(problem, window=50)
    expected = total(attention_work(each, "bfloat16") for each in (problem, windowed))
    assert by_family(accounting(kv_dtype="float8_e4m3fn").of(step([100, 7])))["attention"] == expected


@pytest.mark.parametrize("quantization", ["none", "int4"])
def test_products_are_those_of_the_kernels(quantization):
    def one(n: int, k: int, activation: str = "none", has_residual: bool = False) -> Work:
        if quantization == "int4":
            return packed_work(PackedProblem("", 7, n, k, "int4", activation, has_residual=has_residual), "bfloat16")
        return matmul_work(MatmulProblem("", 7, n, k, activation, has_residual=has_residual), "bfloat16")

    # A layer: queries, keys and values (4 + 2 + 2) x 64 wide, back to 256, gate and up, back again.
    layer = [
        one(512, 256),
        one(256, 256, has_residual=True),
        one(1024, 256, "swiglu"),
        one(256, 512, has_residual=True),
    ]
    head = matmul_work(MatmulProblem("", 3, 1000, 256), "bfloat16")  # for the three that get a token
    works = by_family(accounting(quantization=quantization).of(step([9, 9], [(0, 5)], sampled=3)))
    assert works["matmul"] == total([*layer, *layer, head])


def test_float8_products_count_their_scales():
    def one(n: int, k: int, activation: str = "none", has_residual: bool = False) -> Work:
        problem = MatmulProblem("", 2, n, k, activation, has_residual=has_residual, scaling="token_channel")
        return matmul_work(problem, "float8_e4m3fn")

    layer = [
        one(512, 256),
        one(256, 256, has_residual=True),
        one(1024, 256, "swiglu"),
        one(256, 512, has_residual=True),
    ]
    head = matmul_work(MatmulProblem("", 2, 1000, 256), "bfloat16")
    assert by_family(accounting(quantization="fp8").of(step([9, 9])))["matmul"] == total([*layer, *layer, head])


def test_experts_are_those_of_the_kernels_where_all_are_touched():
    mlp = MixtureOfExperts(num_experts=4, top_k=4, intermediate_size=128)
    mixture = replace(DENSE, layers=(Layer(mlp, ROTARY),))
    # All four experts see each of 6 tokens, so that what is expected is what is.
    problems = (
        GroupedProblem("", (6,) * 4, 256, 256, 4, gathers=True, activation="swiglu"),
        GroupedProblem("", (6,) * 4, 256, 128, 4, combines=True, has_residual=True),
    )
    expected = total(grouped_work(problem, "bfloat16") for problem in problems)
    assert by_family(accounting(mixture).of(step([3] * 6)))["moe"] == expected


def test_llama_8b_decodes_its_weights_and_its_cache():
    # 7,504,924,672 weights of products in 2 bytes; 64 sequences of 1537 tokens, 32 layers x 2 x 8 x 128 x 2 bytes each.
    works = by_family(accounting(load_architecture("Llama-3.1-8B"), page_size=64).of(step([1536] * 64)))
    assert works["matmul"].bytes == pytest.approx(2 * 7_504_924_672, rel=0.02)
    assert works["attention"].bytes == pytest.approx(64 * 1537 * 131_072, rel=0.01)
    # The memory limit of such a step at 4.3 TB/s is some 6.6 ms.
    assert total(works.values()).bytes / 4.3e12 == pytest.approx(6.6e-3, rel=0.02)


def test_latents_are_read_once_and_expanded_for_chunks():
    model = load_architecture("DeepSeek-V3")
    problem = AttentionProblem("", (1, 1), (101, 201), 128, 1, 576, 512, page_size=64, is_latent=True)
    works = by_family(accounting(model, page_size=64).of(step([100, 200])))
    one = attention_work(problem, "bfloat16")
    assert works["attention"] == Work(61 * one.flop, 61 * one.bytes)
    # Keys and values of 40 + 60 tokens for a chunk of 60: 128 heads of 192 and 128.
    chunk = AttentionProblem("", (60,), (100,), 128, 128, 192, 128)
    one = attention_work(chunk, "bfloat16")
    with_chunk = by_family(accounting(model, page_size=64).of(step([], [(40, 60)])))
    assert with_chunk["attention"] == Work(61 * one.flop, 61 * one.bytes)
    # They are made by a product of 100 latents of 512 with 128 x (128 + 128) columns in each of 61 layers, beside the
    # products that 60 tokens have anyway.
    anyway, _, _ = accounting(model, page_size=64)._of_rows(60, 1)
    assert with_chunk["matmul"].flop - anyway.flop == 61 * 2 * 100 * 512 * 128 * 256


def test_ranks_count_together():
    one, two = (by_family(accounting(size=size).of(step([5])))["matmul"] for size in (1, 2))
    # But for the head, of which each has one half.
    head, half = (matmul_work(MatmulProblem("", 1, rows, 256), "bfloat16") for rows in (1000, 500))
    assert two == Work(2 * (one.flop - head.flop + half.flop), 2 * (one.bytes - head.bytes + half.bytes))


def test_a_chunk_that_does_not_end_a_prompt_reads_no_head():
    with_head, without = (by_family(accounting().of(step([], [(0, 9)], sampled)))["matmul"] for sampled in (1, 0))
    head = matmul_work(MatmulProblem("", 1, 1000, 256), "bfloat16")
    assert with_head == Work(without.flop + head.flop, without.bytes + head.bytes)


def test_a_log_adds_up_what_ended_in_a_stretch():
    log = StepLog()
    for at_s in (1.0, 2.0, 3.0):
        works = tuple(Work(int(at_s), 10 * int(at_s)) for _ in FAMILIES)
        log.note(at_s, works, StepShape.of(step(int(at_s) * [9], [(4, 6)], sampled=int(at_s))))
    assert log.between(1.0, 3.0) == dict.fromkeys(FAMILIES, Work(5, 50))  # those of 2 and 3
    # The token of a step is in the context: 9 + 1 for each that decodes, 4 + 6 of the chunk.
    assert log.shapes_between(1.0, 3.0) == [StepShape(2, 20, 1, 6, 10, 2), StepShape(3, 30, 1, 6, 10, 3)]
