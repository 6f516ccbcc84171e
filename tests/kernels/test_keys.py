"""Where keys are found, and when the hardware can copy them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tokenwatt_kernels.attention.keys import Keys

TABLE = torch.tensor([[2, 0], [1, 9]], dtype=torch.int32)
LENGTHS = torch.tensor([5, 2], dtype=torch.int32)


def packed(k: Tensor, v: Tensor | None = None) -> Keys:
    return Keys(k, k if v is None else v, starts=torch.tensor([0, len(k)], dtype=torch.int32))


def paged(k: Tensor, v: Tensor | None = None) -> Keys:
    return Keys(k, k if v is None else v, block_table=TABLE, context_lens=LENGTHS)


def test_packed_keys():
    keys = packed(torch.zeros(7, 2, 48), torch.zeros(7, 2, 32))
    assert (keys.heads, keys.value_dim, keys.page_size) == (2, 32, 0)
    assert keys.bounds() == [0, 7]
    assert keys.packed(keys.v) is keys.v
    # No pages; 2 * 48 elements from key to key, 48 from head to head.
    assert keys.strides(keys.k) == (0, 96, 48)


def test_pages_are_gathered_in_the_order_of_the_table():
    # Pages of 4: page p holds 4p .. 4p + 3. Sequence 0 has 5 keys in pages 2 and 0: 8 9 10 11 and 0. Sequence 1 has two
    # in page 1: 4 5. Entry 9 lies behind its context and behind the pool.
    keys = paged(torch.arange(12.0).reshape(3, 4, 1, 1))
    assert keys.packed(keys.k).flatten().tolist() == [8, 9, 10, 11, 0, 4, 5]
    assert keys.bounds() == [0, 5, 7]
    assert (keys.heads, keys.value_dim, keys.page_size) == (1, 1, 4)
    assert keys.strides(keys.k) == (4, 1, 1)


def test_keys_that_are_nowhere_are_refused():
    with pytest.raises(ValueError, match="Keys must have starts or context_lens, got neither"):
        Keys(torch.zeros(1, 1, 16), torch.zeros(1, 1, 16)).bounds()


def test_latents_are_loaded_once_only_if_the_values_are_their_main_part():
    latents = torch.zeros(3, 4, 1, 48)
    # 48 = 32 + 16. Values of 24 are padded to 32, which is the main part.
    for value_dim in (24, 32):
        assert paged(latents, latents[..., :value_dim]).with_values_as_keys().values_are_keys
    with pytest.raises(ValueError, match="value_dim must be 32, the largest power of two in D, got 16"):
        paged(latents, latents[..., :16]).with_values_as_keys()


@pytest.mark.parametrize(
    ("keys", "allowed"),
    [
        (packed(torch.zeros(7, 2, 16)), True),
        (packed(torch.zeros(7, 3, 16)[:, :2]), True),  # slack after each key
        (packed(torch.zeros(7, 2, 32)[..., :16]), False),  # slack after each head
        (packed(torch.zeros(7, 2, 16), torch.zeros(7, 2, 32)[..., :16]), False),
        (packed(torch.zeros(1 + 7 * 32)[1:].view(7, 2, 16)), False),  # begins at byte 4
        (packed(torch.zeros(4 + 7 * 32)[4:].view(7, 2, 16)), True),  # begins at byte 16
        (packed(torch.zeros(7 * 34).as_strided((7, 2, 16), (34, 16, 1))), False),  # keys 136 bytes apart
        (packed(torch.zeros(7, 1, 24)), True),  # 96 bytes
        (paged(torch.zeros(3, 32, 2, 16)), True),
        (paged(torch.zeros(3, 64, 2, 16)), True),
        (paged(torch.zeros(3, 16, 2, 16)), False),  # a tile would lie in two pages
        (paged(torch.zeros(3, 48, 2, 16)), False),
        (paged(torch.zeros(3, 64, 2, 16)[:, :32]), False),  # slack after each page
        (paged(torch.zeros(6, 32, 2, 16)[::2]), False),  # every other page
    ],
)
def test_the_hardware_copies_even_aligned_rows_of_one_page(keys, allowed):
    assert keys.allow_descriptors(block_n=32) is allowed


def test_descriptors_hold_both_parts_of_a_key_and_a_padded_value():
    pytest.importorskip("triton")
    keys = paged(torch.zeros(3, 32, 2, 48), torch.zeros(3, 32, 2, 24))
    k, k_tail, v = keys.descriptors(block_n=32)
    # 3 pages of 32 slots; rows of 2 heads * 48 and 2 * 24 elements; 48 = 32 + 16, and 24 is padded to 32.
    assert [(d.shape, d.strides, d.block_shape) for d in (k, k_tail, v)] == [
        ([96, 96], [96, 1], [32, 32]),
        ([96, 96], [96, 1], [32, 16]),
        ([96, 48], [48, 1], [32, 32]),
    ]
    k, k_tail, _ = packed(torch.zeros(7, 3, 64)[:, :2]).descriptors(block_n=16)
    # Slack of one head: 3 * 64 elements from key to key, of which 2 * 64 are keys. No tail, so the main part again.
    assert (k.shape, k.strides, k.block_shape) == ([7, 128], [192, 1], [16, 64])
    assert k_tail is k
