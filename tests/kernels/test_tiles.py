"""Every tile that can be chosen is valid on its target, and an H200 gets the ones that were chosen for it."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwatt_kernels.attention.decode import tiles as decode
from tokenwatt_kernels.attention.decode.tiles import DecodeTile
from tokenwatt_kernels.attention.prefill import tiles as prefill
from tokenwatt_kernels.attention.prefill.tiles import PrefillTile
from tokenwatt_kernels.families import part
from tokenwatt_kernels.matmul.key import make_key
from tokenwatt_kernels.targets import TARGETS, target_for

HEADS = ((16, 16), (32, 32), (48, 32), (64, 64), (96, 96), (128, 128), (192, 128), (256, 256))
LATENT = (576, 512)
BY_NAME = pytest.mark.parametrize("target", TARGETS.values(), ids=lambda target: target.name)


def element_sizes(target):
    """float8 begins with sm_89."""
    return (1, 2, 4) if target.capability >= 89 else (2, 4)


@BY_NAME
@pytest.mark.parametrize("descriptors", [True, False])
def test_chosen_prefill_tiles_are_valid(target, descriptors):
    for (head_dim, value_dim), element_bytes in product(HEADS, element_sizes(target)):
        tile = prefill.choose(head_dim, value_dim, element_bytes, target.capability, descriptors=descriptors)
        assert prefill.is_valid(tile, head_dim, value_dim, element_bytes, target.capability)
        assert tile.descriptors == (descriptors and 90 <= target.capability < 120 and element_bytes < 4)


@BY_NAME
@pytest.mark.parametrize("rows", [1, 3, 4, 8, 32])
def test_chosen_decode_tiles_are_valid(target, rows):
    for (head_dim, value_dim), element_bytes in product(HEADS, element_sizes(target)):
        tile = decode.choose(rows, head_dim, value_dim, element_bytes, target.capability)
        assert decode.is_valid(tile, head_dim, value_dim, element_bytes, target.capability, values_are_keys=False)
        assert tile.block_m >= (rows if element_bytes < 4 else min(rows, 16))
        needed = decode.shared_bytes(tile, head_dim, value_dim, element_bytes, values_are_keys=False)
        assert tile.programs_per_multiprocessor * needed <= target.shared_limit_bytes


@BY_NAME
@pytest.mark.parametrize("rows", [16, 64, 128, 1024])
def test_chosen_latent_tiles_are_valid(target, rows):
    # fp32 latents need the shared memory of an H200 or better; those are not tried elsewhere.
    sizes = [size for size in element_sizes(target) if size < 4 or target.shared_limit_bytes > 200_000]
    for element_bytes in sizes:
        tile = decode.choose(rows, *LATENT, element_bytes, target.capability, values_are_keys=True)
        assert decode.is_valid(tile, *LATENT, element_bytes, target.capability, values_are_keys=True)
        # The answer of 64 rows of 512 would fill the registers of 8 warps: 64 * 512 / 256 = 128 in each thread.
        assert tile.block_m <= 32


@BY_NAME
@pytest.mark.parametrize("family", ["matmul.dense", "matmul.skinny"])
def test_chosen_matmul_tiles_are_valid(target, family):
    tiles = part(family, "tiles")
    few = family == "matmul.skinny"
    for m, n, element_bytes, is_gated, is_blocked, can_copy in product(
        (1, 17, 64) if few else (65, 256, 100_000),
        (64, 4096, 200_000),
        element_sizes(target),
        (False, True),
        (False, True),
        (False, True),
    ):
        if is_blocked and element_bytes > 1:
            continue
        key = make_key(
            tiles.ROWS, m, n, 4096, element_bytes,
            is_gated=is_gated, is_blocked=is_blocked, is_fast=False, can_copy=can_copy,
        )  # fmt: skip
        assert tiles.is_valid(tiles.default(key, target.capability), key, target.capability)


@pytest.mark.parametrize("capability", [80, 86])
def test_float8_is_refused_before_sm_89(capability):
    message = f"no prefill tile of sm_{capability} holds keys of 128 and values of 64 elements of 1 bytes"
    with pytest.raises(ValueError, match=message):
        prefill.choose(128, 64, 1, capability, descriptors=False)
    message = f"no decode tile of sm_{capability} holds 4 rows, keys of 128 and values of 64 elements of 1 bytes"
    with pytest.raises(ValueError, match=message):
        decode.choose(4, 128, 64, 1, capability)


@pytest.mark.parametrize(
    ("head_dim", "value_dim", "descriptors", "tile", "name", "shared_bytes", "accumulators"),
    [
        # Shared bytes: (M*D + stages*N*(D + Dv)) * 2. Accumulators of a thread: M*(N + Dv) / 256.
        # (128*64 + 3*128*128) * 2 = 114,688; 128*(128 + 64) / 256 = 96.
        (64, 64, True, PrefillTile(128, 128, 64, 8, 3, True), "128x128 e64 w8 s3 desc", 114_688, 96),
        (64, 64, False, PrefillTile(128, 128, 64, 8, 3), "128x128 e64 w8 s3", 114_688, 96),
        # (128*128 + 3*128*256) * 2 = 229,376; 128*256 / 256 = 128, more than pointers leave.
        (128, 128, True, PrefillTile(128, 128, 64, 8, 3, True), "128x128 e64 w8 s3 desc", 229_376, 128),
        # (128*128 + 3*64*256) * 2 = 131,072; 128*(64 + 128) / 256 = 96.
        (128, 128, False, PrefillTile(128, 64, 32, 8, 3), "128x64 e32 w8 s3", 131_072, 96),
        # Three stages would be (128*192 + 3*128*320) * 2 = 294,912; two are 212,992.
        (192, 128, True, PrefillTile(128, 128, 32, 8, 2, True), "128x128 e32 w8 s2 desc", 212_992, 128),
        # (128*192 + 3*64*320) * 2 = 172,032.
        (192, 128, False, PrefillTile(128, 64, 32, 8, 3), "128x64 e32 w8 s3", 172_032, 96),
        # (128*256 + 2*32*512) * 2 = 131,072; 128*(32 + 256) / 256 = 144. Steps of 64 keys would be 160.
        (256, 256, True, PrefillTile(128, 32, 16, 8, 2, True), "128x32 e16 w8 s2 desc", 131_072, 144),
        # (64*256 + 2*64*512) * 2 = 163,840; 64*(64 + 256) / 256 = 80.
        (256, 256, False, PrefillTile(64, 64, 32, 8, 2), "64x64 e32 w8 s2", 163_840, 80),
    ],
)
def test_h200_prefill_tiles(head_dim, value_dim, descriptors, tile, name, shared_bytes, accumulators):
    assert prefill.choose(head_dim, value_dim, 2, 90, descriptors=descriptors) == tile
    assert tile.name == name
    assert prefill.shared_bytes(tile, head_dim, value_dim, 2) == shared_bytes
    assert prefill.accumulators_per_thread(tile, value_dim) == accumulators


def test_prefill_of_float8_keys_leaves_registers_for_the_queries():
    # 128*128 / (64*8) = 32 registers of queries beside 128*(128 + 128) / 256 = 128 accumulators are 160 of 168.
    tile = prefill.choose(128, 128, 2, 90, descriptors=True, is_mixed=True)
    assert tile == PrefillTile(128, 128, 64, 8, 3, descriptors=True)
    # 128*192 / 512 = 48 beside 128 are 176; 48 beside 128*(64 + 128) / 256 = 96 are 144.
    tile = prefill.choose(192, 128, 2, 90, descriptors=True, is_mixed=True)
    assert tile == PrefillTile(128, 64, 32, 8, 3, descriptors=True)
    # Beside values of 256 there are none: they stay in shared memory, and the steps are short.
    tile = prefill.choose(256, 256, 2, 90, descriptors=True, is_mixed=True)
    assert tile == PrefillTile(128, 32, 16, 8, 2, descriptors=True)
    tile = prefill.choose(256, 256, 2, 90, descriptors=False, is_mixed=True)
    assert tile == PrefillTile(64, 32, 16, 8, 2)


def test_h200_decode_tiles():
    # Programs of a multiprocessor: by shared memory, of which each takes 1024 bytes more, and 233,472 are there; and by
    # registers, of which a thread takes 128, 168 or 256 for up to 16, up to 24 or more accumulators,
    # M*(N + Dv) / threads. Each key takes 2*M bytes of weights and 4 bytes of its page in each stage.
    # 4 heads in 16 rows. 16*128*2 + 32*(3*256*2 + 2*16 + 3*4) = 54,656 bytes, of which four fit.
    # 16*(32 + 128) / 128 = 20 accumulators, 168 registers: 65,536 / (128 * 168) = 3.05.
    llama = decode.choose(4, 128, 128, 2, 90)
    assert llama == DecodeTile(16, 32, 32, 4, 3, programs_per_multiprocessor=3)
    assert llama.name == "16x32 e32 w4 s3 p3"
    assert decode.shared_bytes(llama, 128, 128, 2, values_are_keys=False) == 54_656
    # 65,536 / (128 * 3) = 170, of which whole eights count.
    assert llama.registers == 168
    # 128 heads in four tiles of 32 rows, latents of 576 in two parts: 32*576*2 + 64*(2*576*2 + 2*32 + 2*4) = 188,928.
    # 32*(64 + 512) / 256 = 72 accumulators, 256 registers: 65,536 / (256 * 256) = 1.
    latent = decode.choose(128, 576, 512, 2, 90, values_are_keys=True)
    assert latent == DecodeTile(32, 64, 64, 8, 2, programs_per_multiprocessor=1)
    assert decode.shared_bytes(latent, 576, 512, 2, values_are_keys=True) == 188_928
    assert latent.registers == 255
    # Narrow heads have three stages: 16*64*2 + 64*(3*128*2 + 2*16 + 3*4) = 54,016 bytes, of which four fit.
    # 16*(64 + 64) / 128 = 16 accumulators, 128 registers: 65,536 / (128 * 128) = 4.
    assert decode.choose(8, 64, 64, 2, 90) == DecodeTile(16, 64, 64, 4, 3, programs_per_multiprocessor=4)
    # A float8 cache: queries and one tile of V are in 16 bits, 16*128*2 + 64*(2*256 + 128*2 + 2*16 + 2*4) = 55,808.
    # Four of these fit, but 24 accumulators, 168 registers, let three.
    float8 = decode.choose(4, 128, 128, 1, 90)
    assert float8 == DecodeTile(16, 64, 64, 4, 2, programs_per_multiprocessor=3)
    assert decode.shared_bytes(float8, 128, 128, 1, values_are_keys=False) == 55_808
    # Heads in two parts have small tiles in three stages, and values padded to 128:
    # 16*96*2 + 32*(3*(96 + 128)*2 + 2*16 + 3*4) = 47,488 bytes, of which four fit.
    # 16*(32 + 128) / 128 = 20 accumulators, 168 registers: 3.
    assert decode.choose(1, 96, 96, 2, 90) == DecodeTile(16, 32, 32, 4, 3, programs_per_multiprocessor=3)


def test_a_decode_tile_says_its_name():
    assert DecodeTile(16, 64, 32, 4, 2, 3, least_steps=4, descriptors=True).name == "16x64 e32 w4 s2 p3 l4 desc"


GOOD_PREFILL = PrefillTile(128, 64, 32, 8, 3)
GOOD_DECODE = DecodeTile(16, 64, 64, 4, 2, 3)


@pytest.mark.parametrize(
    "changes",
    [
        {"block_n": 96},  # not a power of two
        {"block_m": 8},  # below tl.dot's 16
        {"edge_n": 8},
        {"edge_n": 128},  # wider than a step
        {"num_warps": 3},
        {"num_stages": 0},
        {"block_n": 128},  # 128 * (128 + 128) / 256 = 128 accumulators per thread, without descriptors
        {"num_stages": 7},  # (128*128 + 7*64*256) * 2 = 262,144 bytes of shared memory
    ],
)
def test_bad_prefill_tiles_are_invalid(changes):
    assert prefill.is_valid(GOOD_PREFILL, 128, 128, 2, 90)
    assert not prefill.is_valid(replace(GOOD_PREFILL, **changes), 128, 128, 2, 90)


@pytest.mark.parametrize(
    "changes",
    [
        {"block_n": 48, "edge_n": 48},
        {"block_m": 8},
        {"edge_n": 8},
        {"edge_n": 128},
        {"num_warps": 16},
        {"num_stages": 0},
        {"programs_per_multiprocessor": 0},
        {"least_steps": 0},
        {"num_stages": 7},  # 16*128*2 + 7*64*256*2 = 233,472 bytes
        {"block_m": 64, "num_stages": 6},  # one stage more for 64 rows: 64*128*2 + 7*64*256*2 = 245,760 bytes
    ],
)
def test_bad_decode_tiles_are_invalid(changes):
    assert decode.is_valid(GOOD_DECODE, 128, 128, 2, 90, values_are_keys=False)
    assert not decode.is_valid(replace(GOOD_DECODE, **changes), 128, 128, 2, 90, values_are_keys=False)


@pytest.mark.parametrize("capability", [80, 86, 89])
def test_no_hardware_copies_before_sm_90(capability):
    assert prefill.is_valid(PrefillTile(64, 32, 32, 8, 2), 64, 64, 2, capability)
    assert not prefill.is_valid(PrefillTile(64, 32, 32, 8, 2, descriptors=True), 64, 64, 2, capability)
    tile = DecodeTile(16, 32, 32, 4, 2, 1)
    assert decode.is_valid(tile, 64, 64, 2, capability, values_are_keys=False)
    assert not decode.is_valid(replace(tile, descriptors=True), 64, 64, 2, capability, values_are_keys=False)


@pytest.mark.parametrize(("capability", "width"), [(89, "warp"), (90, "warpgroup"), (107, "warpgroup"), (120, "warp")])
def test_generation_is_the_width_of_the_tensor_cores(capability, width):
    assert prefill.generation(capability) == width


@given(
    rows=st.integers(1, 32),
    head_dim=st.sampled_from([head_dim for head_dim, _ in HEADS]),
    value_dim=st.integers(1, 256),
    element_bytes=st.sampled_from([1, 2, 4]),
    capability=st.sampled_from([capability for capability in TARGETS if capability >= 89]),
)
def test_odd_values_get_valid_tiles_too(rows, head_dim, value_dim, element_bytes, capability):
    tile = decode.choose(rows, head_dim, value_dim, element_bytes, capability)
    assert decode.is_valid(tile, head_dim, value_dim, element_bytes, capability, values_are_keys=False)
    for descriptors in (True, False):
        chosen = prefill.choose(head_dim, value_dim, element_bytes, capability, descriptors=descriptors)
        assert prefill.is_valid(chosen, head_dim, value_dim, element_bytes, capability)


@pytest.mark.parametrize(("capability", "known"), [(90, 90), (121, 120), (87, 86)])
def test_target_is_the_next_lower_of_its_generation(capability, known):
    assert target_for(capability).capability == known


def test_unknown_generation_is_refused():
    with pytest.raises(ValueError, match=r"must belong to one of \[80, .*\], got 75"):
        target_for(75)
