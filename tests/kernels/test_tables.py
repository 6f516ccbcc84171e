"""Tables of measured tiles: what is written is read again, what is wrong is named, and a launch finds its row."""

from __future__ import annotations

import json
import logging
from dataclasses import fields, replace
from importlib.resources import files
from pathlib import Path

import pytest
import torch

from tokenwatt import doctor
from tokenwatt_kernels import device, tables
from tokenwatt_kernels.attention.copies import copied_keys
from tokenwatt_kernels.attention.decode import call as decode_call
from tokenwatt_kernels.attention.decode import contest as decode_contest
from tokenwatt_kernels.attention.decode import tiles as decode
from tokenwatt_kernels.attention.inputs import Inputs, make_inputs
from tokenwatt_kernels.attention.keys import Keys
from tokenwatt_kernels.attention.options import Options
from tokenwatt_kernels.attention.prefill import contest as prefill_contest
from tokenwatt_kernels.attention.prefill import tiles as prefill
from tokenwatt_kernels.attention.prefill import variants
from tokenwatt_kernels.families import FAMILIES, part
from tokenwatt_kernels.matmul import contest as matmul_contest
from tokenwatt_kernels.matmul import dispatch
from tokenwatt_kernels.matmul.dense import tiles as matmul
from tokenwatt_kernels.matmul.inputs import random_operands
from tokenwatt_kernels.matmul.key import MatmulKey, make_key
from tokenwatt_kernels.matmul.operands import Operands
from tokenwatt_kernels.tables import Row, Table, TableError
from tokenwatt_kernels.targets import TARGETS

GPU = "NVIDIA H200"
CPU = torch.device("cpu")
PREFILL_KEY = prefill.PrefillKey(128, 128, 2, 128)
PREFILL_TILE = prefill.PrefillTile(64, 128, 32, 4, 2, descriptors=True)
WARP_SPECIALISED = prefill.WarpSpecialisedTile(128, 2)
DECODE_KEY = decode.DecodeKey(16, 128, 128, 2, False, 0)
DECODE_TILE = decode.DecodeTile(16, 32, 32, 4, 3, 2, least_steps=2)
MATMUL_KEY = make_key(matmul.ROWS, 100, 4096, 64, 2, is_gated=False, is_blocked=False, is_fast=True, can_copy=True)
MATMUL_TILE = matmul.DenseTile(64, 64, 64, 1, 4, 3)


def row(key, tile, *, median_s=1e-5, default_median_s: float | None = 2e-5):
    return Row(key, tile, median_s, default_median_s, ("p bfloat16",), "2026-11-23", "3.9.0", "2.13.0")


TABLE = (
    Table(GPU, 90)
    .with_row("matmul.dense", row(MATMUL_KEY, MATMUL_TILE))
    .with_row(
        "attention.prefill", row(replace(PREFILL_KEY, head_dim=256, value_dim=256), prefill.WarpSpecialisedTile(64, 2))
    )
    .with_row("attention.prefill", row(PREFILL_KEY, PREFILL_TILE))
    .with_row("attention.decode", row(DECODE_KEY, DECODE_TILE, default_median_s=None))
)


@pytest.fixture(autouse=True)
def no_memory():
    """What was looked up in one test must not answer another."""
    caches = (tables.for_gpu, tables.tell_if_unknown, tables.tile_on)
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """Where the tables are, empty."""
    monkeypatch.setattr(tables, "folder", lambda: tmp_path)
    return tmp_path


def pretend(monkeypatch, name=GPU, capability=90):
    """Tensors on a CPU are asked for the tile of a GPU."""
    monkeypatch.setattr(device, "name", lambda _: name)
    monkeypatch.setattr(device, "capability", lambda _: capability)


# --- files


def test_every_table_that_ships_can_be_used_and_is_as_tune_writes_it():
    for file in tables.path_of(GPU).parent.glob("*.json"):
        table = tables.read(file)
        assert file.name == tables.file_name(table.gpu)
        assert file.read_text(encoding="utf-8") == tables.to_json(table)


def test_what_is_written_is_read_again(tmp_path):
    path = tmp_path / "table.json"
    tables.write(TABLE, path)
    assert tables.read(path) == TABLE
    assert list(tmp_path.iterdir()) == [path]


def test_the_text_has_a_line_per_row_whatever_the_order_of_tuning():
    text = tables.to_json(TABLE)
    backwards = Table(GPU, 90)
    for family in reversed(list(TABLE.rows)):
        for known in reversed(list(TABLE.rows[family].values())):
            backwards = backwards.with_row(family, known)
    assert tables.to_json(backwards) == text
    # 1 brace, 3 facts, "rows", 3 families that open and close, 4 rows, 2 braces.
    assert len(text.splitlines()) == 1 + 3 + 1 + 3 * 2 + 4 + 2
    assert [json.loads(line.rstrip(","))["key"] for line in text.splitlines() if "median_s" in line] == [
        {"rows": 16, "head_dim": 128, "value_dim": 128, "element_bytes": 2, "values_are_keys": False, "copied_keys": 0},
        {"head_dim": 128, "value_dim": 128, "element_bytes": 2, "copied_keys": 128, "is_mixed": False},
        {"head_dim": 256, "value_dim": 256, "element_bytes": 2, "copied_keys": 128, "is_mixed": False},
        {
            "rows": 128, "columns": 4096, "terms": 1024, "element_bytes": 2, "is_gated": False, "is_blocked": False,
            "is_fast": True, "can_copy": True,
        },
    ]  # fmt: skip


def test_an_empty_table_is_a_table(tmp_path):
    tables.write(Table(GPU, 90), tmp_path / "table.json")
    assert tables.read(tmp_path / "table.json") == Table(GPU, 90)


def test_times_are_rounded_to_four_digits():
    table = Table(GPU, 90).with_row("matmul.dense", row(MATMUL_KEY, MATMUL_TILE, median_s=1.23456789e-5))
    assert '"median_s": 1.235e-05' in tables.to_json(table)


def test_keys_and_tiles_have_numbers_and_switches_alone():
    for family in FAMILIES:
        tiles = part(family, "tiles")
        for cls in (tiles.KEY, *tiles.KERNELS.values()):
            assert {known.type for known in fields(cls)} <= {"int", "bool"}


def as_json():
    return json.loads(tables.to_json(TABLE))


PREFILL_ROW = "attention.prefill row 1:"
ADVICE = "delete the row or the file, then run `tokenwatt kernels tune`"


def spoil(place, value):
    """The table's JSON with one value changed, or taken away for a value of None."""
    found = as_json()
    *path, last = place
    inner = found
    for step in path:
        inner = inner[step]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    return found


ROW = ("rows", "attention.prefill", 0)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("gpu",), 7, "gpu must be of type str, got 7"),
        (("capability",), 75, "capability must belong to one of"),
        (("made_by",), None, ": must have the field made_by, got gpu, capability, rows"),
        (
            ("rows", "attention.sideways"),
            [],
            "rows must be of attention.prefill, attention.decode, matmul.dense, matmul.skinny, matmul.packed",
        ),
        (ROW, [], f"{PREFILL_ROW} must be of type dict, got []"),
        ((*ROW, "torch"), None, f"{PREFILL_ROW} must have the field torch"),
        ((*ROW, "note"), "fast", "default_median_s, problems, date, triton, torch alone, got note"),
        ((*ROW, "median_s"), 0, f"{PREFILL_ROW} median_s must be a number of seconds > 0, got 0"),
        (
            (*ROW, "default_median_s"),
            "2 s",
            f"{PREFILL_ROW} default_median_s must be a number of seconds > 0, got '2 s'",
        ),
        ((*ROW, "key", "head_dim"), "128", f"{PREFILL_ROW} key.head_dim must be of type int, got '128'"),
        ((*ROW, "key", "head_dim"), None, f"{PREFILL_ROW} key must have the field head_dim, got value_dim"),
        ((*ROW, "tile", "block_n"), True, f"{PREFILL_ROW} tile.block_n must be of type int, got True"),
        ((*ROW, "tile", "block_q"), 64, "num_stages, descriptors alone, got block_q"),
        ((*ROW, "tile", "block_n"), 96, f"{PREFILL_ROW} tile must be valid on sm_90 for {{'head_dim': 128"),
        ((*ROW, "tile", "num_warps"), 0, f"{PREFILL_ROW} tile must be valid on sm_90"),
        # Hardware copies of 128 keys from pages that hold no 32.
        ((*ROW, "key", "copied_keys"), 0, f"{PREFILL_ROW} tile must be valid on sm_90"),
        ((*ROW, "tile", "kernel"), "cuda", f"{PREFILL_ROW} tile.kernel must be one of triton, warp_specialised"),
        # (128 + 2 * 4 * 128) * 256 * 2 = 589,824 bytes of shared memory.
        (("rows", "attention.prefill", 1, "tile", "num_buffers"), 4, "attention.prefill row 2: tile must be valid on"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(tmp_path, place, value, message):
    path = tmp_path / "nvidia_h200.json"
    path.write_text(json.dumps(spoil(place, value)))
    with pytest.raises(TableError) as error:
        tables.read(path)
    assert str(error.value).startswith(f"{path}: ")
    assert message in str(error.value)


def test_a_file_that_is_no_json_is_refused(tmp_path):
    path = tmp_path / "nvidia_h200.json"
    path.write_text('{"gpu": "NVIDIA H200",\n')
    with pytest.raises(TableError, match=r"nvidia_h200.json: line 2 must be JSON, got .*; delete the row or the file"):
        tables.read(path)


def test_two_rows_for_a_key_are_refused(tmp_path):
    found = as_json()
    found["rows"]["matmul.dense"] *= 2
    path = tmp_path / "table.json"
    path.write_text(json.dumps(found))
    with pytest.raises(TableError, match=r"matmul.dense row 2: key must be in no other row, got .* twice"):
        tables.read(path)


def test_a_field_that_has_a_default_may_be_missing(tmp_path):
    found = as_json()
    del found["rows"]["attention.decode"][0]["tile"]["descriptors"]
    path = tmp_path / "table.json"
    path.write_text(json.dumps(found))
    assert tables.read(path) == TABLE


def test_a_tile_belongs_to_the_kernel_that_it_names(folder):
    tables.write(TABLE, tables.path_of(GPU))
    key = replace(PREFILL_KEY, head_dim=256, value_dim=256)
    assert tables.find(GPU, "attention.prefill", PREFILL_KEY) == PREFILL_TILE
    assert tables.find(GPU, "attention.prefill", key) == prefill.WarpSpecialisedTile(64, 2)
    assert '"tile": {"kernel": "warp_specialised", "block_n": 64, "num_buffers": 2}' in tables.to_json(TABLE)


@pytest.mark.parametrize(
    ("changes", "capability", "is_valid"),
    [
        ({}, 90, True),
        ({}, 100, False),
        ({"head_dim": 96, "value_dim": 96}, 90, False),
        ({"head_dim": 256}, 90, False),
        ({"element_bytes": 1}, 90, False),
        ({"copied_keys": 64}, 90, False),
    ],
)
def test_the_warp_specialised_kernel_takes_some_keys(changes, capability, is_valid):
    assert prefill.is_valid_on(WARP_SPECIALISED, replace(PREFILL_KEY, **changes), capability) == is_valid


# --- extending


def test_a_new_file_begins_empty(tmp_path):
    assert tables.to_extend(tmp_path / "new.json", GPU, 90) == Table(GPU, 90)


def test_the_table_of_another_gpu_is_not_overwritten(tmp_path):
    tables.write(TABLE, tmp_path / "table.json")
    assert tables.to_extend(tmp_path / "table.json", GPU, 90) == TABLE
    with pytest.raises(
        TableError, match=r"must be of this GPU, NVIDIA L40S \(sm_89\), got NVIDIA H200 \(sm_90\); use --out"
    ):
        tables.to_extend(tmp_path / "table.json", "NVIDIA L40S", 89)


def test_a_folder_that_is_not_there_is_refused_before_anything_is_measured(tmp_path):
    with pytest.raises(TableError, match="must go into a folder that can be written, got .*missing; use --output FILE"):
        tables.to_extend(tmp_path / "missing" / "table.json", GPU, 90)


def test_a_file_has_the_name_of_the_gpu(folder):
    assert tables.path_of("NVIDIA H100 80GB HBM3") == folder / "nvidia_h100_80gb_hbm3.json"
    assert tables.path_of("NVIDIA RTX PRO 6000 (Blackwell)").name == "nvidia_rtx_pro_6000_blackwell.json"


def test_tables_are_shipped_beside_their_package():
    assert Path(str(files("tokenwatt_kernels.gpu_tables"))) == tables.path_of(GPU).parent


# --- launches


def test_a_gpu_without_a_table_gets_the_default_and_is_told_once(folder, caplog):
    with caplog.at_level(logging.WARNING, logger="tokenwatt_kernels"):
        for key in (PREFILL_KEY, PREFILL_KEY, replace(PREFILL_KEY, copied_keys=0)):
            assert tables.tile_on("attention.prefill", GPU, 90, key) == prefill.default(key, 90)
        assert tables.tile_on("matmul.dense", GPU, 90, MATMUL_KEY) == matmul.default(MATMUL_KEY, 90)
    assert [record.getMessage() for record in caplog.records] == [
        "no measured tiles for NVIDIA H200: safe ones for sm_90 are used; `tokenwatt kernels tune` measures better ones"
    ]


def test_a_key_without_a_row_gets_the_default_and_nothing_is_said(folder, caplog):
    tables.write(TABLE, tables.path_of(GPU))
    key = replace(DECODE_KEY, rows=64)
    assert tables.tile_on("attention.decode", GPU, 90, key) == decode.default(key, 90)
    assert not caplog.records


def test_a_launch_takes_the_tile_of_its_row(folder, monkeypatch):
    tables.write(TABLE, tables.path_of(GPU))
    pretend(monkeypatch)
    q, kv = torch.empty(3, 8, 128, dtype=torch.bfloat16), torch.empty(3, 2, 128, dtype=torch.bfloat16)
    keys = Keys(kv, kv, starts=torch.tensor([0, 3]))
    assert variants.key_for(q, keys) == PREFILL_KEY
    assert variants.tile_for(q, keys, Options()) == PREFILL_TILE
    cache = torch.empty(5, 16, 2, 128, dtype=torch.bfloat16)
    paged = Keys(cache, cache, block_table=torch.zeros(3, 1), context_lens=torch.ones(3))
    assert decode_call.tile_for(q, 1, paged) == DECODE_TILE
    weight = torch.empty(4096, 64, dtype=torch.bfloat16)
    few, many = (Operands(torch.empty(rows, 64, dtype=torch.bfloat16), weight) for rows in (100, 200))
    assert dispatch.tile_for("matmul.dense", few, few.new_out()) == MATMUL_TILE
    # The origin stands behind the tile.
    inputs = Inputs(q, keys, torch.tensor([0, 3]), Options())
    assert prefill_contest._configuration(inputs) == "64x128 e32 w4 s2 desc (table)"
    assert decode_contest._configuration(q, 1, paged) == "16x32 e32 w4 s3 p2 l2 (table)"
    for operands, configuration in (
        (few, "64x64x64 g1 w4 s3 (table)"),
        (many, "64x128x64 g8 w4 s4 parts2 p2 desc (default)"),
    ):
        found = matmul_contest._configuration("matmul.dense", operands)
        assert found == configuration


@pytest.mark.parametrize(
    ("options", "is_taken"), [(Options(), True), (Options(causal=False), True), (Options(window=9), False)]
)
def test_the_default_stands_in_where_the_kernel_of_a_row_does_not_take_the_call(folder, monkeypatch, options, is_taken):
    table = Table(GPU, 90).with_row("attention.prefill", row(PREFILL_KEY, WARP_SPECIALISED))
    tables.write(table, tables.path_of(GPU))
    pretend(monkeypatch)
    q = torch.empty(3, 8, 128, dtype=torch.bfloat16)
    keys = Keys(q, q, starts=torch.tensor([0, 3]))
    expected = WARP_SPECIALISED if is_taken else prefill.default(PREFILL_KEY, 90)
    assert variants.tile_for(q, keys, options) == expected
    inputs = Inputs(q, keys, torch.tensor([0, 3]), options)
    assert prefill_contest._configuration(inputs).endswith("(table)" if is_taken else "(default)")


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda target: target.name)
@pytest.mark.parametrize(("page_size", "step"), [(0, 128), (256, 128), (192, 64), (64, 64), (32, 32), (24, 0), (16, 0)])
def test_the_default_copies_no_more_keys_than_lie_together(target, page_size, step):
    assert copied_keys(lambda keys: page_size % keys == 0) == step
    for head_dim in (64, 128, 256):
        tile = prefill.default(prefill.PrefillKey(head_dim, head_dim, 2, step), target.capability)
        assert not tile.descriptors or tile.block_n <= step
        # Copies are asked for first, and pointers are taken where that tile's keys do not lie together.
        asked = prefill.choose(head_dim, head_dim, 2, target.capability, descriptors=True)
        pointers = prefill.choose(head_dim, head_dim, 2, target.capability, descriptors=False)
        assert tile == (asked if page_size % asked.block_n == 0 else pointers)


# --- keys


@pytest.mark.parametrize("family", ["attention.prefill", "attention.decode"])
def test_a_problem_has_the_key_of_its_tensors(family):
    tiles, tuning = part(family, "tiles"), pytest.importorskip(f"tokenwatt_kernels.{family}.tuning", reason="triton")
    for problem in part(family, "problems").BENCH_PROBLEMS:
        inputs = make_inputs(tuning.sibling(problem), "bfloat16", CPU, poisoned=False)
        if family == "attention.prefill":
            found = variants.key_for(inputs.q, inputs.keys)
        else:
            found = decode_call.key_for(inputs.q, problem.queries[0], inputs.keys)
        assert tiles.key_of(problem, "bfloat16") == found, problem.name


@pytest.mark.parametrize(("rows", "bucket"), [(0, 128), (65, 128), (128, 128), (129, 256), (4097, 8192), (10**6, 8192)])
def test_rows_of_one_bucket_share_a_key(rows, bucket):
    options = {"is_gated": False, "is_blocked": False, "is_fast": True, "can_copy": True}
    assert make_key(matmul.ROWS, rows, 6144, 4096, 2, **options) == MatmulKey(
        bucket, 8192, 4096, 2, is_gated=False, is_blocked=False, is_fast=True, can_copy=True
    )


@pytest.mark.parametrize("family", ["matmul.dense", "matmul.skinny"])
def test_a_matmul_problem_has_the_key_of_its_operands(family):
    tiles = part(family, "tiles")
    tuning = pytest.importorskip(f"tokenwatt_kernels.{family}.tuning", reason="triton")
    problems = part(family, "problems")
    for problem in problems.BENCH_PROBLEMS:
        for dtype_name in problems.DTYPE_NAMES:
            sibling = tuning.sibling(problem)
            if problems.takes(problem, dtype_name, 90):
                operands = random_operands(sibling, dtype_name, CPU)
                assert tiles.key_of(sibling, dtype_name) == dispatch.key_for(family, operands, operands.new_out()), (
                    problem.name
                )


def has_room(key, target):
    """Whether 32 latents as queries and two steps of 16 fit: (32 + 2 * 16) * 576 * 4 = 147,456 bytes."""
    return (key.rows + 2 * 16) * key.head_dim * key.element_bytes <= target.shared_limit_bytes


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda target: target.name)
@pytest.mark.parametrize("family", FAMILIES)
def test_candidates_are_valid_distinct_and_begin_with_the_default(family, target):
    tiles, problems = part(family, "tiles"), part(family, "problems")
    taken = [
        (problem, dtype_name)
        for problem in problems.BENCH_PROBLEMS
        for dtype_name in problems.DTYPE_NAMES
        if problems.takes(problem, dtype_name, target.capability)
    ]
    for key in {tiles.key_of(problem, dtype_name) for problem, dtype_name in taken}:
        element_bytes = getattr(key, "element_bytes", 2)
        is_latent_fp32 = element_bytes == 4 and getattr(key, "values_are_keys", False)
        if is_latent_fp32 and not has_room(key, target):
            continue
        found = tiles.candidates(key, target.capability)
        assert found[0] == tiles.default(key, target.capability)
        assert len(set(found)) == len(found) <= 100
        assert all(tiles.is_valid_on(tile, key, target.capability) for tile in found[1:])
        assert len({tile.name for tile in found}) == len(found)


# --- doctor


def test_doctor_says_whether_a_gpu_has_tiles(folder):
    assert doctor._tiles(GPU) == doctor.Finding(
        "kernel tiles for NVIDIA H200", False, "none measured; safe ones are used", "tokenwatt kernels tune"
    )
    tables.for_gpu.cache_clear()
    tables.path_of(GPU).write_text("[]")
    assert "must be of type dict, got []" in doctor._tiles(GPU).found
    tables.write(TABLE, tables.path_of(GPU))
    assert doctor._tiles(GPU).found == "measured for 4 keys"


def test_the_compile_report_covers_the_tiles_of_shipped_tables(folder):
    pytest.importorskip("triton")
    tables.write(TABLE, tables.path_of(GPU))
    specimens = {
        item.name: item.configuration
        for family in ("attention.prefill", "attention.decode")
        for item in part(family, "specimens").specimens(TARGETS[90], ("bfloat16",))
        if GPU in item.name
    }
    # The warp-specialised tile is compiled whether a table has it or not.
    assert specimens == {
        f"prefill bfloat16 {GPU} 128 128 2 128 False": "64x128 e32 w4 s2 desc",
        f"decode bfloat16 {GPU} 16 128 128 2 False 0": "16x32 e32 w4 s3 p2 l2",
    }
    others = part("attention.decode", "specimens").specimens(TARGETS[100], ("bfloat16",))
    assert not [item.name for item in others if GPU in item.name]
