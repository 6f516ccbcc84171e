"""Rotary embedding (Su et al., arXiv 2104.09864) of queries and keys, which are appended to a paged cache."""

from __future__ import annotations

from torch import Tensor

from tokenwatt_kernels import device, tables
from tokenwatt_kernels.arguments import CACHE_DTYPES, FLOAT8, check_size, check_tensor
from tokenwatt_kernels.fused.rope.operands import (
    Append,
    Rotation,
    check_append,
    check_heads,
    check_packed,
    check_rotation,
    check_values,
)
from tokenwatt_kernels.fused.rope.reference import append_reference, rotated_reference
from tokenwatt_kernels.fused.rope.tiles import FAMILY, RopeTile, make_key
from tokenwatt_kernels.operators import operator


def tile_for(q: Tensor) -> RopeTile:
    """The tile for queries [T, Hq, D] on a GPU."""
    key = make_key(q.shape[-1], q.element_size())
    return tables.tile_on(FAMILY, device.name(q.device), device.capability(q.device), key)


def _operands(
    k_cache: Tensor | None,
    v_cache: Tensor | None,
    slots: Tensor | None,
    k_scale: Tensor | None,
    v_scale: Tensor | None,
) -> Append | None:
    given = [tensor is not None for tensor in (k_cache, v_cache, slots)]
    if k_cache is not None and v_cache is not None and slots is not None:
        return Append(k_cache, v_cache, slots, k_scale, v_scale)
    if any(given) or k_scale is not None or v_scale is not None:
        raise ValueError(f"k_cache, v_cache and slots must be given together, got {sum(given)} of them")
    return None


def _check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rotation: Rotation,
    append: Append | None,
    k_out: Tensor | None = None,
    v_out: Tensor | None = None,
) -> Tensor:
    """Raise unless all fit together. An empty answer."""
    check_heads(q, k, v)
    check_rotation(rotation, q)
    if append is not None:
        check_append(append, k, v)
    for name, out, like_name, like in (("k_out", k_out, "k", k), ("v_out", v_out, "v", v)):
        if out is not None:
            check_packed(name, out, like_name, like)
    return q.new_empty(q.shape)


def _run(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rotation: Rotation,
    append: Append | None,
    k_out: Tensor | None,
    v_out: Tensor | None,
    *,
    validate: bool,
) -> Tensor:
    out = _check(q, k, v, rotation, append, k_out, v_out)
    device.check_supported(q.device)
    if validate or q.device.type == "cpu":
        check_values(rotation, append)
    if q.device.type == "cpu":
        if append is not None or k_out is not None:
            rotated = rotated_reference(k, rotation, rotation.k_weight)
            if append is not None:
                append_reference(append, rotated, v)
            if k_out is not None:
                k_out.copy_(rotated)
        if v_out is not None:
            v_out.copy_(v)
        return out.copy_(rotated_reference(q, rotation, rotation.q_weight))
    if append is not None and append.k_cache.dtype == FLOAT8:
        device.check_float8(q.device, is_mixed=False)

    from tokenwatt_kernels.fused.rope.kernel import launch

    launch(q, k, v, rotation, append, out, k_out, v_out, tile_for(q))
    return out


def _fake_rotate_and_append(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cos: Tensor,
    sin: Tensor,
    positions: Tensor,
    k_cache: Tensor | None = None,
    v_cache: Tensor | None = None,
    slots: Tensor | None = None,
    k_scale: Tensor | None = None,
    v_scale: Tensor | None = None,
    q_weight: Tensor | None = None,
    k_weight: Tensor | None = None,
    k_out: Tensor | None = None,
    v_out: Tensor | None = None,
    *,
    interleaved: bool = False,
    eps: float = 1e-6,
    unit_offset: bool = False,
    validate: bool = False,
) -> Tensor:
    rotation = Rotation(cos, sin, positions, interleaved, q_weight, k_weight, eps, unit_offset)
    return _check(q, k, v, rotation, _operands(k_cache, v_cache, slots, k_scale, v_scale), k_out, v_out)


@operator(_fake_rotate_and_append, writes=("k_cache", "v_cache", "k_out", "v_out"))
def rotate_and_append(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cos: Tensor,
    sin: Tensor,
    positions: Tensor,
    k_cache: Tensor | None = None,
    v_cache: Tensor | None = None,
    slots: Tensor | None = None,
    k_scale: Tensor | None = None,
    v_scale: Tensor | None = None,
    q_weight: Tensor | None = None,
    k_weight: Tensor | None = None,
    k_out: Tensor | None = None,
    v_out: Tensor | None = None,
    *,
    interleaved: bool = False,
    eps: float = 1e-6,
    unit_offset: bool = False,
    validate: bool = False,
) -> Tensor:
    """Rotate q and k by their positions, and append rotated k, and v, to a paged cache.

    q: [T, Hq, D], k: [T, Hkv, D], v: [T, Hkv, Dv], one of float32, float16 or bfloat16, contiguous along the last axis:
        views of one qkv tensor are taken as they are. D and Dv up to 1024.
    cos, sin: [positions, rotary / 2] fp32; the first rotary elements of a head turn, the others stay.
    positions: [T] int32 or int64, a row of cos and sin for each token.
    k_cache: [pages, page_size, Hkv, D], v_cache: the same with Dv, in the dtype of q or float8 e4m3. None: no append.
    slots: [T] int32 or int64, page * page_size + place in the page; a token with a negative slot is not appended. No
        two tokens have the same.
    k_scale, v_scale: [1] or [Hkv] fp32. A float8 cache gets x / scale, beyond +-448 it gets +-448: the factors that
        attention multiplies by. None is 1.
    q_weight, k_weight: [D] in the dtype of q: an RMS norm of each head comes first (Qwen3, Gemma3), with eps, and times
        1 + weight if unit_offset.
    k_out, v_out: tensors in shape and dtype of k and v, to be filled with what goes into the cache before scaling.
    interleaved: pairs are elements 2 i and 2 i + 1 (GPT-J, DeepSeek), not i and i + rotary / 2 (Llama, Hugging Face).
    validate: read positions and slots back to the host, which waits for the GPU, and check them. On a CPU they always
        are checked.

    All is computed in fp32 and rounded once. Nothing of the cache is written but the slots.

    Returns the rotated queries: the Triton kernel's answer on CUDA, torch's on a CPU.
    Raises TypeError or ValueError, before any launch, for arguments other than these.
    """
    rotation = Rotation(cos, sin, positions, interleaved, q_weight, k_weight, eps, unit_offset)
    append = _operands(k_cache, v_cache, slots, k_scale, v_scale)
    return _run(q, k, v, rotation, append, k_out, v_out, validate=validate)


def _latent_operands(
    k: Tensor, latent: Tensor, latent_cache: Tensor, slots: Tensor, scale: Tensor | None
) -> tuple[Tensor, Tensor, Append]:
    """Keys [T, 1, R], values [T, 1, L], and both parts of the cache."""
    check_tensor("k", k, ("T", "R"))
    check_tensor("latent", latent, ("T", "L"))
    check_tensor("latent_cache", latent_cache, ("pages", "page_size", "1", "L + R"), CACHE_DTYPES)
    check_size("latent_cache", "L + R", latent_cache.shape[3], latent.shape[1] + k.shape[1])
    values, keys = latent_cache.split([latent.shape[1], k.shape[1]], dim=-1)
    return k[:, None], latent[:, None], Append(keys, values, slots, scale, scale)


def _fake_rotate_and_append_latent(
    q: Tensor,
    k: Tensor,
    latent: Tensor,
    cos: Tensor,
    sin: Tensor,
    positions: Tensor,
    latent_cache: Tensor,
    slots: Tensor,
    scale: Tensor | None = None,
    *,
    interleaved: bool = True,
    validate: bool = False,
) -> Tensor:
    keys, values, append = _latent_operands(k, latent, latent_cache, slots, scale)
    return _check(q, keys, values, Rotation(cos, sin, positions, interleaved), append)


@operator(_fake_rotate_and_append_latent, writes=("latent_cache",))
def rotate_and_append_latent(
    q: Tensor,
    k: Tensor,
    latent: Tensor,
    cos: Tensor,
    sin: Tensor,
    positions: Tensor,
    latent_cache: Tensor,
    slots: Tensor,
    scale: Tensor | None = None,
    *,
    interleaved: bool = True,
    validate: bool = False,
) -> Tensor:
    """rotate_and_append for multi-head latent attention: latents and the keys' rotary part share one row of the cache.

    q: [T, Hq, R], the rotary part of the queries; k: [T, R]; latent: [T, L], already normed: R = 64 and L = 512 in
        DeepSeek-V3. latent_cache: [pages, page_size, 1, L + R], the latent first. scale: [1] fp32 of a float8 cache.
    Everything else is as in rotate_and_append.

    Returns the rotated queries [T, Hq, R].
    """
    keys, values, append = _latent_operands(k, latent, latent_cache, slots, scale)
    rotation = Rotation(cos, sin, positions, interleaved)
    return _run(q, keys, values, rotation, append, None, None, validate=validate)
