"""Every tile that can be chosen is valid on its target, and the split count follows its rule."""

from __future__ import annotations

from itertools import product

import pytest

from tokenwatt_kernels.attention.decode import tiles as decode
from tokenwatt_kernels.attention.prefill import tiles as prefill
from tokenwatt_kernels.matmul.dense import tiles as matmul
from tokenwatt_kernels.targets import TARGETS, target_for

ELEMENT_BYTES = (2, 4)
HEAD_DIMS = (16, 32, 64, 128, 256)


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda target: target.name)
def test_chosen_tiles_are_valid(target):
    limit = target.shared_limit_bytes
    for head_dim, element_bytes in product(HEAD_DIMS, ELEMENT_BYTES):
        tile = prefill.choose(head_dim, element_bytes, target.capability)
        assert prefill.is_valid(tile, head_dim, element_bytes, limit)
        for group in (1, 3, 8, 32):
            tile = decode.choose(group, head_dim, element_bytes, target.capability)
            assert decode.is_valid(tile, group, head_dim, element_bytes, limit)
    for rows, element_bytes in product((1, 16, 17, 64, 65, 100_000), ELEMENT_BYTES):
        tile = matmul.choose(rows, element_bytes, target.capability)
        assert matmul.is_valid(tile, element_bytes, limit)


def test_h200_tiles():
    assert prefill.choose(64, 2, 90) == prefill.PrefillTile(block_m=128, block_n=128, num_warps=8, num_stages=2)
    assert prefill.choose(128, 2, 90) == prefill.PrefillTile(block_m=128, block_n=64, num_warps=8, num_stages=3)


@pytest.mark.parametrize(
    "tile",
    [
        prefill.PrefillTile(128, 96, 8, 2),  # not a power of two
        prefill.PrefillTile(8, 64, 4, 2),  # below tl.dot's 16
        prefill.PrefillTile(128, 128, 8, 2),  # 128 * (128 + 128) / 256 = 128 accumulators per thread
        prefill.PrefillTile(128, 64, 8, 7),  # (128 + 2*7*64) * 128 * 2 = 262,144 bytes of shared memory
    ],
)
def test_bad_prefill_tiles_are_invalid(tile):
    assert not prefill.is_valid(tile, head_dim=128, element_bytes=2, shared_limit_bytes=232_448)


@pytest.mark.parametrize(("group", "rows"), [(1, 16), (8, 16), (16, 16), (17, 32), (32, 32)])
def test_block_rows_hold_the_group(group, rows):
    assert decode.block_rows(group) == rows


@pytest.mark.parametrize(
    ("sequences", "max_context", "splits"),
    [
        (1, 131_072, 32),  # 2 * 132 // 8 = 33 programs wanted; the power of two below is 32
        (1, 1024, 4),  # 1024 // (4 * 64) = 4 splits have work for four tiles
        (32, 4096, 1),  # 2 * 132 // 256 = 1
        (1000, 4096, 1),
        (1, 0, 1),
    ],
)
def test_splits_fill_the_gpu_but_no_more(sequences, max_context, splits):
    assert decode.choose_splits(sequences, 8, max_context, block_n=64, multiprocessors=132) == splits


@pytest.mark.parametrize(("capability", "known"), [(90, 90), (121, 120), (87, 86)])
def test_target_is_the_next_lower_of_its_generation(capability, known):
    assert target_for(capability).capability == known


def test_unknown_generation_is_refused():
    with pytest.raises(ValueError, match=r"must belong to one of \[80, .*\], got 75"):
        target_for(75)
