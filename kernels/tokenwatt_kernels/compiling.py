"""Compile a kernel for a GPU that is not here, and judge the machine code.

Nothing here initialises a driver, so it works on any machine; the process must not run under TRITON_INTERPRET.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from tokenwatt_kernels import machine_code
from tokenwatt_kernels.occupancy import programs_per_sm
from tokenwatt_kernels.targets import Target

TRITON_VERSION = tuple(int(part) for part in triton.__version__.split(".")[:2])


@dataclass(frozen=True, slots=True)
class Specimen:
    """A kernel with everything that its compilation depends on, and what the machine code must have.

    kernel: the @triton.jit or @gluon.jit function.
    signature: type of each run-time argument, such as "*bf16", "i32", "fp32" or "tensordesc<bf16[64, 128]>"; in Gluon a
        descriptor carries the repr of its layout, f"tensordesc<bf16[64, 128],{layout!r}>".
    constexprs: value of each compile-time argument.
    aligned: run-time arguments that the launcher's callers give as multiples of 16 (addresses and strides). A
        descriptor is aligned by itself.
    needs_tensor_cores: it must multiply on tensor cores.
    needs_bulk_copies: it must load tiles with the copy engine (TMA).
    needs_warpgroup_mma: on sm_90 it must multiply in warpgroups; asked of no other target.
    configuration: the tile that was chosen for the target.
    max_registers: what the compiler may give a thread; None leaves it to the compiler.
    is_listed: whether the table of the report has a row for it; the others are counted there.
    """

    name: str
    kernel: Any
    signature: Mapping[str, str]
    constexprs: Mapping[str, Any]
    aligned: frozenset[str]
    num_warps: int
    num_stages: int
    needs_tensor_cores: bool
    needs_bulk_copies: bool = False
    needs_warpgroup_mma: bool = False
    configuration: str = ""
    max_registers: int | None = None
    is_listed: bool = True


@dataclass(frozen=True, slots=True)
class CompileReport:
    """What one specimen became on one target. `reasons` says why it failed or was skipped.

    shared_bytes: dynamic shared memory of one program.
    programs_per_sm: programs that a multiprocessor holds at a time, by registers, shared memory, warps and tensor
        memory; 0 when not even one fits.
    tensor_core_kind: the tensor-core instruction, such as "HGMMA"; several are joined with "+".
    counted_in: what the instructions were counted in, "sass" or "ptx". In "ptx" spills show in stack_bytes alone.
    seconds: what compiling took; almost nothing where triton has the kernel in its cache.

    The other counts are described in `machine_code.Instructions`.
    """

    specimen: str
    target: str
    triton: str
    status: Literal["passed", "failed", "skipped"]
    reasons: tuple[str, ...]
    family: str = ""
    configuration: str = ""
    is_listed: bool = True
    registers: int = 0
    stack_bytes: int = 0
    shared_bytes: int = 0
    programs_per_sm: int = 0
    spill_instructions: int = 0
    tensor_core_instructions: int = 0
    tensor_core_kind: str = ""
    warpgroup_mma_instructions: int = 0
    wgmma_is_serialised: bool = False
    bulk_copies: int = 0
    async_copies: int = 0
    counted_in: Literal["sass", "ptx", ""] = ""
    seconds: float = 0.0

    def as_row(self) -> dict[str, object]:
        """The fields by name, for JSON."""
        return asdict(self)


def distinct(specimens: Iterable[Specimen]) -> list[Specimen]:
    """All that are listed, and of the others those that compile to something new: names alone are not."""
    found, seen = [], set()
    for specimen in sorted(specimens, key=lambda specimen: not specimen.is_listed):
        code = (
            id(specimen.kernel), frozenset(specimen.signature.items()), repr(sorted(specimen.constexprs.items())),
            specimen.aligned, specimen.num_warps, specimen.num_stages, specimen.max_registers,
        )  # fmt: skip
        if specimen.is_listed or code not in seen:
            found.append(specimen)
        seen.add(code)
    return found


def compile_for(specimen: Specimen, target: Target, family: str = "") -> CompileReport:
    """Compile one specimen for one target and hold it to what it needs.

    It must not spill, must fit shared memory, and must keep warpgroup multiplications asynchronous. A kernel that does
    not compile is a failed report as well.
    """
    if target.min_triton > TRITON_VERSION:
        needed = ".".join(map(str, target.min_triton))
        reason = f"{target.name} needs triton >= {needed}, found {triton.__version__}"
        return CompileReport(
            specimen.name, target.name, triton.__version__, "skipped", (reason,), family, specimen.configuration,
            specimen.is_listed,
        )  # fmt: skip

    started = time.perf_counter()
    try:
        compiled = compile_kernel(specimen, target)
    except Exception as error:
        reason = f"it must compile, got {type(error).__name__}: {error}"
        return CompileReport(
            specimen.name, target.name, triton.__version__, "failed", (reason,), family, specimen.configuration,
            specimen.is_listed,
        )  # fmt: skip
    seconds = time.perf_counter() - started
    registers, stack_bytes, sass = machine_code.inspect(compiled.asm["cubin"])
    found = machine_code.count(sass, compiled.asm["ptx"])
    shared_bytes = compiled.metadata.shared

    reasons = []
    if stack_bytes:
        reasons.append(f"stack must be 0 bytes, got {stack_bytes}")
    if found.spills:
        reasons.append(f"spill instructions must be 0, got {found.spills}")
    if shared_bytes > target.shared_limit_bytes:
        reasons.append(f"shared memory must be <= {target.shared_limit_bytes} bytes, got {shared_bytes}")
    if found.wgmma_is_serialised:
        reasons.append(f"warpgroup MMA must stay asynchronous, got a wait after each of {found.warpgroup_mma}")
    if specimen.needs_tensor_cores and not found.tensor_core.total():
        reasons.append("tensor-core instructions must be > 0, got 0")
    if specimen.needs_warpgroup_mma and target.capability == 90 and not found.warpgroup_mma:
        kinds = "+".join(sorted(found.tensor_core)) or "no tensor-core instruction"
        reasons.append(f"warpgroup MMA instructions must be > 0 on {target.name}, got 0 ({kinds})")
    if specimen.needs_bulk_copies and not found.bulk_copies:
        reasons.append(f"bulk copies (TMA loads) must be > 0, got 0 ({found.async_copies} asynchronous copies)")
    return CompileReport(
        specimen=specimen.name,
        target=target.name,
        triton=triton.__version__,
        status="failed" if reasons else "passed",
        reasons=tuple(reasons),
        family=family,
        configuration=specimen.configuration,
        is_listed=specimen.is_listed,
        registers=registers,
        stack_bytes=stack_bytes,
        shared_bytes=shared_bytes,
        programs_per_sm=programs_per_sm(
            target,
            registers=registers,
            shared_bytes=shared_bytes,
            num_warps=compiled.metadata.num_warps,
            tensor_memory_columns=getattr(compiled.metadata, "tmem_size", None) or 0,
        ),
        spill_instructions=found.spills,
        tensor_core_instructions=found.tensor_core.total(),
        tensor_core_kind="+".join(sorted(found.tensor_core)),
        warpgroup_mma_instructions=found.warpgroup_mma,
        wgmma_is_serialised=found.wgmma_is_serialised,
        bulk_copies=found.bulk_copies,
        async_copies=found.async_copies,
        counted_in=found.counted_in,
        seconds=round(seconds, 2),
    )


def compile_kernel(specimen: Specimen, target: Target) -> Any:
    """The compiled kernel as triton has it, with its code in `asm`."""
    names = specimen.kernel.arg_names
    source = _source_class(specimen.kernel)(
        fn=specimen.kernel,
        signature={name: specimen.signature.get(name, "constexpr") for name in names},
        constexprs=dict(specimen.constexprs),
        # By position among the declared arguments: what a descriptor expands to does not count. Sorted, because the
        # order goes into the key of triton's cache, and that of a set changes from run to run.
        attrs={(position,): [["tt.divisibility", 16]] for position in sorted(map(names.index, specimen.aligned))},
    )
    options = {
        "num_warps": specimen.num_warps,
        "num_stages": specimen.num_stages,
        "maxnreg": specimen.max_registers,
        "enable_fp_fusion": True,
    }
    return triton.compile(source, target=GPUTarget("cuda", target.capability, 32), options=options)


def _source_class(kernel: Any) -> type[ASTSource]:
    if not kernel.is_gluon():
        return ASTSource
    from triton.experimental.gluon._runtime import GluonASTSource

    return GluonASTSource
