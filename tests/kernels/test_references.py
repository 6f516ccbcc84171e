"""The naive references against torch's own attention, and against cases small enough to compute by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from tokenwatt_kernels.attention.decode.call import decode_attention
from tokenwatt_kernels.attention.prefill.call import prefill_attention
from tokenwatt_kernels.matmul.dense.call import matmul


@pytest.mark.parametrize("kv_heads", [1, 2, 6])
def test_prefill_equals_sdpa_per_sequence(kv_heads):
    generator = torch.Generator().manual_seed(1)
    lengths = [3, 0, 11]
    q = torch.randn(14, 6, 32, generator=generator)
    k, v = (torch.randn(14, kv_heads, 32, generator=generator) for _ in range(2))
    out = prefill_attention(q, k, v, torch.tensor([0, 3, 3, 14], dtype=torch.int32), 11)
    expected = [
        scaled_dot_product_attention(
            q_part.transpose(0, 1), k_part.transpose(0, 1), v_part.transpose(0, 1), is_causal=True, enable_gqa=True
        ).transpose(0, 1)
        for q_part, k_part, v_part in zip(q.split(lengths), k.split(lengths), v.split(lengths), strict=True)
        if len(q_part)
    ]
    torch.testing.assert_close(out, torch.cat(expected))


def test_prefill_by_hand():
    # k is zero, so each row averages the v of the tokens up to itself: 1, (1+3)/2 = 2, (1+3+8)/3 = 4.
    q, k = torch.ones(3, 1, 16), torch.zeros(3, 1, 16)
    v = torch.tensor([1.0, 3.0, 8.0])[:, None, None].expand(3, 1, 16).contiguous()
    out = prefill_attention(q, k, v, torch.tensor([0, 3], dtype=torch.int32), 3)
    torch.testing.assert_close(out[:, 0, 0], torch.tensor([1.0, 2.0, 4.0]))


def test_decode_equals_prefill_of_the_last_token():
    generator = torch.Generator().manual_seed(2)
    q = torch.randn(10, 6, 16, generator=generator)
    k, v = (torch.randn(10, 2, 16, generator=generator) for _ in range(2))
    whole = prefill_attention(q, k, v, torch.tensor([0, 10], dtype=torch.int32), 10)
    k_cache, v_cache = (torch.full((5, 4, 2, 16), float("nan")) for _ in range(2))
    for cache, tokens in ((k_cache, k), (v_cache, v)):
        cache[4], cache[1], cache[2, :2] = tokens[:4], tokens[4:8], tokens[8:]
    block_table = torch.tensor([[4, 1, 2, 0]], dtype=torch.int32)
    out = decode_attention(q[9:], k_cache, v_cache, block_table, torch.tensor([10], dtype=torch.int32))
    torch.testing.assert_close(out, whole[9:])


def test_decode_by_hand():
    # Scores scale * q.k = 1 * (16 * 0) = 0 and 1 * (16 * ln(3)/16) = ln 3: weights 1/4 and 3/4.
    # v is 0 and 8, so the answer is 6. The second sequence has no context: zeros.
    q = torch.ones(2, 1, 16)
    k_cache, v_cache = torch.zeros(1, 2, 1, 16), torch.zeros(1, 2, 1, 16)
    k_cache[0, 1], v_cache[0, 1] = math.log(3) / 16, 8.0
    block_table = torch.zeros(2, 1, dtype=torch.int32)
    out = decode_attention(q, k_cache, v_cache, block_table, torch.tensor([2, 0], dtype=torch.int32), scale=1.0)
    torch.testing.assert_close(out[:, 0, 0], torch.tensor([6.0, 0.0]))


def test_matmul_by_hand():
    # [1 2] . [3 4] = 11, [1 2] . [5 6] = 17.
    out = matmul(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0], [5.0, 6.0]]))
    assert out.tolist() == [[11.0, 17.0]]


def test_matmul_without_rows():
    assert matmul(torch.empty(0, 3), torch.empty(4, 3)).shape == (0, 4)


@pytest.mark.parametrize("rows", [1, 2, 4, 5])
def test_matmul_of_few_rows_is_the_same_product_in_another_order(rows):
    a, weight = torch.randn(rows, 24), torch.randn(7, 24)
    out = matmul(a, weight)
    assert out.is_contiguous()
    torch.testing.assert_close(out, (a.double() @ weight.double().T).float())
