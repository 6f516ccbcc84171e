"""Work functions against numbers computed by hand, and against counting one key at a time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwatt_kernels.attention.decode.problems import latents, tokens
from tokenwatt_kernels.attention.prefill.problems import chunks, prompts
from tokenwatt_kernels.attention.problem import AttentionProblem
from tokenwatt_kernels.attention.work import work as attention_work
from tokenwatt_kernels.families import FAMILIES, part
from tokenwatt_kernels.matmul.problem import MatmulProblem
from tokenwatt_kernels.matmul.problem import work as matmul_work
from tokenwatt_kernels.work import Work

FP8 = "float8_e4m3fn"


def test_prefill_counts_only_visible_keys():
    # Lengths 2 and 3: 1+2 and 1+2+3 = 9 query-key meetings per head. 4 heads, D = 16: 9 * 4 * 16 * 4 flop = 2304.
    # 5 tokens: q and out 2*5*4*16 = 640 elements, k and v 2*5*2*16 = 320; 960 elements of 2 bytes = 1920.
    problem = prompts("hand", (2, 3), query_heads=4, kv_heads=2, head_dim=16)
    assert attention_work(problem, "bfloat16") == Work(flop=2304, bytes=1920)


def test_decode_counts_only_live_tokens():
    # Contexts 5 and 0: 5 live tokens. 4 heads, D = 16: 5 * 4 * 16 * 4 flop = 1280.
    # k and v 2*5*2*16 = 320 elements, q and out of 2 sequences 2*2*4*16 = 256: 576 elements of 2 bytes = 1152.
    # Pages of 4: 2 live pages and 2 context lengths, 4 integers of 4 bytes = 16. Together 1168.
    problem = tokens("hand", (5, 0), query_heads=4, kv_heads=2, head_dim=16, page_size=4)
    assert attention_work(problem, "bfloat16") == Work(flop=1280, bytes=1168)


# One query head, one KV head, D = 16, fp16: a meeting costs 4*16 = 64 flop, a query with its answer 2*16*2 = 64 bytes,
# a key with its value 64 bytes.
@pytest.mark.parametrize(
    ("problem", "meetings", "query_count", "keys"),
    [
        # Without the mask each of 3 queries meets 3 keys.
        (prompts("not causal", (3,), 1, 1, 16, causal=False), 9, 3, 3),
        # A window of 2: 1 + 2 + 2 + 2 + 2.
        (prompts("window", (5,), 1, 1, 16, window=2), 9, 5, 5),
        # The last 2 of 5 meet 4 and 5 keys.
        (chunks("chunk", (2,), (5,), 1, 1, 16), 9, 2, 5),
        # In a window of 2 the last 2 of 5 meet 2 each, of the keys 2, 3, 4.
        (chunks("chunk window", (2,), (5,), 1, 1, 16, window=2), 4, 2, 3),
        # A wider window than context hides nothing.
        (chunks("wide window", (2,), (5,), 1, 1, 16, window=9), 9, 2, 5),
        # 2 of 4 keys without the mask, behind the window of 1: key 2 and 3 for the first, key 3 for the second.
        (chunks("window both ways", (2,), (4,), 1, 1, 16, window=1, causal=False), 3, 2, 2),
        # Three queries for one key: only the last sees it. No query at all needs no key.
        (chunks("nothing seen", (3, 0), (1, 7), 1, 1, 16), 1, 3, 1),
    ],
    ids=lambda value: value.name if isinstance(value, AttentionProblem) else "",
)
def test_masks_by_hand(problem, meetings, query_count, keys):
    assert attention_work(problem, "float16") == Work(flop=64 * meetings, bytes=64 * (query_count + keys))


def test_paged_chunk_by_hand():
    # 3 of 10 keys: 8 + 9 + 10 = 27 meetings, 64 flop each = 1728. 3 queries and 10 keys of 64 bytes = 832.
    # Pages of 4: 3 entries and 1 length of 4 bytes = 16.
    problem = chunks("hand", (3,), (10,), 1, 1, 16, page_size=4)
    assert attention_work(problem, "float16") == Work(flop=1728, bytes=848)


def test_values_narrower_than_keys():
    # 1+2 = 3 meetings of 2*(48+32) = 160 flop. 2 tokens: q 48 and out 32, k 48 and v 32: 2 * 160 elements of 4 bytes.
    problem = prompts("hand", (2,), 1, 1, 48, value_dim=32)
    assert attention_work(problem, "float32") == Work(flop=480, bytes=1280)


def test_float8_queries_answer_in_bfloat16():
    # 3 meetings of 64 flop = 192. 2 tokens: q, k and v 16 bytes each, out 16 * 2 = 32 bytes: 2 * 80.
    assert attention_work(prompts("hand", (2,), 1, 1, 16), FP8) == Work(flop=192, bytes=160)


def test_float8_cache_has_one_byte_per_element():
    # 5 keys meet 4 heads: 5 * 4 * 64 flop = 1280. q and out 2*4*16 = 128 elements of 2 bytes = 256.
    # k and v 2*5*2*16 = 320 bytes. Pages of 4: 2 entries and 1 length, 12 bytes. Together 588.
    problem = tokens("hand", (5,), 4, 2, 16, page_size=4, kv_dtype=FP8)
    assert attention_work(problem, "bfloat16") == Work(flop=1280, bytes=588)


def test_latent_is_read_once_for_key_and_value():
    # 5 latents meet 4 heads: 5 * 4 * 2 * (48 + 32) flop = 3200. q 4*48 and out 4*32: 320 elements of 2 bytes = 640.
    # Latents 5*48 = 240 elements = 480 bytes. Pages of 4: 2 entries and 1 length, 12 bytes. Together 1132.
    problem = latents("hand", (5,), 4, 48, 32, page_size=4)
    assert attention_work(problem, "bfloat16") == Work(flop=3200, bytes=1132)


def test_several_tokens_read_the_cache_once():
    # The last 3 of 5: 3 + 4 + 5 = 12 meetings, 64 flop each = 768. 3 queries and 5 keys of 64 bytes = 512.
    # Pages of 4: 2 entries and 1 length, 12 bytes. Together 524.
    problem = tokens("hand", (5,), 1, 1, 16, queries=3, page_size=4)
    assert attention_work(problem, "float16") == Work(flop=768, bytes=524)


lengths = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 24)), min_size=1, max_size=3)


@given(lengths=lengths, causal=st.booleans(), window=st.none() | st.integers(1, 30))
def test_keys_are_counted_as_one_by_one(lengths, causal, window):
    queries, contexts = zip(*lengths, strict=True)
    problem = chunks("counted", queries, contexts, 1, 1, 16, causal=causal, window=window)
    meetings = [
        (sequence, key)
        for sequence, (count, context) in enumerate(lengths)
        for position in range(context - count, context)
        for key in range(context)
        if not (causal and key > position) and not (window is not None and key <= position - window)
    ]
    assert problem.visible_keys() == len(meetings)
    assert sum(problem.needed_keys()) == len(set(meetings))
    # 64 flop for each meeting; 64 bytes for each query and each key that is seen.
    assert attention_work(problem, "float16") == Work(
        flop=64 * len(meetings), bytes=64 * (sum(queries) + len(set(meetings)))
    )


def test_pages_are_counted_for_each_sequence():
    # Two contexts of 5 on pages of 4 are 2 pages each: 2 lengths and 4 entries of 4 bytes, 24.
    # Keys and values 2*10*16 elements, q and out 2*2*16: 384 elements of 2 bytes, 768.
    problem = tokens("pages", (5, 5), 1, 1, 16, page_size=4)
    assert attention_work(problem, "float16").bytes == 768 + 24


def test_matmul_counts_multiplications_and_additions():
    # 2 * 3 * 5 * 7 = 210 flop. 3*7 + 5*7 + 3*5 = 71 elements of 4 bytes = 284.
    assert matmul_work(MatmulProblem("hand", 3, 5, 7), "float32") == Work(flop=210, bytes=284)


@pytest.mark.parametrize(
    ("scaling", "scales"),
    # One for a and one for the weight; 3 rows and 256 columns; 3 rows of 3 blocks and 2 x 3 blocks.
    [("tensor", 2), ("token_channel", 3 + 256), ("block", 9 + 6)],
)
def test_matmul_counts_what_its_epilogue_reads(scaling, scales):
    # 3*300 + 256*300 elements of 1 byte, fp32 scales; bias, residual and output of 256, 3*128 and 3*128 bf16.
    problem = MatmulProblem("hand", 3, 256, 300, "swiglu", has_bias=True, has_residual=True, scaling=scaling)
    wanted = 3 * 300 + 256 * 300 + 4 * scales + 2 * (256 + 2 * 3 * 128)
    assert matmul_work(problem, "float8_e4m3fn") == Work(flop=2 * 3 * 256 * 300, bytes=wanted)


@pytest.mark.parametrize(("activation", "columns", "scales"), [("none", 264, 3), ("swiglu", 132, 4)])
def test_matmul_counts_block_scales_of_gate_and_up(activation, columns, scales):
    # 264 columns are 3 blocks, but 132 of gate are 2 and so are those of up. Each for 2 blocks of K; one row of a.
    problem = MatmulProblem("hand", 1, 264, 200, activation, scaling="block")
    wanted = 200 + 264 * 200 + 4 * 2 * (1 + scales) + 2 * columns
    assert matmul_work(problem, "float8_e4m3fn").bytes == wanted


@pytest.mark.parametrize("family", ["matmul.dense", "matmul.skinny"])
def test_matmul_families_count_alike(family):
    assert part(family, "work").work is matmul_work


@pytest.mark.parametrize("family", [name for name in FAMILIES if name.startswith("attention.")])
def test_attention_families_count_alike(family):
    assert part(family, "work").work is attention_work
