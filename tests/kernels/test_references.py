"""The naive references against torch's own attention, one row at a time, and against cases computed by hand."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention

from tokenwatt_kernels.attention.decode.call import decode_attention, mla_decode_attention
from tokenwatt_kernels.attention.options import Options
from tokenwatt_kernels.attention.prefill.call import paged_prefill_attention, prefill_attention
from tokenwatt_kernels.matmul.call import matmul

LN_3 = math.log(3)
FLOAT8 = torch.float8_e4m3fn
UNIT = Options(scale=1.0)


def int32(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


def starts(lengths: tuple[int, ...]) -> Tensor:
    return torch.cat([int32(0), torch.tensor(lengths).cumsum(0).int()])


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def ramp(*values: float) -> Tensor:
    """[len(values), 1, 16]: one number per token."""
    return torch.tensor(values)[:, None, None].expand(-1, 1, 16).contiguous()


def inputs(
    queries: int, keys: int, query_heads: int, kv_heads: int, head_dim: int, value_dim: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        randn(queries, query_heads, head_dim, seed=1),
        randn(keys, kv_heads, head_dim, seed=2),
        randn(keys, kv_heads, value_dim or head_dim, seed=3),
    )


def paged(tensor: Tensor, contexts: tuple[int, ...], page_size: int) -> tuple[Tensor, Tensor]:
    """Packed keys [T, H, D] in a pool of NaN, the last page first, and the block table [B, max_pages + 1]."""
    needed = [-(-context // page_size) for context in contexts]
    pool = torch.full((sum(needed) + 1, page_size, *tensor.shape[1:]), float("nan")).to(tensor.dtype)
    table = torch.zeros(len(contexts), max(needed) + 1, dtype=torch.int32)
    free = iter(range(sum(needed), 0, -1))
    for row, part, pages in zip(table, tensor.split(contexts), needed, strict=True):
        for index in range(pages):
            row[index] = page = next(free)
            held = part[index * page_size : (index + 1) * page_size]
            pool[page, : len(held)] = held
    return pool, table


def row_by_row(q: Tensor, k: Tensor, v: Tensor, options: Options) -> tuple[Tensor, Tensor]:
    """One sequence: each query with the list of keys that it sees, as the definition in Options says it."""
    group, offset = q.shape[1] // k.shape[1], len(k) - len(q)
    out, lse = torch.zeros(*q.shape[:2], v.shape[2]), torch.full(q.shape[:2], float("-inf"))
    for index, head in ((index, head) for index in range(len(q)) for head in range(q.shape[1])):
        position, kv_head = index + offset, head // group
        seen = [
            key
            for key in range(len(k))
            if not (options.causal and key > position)
            and not (options.window is not None and key <= position - options.window)
        ]
        scores = k[seen, kv_head] @ q[index, head] * options.resolved_scale(q.shape[2])
        if options.softcap is not None:
            scores = options.softcap * (scores / options.softcap).tanh()
        sink = [] if options.sinks is None else [options.sinks[head]]
        lse[index, head] = torch.logsumexp(torch.tensor([*scores, *sink]), 0)
        if seen:
            out[index, head] = (scores - lse[index, head]).exp() @ v[seen, kv_head]
    return out, lse


def prefill(q: Tensor, k: Tensor, v: Tensor, options: Options) -> tuple[Tensor, Tensor]:
    """One sequence through the public function."""
    lse = torch.full(q.shape[:2], float("nan"))
    out = prefill_attention(q, k, v, int32(0, len(q)), len(q), cu_seqlens_k=int32(0, len(k)), options=options, lse=lse)
    return out, lse


@pytest.mark.parametrize("kv_heads", [1, 2, 6])
def test_prefill_equals_sdpa_per_sequence(kv_heads):
    lengths = [3, 0, 11]
    q, k, v = inputs(14, 14, 6, kv_heads, 32)
    out = prefill_attention(q, k, v, int32(0, 3, 3, 14), 11)
    expected = [
        scaled_dot_product_attention(
            q_part.transpose(0, 1), k_part.transpose(0, 1), v_part.transpose(0, 1), is_causal=True, enable_gqa=True
        ).transpose(0, 1)
        for q_part, k_part, v_part in zip(q.split(lengths), k.split(lengths), v.split(lengths), strict=True)
        if len(q_part)
    ]
    torch.testing.assert_close(out, torch.cat(expected))


@pytest.mark.parametrize("causal", [True, False])
def test_chunk_equals_sdpa_aligned_at_the_last_key(causal):
    q, k, v = inputs(5, 17, 4, 2, 48, value_dim=32)
    out, _ = prefill(q, k, v, Options(causal=causal))
    expected = scaled_dot_product_attention(
        q.transpose(0, 1)[None],
        k.transpose(0, 1)[None],
        v.transpose(0, 1)[None],
        attn_mask=causal_lower_right(5, 17) if causal else None,
        enable_gqa=True,
    )
    torch.testing.assert_close(out, expected[0].transpose(0, 1))


@pytest.mark.parametrize(("queries", "keys"), [(9, 9), (4, 19), (1, 8), (9, 4), (3, 0)])
@pytest.mark.parametrize(
    "options",
    [
        Options(),
        Options(causal=False),
        Options(window=1),
        Options(window=5),
        Options(window=3, causal=False),
        Options(softcap=1.5),
        Options(sinks=torch.tensor([0.5, -1.0, 3.0, 0.0])),
        Options(scale=0.7, window=4, softcap=2.0, sinks=torch.tensor([0.5, -1.0, 3.0, 0.0])),
    ],
    ids=["plain", "not causal", "window 1", "window 5", "window both ways", "softcap", "sinks", "all"],
)
def test_options_row_by_row(options, queries, keys):
    q, k, v = inputs(queries, keys, 4, 2, 16, value_dim=24)
    out, lse = prefill(q, k, v, options)
    expected_out, expected_lse = row_by_row(q, k, v, options)
    torch.testing.assert_close(out, expected_out)
    torch.testing.assert_close(lse, expected_lse)


def test_prefill_by_hand():
    # k is zero, so each row averages the v of the tokens up to itself: 1, (1+3)/2 = 2, (1+3+8)/3 = 4.
    # Each key adds e^0 = 1 to the sum: log-sum-exp ln 1, ln 2, ln 3.
    q, k, v = torch.ones(3, 1, 16), torch.zeros(3, 1, 16), ramp(1.0, 3.0, 8.0)
    out, lse = prefill(q, k, v, Options())
    torch.testing.assert_close(out[:, 0, 0], torch.tensor([1.0, 2.0, 4.0]))
    torch.testing.assert_close(lse[:, 0].exp(), torch.tensor([1.0, 2.0, 3.0]))


@pytest.mark.parametrize(
    ("queries", "options", "answers"),
    [
        # Keys 1, 3, 8, 4, all of one weight. The last two tokens: (1+3+8)/3 = 4 and (1+3+8+4)/4 = 4.
        (2, Options(), [4.0, 4.0]),
        # All keys for both: 16/4.
        (2, Options(causal=False), [4.0, 4.0]),
        (4, Options(causal=False), [4.0, 4.0, 4.0, 4.0]),
        # Two keys, the own one included: 1, (1+3)/2, (3+8)/2, (8+4)/2.
        (4, Options(window=2), [1.0, 2.0, 5.5, 6.0]),
        (2, Options(window=2), [5.5, 6.0]),
        # Only the own key.
        (4, Options(window=1), [1.0, 3.0, 8.0, 4.0]),
        # Keys behind the query count too: (1+3+8+4)/4, the same, then without key 0 15/3, then without key 1 12/2.
        (4, Options(window=2, causal=False), [4.0, 4.0, 5.0, 6.0]),
        # A sink with e^(ln 3) = 3 in the sum: (1+3+8)/(3+3) = 2 and (1+3+8+4)/(4+3) = 16/7.
        (2, Options(sinks=torch.tensor([LN_3])), [2.0, 16 / 7]),
        # Six queries for four keys: the first two stand before key 0.
        (6, Options(), [0.0, 0.0, 1.0, 2.0, 4.0, 4.0]),
    ],
)
def test_which_keys_count_by_hand(queries, options, answers):
    out, _ = prefill(torch.ones(queries, 1, 16), torch.zeros(4, 1, 16), ramp(1.0, 3.0, 8.0, 4.0), options)
    torch.testing.assert_close(out[:, 0, 0], torch.tensor(answers))


def test_softcap_by_hand():
    # Scores 0 and s = 2 ln 3 * atanh(1/2) = 2 ln 3 * ln(3)/2 = ln(3)^2. With the cap 2 ln 3 the second becomes
    # 2 ln 3 * 1/2 = ln 3: weights 1/4 and 3/4 of 0 and 8, so 6; log-sum-exp ln 4.
    k = ramp(0.0, LN_3**2 / 16)
    out, lse = prefill(torch.ones(1, 1, 16), k, ramp(0.0, 8.0), Options(scale=1.0, softcap=2 * LN_3))
    torch.testing.assert_close(out[0, 0, 0], torch.tensor(6.0))
    torch.testing.assert_close(lse[0, 0], torch.tensor(4.0).log())


@pytest.mark.parametrize(("sinks", "lse"), [(None, [-math.inf] * 2), (torch.tensor([0.25, -2.0]), [0.25, -2.0])])
def test_rows_that_see_nothing_are_zero(sinks, lse):
    # Three queries for one key: the first two stand before it. Then a sequence without any key.
    found = torch.full((5, 2), float("nan"))
    out = prefill_attention(
        torch.ones(5, 2, 16), torch.ones(1, 1, 16), torch.ones(1, 1, 16), int32(0, 3, 5), 3,
        cu_seqlens_k=int32(0, 1, 1), options=Options(sinks=sinks), lse=found,
    )  # fmt: skip
    empty = [0, 1, 3, 4]
    assert out[empty].count_nonzero() == 0
    assert found[empty].tolist() == [lse] * 4
    assert out[2].isfinite().all()


def test_scales_of_one_head_by_hand():
    # q.k = 16 * ln(3)/16 = ln 3 for the second key. Scales 2 * 0.5 leave it: weights 1/4 and 3/4 of 0 and 8 make 6,
    # times v_scale 0.5 makes 3.
    options = Options(scale=1.0, q_scale=torch.tensor([2.0]), k_scale=torch.tensor([0.5]), v_scale=torch.tensor([0.5]))
    out, lse = prefill(torch.ones(1, 1, 16), ramp(0.0, LN_3 / 16), ramp(0.0, 8.0), options)
    torch.testing.assert_close(out[0, 0, 0], torch.tensor(3.0))
    torch.testing.assert_close(lse[0, 0], torch.tensor(4.0).log())


def dequantised(tensor: Tensor, scale: Tensor) -> Tensor:
    """[T, heads, D] with one factor, or one for each of some heads that share it."""
    per_head = scale.repeat_interleave(tensor.shape[1] // scale.numel()) if scale.numel() > 1 else scale
    return tensor.float() * per_head[:, None]


@pytest.mark.parametrize("heads", [1, 2], ids=["per tensor", "per head"])
def test_float8_equals_the_dequantised_tensors(heads):
    q, k, v = (tensor.to(FLOAT8) for tensor in inputs(7, 7, 6, 2, 32))
    q_scale, k_scale, v_scale = (torch.tensor(pair[:heads]) for pair in ([0.75, 1.5], [0.5, 2.0], [0.25, 3.0]))
    out, lse = prefill(q, k, v, Options(q_scale=q_scale, k_scale=k_scale, v_scale=v_scale))
    wide_q, wide_k, wide_v = dequantised(q, q_scale), dequantised(k, k_scale), dequantised(v, v_scale)
    expected, expected_lse = prefill(wide_q, wide_k, wide_v, Options())
    assert out.dtype == torch.bfloat16
    # Rounded to bfloat16: 2^-9 of each number.
    torch.testing.assert_close(out.float(), expected, rtol=2**-8, atol=1e-6)
    torch.testing.assert_close(lse, expected_lse)


@pytest.mark.parametrize("page_size", [1, 4, 5, 16])
@pytest.mark.parametrize(
    "options", [Options(), Options(causal=False, softcap=2.0), Options(window=6, sinks=torch.tensor([0.5, -1.0] * 2))]
)
def test_paged_prefill_equals_packed(options, page_size):
    queries, contexts = (3, 0, 8, 2), (10, 4, 8, 0)
    q, k, v = inputs(13, 22, 4, 2, 16, value_dim=24)
    (k_cache, table), (v_cache, _) = (paged(tensor, contexts, page_size) for tensor in (k, v))
    packed_lse, paged_lse = (torch.full((13, 4), float("nan")) for _ in range(2))
    packed = prefill_attention(
        q, k, v, starts(queries), 8, cu_seqlens_k=starts(contexts), options=options, lse=packed_lse
    )
    out = paged_prefill_attention(
        q, k_cache, v_cache, table, int32(*contexts), starts(queries), 8, options=options, lse=paged_lse
    )
    assert torch.equal(out, packed)
    assert torch.equal(paged_lse, packed_lse)


def test_paged_prefill_from_a_float8_cache_equals_the_dequantised_one():
    queries, contexts = (3, 5), (10, 5)
    q, k, v = inputs(8, 15, 4, 2, 16)
    k, v = k.to(FLOAT8), v.to(FLOAT8)
    (k_cache, table), (v_cache, _) = (paged(tensor, contexts, 4) for tensor in (k, v))
    k_scale, v_scale = torch.tensor([0.5, 2.0]), torch.tensor([3.0])
    out = paged_prefill_attention(
        q, k_cache, v_cache, table, int32(*contexts), starts(queries), 5,
        options=Options(k_scale=k_scale, v_scale=v_scale),
    )  # fmt: skip
    wide_k, wide_v = dequantised(k, k_scale), dequantised(v, v_scale)
    expected = prefill_attention(q, wide_k, wide_v, starts(queries), 5, cu_seqlens_k=starts(contexts))
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, expected)


def test_a_prompt_in_chunks_is_the_whole_prompt():
    q, k, v = inputs(20, 20, 4, 2, 16)
    whole = prefill_attention(q, k, v, int32(0, 20), 20)
    chunks = [prefill(q[first:last], k[:last], v[:last], Options())[0] for first, last in pairwise((0, 7, 8, 20))]
    torch.testing.assert_close(torch.cat(chunks), whole)


@pytest.mark.parametrize("queries", [1, 3])
@pytest.mark.parametrize(
    "options",
    [Options(), Options(window=4), Options(softcap=2.0), Options(window=6, sinks=torch.tensor([0.5, -1.0, 2.0] * 2))],
    ids=["plain", "window", "softcap", "window sinks"],
)
def test_decode_equals_the_last_rows_of_prefill(options, queries):
    contexts = (10, 5)
    q, k, v = inputs(15, 15, 6, 2, 16, value_dim=32)
    whole_lse = torch.empty(15, 6)
    whole = prefill_attention(q, k, v, starts(contexts), 10, options=options, lse=whole_lse)
    (k_cache, table), (v_cache, _) = (paged(tensor, contexts, 4) for tensor in (k, v))
    newest = torch.tensor([list(range(end - queries, end)) for end in (10, 15)])
    lse = torch.empty(2, queries, 6)
    out = decode_attention(q[newest], k_cache, v_cache, table, int32(*contexts), options=options, lse=lse)
    torch.testing.assert_close(out, whole[newest])
    torch.testing.assert_close(lse, whole_lse[newest])
    if queries == 1:
        flat = decode_attention(q[newest[:, 0]], k_cache, v_cache, table, int32(*contexts), options=options)
        assert torch.equal(flat, out[:, 0])


def test_decode_by_hand():
    # Scores scale * q.k = 1 * (16 * 0) = 0 and 1 * (16 * ln(3)/16) = ln 3: weights 1/4 and 3/4.
    # v is 0 and 8, so the answer is 6, and the log-sum-exp ln(1 + 3). The second sequence has no context: zeros.
    k_cache, v_cache = ramp(0.0, LN_3 / 16)[None], ramp(0.0, 8.0)[None]
    lse = torch.empty(2, 1)
    out = decode_attention(
        torch.ones(2, 1, 16), k_cache, v_cache, torch.zeros(2, 1, dtype=torch.int32), int32(2, 0), options=UNIT, lse=lse
    )
    torch.testing.assert_close(out[:, 0, 0], torch.tensor([6.0, 0.0]))
    torch.testing.assert_close(lse[:, 0].exp(), torch.tensor([4.0, 0.0]))


def test_more_decode_tokens_than_context_see_nothing():
    # Three tokens, of which the last stands at key 1: the first stands before key 0. v is 1 and 3: 0, 1, (1+3)/2 = 2.
    cache = torch.zeros(1, 2, 1, 16)
    out = decode_attention(torch.ones(1, 3, 1, 16), cache, ramp(1.0, 3.0)[None], int32(0)[None], int32(2))
    torch.testing.assert_close(out[0, :, 0, 0], torch.tensor([0.0, 1.0, 2.0]))


@pytest.mark.parametrize("heads", [1, 2], ids=["per tensor", "per head"])
def test_decode_from_a_float8_cache_equals_the_dequantised_one(heads):
    q, k, v = inputs(2, 13, 4, 2, 16)
    k, v = k.to(FLOAT8), v.to(FLOAT8)
    (k_cache, table), (v_cache, _) = (paged(tensor, (9, 4), 4) for tensor in (k, v))
    k_scale, v_scale = torch.tensor([0.5, 2.0][:heads]), torch.tensor([3.0, 0.25][:heads])
    options = Options(k_scale=k_scale, v_scale=v_scale)
    out = decode_attention(q, k_cache, v_cache, table, int32(9, 4), options=options)
    wide_k, wide_v = (paged(dequantised(tensor, scale), (9, 4), 4)[0] for tensor, scale in ((k, k_scale), (v, v_scale)))
    torch.testing.assert_close(out, decode_attention(q, wide_k, wide_v, table, int32(9, 4)))


@pytest.mark.parametrize("queries", [None, 2])
def test_latents_are_keys_and_in_part_values(queries):
    latents = randn(13, 1, 48, seed=2)
    cache, table = paged(latents, (9, 4), 4)
    q = randn(*(2, 8, 48) if queries is None else (2, queries, 8, 48), seed=1)
    options, lse, expected_lse = Options(scale=0.3), torch.empty(q.shape[:-1]), torch.empty(q.shape[:-1])
    out = mla_decode_attention(q, cache, table, int32(9, 4), value_dim=32, options=options, lse=lse)
    expected = decode_attention(
        q, cache, cache[..., :32].contiguous(), table, int32(9, 4), options=options, lse=expected_lse
    )
    assert out.shape == (*q.shape[:-1], 32)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(lse, expected_lse)


def test_latents_by_hand():
    # One head, D 48, values the first 32. q is 1 in the last 16 elements only, where the latents hold 0 and ln(3)/16:
    # scores 0 and ln 3, weights 1/4 and 3/4 of the values 4 and 8: 1 + 6 = 7.
    cache = torch.zeros(1, 2, 1, 48)
    cache[0, :, 0, :32] = torch.tensor([4.0, 8.0])[:, None]
    cache[0, 1, 0, 32:] = LN_3 / 16
    q = torch.cat([torch.zeros(1, 1, 32), torch.ones(1, 1, 16)], dim=-1)
    out = mla_decode_attention(q, cache, int32(0)[None], int32(2), value_dim=32, options=UNIT)
    torch.testing.assert_close(out, torch.full((1, 1, 32), 7.0))


def test_half_precision_comes_back_in_its_own_dtype():
    q, k, v = (tensor.bfloat16() for tensor in inputs(3, 3, 2, 1, 16))
    assert prefill(q, k, v, Options())[0].dtype == torch.bfloat16


def test_batches_of_nothing():
    none = torch.empty(0, 2, 16)
    assert prefill_attention(none, none, none, int32(0), 0).shape == (0, 2, 16)
    assert prefill_attention(none, none, none, int32(0, 0), 0).shape == (0, 2, 16)
    cache, table = torch.empty(1, 4, 2, 16), torch.empty(0, 1, dtype=torch.int32)
    assert decode_attention(none, cache, cache, table, int32()).shape == (0, 2, 16)
    assert decode_attention(torch.empty(0, 3, 2, 16), cache, cache, table, int32()).shape == (0, 3, 2, 16)


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
