"""Where a measurement is taken: hardware, software, and the ceilings that this machine really reaches."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tokenwatt import __version__, power
from tokenwatt.record import Environment

if TYPE_CHECKING:
    import torch
    from torch import Tensor

REPEATS = 7
GPU_REPEATS = 30
"""Trials of each ceiling; the best one counts, because a ceiling is what nothing exceeds."""
GPU_WARM_UP_S = 0.3
GPU_PAUSE_S = 0.02
"""Between trials: some ten times as long as the longest of them takes."""
MILLISECONDS_PER_SECOND = 1e3


@dataclass(frozen=True, slots=True)
class Ceilings:
    """What the device can do at best."""

    memory_bytes_per_s: float
    flop_per_s: float


def describe(
    device: Literal["cuda", "cpu", "none"],
    gpu_uuids: tuple[str, ...] | None,
    torch_version: str | None,
    triton_version: str | None,
    ceilings: Ceilings | None,
) -> Environment:
    """The environment columns of a row; `gpu_uuids` None means every board."""
    boards = [board for board in power.boards() if gpu_uuids is None or board.uuid in gpu_uuids]
    uuids = tuple(board.uuid for board in boards) or gpu_uuids or ()
    return Environment(
        device=device,
        gpu_name=boards[0].name if boards else None,
        gpu_count=len(uuids),
        gpu_uuids=uuids,
        gpu_driver_version=boards[0].driver_version if boards else None,
        gpu_ecc=_over_all([board.has_ecc for board in boards], all),
        gpu_mig=_over_all([board.is_mig for board in boards], any),
        cpu_name=cpu_name(),
        cpu_count=len(os.sched_getaffinity(0)),
        memory_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        os_name=f"{platform.system()} {platform.release()}",
        python_version=platform.python_version(),
        torch_version=torch_version,
        triton_version=triton_version,
        tokenwatt_version=__version__,
        git_commit=git_commit(),
        ceiling_memory_bytes_per_s=ceilings.memory_bytes_per_s if ceilings else None,
        ceiling_flop_per_s=ceilings.flop_per_s if ceilings else None,
    )


def _over_all(answers: list[bool | None], rule: Callable[[list[bool]], bool]) -> bool | None:
    """`all` or `any` of those that are known; None if none is."""
    known = [answer for answer in answers if answer is not None]
    return rule(known) if known else None


def measure_ceilings(device: str, dtype: str) -> Ceilings:
    """Best memory bandwidth and best matmul rate of `device` ("cuda" or "cpu") in `dtype`, on random data.

    Bandwidth is the better of a copy (bytes read plus bytes written) and of a matrix-vector product (bytes read), over
    buffers far larger than any cache. The rate is that of a square matmul through torch, 2 n^3 FLOP.
    """
    import torch

    on_gpu = device == "cuda"
    is_float8 = dtype.startswith(
        "float8"
    )  # torch draws, copies and adds up in 16 bits, and multiplies these with scales
    kind: torch.dtype = torch.bfloat16 if is_float8 else getattr(torch, dtype)
    rows, columns, edge = (32768, 16384, 8192) if on_gpu else (16384, 4096, 2048)
    big = torch.empty(rows, columns, dtype=kind, device=device).normal_()
    vector = torch.empty(columns, dtype=kind, device=device).normal_()
    left, right = (torch.empty(edge, edge, dtype=kind, device=device).normal_() for _ in range(2))
    target = torch.empty_like(big)
    size_bytes = big.numel() * big.element_size()
    best_s = _best_on_gpu_s if on_gpu else _best_on_cpu_s
    copy_s, read_s = best_s(lambda: target.copy_(big)), best_s(lambda: big @ vector)
    matmul = _float8_matmul(left, right, getattr(torch, dtype)) if is_float8 else lambda: left @ right
    return Ceilings(max(2 * size_bytes / copy_s, size_bytes / read_s), 2 * edge**3 / best_s(matmul))


def _float8_matmul(left: Tensor, right: Tensor, dtype: torch.dtype) -> Callable[[], Tensor]:
    """The product of both in float8, answered in bf16; torch wants the right one column by column."""
    import torch

    one = torch.ones((), device=left.device)
    a, b = left.to(dtype), right.to(dtype).t().contiguous().t()
    return lambda: torch._scaled_mm(a, b, scale_a=one, scale_b=one, out_dtype=torch.bfloat16)


def _best_on_cpu_s(work: Callable[[], object]) -> float:
    trials = []
    for _ in range(REPEATS):
        begin_s = time.perf_counter()
        work()
        trials.append(time.perf_counter() - begin_s)
    return min(trials)


def _best_on_gpu_s(work: Callable[[], object]) -> float:
    """Best of many trials between device events, after a warm-up that lets the clocks rise.

    With a pause ahead of each: a board that has multiplied for a while is held back by its power limit, and kernels
    that come in bursts are not.
    """
    import torch

    begin_s = time.perf_counter()
    while time.perf_counter() - begin_s < GPU_WARM_UP_S:
        work()
        torch.cuda.synchronize()
    trials = []
    for _ in range(GPU_REPEATS):
        time.sleep(GPU_PAUSE_S)
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        work()
        end.record()
        end.synchronize()
        trials.append(start.elapsed_time(end) / MILLISECONDS_PER_SECOND)
    return min(trials)


@cache
def cpu_name() -> str:
    """Processor model by /proc/cpuinfo, else the machine's architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


@cache
def git_commit() -> str | None:
    """Commit of the source tree, `+dirty` if tracked files differ; None for an installed wheel or without git."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        head = _git(root, "rev-parse", "--short=12", "HEAD")
        return f"{head}+dirty" if _git(root, "status", "--porcelain", "--untracked-files=no") else head
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()  # noqa: S603
