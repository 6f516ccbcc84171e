"""Attention of one or a few new tokens per sequence over a paged cache."""

from __future__ import annotations

from torch import Tensor

from tokenwatt_kernels import device, tables
from tokenwatt_kernels.arguments import CACHE_DTYPES, FLOAT8, FLOAT_DTYPES, check_size, check_tensor
from tokenwatt_kernels.attention import options as softmax
from tokenwatt_kernels.attention.answer import new_answer, without_values
from tokenwatt_kernels.attention.copies import copied_keys
from tokenwatt_kernels.attention.decode.tiles import FAMILY, DecodeKey, DecodeTile, make_key
from tokenwatt_kernels.attention.keys import Keys, check_lse, check_paged, check_values
from tokenwatt_kernels.attention.options import Options
from tokenwatt_kernels.attention.reference import reference_answer
from tokenwatt_kernels.operators import operator


def check_options(options: Options, q: Tensor, kv_heads: int, where: str = "decode attention") -> None:
    """Raise unless these are options that the decode kernel has, and fit queries [..., Hq, D] and kv_heads."""
    softmax.check(options, q, kv_heads)
    if not options.causal:
        raise ValueError(f"options must be causal for {where}, got causal=False")
    if options.q_scale is not None:
        raise ValueError(f"q_scale must be None for {where}, whose queries are not float8, got a tensor")


def _checked(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    block_table: Tensor,
    context_lens: Tensor,
    options: Options,
    lse: Tensor | None,
) -> Keys:
    _check_queries(q, lse)
    keys = check_paged(q, k_cache, v_cache, block_table, context_lens, q.shape[0])
    check_options(options, q, keys.heads)
    return keys


def _checked_latent(
    q: Tensor,
    latent_cache: Tensor,
    block_table: Tensor,
    context_lens: Tensor,
    value_dim: int,
    options: Options,
    lse: Tensor | None,
) -> Keys:
    _check_queries(q, lse)
    if options.scale is None:
        raise ValueError("options must have a scale: 1/sqrt(D) of the latent is not the model's, got None")
    check_tensor("latent_cache", latent_cache, ("pages", "page_size", "1", "D"), CACHE_DTYPES)
    check_size("latent_cache", "heads", latent_cache.shape[2], 1)
    check_size("latent_cache", "D", latent_cache.shape[3], q.shape[-1])
    if not 0 < value_dim <= q.shape[-1]:
        raise ValueError(f"value_dim must be from 1 to D = {q.shape[-1]}, got {value_dim}")
    keys = check_paged(q, latent_cache, latent_cache[..., :value_dim], block_table, context_lens, q.shape[0])
    check_options(options, q, keys.heads)
    return keys.with_values_as_keys()


def _check_queries(q: Tensor, lse: Tensor | None) -> None:
    axes = ("B", "Q", "Hq", "D") if isinstance(q, Tensor) and q.dim() == 4 else ("B", "Hq", "D")
    check_tensor("q", q, axes, FLOAT_DTYPES)
    device.check_supported(q.device)
    check_lse(q, lse)
    if q.dim() == 4 and q.shape[1] == 0:
        raise ValueError("q must have Q >= 1 queries per sequence, got 0")


@operator(without_values(_checked), writes=("lse",))
def decode_attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    block_table: Tensor,
    context_lens: Tensor,
    *,
    options: Options = softmax.DEFAULT,
    lse: Tensor | None = None,
    validate: bool = False,
) -> Tensor:
    """Grouped-query attention of a few query tokens per sequence over its cached keys.

    q: [B, Hq, D], or [B, Q, Hq, D] for Q tokens per sequence (speculative decoding), of which the last stands at the
        last cached key; one of float32, float16 or bfloat16. Hq is a multiple of Hkv, D a power of two from 16 or the
        sum of two such (96, 192).
    k_cache: [pages, page_size, Hkv, D]; v_cache: the same with Dv; in the dtype of q, or float8_e4m3fn.
    block_table: [B, max_pages] int32; entry [b, i] is the page of keys i * page_size .. of sequence b. Entries behind
        the context are never read.
    context_lens: [B] int32, the keys in the cache, those of the new tokens included.
    options: scale, window, softcap, sinks and float8 scales. Queries see no key behind their own position.
    lse: [B, Hq] or [B, Q, Hq] fp32, to be filled with the natural log-sum-exp of the scores, unless None.
    validate: read the values of block_table and context_lens back to the host, which waits for the GPU, and check them
        too. On a CPU they always are checked; on a GPU they are trusted otherwise, so that a CUDA graph may capture the
        call.

    Returns q's shape with Dv in place of D, in the dtype of q: the Triton kernel's answer on CUDA, the torch
    reference's on a CPU. A query that sees no key gets 0 and a log-sum-exp of -inf.
    Raises TypeError or ValueError, before any launch, for arguments other than these.
    """
    keys = _checked(q, k_cache, v_cache, block_table, context_lens, options, lse)
    return _answer(q, keys, options, lse, validate=validate)


@operator(without_values(_checked_latent), writes=("lse",))
def mla_decode_attention(
    q: Tensor,
    latent_cache: Tensor,
    block_table: Tensor,
    context_lens: Tensor,
    *,
    value_dim: int,
    options: Options,
    lse: Tensor | None = None,
    validate: bool = False,
) -> Tensor:
    """decode_attention over a cache of latents, whose first value_dim elements are key and value at once.

    q: [B, Hq, D] or [B, Q, Hq, D], already multiplied by the key up-projection: D = 576 and value_dim = 512 in
        DeepSeek-V3. latent_cache: [pages, page_size, 1, D].
    options: with a scale, because D is not the dimension that the model's scale belongs to.

    Returns q's shape with value_dim in place of D. Everything else is as in decode_attention.
    """
    keys = _checked_latent(q, latent_cache, block_table, context_lens, value_dim, options, lse)
    return _answer(q, keys, options, lse, validate=validate)


def key_for(q: Tensor, queries: int, keys: Keys) -> DecodeKey:
    """What the tile for queries [B * Q, Hq, D], Q = `queries`, depends on besides the GPU."""
    return make_key(
        queries * (q.shape[1] // keys.heads),
        q.shape[-1],
        keys.value_dim,
        4 if q.element_size() == 4 else keys.k.element_size(),
        values_are_keys=keys.values_are_keys,
        copied_keys=copied_keys(keys.allow_descriptors),
    )


def tile_for(q: Tensor, queries: int, keys: Keys) -> DecodeTile:
    """The tile for queries [B * Q, Hq, D] on a GPU, Q = `queries`."""
    key = key_for(q, queries, keys)
    return tables.tile_on(FAMILY, device.name(q.device), device.capability(q.device), key)


def _answer(q: Tensor, keys: Keys, options: Options, lse: Tensor | None, *, validate: bool) -> Tensor:
    """attend with the axes of q: [B, Hq, D] or [B, Q, Hq, D]."""
    queries = q.shape[1] if q.dim() == 4 else 1
    rows = q.flatten(0, -3)
    if validate:
        check_values(keys, rows, range(0, len(rows) + 1, queries))
    out = attend(rows, queries, keys, options, None if lse is None else lse.view(rows.shape[:-1]))
    return out.view(*q.shape[:-1], keys.value_dim)


def attend(
    q: Tensor,
    queries: int,
    keys: Keys,
    options: Options,
    lse: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """The answer for checked arguments, q [B * Q, Hq, D], in `out` if given: the launch of all public functions."""
    if out is None:
        out = new_answer(q, keys.value_dim)
    if q.device.type == "cpu":
        return reference_answer(q, keys, range(0, len(q) + 1, queries), options, out, lse)

    if keys.k.dtype == FLOAT8:
        device.check_float8(q.device, is_mixed=q.dtype != FLOAT8)

    from tokenwatt_kernels.attention.decode.kernel import launch

    tile = tile_for(q, queries, keys)
    programs = tile.programs_per_multiprocessor * device.multiprocessors(q.device)
    launch(q, queries, keys, options, out, lse, tile, programs)
    return out
