"""What a rotary embedding needs besides queries, keys and values, checked: the rotation, and the cache to append to."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenwatt_kernels.arguments import (
    FLOAT8,
    FLOAT_DTYPES,
    check_device,
    check_matches,
    check_size,
    check_tensor,
)

INDEX_DTYPES = (torch.int32, torch.int64)
MAX_DIM = 1024
"""The longest head that a program holds."""


@dataclass(frozen=True, slots=True)
class Rotation:
    """How a token at position p is rotated: by the angles in row p of the tables.

    cos, sin: [positions, rotary / 2] fp32; positions: [T] int32 or int64.
    interleaved: elements 2 i and 2 i + 1 of a head are a pair; otherwise i and i + rotary / 2 are.
    q_weight, k_weight: [D], of an RMS norm of each head before; None for no norm.
    """

    cos: Tensor
    sin: Tensor
    positions: Tensor
    interleaved: bool = False
    q_weight: Tensor | None = None
    k_weight: Tensor | None = None
    eps: float = 1e-6
    unit_offset: bool = False


@dataclass(frozen=True, slots=True)
class Append:
    """Where keys and values go.

    k_cache: [pages, page_size, Hkv, D]; v_cache: the same with Dv; slots: [T], page * page_size + place, or negative.
    k_scale, v_scale: [1] or [Hkv] fp32: a float8 cache holds what was divided by them.
    """

    k_cache: Tensor
    v_cache: Tensor
    slots: Tensor
    k_scale: Tensor | None = None
    v_scale: Tensor | None = None


def check_heads(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Raise unless q [T, Hq, D], k [T, Hkv, D] and v [T, Hkv, Dv] belong together."""
    check_tensor("q", q, ("T", "Hq", "D"))
    for name, tensor, axes in (("k", k, ("T", "Hkv", "D")), ("v", v, ("T", "Hkv", "Dv"))):
        check_tensor(name, tensor, axes)
        check_matches(name, tensor, "q", q)
        check_size(name, "T", tensor.shape[0], q.shape[0])
    check_size("k", "D", k.shape[2], q.shape[2])
    check_size("v", "Hkv", v.shape[1], k.shape[1])
    for name, heads, dim in (("q", q.shape[1], q.shape[2]), ("v", v.shape[1], v.shape[2])):
        if not (heads >= 1 and 1 <= dim <= MAX_DIM):
            raise ValueError(f"{name} must have at least 1 head of 1 to {MAX_DIM} elements, got {heads} of {dim}")


def check_rotation(rotation: Rotation, q: Tensor) -> None:
    """Raise unless the rotation fits q [T, Hq, D]."""
    tokens, _, dim = q.shape
    for name, table in (("cos", rotation.cos), ("sin", rotation.sin)):
        check_tensor(name, table, ("positions", "rotary / 2"), (torch.float32,))
        check_device(name, table, "q", q)
        if table.shape != rotation.cos.shape:
            raise ValueError(f"{name} must have the shape of cos, {list(rotation.cos.shape)}, got {list(table.shape)}")
    half = rotation.cos.shape[1]
    if not 1 <= 2 * half <= dim:
        raise ValueError(f"cos must have from 1 to D / 2 = {dim // 2} columns, got {half}")
    _check_index("positions", rotation.positions, q)
    check_size("positions", "T", rotation.positions.shape[0], tokens)
    if (rotation.q_weight is None) != (rotation.k_weight is None):
        raise ValueError("q_weight and k_weight must both be tensors or both None, got one of each")
    for name, weight in (("q_weight", rotation.q_weight), ("k_weight", rotation.k_weight)):
        if weight is not None:
            check_tensor(name, weight, ("D",))
            check_matches(name, weight, "q", q)
            check_size(name, "D", weight.shape[0], dim)
    if not (rotation.eps >= 0 and math.isfinite(rotation.eps)):
        raise ValueError(f"eps must be a finite number >= 0, got {rotation.eps}")


def check_append(append: Append, k: Tensor, v: Tensor) -> None:
    """Raise unless keys and values fit the cache."""
    axes = ("pages", "page_size", "Hkv", "D")
    for name, cache, like_name, like in (("k_cache", append.k_cache, "k", k), ("v_cache", append.v_cache, "v", v)):
        check_tensor(name, cache, axes, tuple(dict.fromkeys((like.dtype, FLOAT8))))
        check_device(name, cache, like_name, like)
        check_size(name, "Hkv", cache.shape[2], like.shape[1])
        check_size(name, "D", cache.shape[3], like.shape[2])
    if append.v_cache.dtype != append.k_cache.dtype or append.v_cache.shape[:2] != append.k_cache.shape[:2]:
        raise ValueError(
            f"v_cache must have dtype, pages and page_size of k_cache, {append.k_cache.dtype}"
            f" {list(append.k_cache.shape[:2])}, got {append.v_cache.dtype} {list(append.v_cache.shape[:2])}"
        )
    _check_index("slots", append.slots, k)
    check_size("slots", "T", append.slots.shape[0], k.shape[0])
    for name, scale in (("k_scale", append.k_scale), ("v_scale", append.v_scale)):
        if scale is None:
            continue
        check_tensor(name, scale, ("heads",), (torch.float32,))
        check_device(name, scale, "k", k)
        if append.k_cache.dtype != FLOAT8:
            raise ValueError(f"{name} must be None for a cache of {append.k_cache.dtype}, got a tensor")
        if scale.numel() not in (1, k.shape[1]):
            raise ValueError(f"{name} must have 1 or Hkv = {k.shape[1]} elements, got {scale.numel()}")


def check_packed(name: str, out: Tensor, like_name: str, like: Tensor) -> None:
    """Raise unless `out` can take the rotated or copied tensor `like`."""
    check_tensor(name, out, ("T", "Hkv", "D"), FLOAT_DTYPES)
    check_matches(name, out, like_name, like)
    if out.shape != like.shape:
        raise ValueError(f"{name} must have the shape of {like_name}, {list(like.shape)}, got {list(out.shape)}")


def check_values(rotation: Rotation, append: Append | None) -> None:
    """Raise unless positions and slots are within their tensors, and no two tokens share a slot; reads them back."""
    rows, positions = len(rotation.cos), rotation.positions
    if bool(((positions < 0) | (positions >= rows)).any()):
        raise ValueError(f"positions must be from 0 to {rows - 1}, got {positions.tolist()}")
    if append is None:
        return
    slots, count = append.slots, append.k_cache.shape[0] * append.k_cache.shape[1]
    if bool((slots >= count).any()):
        raise ValueError(f"slots must be below pages * page_size = {count}, got {slots.tolist()}")
    taken = slots[slots >= 0]
    if len(taken.unique()) != len(taken):
        raise ValueError(f"slots must be different for each token that is appended, got {slots.tolist()}")


def _check_index(name: str, index: Tensor, like: Tensor) -> None:
    check_tensor(name, index, ("T",), INDEX_DTYPES)
    check_device(name, index, "q", like)
