"""Attention of a batch that mixes decoding sequences and chunks of prompts, as an engine's step has them."""

from __future__ import annotations

from torch import Tensor

from tokenwatt_kernels.arguments import FLOAT_DTYPES, check_tensor
from tokenwatt_kernels.attention import options as softmax
from tokenwatt_kernels.attention.answer import new_answer, without_values
from tokenwatt_kernels.attention.decode.call import attend as attend_decodes
from tokenwatt_kernels.attention.decode.call import check_options
from tokenwatt_kernels.attention.keys import Keys, check_paged, check_queries, check_values
from tokenwatt_kernels.attention.options import Options
from tokenwatt_kernels.attention.prefill.call import attend as attend_chunks
from tokenwatt_kernels.operators import operator


def _checked(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    block_table: Tensor,
    context_lens: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    decodes: int,
    decode_queries: int,
    options: Options,
    lse: Tensor | None,
) -> Keys:
    check_tensor("q", q, ("Tq", "Hq", "D"), FLOAT_DTYPES)
    check_queries(q, cu_seqlens, max_seqlen, lse)
    sequences = cu_seqlens.numel() - 1
    keys = check_paged(q, k_cache, v_cache, block_table, context_lens, sequences)
    if not 0 <= decodes <= sequences:
        raise ValueError(f"decodes must be from 0 to the {sequences} sequences of cu_seqlens, got {decodes}")
    rows = decodes * decode_queries
    if decode_queries < 1 or rows > q.shape[0]:
        raise ValueError(f"decode_queries must be >= 1 and give at most q's {q.shape[0]} rows, got {decode_queries}")
    if decodes == sequences and rows != q.shape[0]:
        raise ValueError(f"q must have Tq = {rows} when all sequences decode, got {q.shape[0]}")
    check_options(options, q, keys.heads, "a mixed batch")
    return keys


@operator(without_values(_checked), writes=("lse",))
def mixed_attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    block_table: Tensor,
    context_lens: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    *,
    decodes: int,
    decode_queries: int = 1,
    options: Options = softmax.DEFAULT,
    lse: Tensor | None = None,
    validate: bool = False,
) -> Tensor:
    """Grouped-query attention of sequences over a paged cache, of which the first `decodes` have few queries.

    They are answered by the decode kernel and the rest by the prefill kernel, which is why they come first: each kernel
    gets a contiguous part of the batch, and nothing is gathered or copied.

    q: [Tq, Hq, D]: decode_queries rows for each of the first `decodes` sequences, then the chunks; 16 or 32 bits.
    k_cache, v_cache, block_table, context_lens, cu_seqlens, lse, validate: as in paged_prefill_attention, for all
        sequences.
    max_seqlen: at least the largest number of queries of a chunk.
    options: as in prefill_attention, causal.

    Returns [Tq, Hq, Dv] in the dtype of q. A CUDA graph may capture the call; the split of the batch is then fixed.
    Raises TypeError or ValueError, before any launch, for arguments other than these.
    """
    keys = _checked(
        q, k_cache, v_cache, block_table, context_lens, cu_seqlens, max_seqlen, decodes, decode_queries, options, lse
    )
    if validate:
        check_values(keys, q, cu_seqlens.tolist())

    rows, sequences = decodes * decode_queries, cu_seqlens.numel() - 1
    out = new_answer(q, keys.value_dim)
    parts = [None, None] if lse is None else [lse[:rows], lse[rows:]]
    if decodes:
        few = _sequences(keys, slice(0, decodes))
        attend_decodes(q[:rows], decode_queries, few, options, parts[0], out[:rows])
    if decodes < sequences:
        rest = _sequences(keys, slice(decodes, None))
        attend_chunks(q[rows:], rest, cu_seqlens[decodes:] - rows, max_seqlen, options, parts[1], out[rows:])
    return out


def _sequences(keys: Keys, part: slice) -> Keys:
    """The same cache for some of the sequences."""
    if keys.block_table is None or keys.context_lens is None:
        raise ValueError("keys must be paged, got packed ones")
    return Keys(keys.k, keys.v, block_table=keys.block_table[part], context_lens=keys.context_lens[part])
