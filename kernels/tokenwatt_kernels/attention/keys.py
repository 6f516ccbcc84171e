"""Where an attention call finds its keys and values: packed one sequence after another, or in the pages of a cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tokenwatt_kernels.arguments import (
    CACHE_DTYPES,
    FLOAT8,
    check_device,
    check_size,
    check_tensor,
)
from tokenwatt_kernels.attention.heads import MIN_FLOAT8_PART, MIN_PART, is_key_dim, key_parts, value_block
from tokenwatt_kernels.device import check_supported

if TYPE_CHECKING:
    from triton.tools.tensor_descriptor import TensorDescriptor

DESCRIPTOR_ALIGNMENT_BYTES = 16


@dataclass(frozen=True, slots=True)
class Keys:
    """Checked keys and values of a batch.

    Packed: k [Tk, Hkv, D], v [Tk, Hkv, Dv], and sequence b owns rows starts[b]:starts[b + 1].
    Paged: k [pages, page_size, Hkv, D], v the same with Dv; block_table [B, max_pages] and context_lens [B] say where
    the keys of each sequence are. `starts`, block_table and context_lens are int32 on the device of k.
    values_are_keys: v is the first Dv dimensions of k, and is loaded once for both.
    """

    k: Tensor
    v: Tensor
    starts: Tensor | None = None
    block_table: Tensor | None = None
    context_lens: Tensor | None = None
    values_are_keys: bool = False

    @property
    def heads(self) -> int:
        """Key/value heads."""
        return self.k.shape[-2]

    @property
    def value_dim(self) -> int:
        """Dimensions of a value."""
        return self.v.shape[-1]

    @property
    def page_size(self) -> int:
        """Keys of a page; 0 where keys are packed."""
        return 0 if self.block_table is None else self.k.shape[1]

    def strides(self, tensor: Tensor) -> tuple[int, int, int]:
        """From page to page (0 where packed), key to key and head to head."""
        page = 0 if self.block_table is None else tensor.stride(0)
        return page, tensor.stride(-3), tensor.stride(-2)

    @property
    def lie_alike(self) -> bool:
        """Whether a key and its value lie at the same distance from the first of each."""
        return self.strides(self.k) == self.strides(self.v)

    def packed(self, tensor: Tensor) -> Tensor:
        """k or v as [sum of contexts, heads, dimensions], for the reference; reads the lengths back to the host."""
        if self.block_table is None or self.context_lens is None:
            return tensor
        return _gather_pages(tensor, self.block_table, self.context_lens.tolist())

    def bounds(self) -> list[int]:
        """Row at which each sequence begins in the packed form, and the end of the last; reads back to the host."""
        if self.starts is not None:
            return self.starts.tolist()
        if self.context_lens is None:
            raise ValueError("Keys must have starts or context_lens, got neither")
        return [0, *self.context_lens.cumsum(0).tolist()]

    def with_values_as_keys(self) -> Keys:
        """The same keys, whose main part is loaded once as key and value. Raises ValueError if it is not the value."""
        main, _ = key_parts(self.k.shape[-1])
        if value_block(self.value_dim) != main:
            raise ValueError(f"value_dim must be {main}, the largest power of two in D, got {self.value_dim}")
        return replace(self, values_are_keys=True)

    def allow_descriptors(self, block_n: int) -> bool:
        """Whether the hardware can copy tiles of block_n keys: even rows, aligned, and no tile across two pages."""
        return (self.page_size == 0 or self.page_size % block_n == 0) and all(
            _is_even(tensor) and tensor.stride(-2) == tensor.shape[-1] for tensor in (self.k, self.v)
        )

    def descriptors(self, block_n: int) -> tuple[TensorDescriptor, TensorDescriptor, TensorDescriptor]:
        """k's main part, k's tail (or its main part again) and v, as descriptors of [keys, heads * dimensions]."""
        main, tail = key_parts(self.k.shape[-1])
        k = _descriptor(self.k, block_n, main)
        return (
            k,
            _descriptor(self.k, block_n, tail) if tail else k,
            _descriptor(self.v, block_n, value_block(self.value_dim)),
        )


def _is_even(tensor: Tensor) -> bool:
    """Whether keys lie at one distance from each other, pages included, and each begins at a multiple of 16 bytes."""
    pages_follow = tensor.dim() == 3 or tensor.stride(0) == tensor.shape[1] * tensor.stride(1)
    row_bytes = tensor.stride(-3) * tensor.element_size()
    return (
        tensor.numel() > 0
        and pages_follow
        and row_bytes % DESCRIPTOR_ALIGNMENT_BYTES == 0
        and tensor.data_ptr() % DESCRIPTOR_ALIGNMENT_BYTES == 0
    )


def _descriptor(tensor: Tensor, rows: int, columns: int) -> TensorDescriptor:
    from triton.tools.tensor_descriptor import TensorDescriptor

    slots = tensor.shape[:-2].numel()
    shape = [slots, tensor.shape[-2] * tensor.shape[-1]]
    return TensorDescriptor(tensor, shape, [tensor.stride(-3), 1], [rows, columns])


def _gather_pages(cache: Tensor, block_table: Tensor, context_lens: Sequence[int]) -> Tensor:
    """[pages, page_size, Hkv, D] through a block table [B, max_pages] -> packed [sum of context_lens, Hkv, D]."""
    page_size = cache.shape[1]
    sequences = [
        cache[pages[: -(-length // page_size)]].flatten(0, 1)[:length]
        for pages, length in zip(block_table, context_lens, strict=True)
    ]
    return sequences[0] if len(sequences) == 1 else torch.cat([*sequences, cache[:0].flatten(0, 1)])


def check_queries(q: Tensor, cu_seqlens: Tensor, max_seqlen: int, lse: Tensor | None) -> None:
    """Raise unless these are packed queries [Tq, Hq, D] of at most max_seqlen each."""
    check_tensor("q", q, ("Tq", "Hq", "D"), CACHE_DTYPES)
    check_supported(q.device)
    check_tensor("cu_seqlens", cu_seqlens, ("B + 1",), (torch.int32,))
    check_device("cu_seqlens", cu_seqlens, "q", q)
    if cu_seqlens.numel() == 0:
        raise ValueError("cu_seqlens must have at least one element, got shape [0]")
    if max_seqlen < 0:
        raise ValueError(f"max_seqlen must be >= 0, got {max_seqlen}")
    check_lse(q, lse)


def check_lse(q: Tensor, lse: Tensor | None) -> None:
    """Raise unless lse can take one number per query and head of q [..., D], or is not wanted."""
    if lse is None:
        return
    check_tensor("lse", lse, [f"q's {size}" for size in q.shape[:-1]], (torch.float32,))
    check_device("lse", lse, "q", q)
    if lse.shape != q.shape[:-1] or not lse.is_contiguous():
        raise ValueError(
            f"lse must be contiguous with shape {list(q.shape[:-1])}, got {list(lse.shape)} and {lse.stride()}"
        )


def check_packed(q: Tensor, k: Tensor, v: Tensor, starts: Tensor, sequences: int) -> Keys:
    """Keys of packed sequences, or an error that names what is wrong with them."""
    check_tensor("k", k, ("Tk", "Hkv", "D"), CACHE_DTYPES)
    check_tensor("v", v, ("Tk", "Hkv", "Dv"), CACHE_DTYPES)
    check_size("v", "Tk", v.shape[0], k.shape[0])
    _check_pair(q, "k", k, "v", v)
    check_tensor("cu_seqlens_k", starts, ("B + 1",), (torch.int32,))
    check_device("cu_seqlens_k", starts, "q", q)
    check_size("cu_seqlens_k", "B + 1", starts.numel(), sequences + 1)
    return Keys(k, v, starts=starts)


def check_paged(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, block_table: Tensor, context_lens: Tensor, sequences: int
) -> Keys:
    """Keys in pages, or an error that names what is wrong with them."""
    check_tensor("k_cache", k_cache, ("pages", "page_size", "Hkv", "D"), CACHE_DTYPES)
    check_tensor("v_cache", v_cache, ("pages", "page_size", "Hkv", "Dv"), CACHE_DTYPES)
    for axis, name in enumerate(("pages", "page_size")):
        check_size("v_cache", name, v_cache.shape[axis], k_cache.shape[axis])
    _check_pair(q, "k_cache", k_cache, "v_cache", v_cache)
    for name, tensor, dims in (
        ("block_table", block_table, ("B", "max_pages")),
        ("context_lens", context_lens, ("B",)),
    ):
        check_tensor(name, tensor, dims, (torch.int32,))
        check_device(name, tensor, "q", q)
        check_size(name, "B", tensor.shape[0], sequences)
    return Keys(k_cache, v_cache, block_table=block_table, context_lens=context_lens)


def _check_pair(q: Tensor, k_name: str, k: Tensor, v_name: str, v: Tensor) -> None:
    """Raise unless k and v fit each other and the queries [..., Hq, D]."""
    query_heads, head_dim = q.shape[-2:]
    kv_heads = k.shape[-2]
    check_size(v_name, "Hkv", v.shape[-2], kv_heads)
    check_size(k_name, "D", k.shape[-1], head_dim)
    if kv_heads < 1 or query_heads < 1 or query_heads % kv_heads:
        raise ValueError(f"q must have a positive multiple of {k_name}'s {kv_heads} heads, got {query_heads} heads")
    min_part = MIN_FLOAT8_PART if q.dtype == FLOAT8 else MIN_PART
    if not is_key_dim(head_dim, min_part):
        raise ValueError(f"D must be a power of two >= {min_part} or the sum of two such, got {head_dim}")
    if v.shape[-1] < 1:
        raise ValueError(f"{v_name} must have Dv >= 1, got 0")
    for name, tensor in ((k_name, k), (v_name, v)):
        check_device(name, tensor, "q", q)
        if tensor.dtype != q.dtype and tensor.dtype != FLOAT8:
            raise TypeError(f"{name} must have the dtype of q, {q.dtype}, or {FLOAT8}, got {tensor.dtype}")
    if v.dtype != k.dtype:
        raise TypeError(f"{v_name} must have the dtype of {k_name}, {k.dtype}, got {v.dtype}")


def check_values(keys: Keys, q: Tensor, query_starts: Sequence[int]) -> None:
    """Raise ValueError unless lengths and pages lie within their tensors, and queries within q.

    It reads them back to the host. So calls on a CPU do this always, and calls on a GPU, which must not wait for it,
    when they are asked to.
    """
    _check_starts("cu_seqlens", list(query_starts), q.shape[0])
    if keys.block_table is None or keys.context_lens is None:
        _check_starts("cu_seqlens_k", keys.bounds(), keys.k.shape[0])
        return
    pages, page_size = keys.k.shape[:2]
    room = keys.block_table.shape[1] * page_size
    if keys.context_lens.numel() == 0:
        return
    shortest, longest = (int(bound) for bound in torch.aminmax(keys.context_lens))
    if shortest < 0 or longest > room:
        raise ValueError(
            f"context_lens must be from 0 to the {room} keys of a block_table row, got {shortest}..{longest}"
        )
    used_pages = (keys.context_lens + page_size - 1) // page_size
    columns = torch.arange(keys.block_table.shape[1], device=used_pages.device)
    used = keys.block_table[columns[None, :] < used_pages[:, None]]
    if used.numel() and not 0 <= int(used.min()) <= int(used.max()) < pages:
        raise ValueError(
            f"block_table must name pages 0 to {pages - 1} of the cache, got {int(used.min())}..{int(used.max())}"
        )


def _check_starts(name: str, starts: Sequence[int], rows: int) -> None:
    if list(starts) != sorted(starts) or starts[0] < 0 or starts[-1] > rows:
        raise ValueError(f"{name} must rise from 0 to at most {rows}, got {list(starts)}")
