"""One call for decodes and chunks: the same answer as one call for chunks, and refusals by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tokenwatt_kernels.attention.mixed import mixed_attention
from tokenwatt_kernels.attention.options import Options
from tokenwatt_kernels.attention.prefill.call import paged_prefill_attention

HEADS, KV_HEADS, HEAD_DIM, PAGE_SIZE = 4, 2, 16, 4


def arguments(queries: list[int], contexts: list[int], **changes: Any) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    pages = [-(-context // PAGE_SIZE) for context in contexts]
    block_table = torch.zeros(len(contexts), max(pages), dtype=torch.int32)
    for row, own in zip(block_table, torch.randperm(sum(pages), generator=generator).split(pages), strict=True):
        row[: len(own)] = own
    cache = torch.randn(2, sum(pages), PAGE_SIZE, KV_HEADS, HEAD_DIM, generator=generator)
    starts = torch.tensor([0, *torch.tensor(queries).cumsum(0).tolist()], dtype=torch.int32)
    good = {
        "q": torch.randn(sum(queries), HEADS, HEAD_DIM, generator=generator),
        "k_cache": cache[0],
        "v_cache": cache[1],
        "block_table": block_table,
        "context_lens": torch.tensor(contexts, dtype=torch.int32),
        "cu_seqlens": starts,
        "max_seqlen": max(queries),
    }
    return good | changes


@pytest.mark.parametrize(
    ("queries", "decodes", "decode_queries"),
    [([1, 1, 5, 3], 2, 1), ([2, 2, 7], 2, 2), ([4, 6], 0, 1), ([1, 1, 1], 3, 1), ([3, 3], 2, 3)],
)
def test_equals_one_call_for_chunks(queries, decodes, decode_queries):
    contexts = [9, 13, 17, 6][: len(queries)]
    given = arguments(queries, contexts)
    options = Options(window=8, sinks=torch.linspace(-1.0, 1.0, HEADS))
    lse, expected_lse = (torch.empty(sum(queries), HEADS) for _ in range(2))
    out = mixed_attention(**given, decodes=decodes, decode_queries=decode_queries, options=options, lse=lse)
    expected = paged_prefill_attention(**given, options=options, lse=expected_lse)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(lse, expected_lse)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decodes": 3}, "decodes must be from 0 to the 2 sequences of cu_seqlens, got 3"),
        ({"decodes": 2, "decode_queries": 4}, "decode_queries must be >= 1 and give at most q's 6 rows, got 4"),
        ({"decodes": 2}, "q must have Tq = 2 when all sequences decode, got 6"),
        ({"decodes": 1, "options": Options(causal=False)}, "options must be causal for a mixed batch"),
    ],
)
def test_refuses(changes, message):
    with pytest.raises(ValueError, match=message):
        mixed_attention(**arguments([1, 5], [9, 6]), **changes)


def test_refuses_float8_queries():
    given = arguments([1, 5], [9, 6])
    with pytest.raises(TypeError, match="q must have dtype .* got torch.float8_e4m3fn"):
        mixed_attention(**given | {"q": given["q"].to(torch.float8_e4m3fn)}, decodes=1)
