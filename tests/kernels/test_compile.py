"""Kernels compile for GPUs that are not here, and the report says what they became."""

from __future__ import annotations

import dataclasses
import json
import os
import re

import pytest

from tokenwatt_kernels import commands, compile_table
from tokenwatt_kernels.__main__ import main
from tokenwatt_kernels.families import FAMILIES, part
from tokenwatt_kernels.occupancy import programs_per_sm
from tokenwatt_kernels.targets import TARGETS

compiling = pytest.importorskip("tokenwatt_kernels.compiling", reason="needs triton")
machine_code = pytest.importorskip("tokenwatt_kernels.machine_code", reason="needs triton")
triton = pytest.importorskip("triton")
gluon = pytest.importorskip("triton.experimental.gluon")
tl = pytest.importorskip("triton.language")
gl = pytest.importorskip("triton.experimental.gluon.language")
hopper = pytest.importorskip("triton.experimental.gluon.language.nvidia.hopper")

QUICK = re.compile(
    r"(matmul|skinny) \w+ (4096 rows|16 rows|unaligned|swiglu)$|skinny combine \w+ residual$"
    r"|prefill \w+ D128( page 16| window| ws)?$|decode( combine)? \w+ (D128|latent 576/512)$"
    r"|route .*(Qwen3|DeepSeek-V3)|grouped .*(16|many) rows$|grouped combine"
    r"|norm \w+ (4096 residual|heads of 128)$|rope \w+ D128( norm fp8 cache)?$"
    r"|top-k \w+ \w+ 128256 k1$|packed \w+ (int4|mxfp4) 16 rows$|nvfp4 16 rows$"
)


def takes_any(family, dtype_name, capability):
    """Whether the kernels of a family take any problem in a dtype on a GPU of `capability`."""
    problems = part(family, "problems")
    return any(problems.takes(problem, dtype_name, capability) for problem in problems.GATE_PROBLEMS)


def failures(capability, family, names):
    target = TARGETS[capability]
    if target.min_triton > compiling.TRITON_VERSION:
        pytest.skip(f"{target.name} needs triton >= {target.min_triton}")
    specimens = [item for item in part(family, "specimens").specimens(target, ("bfloat16",)) if names.search(item.name)]
    assert specimens
    return [report for report in (compiling.compile_for(item, target) for item in specimens) if report.reasons]


@pytest.mark.parametrize(
    ("capability", "family"),
    [
        (capability, family)
        for capability in (80, 90, 100, 107)
        for family in FAMILIES
        if takes_any(family, "bfloat16", capability)
    ],
)
def test_shipped_tiles_compile(capability, family):
    assert failures(capability, family, QUICK) == []


TUNED = (90, 100)
"""What tiles are chosen for: all formats there, bfloat16 elsewhere (`tokenwatt kernels compile` takes them all)."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("capability", "family", "dtype_name"),
    [
        (capability, family, name)
        for capability in TARGETS
        for family in FAMILIES
        for name in part(family, "problems").DTYPE_NAMES
        if takes_any(family, name, capability) and (capability in TUNED or name == "bfloat16")
    ],
)
def test_every_tile_and_dtype_compiles(capability, family, dtype_name):
    jobs = len(os.sched_getaffinity(0))
    reports = list(commands.compile_all([family], [dtype_name], [capability], jobs))
    assert reports
    assert [report for report in reports if report.status == "failed"] == []


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_unlisted_compiles_twice_and_nothing_listed_is_left_out(family):
    target = TARGETS[100]
    given = part(family, "specimens").specimens(target, ("bfloat16",))
    found = compiling.distinct([*given, *(dataclasses.replace(item, name="again", is_listed=False) for item in given)])
    assert found == compiling.distinct(given)
    assert [item for item in found if item.is_listed] == [item for item in given if item.is_listed]
    wider = dataclasses.replace(given[0], num_warps=2 * given[0].num_warps, is_listed=False)
    assert wider in compiling.distinct([*given, wider])


FOLLOWING = {
    "attention.decode.kernel.split_kernel",
    "attention.decode.kernel.combine_kernel",
    "matmul.skinny.kernel.split_kernel",
    "matmul.packed.kernel.packed_kernel",
    "matmul.parts.combine_kernel",
    "fused.norm.kernel.norm_kernel",
    "fused.rope.kernel.rope_kernel",
    "fused.top_k.kernel.part_kernel",
    "fused.top_k.kernel.select_kernel",
}
"""Kernels of a decoding step that begin before the one ahead has ended, on every GPU from sm_90 on."""
PTX_GLOBAL = re.compile(r"\b(?:ld|st|atom|red)\.(?!param|shared)|\bcp\.|\bprefetch|\btensormap")
SASS_GLOBAL = {
    "LD", "LDG", "ST", "STG", "LDGSTS", "ATOM", "ATOMG", "RED", "REDG", "UTMALDG", "UTMASTG", "UTMAREDG", "UTMAPF",
    "UBLKCP", "UBLKRED", "UBLKPF",
}  # fmt: skip


def kernel_name(specimen):
    return f"{specimen.kernel.fn.__module__}.{specimen.kernel.fn.__name__}".removeprefix("tokenwatt_kernels.")


def following_specimens(target):
    """Of every kernel that can follow, one for each way to store and to copy."""
    found = {}
    for family in FAMILIES:
        for item in part(family, "specimens").specimens(target, ("bfloat16",)):
            if "FOLLOWS" in item.kernel.arg_names:
                ways = (kernel_name(item), *(item.constexprs.get(name) for name in ("JOINS", "DESCRIPTORS")))
                found.setdefault(ways, item)
    return list(found.values())


def assert_it_waits_first(specimen, target):
    """The kernel lets the next one come and waits for the one ahead, before memory is touched or a program leaves."""
    asm = compiling.compile_kernel(specimen, target).asm
    before, wait, after = asm["ptx"].partition("griddepcontrol.wait")
    assert wait, specimen.name
    assert before.count("griddepcontrol.launch_dependents") == 1
    assert not PTX_GLOBAL.search(before), before
    assert not re.search(r"\bret;", before), before
    assert PTX_GLOBAL.search(after)
    # ptxas may have moved what nothing held in its place.
    before, wait, after = machine_code.inspect(asm["cubin"])[2].partition("ACQBULK")
    names, later = (set(machine_code._SASS_INSTRUCTION.findall(code)) for code in (before, after))
    assert wait, specimen.name
    assert "PREEXIT" in names
    assert not names & (SASS_GLOBAL | {"EXIT"}), specimen.name
    assert later & SASS_GLOBAL


@pytest.mark.parametrize("capability", [90, 100])
def test_kernels_that_follow_wait_before_they_read_or_write(capability):
    target = TARGETS[capability]
    specimens = following_specimens(target)
    nvfp4 = {"matmul.nvfp4.kernel.nvfp4_kernel"} if capability >= 100 else set()
    assert {kernel_name(item) for item in specimens} == FOLLOWING | nvfp4
    for item in specimens:
        assert_it_waits_first(item, target)


@pytest.mark.parametrize("capability", [80, 89])
def test_no_kernel_follows_where_the_gpu_cannot(capability):
    specimens = following_specimens(TARGETS[capability])
    assert {kernel_name(item) for item in specimens} == FOLLOWING
    assert not any(item.constexprs["FOLLOWS"] for item in specimens)
    norm = next(item for item in specimens if "norm" in item.name)
    assert "griddepcontrol" not in compiling.compile_kernel(norm, TARGETS[capability]).asm["ptx"]


HOPPER = TARGETS[90]


def joining(family, *dtype_names):
    """Of every bench key with code of its own: a problem, its dtype and the candidates that join."""
    tiles, problems = part(family, "tiles"), part(family, "problems")
    found = {}
    for problem in problems.BENCH_PROBLEMS:
        for dtype_name in dtype_names:
            if problems.takes(problem, dtype_name, HOPPER.capability):
                key = tiles.key_of(problem, dtype_name)
                sizes = {name: 0 for name in ("columns", "terms") if hasattr(key, name)}
                candidates = [
                    tile for tile in tiles.candidates(key, HOPPER.capability) if getattr(tile, "joins", False)
                ]
                found.setdefault(dataclasses.replace(key, **sizes), (problem, dtype_name, candidates))
    return list(found.values())


def split_of(family, problem, dtype_name, tile):
    """The specimen of the first launch, which is all of them where the tile joins."""
    return next(iter(part(family, "specimens")._specimens(problem, dtype_name, tile, HOPPER)))


@pytest.mark.parametrize("family", ["matmul.skinny", "attention.decode"])
def test_candidates_that_join_compile_and_wait_first(family):
    # float32 has no tensor-core path, and large steps of it spill with two launches as well.
    chosen = joining(family, *(name for name in part(family, "problems").DTYPE_NAMES if name != "float32"))
    assert chosen
    for problem, dtype_name, tiles in chosen:
        item = split_of(family, problem, dtype_name, tiles[-1])
        assert item.constexprs["JOINS"]
        assert compiling.compile_for(item, HOPPER).reasons == (), item.name
        assert_it_waits_first(item, HOPPER)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "dtype_name"),
    [
        (family, dtype_name)
        for family in ("matmul.skinny", "attention.decode")
        for dtype_name in part(family, "problems").DTYPE_NAMES
        if dtype_name != "float16"  # compiled as bfloat16 is
    ],
)
def test_joining_spills_nothing_that_two_launches_keep_on_90(family, dtype_name):
    for problem, _, tiles in joining(family, dtype_name):
        # Stages and programs change neither sums nor addresses.
        shapes = {(tile.block_n, getattr(tile, "block_k", 0), tile.num_warps, tile.descriptors): tile for tile in tiles}
        for tile in shapes.values():
            once, twice = (
                compiling.compile_for(
                    split_of(family, problem, dtype_name, dataclasses.replace(tile, joins=joins)), HOPPER
                )
                for joins in (True, False)
            )
            assert not once.reasons or twice.reasons, f"{problem.name} {tile.name}: {once.reasons}"


# One query tile against keys that come as a descriptor, or through a pointer: two products a step, with the running
# result rescaled in between, as attention does.
@triton.jit
def attend_kernel(
    q_ptr, keys, out_ptr, steps, M: tl.constexpr, N: tl.constexpr, D: tl.constexpr, DESCRIPTOR: tl.constexpr
):  # fmt: skip
    rows = tl.arange(0, M)
    columns = tl.arange(0, D)
    q = tl.load(q_ptr + rows[:, None] * D + columns[None, :])
    acc = tl.zeros([M, D], tl.float32)
    for step in range(steps):
        if DESCRIPTOR:
            k = keys.load([step * N, 0])
        else:
            k = tl.load(keys + (step * N + tl.arange(0, N))[:, None] * D + columns[None, :])
        weights = tl.exp2(tl.dot(q, tl.trans(k)))
        acc = acc * (1.0 / tl.max(weights, 1))[:, None]
        acc = tl.dot(weights.to(k.dtype), k, acc)
    tl.store(out_ptr + rows[:, None] * D + columns[None, :], acc)


def attend(m=64, n=64, d=64, *, descriptor=False, num_warps=4, num_stages=2, **needs):
    return compiling.Specimen(
        name="attend",
        kernel=attend_kernel,
        signature={
            "q_ptr": "*bf16",
            "keys": f"tensordesc<bf16[{n}, {d}]>" if descriptor else "*bf16",
            "out_ptr": "*fp32",
            "steps": "i32",
        },
        constexprs={"M": m, "N": n, "D": d, "DESCRIPTOR": descriptor},
        aligned=frozenset({"q_ptr", "out_ptr"} if descriptor else {"q_ptr", "keys", "out_ptr"}),
        num_warps=num_warps,
        num_stages=num_stages,
        needs_tensor_cores=True,
        **needs,
    )


def test_good_kernel_is_described():
    report = compiling.compile_for(attend(needs_warpgroup_mma=True), TARGETS[90], "family")
    assert (report.status, report.reasons, report.family, report.counted_in) == ("passed", (), "family", "sass")
    assert report.tensor_core_kind == "HGMMA"
    # 64 x 64 x 64 in steps of K = 16 is 4 instructions; two products.
    assert report.tensor_core_instructions == report.warpgroup_mma_instructions == 8
    assert not report.wgmma_is_serialised
    assert report.async_copies > 0
    assert report.bulk_copies == report.spill_instructions == report.stack_bytes == 0
    assert report.programs_per_sm >= 2


def test_spills_and_serialised_multiplications_are_reported():
    # With 4 warps the 128 x 256 result takes 128 * 256 / 128 = 256 accumulators in a thread of 255 registers.
    report = compiling.compile_for(attend(m=128, d=256), TARGETS[90])
    assert report.status == "failed"
    assert report.registers == 255
    assert any("spill instructions must be 0" in reason for reason in report.reasons)
    assert report.wgmma_is_serialised
    assert any(f"a wait after each of {report.warpgroup_mma_instructions}" in reason for reason in report.reasons)


def test_too_much_shared_memory_is_reported():
    # Three stages of 256 keys of 256 dimensions in bf16 are 384 KiB.
    report = compiling.compile_for(attend(n=256, d=256, num_warps=8, num_stages=4), TARGETS[90])
    assert f"shared memory must be <= 232448 bytes, got {report.shared_bytes}" in report.reasons
    assert report.programs_per_sm == 0


def test_16_rows_are_no_warpgroup():
    # A warpgroup multiplies 64 rows at a time; 16 rows go to the warp-level instruction, the only one of sm_80.
    specimen = attend(m=16, needs_warpgroup_mma=True)
    on_90, on_80 = (compiling.compile_for(specimen, TARGETS[capability]) for capability in (90, 80))
    assert on_90.reasons == ("warpgroup MMA instructions must be > 0 on sm_90, got 0 (HMMA)",)
    assert (on_80.reasons, on_80.tensor_core_kind) == ((), "HMMA")


@pytest.mark.parametrize("capability", [90, 100, 107, 120])
def test_descriptor_becomes_bulk_copies(capability):
    if TARGETS[capability].min_triton > compiling.TRITON_VERSION:
        pytest.skip(f"{TARGETS[capability].name} needs triton >= {TARGETS[capability].min_triton}")
    report = compiling.compile_for(attend(descriptor=True, needs_bulk_copies=True), TARGETS[capability])
    assert (report.bulk_copies > 0, report.async_copies) == (True, 0)
    assert not [reason for reason in report.reasons if "bulk" in reason]


def test_missing_bulk_copies_are_reported():
    report = compiling.compile_for(attend(needs_bulk_copies=True), TARGETS[90])
    copies = report.async_copies
    assert report.reasons == (f"bulk copies (TMA loads) must be > 0, got 0 ({copies} asynchronous copies)",)


# Renamed between triton 3.6 and 3.9.
load_tile = getattr(hopper.tma, "async_load", None) or hopper.tma.async_copy_global_to_shared


@gluon.jit
def gluon_kernel(tile_desc, out_ptr, SIZE: gl.constexpr, REGISTERS: gl.constexpr):
    tile = gl.allocate_shared_memory(tile_desc.dtype, [SIZE, SIZE], tile_desc.layout)
    barrier = gl.allocate_shared_memory(gl.int64, [1], hopper.mbarrier.MBarrierLayout())
    hopper.mbarrier.init(barrier, count=1)
    hopper.mbarrier.expect(barrier, tile_desc.block_type.nbytes)
    load_tile(tile_desc, [0, 0], barrier, tile)
    hopper.mbarrier.wait(barrier, 0)
    zeros = gl.zeros([SIZE, SIZE], gl.float32, REGISTERS)
    product = hopper.warpgroup_mma(tile, tile.permute((1, 0)), zeros)
    rows = gl.arange(0, SIZE, gl.SliceLayout(1, REGISTERS))
    columns = gl.arange(0, SIZE, gl.SliceLayout(0, REGISTERS))
    gl.store(out_ptr + rows[:, None] * SIZE + columns[None, :], product)


def test_gluon_kernel_compiles():
    layout = gl.NVMMASharedLayout.get_default_for([64, 64], gl.bfloat16)
    specimen = compiling.Specimen(
        name="gluon",
        kernel=gluon_kernel,
        signature={"tile_desc": f"tensordesc<bf16[64, 64],{layout!r}>", "out_ptr": "*fp32"},
        constexprs={"SIZE": 64, "REGISTERS": gl.NVMMADistributedLayout([3, 0], [4, 1], [16, 64, 16])},
        aligned=frozenset({"out_ptr"}),
        num_warps=4,
        num_stages=1,
        needs_tensor_cores=True,
        needs_bulk_copies=True,
        needs_warpgroup_mma=True,
    )
    report = compiling.compile_for(specimen, TARGETS[90])
    assert report.reasons == ()
    # One tile; K = 64 in steps of 16.
    assert (report.bulk_copies, report.warpgroup_mma_instructions) == (1, 4)


def test_kernel_that_does_not_compile_is_a_failed_report():
    good = attend()
    report = compiling.compile_for(dataclasses.replace(good, constexprs={**good.constexprs, "D": 48}), TARGETS[90])
    assert report.status == "failed"
    assert report.reasons[0].startswith("it must compile, got CompilationError: ")


def test_target_newer_than_triton_is_skipped_with_a_reason(monkeypatch):
    monkeypatch.setattr(compiling, "TRITON_VERSION", (3, 6))
    report = compiling.compile_for(attend(), TARGETS[107])
    assert report.status == "skipped"
    assert "sm_107 needs triton >= 3.9" in report.reasons[0]


SASS = """
        .section        .text.LDL_HMMA_kernel,"ax",@progbits
.L_x_LDGSTS:
        /*0010*/                   LDC R1, c[0x0][0x28] ;
        /*0020*/              @!P0 LDGSTS.E.BYPASS.LTC128B.128 [R3], desc[UR8][R4.64] ;
        /*0030*/                   LDGSTS.E.BYPASS.LTC128B.128 [R5], desc[UR8][R6.64] ;
        /*0040*/                   LDGDEPBAR ;
        /*0050*/             @!UP1 UTMALDG.2D [UR8], [UR4] ;
        /*0060*/                   UTMASTG.2D [UR8], [UR4] ;
        /*0070*/                   WARPGROUP.ARRIVE ;
        /*0080*/                   HGMMA.64x64x16.F32.BF16 R24, gdesc[UR16], RZ, !UPT ;
        /*0090*/                   HGMMA.64x64x16.F32.BF16 R24, gdesc[UR20], R24, gsb0 ;
        /*00a0*/                   WARPGROUP.DEPBAR.LE gsb0, 0x0 ;
        /*00b0*/              @UPT STL.128 [R1+0x10], R24 ;
        /*00c0*/                   LDL R9, [R1] ;
        /*00d0*/                   QGMMA.64x64x32.F32.E4M3.E4M3 R24, gdesc[UR16], R24, gsb0 ;
        /*1a0e0*/                  HMMA.16816.F32.BF16 R4, R8, R10, R4 ;
"""

# As much as `count` reads of PTX: 2 multiplications with one full wait, one partial wait, and copies of each kind.
PTX = """
        cp.async.cg.shared.global [ %r1 + 0 ], [ %rd1 + 0 ], 0x10, %r2;
        cp.async.ca.shared.global [ %r1 + 0 ], [ %rd1 + 0 ], 0x4, %r2;
        cp.async.commit_group ;
        cp.async.wait_group 0x0 ;
        @%p1 cp.async.bulk.tensor.2d.shared::cta.global.mbarrier::complete_tx::bytes [%r1], [%rd2, {%r2, %r3}], [%r4];
        cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%r1], [%rd2, {%r2}], [%r4];
        cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%rd1, {%r2, %r3}], [%r4];
        wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%f1}, %rd1, %rd2, 1, 1, 1, 0, 0;
        wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%f1}, %rd1, %rd2, 1, 1, 1, 0, 0;
        wgmma.commit_group.sync.aligned;
        wgmma.wait_group.sync.aligned 1;
        wgmma.wait_group.sync.aligned 0;
        mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 { %r1 }, { %r2 }, { %r3 }, { %r4 };
"""


def test_machine_code_is_counted_exactly():
    found = machine_code.count(SASS, PTX)
    assert found.counted_in == "sass"
    assert found.tensor_core == {"HGMMA": 2, "QGMMA": 1, "HMMA": 1}
    assert found.warpgroup_mma == 3
    assert (found.bulk_copies, found.async_copies, found.spills) == (1, 2, 2)
    assert not found.wgmma_is_serialised


def test_ptx_is_counted_where_there_is_no_machine_code():
    found = machine_code.count("", PTX + "        tcgen05.mma.cta_group::1.kind::f16 [ %r1 ], %rd1, %rd2, %r2, %p1;\n")
    assert found.counted_in == "ptx"
    assert found.tensor_core == {"wgmma.mma_async": 2, "mma.sync": 1, "tcgen05.mma": 1}
    assert found.warpgroup_mma == 2
    assert (found.bulk_copies, found.async_copies, found.spills) == (2, 2, 0)


@pytest.mark.parametrize("name", ["HMMA", "IMMA", "DMMA", "QMMA", "OMMA", "HGMMA", "IGMMA", "UTCHMMA", "UTCQMMA"])
def test_every_generation_of_tensor_cores_is_known(name):
    assert machine_code.count(f"        /*0010*/    {name}.16816 R4, R8 ;\n", "").tensor_core == {name: 1}


@pytest.mark.parametrize("name", ["FFMA", "IMAD", "UTCBAR", "UTCATOMSWS", "LDSM", "HFMA2"])
def test_other_instructions_are_no_tensor_cores(name):
    assert machine_code.count(f"        /*0010*/    {name}.16816 R4, R8 ;\n", "").tensor_core == {}


def code(multiplications, drains, partial_waits=0):
    return "".join(
        [
            *["  /*0010*/  HGMMA.64x64x16.F32.BF16 R24, gdesc[UR16], R24, gsb0 ;\n"] * multiplications,
            *["  /*0010*/  WARPGROUP.DEPBAR.LE gsb0, 0x0 ;\n"] * drains,
            *["  /*0010*/  WARPGROUP.DEPBAR.LE gsb0, 0x1 ;\n"] * partial_waits,
        ]
    )


def asked(multiplications, drains, partial_waits=0):
    return "".join(
        [
            *["  wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%f1}, %rd1, %rd2, 1, 1, 1, 0, 0;\n"]
            * multiplications,
            *["  wgmma.wait_group.sync.aligned 0;\n"] * drains,
            *["  wgmma.wait_group.sync.aligned 1;\n"] * partial_waits,
        ]
    )


@pytest.mark.parametrize(
    ("sass", "ptx", "is_serialised"),
    [
        pytest.param(code(24, 4), asked(24, 4), False, id="as asked"),
        pytest.param(code(48, 48), asked(48, 4), True, id="a wait after each"),
        pytest.param(code(48, 4), asked(24, 2), False, id="loop copied by the compiler"),
        pytest.param(code(4, 4), asked(4, 4), False, id="one multiplication a step, waited for by the program"),
        pytest.param(code(1, 1, 1), asked(1, 1, 1), False, id="one multiplication a step, pipelined"),
        pytest.param(code(1, 2), asked(1, 1, 1), True, id="one multiplication a step, no longer pipelined"),
        pytest.param("  /*0010*/  HMMA.16816.F32 R4, R8, R10, R4 ;\n", "", False, id="no warpgroups"),
    ],
)
def test_serialised_multiplications_are_told_from_good_ones(sass, ptx, is_serialised):
    assert machine_code.count(sass, ptx).wgmma_is_serialised is is_serialised


@pytest.mark.parametrize(
    ("capability", "registers", "shared_bytes", "num_warps", "columns", "programs"),
    [
        # Registers: 168 * 32 = 5,376 a warp; a quarter of 65,536 holds 3, so 12 warps, 12 / 8 = 1 program.
        (90, 168, 0, 8, 0, 1),
        # 128 * 32 = 4,096: 4 in each quarter, 16 warps, 2 programs of 8.
        (90, 128, 0, 8, 0, 2),
        # 129 is rounded up to 136 * 32 = 4,352: 3 in each quarter, 12 warps, 1 program of 8.
        (90, 129, 0, 8, 0, 1),
        # Shared: 98,304 + 1,024 = 99,328; 233,472 / 99,328 = 2.35.
        (90, 32, 98_304, 4, 0, 2),
        # 115,712 + 1,024 is exactly half of 233,472; one byte more, and the second program no longer fits.
        (90, 32, 115_712, 4, 0, 2),
        (90, 32, 115_713, 4, 0, 1),
        # The most a block may ask for, and one byte more.
        (90, 32, 232_448, 4, 0, 1),
        (90, 32, 232_449, 4, 0, 0),
        # Warps: 64 / 4 = 16 on sm_90, 48 / 4 = 12 on sm_89. Blocks: at most 32, 24 and 16.
        (90, 32, 0, 4, 0, 16),
        (89, 32, 0, 4, 0, 12),
        (90, 16, 0, 1, 0, 32),
        (89, 16, 0, 1, 0, 24),
        (86, 16, 0, 1, 0, 16),
        # 255 is rounded up to 256 * 32 = 8,192: 2 in each quarter, 8 warps. 16 warps never start.
        (90, 255, 0, 8, 0, 1),
        (90, 255, 0, 16, 0, 0),
        # 9 warps need 12 places: 168 registers leave exactly 12, 176 (2 in each quarter) do not.
        (90, 168, 0, 9, 0, 1),
        (90, 176, 0, 9, 0, 0),
        # Tensor memory: 512 columns hold 2 programs of 256, and 576 columns no more.
        (100, 32, 0, 4, 256, 2),
        (107, 32, 0, 4, 256, 2),
        (100, 32, 0, 4, 512, 1),
    ],
)
def test_programs_per_multiprocessor(capability, registers, shared_bytes, num_warps, columns, programs):
    target = TARGETS[capability]
    assert programs == programs_per_sm(
        target, registers=registers, shared_bytes=shared_bytes, num_warps=num_warps, tensor_memory_columns=columns
    )


@pytest.mark.slow
def test_two_jobs_report_the_same_in_the_same_order(run_python):
    request = ["compile", "matmul.dense", "--target", "90", "--target", "107", "--json"]
    finished = run_python("-m", "tokenwatt_kernels", *request, "--jobs", "2")
    assert finished.returncode == 0, finished.stderr
    alone = [report.as_row() for report in commands.compile_all(["matmul.dense"], ["bfloat16"], [90, 107], 1)]
    assert {row["family"] for row in alone} == {"matmul.dense"}
    assert [row["target"] for row in alone][:: len(alone) - 1] == ["sm_90", "sm_107"]
    as_read = json.loads(json.dumps(alone))
    for row in (together := json.loads(finished.stdout)) + as_read:
        del row["seconds"]
    assert together == as_read


def report(specimen, target, status="passed", family="attention.prefill", **fields):
    return compiling.CompileReport(specimen, target, "3.9.0", status, (), family, seconds=1.23, **fields)


REPORTS = [
    report(
        "prefill A",
        "sm_80",
        configuration="64x64 w4",
        registers=255,
        shared_bytes=65_536,
        programs_per_sm=1,
        tensor_core_instructions=64,
        tensor_core_kind="HMMA",
    ),
    report("prefill B", "sm_80", "failed", registers=255, shared_bytes=512, tensor_core_kind="HMMA"),
    report(
        "prefill A",
        "sm_90",
        registers=168,
        shared_bytes=98_304,
        programs_per_sm=2,
        tensor_core_instructions=16,
        tensor_core_kind="HGMMA",
        bulk_copies=5,
    ),
    report("prefill C", "sm_90", "failed"),
    report("prefill A", "sm_107", "skipped"),
    report("D64 page 16", "sm_80", is_listed=False, registers=100),
    report("D64 page 16", "sm_90", is_listed=False, registers=100),
    report("combine", "sm_80", family="attention.decode", registers=54, shared_bytes=1_024, programs_per_sm=9),
]

TABLE = """\
Compiled by triton 3.9.0. A cell holds the tile, registers per thread, dynamic shared memory, programs per
multiprocessor, tensor-core instructions and copies by the hardware; `-`: this target does not have the type. A cell
that does not say FAILED has no stack and no spills.

### attention.prefill

| specimen | sm_80 | sm_90 | sm_107 |
| --- | --- | --- | --- |
| prefill A | 64x64 w4: 255 r, 64 KiB, 1/SM, 64 HMMA | 168 r, 96 KiB, 2/SM, 16 HGMMA, 5 TMA | skipped |
| prefill B | **FAILED** 255 r, 0.5 KiB, 0/SM, 0 HMMA | - | - |
| prefill C | - | **FAILED** | - |

Further combinations of shapes and options, each for each target: 2 pass.

### attention.decode

| specimen | sm_80 |
| --- | --- |
| combine | 54 r, 1 KiB, 9/SM |
"""


BEGIN, END = "<!-- compile report: begin -->", "<!-- compile report: end -->"


def test_table_is_exact():
    assert compile_table.table(REPORTS) == TABLE


def test_combinations_that_fail_are_named():
    rest = [report("D64", "sm_90", "failed", is_listed=False), report("D96", "sm_90", is_listed=False)]
    assert compile_table.table(rest).endswith("each for each target: 1 pass.\n\n**FAILED**: D64 sm_90.\n")


def test_markdown_replaces_what_is_between_the_markers(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(commands, "compile_all", lambda *_: iter(REPORTS))
    path = tmp_path / "README.md"
    path.write_text(f"# Title é\n\n{BEGIN}\nold\n{END}\n\nEnd without a newline")
    for _ in range(2):  # the second time over its own table
        assert main(["compile", "--markdown", str(path)]) == 1
        expected = f"# Title é\n\n{BEGIN}\n\n{TABLE}\n{END}\n\nEnd without a newline"
        assert path.read_text() == expected
    assert [entry.name for entry in tmp_path.iterdir()] == ["README.md"]
    assert capsys.readouterr().out.endswith("2 of 8 FAILED: prefill B sm_80, prefill C sm_90\n")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (None, "found none at"),
        ("# Title\n", "found neither"),
        (f"{BEGIN}\n", f"found ['{BEGIN}']"),
        (f"{END}\n{BEGIN}\n", f"found ['{END}', '{BEGIN}']"),
    ],
)
def test_file_without_markers_is_refused_in_one_line_before_anything_compiles(
    tmp_path, monkeypatch, capsys, text, found
):
    monkeypatch.setattr(commands, "compile_all", lambda *_: pytest.fail("must not compile"))
    path = tmp_path / "README.md"
    if text is not None:
        path.write_text(text)
    assert main(["compile", "--markdown", str(path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert found in captured.err
    assert path.exists() == (text is not None)


@pytest.mark.parametrize("jobs", ["0", "-1", "two"])
def test_jobs_are_at_least_one(jobs, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["compile", "--jobs", jobs])
    assert stopped.value.code == 2
    assert f"must be a whole number from 1, got {jobs}" in capsys.readouterr().err
