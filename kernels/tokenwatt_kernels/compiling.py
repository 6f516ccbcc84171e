"""Compile a kernel for a GPU that is not here, and read registers, spills and tensor-core instructions from the result.

Nothing here initialises a driver, so it works on any machine; the process must not run under TRITON_INTERPRET.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from tokenwatt_kernels.targets import Target

TRITON_VERSION = tuple(int(part) for part in triton.__version__.split(".")[:2])
_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"

# Warp-level, warpgroup and fifth-generation tensor-core instructions, in machine code and in PTX.
_TENSOR_CORE_SASS = re.compile(r"\b(?:HMMA|HGMMA|QGMMA|UTC\w*MMA)\b")
_TENSOR_CORE_PTX = re.compile(r"\b(?:mma\.sync|wgmma\.mma_async|tcgen05\.mma)\b")
_SPILL_SASS = re.compile(r"\b(?:LDL|STL)\b")
_RESOURCES = re.compile(r"REG:(?P<registers>\d+) STACK:(?P<stack>\d+)")


@dataclass(frozen=True, slots=True)
class Specimen:
    """A kernel with everything that its compilation depends on.

    kernel: the @triton.jit function.
    signature: type of each run-time argument, such as "*bf16", "i32" or "fp32".
    constexprs: value of each compile-time argument.
    aligned: run-time arguments that the launcher's callers give as multiples of 16 (addresses and strides).
    """

    name: str
    kernel: Any
    signature: Mapping[str, str]
    constexprs: Mapping[str, int]
    aligned: frozenset[str]
    num_warps: int
    num_stages: int
    needs_tensor_cores: bool


@dataclass(frozen=True, slots=True)
class CompileReport:
    """What one specimen became on one target. `reasons` says why it failed or was skipped.

    spill_instructions counts loads and stores of thread-local memory. counted_in says where they and the tensor-core
    instructions were counted: "sass" is the machine code; "ptx" is the fallback for a target that the bundled
    disassembler cannot read, and there spills show in stack_bytes alone.
    """

    specimen: str
    target: str
    triton: str
    status: Literal["passed", "failed", "skipped"]
    reasons: tuple[str, ...]
    registers: int = 0
    stack_bytes: int = 0
    shared_bytes: int = 0
    spill_instructions: int = 0
    tensor_core_instructions: int = 0
    counted_in: Literal["sass", "ptx", ""] = ""
    seconds: float = 0.0

    def as_row(self) -> dict[str, object]:
        """The fields by name, for JSON."""
        return asdict(self)


def compile_for(specimen: Specimen, target: Target) -> CompileReport:
    """Compile one specimen for one target. It must not spill, must fit shared memory, and must use tensor cores."""
    if target.min_triton > TRITON_VERSION:
        needed = ".".join(map(str, target.min_triton))
        reason = f"{target.name} needs triton >= {needed}, found {triton.__version__}"
        return CompileReport(specimen.name, target.name, triton.__version__, "skipped", (reason,))

    started = time.perf_counter()
    compiled = _compile(specimen, target)
    seconds = time.perf_counter() - started
    registers, stack_bytes, sass = _inspect(compiled.asm["cubin"])
    if sass:
        counted_in, tensor_cores = "sass", len(_TENSOR_CORE_SASS.findall(sass))
    else:
        counted_in, tensor_cores = "ptx", len(_TENSOR_CORE_PTX.findall(compiled.asm["ptx"]))
    spills = len(_SPILL_SASS.findall(sass))

    reasons = []
    if stack_bytes:
        reasons.append(f"stack must be 0 bytes, got {stack_bytes}")
    if spills:
        reasons.append(f"spill instructions must be 0, got {spills}")
    if compiled.metadata.shared > target.shared_limit_bytes:
        reasons.append(f"shared memory must be <= {target.shared_limit_bytes} bytes, got {compiled.metadata.shared}")
    if specimen.needs_tensor_cores and not tensor_cores:
        reasons.append("tensor-core instructions must be > 0, got 0")
    return CompileReport(
        specimen=specimen.name,
        target=target.name,
        triton=triton.__version__,
        status="failed" if reasons else "passed",
        reasons=tuple(reasons),
        registers=registers,
        stack_bytes=stack_bytes,
        shared_bytes=compiled.metadata.shared,
        spill_instructions=spills,
        tensor_core_instructions=tensor_cores,
        counted_in=counted_in,
        seconds=round(seconds, 2),
    )


def _compile(specimen: Specimen, target: Target) -> Any:
    names = specimen.kernel.arg_names
    source = ASTSource(
        fn=specimen.kernel,
        signature={name: specimen.signature.get(name, "constexpr") for name in names},
        constexprs=dict(specimen.constexprs),
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in specimen.aligned},
    )
    options = {"num_warps": specimen.num_warps, "num_stages": specimen.num_stages, "enable_fp_fusion": True}
    return triton.compile(source, target=GPUTarget("cuda", target.capability, 32), options=options)


def _inspect(cubin: bytes) -> tuple[int, int, str]:
    """Registers per thread, stack bytes per thread, and machine code ("" where the disassembler does not know it)."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = _run_tool("cuobjdump", "-res-usage", file.name)
        sass = _run_tool("nvdisasm", "-c", file.name)
    resources = _RESOURCES.search(usage.stdout)
    if resources is None:
        raise RuntimeError(f"cuobjdump must report registers and stack, got {(usage.stdout + usage.stderr)!r}")
    return int(resources["registers"]), int(resources["stack"]), sass.stdout if sass.returncode == 0 else ""


def _run_tool(tool: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run one of the tools that come with triton."""
    return subprocess.run([str(_TOOLS / tool), *arguments], capture_output=True, text=True, check=False)  # noqa: S603
