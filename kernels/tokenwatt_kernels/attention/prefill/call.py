"""Attention of prompts and parts of prompts, over packed keys or over a paged cache."""

from __future__ import annotations

from torch import Tensor

from tokenwatt_kernels import device
from tokenwatt_kernels.arguments import FLOAT8
from tokenwatt_kernels.attention import options as softmax
from tokenwatt_kernels.attention.answer import new_answer, without_values
from tokenwatt_kernels.attention.keys import Keys, check_packed, check_paged, check_queries, check_values
from tokenwatt_kernels.attention.options import Options
from tokenwatt_kernels.attention.prefill.variants import launch, tile_for
from tokenwatt_kernels.attention.reference import reference_answer
from tokenwatt_kernels.operators import operator


def _checked_packed(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    cu_seqlens_k: Tensor | None,
    options: Options,
    lse: Tensor | None,
) -> Keys:
    check_queries(q, cu_seqlens, max_seqlen, lse)
    starts = cu_seqlens if cu_seqlens_k is None else cu_seqlens_k
    keys = check_packed(q, k, v, starts, cu_seqlens.numel() - 1)
    if cu_seqlens_k is None and k.shape[0] != q.shape[0]:
        raise ValueError(f"k must have Tk = {q.shape[0]} like q, unless cu_seqlens_k is given, got {k.shape[0]}")
    softmax.check(options, q, keys.heads)
    return keys


@operator(without_values(_checked_packed), writes=("lse",))
def prefill_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    *,
    cu_seqlens_k: Tensor | None = None,
    options: Options = softmax.DEFAULT,
    lse: Tensor | None = None,
    validate: bool = False,
) -> Tensor:
    """Grouped-query attention of every sequence in a packed batch.

    q: [Tq, Hq, D], k: [Tk, Hkv, D], v: [Tk, Hkv, Dv], all float32, float16, bfloat16 or float8_e4m3fn. Hq is a multiple
        of Hkv, D a power of two from 16 or the sum of two such (96, 192).
    cu_seqlens: [B + 1] int32 on the same device; sequence b owns query rows cu_seqlens[b]:cu_seqlens[b + 1].
    max_seqlen: at least the largest number of queries of a sequence. It sizes the launch; rows beyond it are not
        computed.
    cu_seqlens_k: the same for the rows of k and v; None means that of the queries. The last query of a sequence stands
        at the position of its last key, so that a prompt can be continued in chunks.
    options: scale, mask, softcap, sinks and float8 scales.
    lse: [Tq, Hq] fp32, to be filled with the natural log-sum-exp of the scores, unless None.
    validate: read the values of cu_seqlens back to the host, which waits for the GPU, and check them too. On a CPU they
        always are checked; on a GPU they are trusted otherwise.

    Returns [Tq, Hq, Dv] in the dtype of q, bfloat16 for float8: the Triton kernel's answer on CUDA, the torch
    reference's on a CPU. A query that sees no key gets 0 and a log-sum-exp of -inf.
    Raises TypeError or ValueError, before any launch, for arguments other than these.
    """
    keys = _checked_packed(q, k, v, cu_seqlens, max_seqlen, cu_seqlens_k, options, lse)
    return _answer(q, keys, cu_seqlens, max_seqlen, options, lse, validate=validate)


def _checked_paged(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    block_table: Tensor,
    context_lens: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    options: Options,
    lse: Tensor | None,
) -> Keys:
    check_queries(q, cu_seqlens, max_seqlen, lse)
    keys = check_paged(q, k_cache, v_cache, block_table, context_lens, cu_seqlens.numel() - 1)
    softmax.check(options, q, keys.heads)
    return keys


@operator(without_values(_checked_paged), writes=("lse",))
def paged_prefill_attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    block_table: Tensor,
    context_lens: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    *,
    options: Options = softmax.DEFAULT,
    lse: Tensor | None = None,
    validate: bool = False,
) -> Tensor:
    """prefill_attention with keys in the pages of a cache: a chunk of each prompt over all of it that is cached.

    k_cache: [pages, page_size, Hkv, D]; v_cache: the same with Dv; in the dtype of q, or float8_e4m3fn.
    block_table: [B, max_pages] int32; entry [b, i] is the page of keys i * page_size .. of sequence b. Entries behind
        the context are never read.
    context_lens: [B] int32, the keys of each sequence, those of the queries included.

    Everything else is as in prefill_attention; `validate` checks the values of block_table and context_lens too.
    """
    keys = _checked_paged(q, k_cache, v_cache, block_table, context_lens, cu_seqlens, max_seqlen, options, lse)
    return _answer(q, keys, cu_seqlens, max_seqlen, options, lse, validate=validate)


def _answer(
    q: Tensor,
    keys: Keys,
    query_starts: Tensor,
    max_queries: int,
    options: Options,
    lse: Tensor | None,
    *,
    validate: bool,
) -> Tensor:
    if validate:
        check_values(keys, q, query_starts.tolist())
    return attend(q, keys, query_starts, max_queries, options, lse)


def attend(
    q: Tensor,
    keys: Keys,
    query_starts: Tensor,
    max_queries: int,
    options: Options,
    lse: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """The answer for checked arguments, in `out` if given: the launch that the public functions share."""
    if out is None:
        out = new_answer(q, keys.value_dim)
    if q.device.type == "cpu":
        return reference_answer(q, keys, query_starts.tolist(), options, out, lse)

    if keys.k.dtype == FLOAT8:
        device.check_float8(q.device, is_mixed=q.dtype != FLOAT8)

    launch(q, keys, query_starts, max_queries, options, out, lse, tile_for(q, keys, options))
    return out
