"""Kernels compile for GPUs that are not here, without spills, within shared memory, onto the tensor cores."""

from __future__ import annotations

import re

import pytest

from tokenwatt_kernels.families import FAMILIES, part
from tokenwatt_kernels.targets import TARGETS

compiling = pytest.importorskip("tokenwatt_kernels.compiling", reason="needs triton")

QUICK = re.compile(r"matmul|prefill \w+ D128|decode split \w+ D128 G4|decode combine \w+ D128")
DTYPE_NAMES = ("bfloat16", "float16", "float32")


def failures(capability, family, dtype_names, names=re.compile("")):
    target = TARGETS[capability]
    if target.min_triton > compiling.TRITON_VERSION:
        pytest.skip(f"{target.name} needs triton >= {target.min_triton}")
    specimens = [item for item in part(family, "specimens").specimens(target, dtype_names) if names.search(item.name)]
    assert specimens
    return [report for report in (compiling.compile_for(item, target) for item in specimens) if report.reasons]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("capability", [80, 90, 100, 107])
def test_shipped_tiles_compile(capability, family):
    assert failures(capability, family, ("bfloat16",), QUICK) == []


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("capability", TARGETS)
def test_every_tile_and_dtype_compiles(capability, family):
    assert failures(capability, family, DTYPE_NAMES) == []


def test_spilling_tile_is_reported():
    from tokenwatt_kernels.attention.prefill.kernel import prefill_kernel
    from tokenwatt_kernels.attention.prefill.specimens import specimens

    # With 2 warps the 128 x 64 tile asks for 128 * (64 + 128) / 64 = 384 accumulators in a thread of 255 registers.
    good = next(item for item in specimens(TARGETS[90], ("bfloat16",)) if "D128" in item.name)
    assert good.kernel is prefill_kernel
    spilling = compiling.Specimen(
        name="spilling",
        kernel=good.kernel,
        signature=good.signature,
        constexprs=good.constexprs,
        aligned=good.aligned,
        num_warps=2,
        num_stages=2,
        needs_tensor_cores=True,
    )
    report = compiling.compile_for(spilling, TARGETS[90])
    assert report.status == "failed"
    assert any("spill instructions must be 0" in reason for reason in report.reasons)


def test_target_newer_than_triton_is_skipped_with_a_reason(monkeypatch):
    monkeypatch.setattr(compiling, "TRITON_VERSION", (3, 6))
    specimen = part("matmul.dense", "specimens").specimens(TARGETS[107], ("bfloat16",))[0]
    report = compiling.compile_for(specimen, TARGETS[107])
    assert report.status == "skipped"
    assert "sm_107 needs triton >= 3.9" in report.reasons[0]
