"""Read a compiled kernel: registers, and how often the instructions occur that decide its speed.

Nothing here initialises a driver. The machine code (SASS) is read with the disassembler that comes with triton; for a
GPU that it does not know, PTX is read instead.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import triton

_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
_RESOURCES = re.compile(r"REG:(?P<registers>\d+) STACK:(?P<stack>\d+)")

# "/*0a10*/  @!P0 HGMMA.64x64x16.F32.BF16 R24, ..." gives "HGMMA".
_SASS_INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?(?P<name>[A-Z]\w*)", re.MULTILINE)
# Warp-level (HMMA, QMMA, ...), warpgroup (HGMMA, QGMMA, ...) and fifth-generation (UTCHMMA, ...) tensor cores.
_SASS_TENSOR_CORE = re.compile(r"(?:[BDHIOQ]G?|UTC[A-Z]+)MMA")
_SASS_WARPGROUP_MMA = re.compile(r"[BHIQ]GMMA")
# A wait that leaves no multiplication running.
_SASS_WARPGROUP_DRAIN = re.compile(r"\bWARPGROUP\.DEPBAR\.LE gsb\d+, 0x0\b")

_PTX_TENSOR_CORE = re.compile(r"\b(?:mma\.sync|wgmma\.mma_async|tcgen05\.mma)\b")
_PTX_WARPGROUP_MMA = re.compile(r"\bwgmma\.mma_async\b")
_PTX_WARPGROUP_DRAIN = re.compile(r"\bwgmma\.wait_group\.sync\.aligned\s+0\b")
# Into shared memory. A store names the other direction first: cp.async.bulk.tensor.2d.global.shared::cta.
_PTX_BULK_COPY = re.compile(r"\bcp\.async\.bulk\.tensor\.\dd\.shared::")
_PTX_ASYNC_COPY = re.compile(r"\bcp\.async\.c[ag]\b")


@dataclass(frozen=True, slots=True)
class Instructions:
    """How often each kind of instruction occurs in a kernel.

    counted_in: "sass" is the machine code; "ptx" is the fallback for a GPU that the bundled disassembler cannot read,
        and there spills are not seen.
    tensor_core: multiplications on tensor cores, by mnemonic.
    warpgroup_mma: those of them that four warps issue together and that run on their own (sm_90).
    wgmma_is_serialised: the compiler gave up running them on their own, and waits for each.
    bulk_copies: tiles that the copy engine (TMA) brings to shared memory.
    async_copies: copies to shared memory that threads issue and do not wait for.
    spills: loads and stores of thread-local memory.
    """

    counted_in: Literal["sass", "ptx"]
    tensor_core: Counter[str]
    warpgroup_mma: int
    wgmma_is_serialised: bool
    bulk_copies: int
    async_copies: int
    spills: int


def count(sass: str, ptx: str) -> Instructions:
    """Count in the machine code, or in PTX where `sass` is empty."""
    asked_mma = len(_PTX_WARPGROUP_MMA.findall(ptx))
    asked_drains = len(_PTX_WARPGROUP_DRAIN.findall(ptx))
    if not sass:
        return Instructions(
            counted_in="ptx",
            tensor_core=Counter(_PTX_TENSOR_CORE.findall(ptx)),
            warpgroup_mma=asked_mma,
            wgmma_is_serialised=False,
            bulk_copies=len(_PTX_BULK_COPY.findall(ptx)),
            async_copies=len(_PTX_ASYNC_COPY.findall(ptx)),
            spills=0,
        )
    names = Counter(_SASS_INSTRUCTION.findall(sass))
    warpgroup_mma = sum(times for name, times in names.items() if _SASS_WARPGROUP_MMA.fullmatch(name))
    drains = len(_SASS_WARPGROUP_DRAIN.findall(sass))
    return Instructions(
        counted_in="sass",
        tensor_core=Counter({name: times for name, times in names.items() if _SASS_TENSOR_CORE.fullmatch(name)}),
        warpgroup_mma=warpgroup_mma,
        # A full wait after each multiplication, and more of them than the program asked for: where one multiplication
        # is a whole step, the program asks for as many itself. The rule agrees with ptxas's remarks C7510 to C7519.
        wgmma_is_serialised=0 < warpgroup_mma <= drains and drains * asked_mma > asked_drains * warpgroup_mma,
        bulk_copies=names["UTMALDG"],
        async_copies=names["LDGSTS"],
        spills=names["LDL"] + names["STL"],
    )


def inspect(cubin: bytes) -> tuple[int, int, str]:
    """Registers per thread, stack bytes per thread, and machine code ("" where the disassembler does not know it)."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = _run_tool("cuobjdump", "-res-usage", file.name)
        sass = _run_tool("nvdisasm", "-c", "-ndf", file.name)  # -ndf: no analysis of branches, a third faster
    resources = _RESOURCES.search(usage.stdout)
    if resources is None:
        raise RuntimeError(f"cuobjdump must report registers and stack, got {(usage.stdout + usage.stderr)!r}")
    return int(resources["registers"]), int(resources["stack"]), sass.stdout if sass.returncode == 0 else ""


def _run_tool(tool: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run one of the tools that come with triton."""
    return subprocess.run([str(_TOOLS / tool), *arguments], capture_output=True, text=True, check=False)  # noqa: S603
