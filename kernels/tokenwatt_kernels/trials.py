"""Candidate tiles on the GPU that is here: which may be used, and how long their kernels take.

Workers gate the candidates of a key side by side, which is mostly compiling, and a kernel that is wrong enough to end a
process ends theirs. What they compile is in triton's cache on disk when this process times it, and they wait then.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

import torch
import triton
from triton.compiler.errors import CompilationError
from triton.runtime.errors import OutOfResources, PTXASError

from tokenwatt_kernels import testing
from tokenwatt_kernels.families import part
from tokenwatt_kernels.timing import Sampler, cold_l2_samples, interleave
from tokenwatt_kernels.tune import Effort, Job
from tokenwatt_kernels.workers import Crew, Died, share_gpu

# Rounds and sampler. The brief ones only have to find the best few.
EFFORTS: dict[Effort, tuple[int, Sampler]] = {
    "glance": (1, partial(cold_l2_samples, warmup_ms=1, repeat_ms=4)),
    "short": (2, partial(cold_l2_samples, warmup_ms=5, repeat_ms=15)),
    "long": (4, cold_l2_samples),
}
MLIR_FAILURE = "PassManager::run failed"
"""How triton reports a compiler pass that gave up: a plain RuntimeError."""
LIMIT_S = 60.0
"""For one candidate: compiling takes seconds, and a kernel whose parts wait for each other would take for ever."""

TileTask = tuple[Job, Any, str]
"""Job, tile, type of the device."""


def crew(jobs: int) -> Crew[TileTask, str | None]:
    """The workers that `Trials` needs on a GPU."""
    return Crew(reason_against, partial(share_gpu, jobs), jobs, LIMIT_S)


@dataclass(frozen=True, slots=True)
class Trials:
    """Checks tiles by its workers, and times them in this process, on one device."""

    device: torch.device
    workers: Crew[TileTask, str | None]

    def check(self, job: Job, tiles: Sequence[Any]) -> list[str | None]:
        """For each tile why it may not be used, or None. A tile at which its process dies may not."""
        answers = self.workers.do([(job, tile, self.device.type) for tile in tiles])
        return [answer.reason if isinstance(answer, Died) else answer for answer in answers]

    def time(self, job: Job, tiles: Sequence[Any], effort: Effort) -> list[float]:
        """Seconds of each tile: the geometric mean over the job's problems of its median time, L2 cold, in turns."""
        rounds, sampler = EFFORTS[effort]
        logarithms = [0.0] * len(tiles)
        for problem, dtype_name in job.problems:
            launch = part(job.family, "tuning").launcher(problem, dtype_name, self.device)
            functions = {str(number): partial(launch, tile) for number, tile in enumerate(tiles)}
            for number, timing in enumerate(interleave(functions, rounds, sampler).values()):
                logarithms[number] += math.log(timing.median_s)
        return [math.exp(total / len(job.problems)) for total in logarithms]


def reason_against(task: TileTask) -> str | None:
    """Why a tile may not be used, or None: it compiles without spills and passes the gate on small siblings.

    On a GPU it is launched on the real problems as well, which compiles what the siblings did not ask for.
    """
    job, tile, device_type = task
    kernels, device = part(job.family, "tuning").KERNELS, torch.device(device_type)
    forget(kernels)
    try:
        reasons = gate(job, tile, device)
        if not reasons and device_type == "cuda":
            _launch(job, tile, device)
    except (OutOfResources, PTXASError, CompilationError) as error:
        return f"it must compile and fit, got {_first_line(error)}"
    except RuntimeError as error:
        if MLIR_FAILURE not in str(error):
            raise
        return f"it must compile, got {_first_line(error)}"
    if reasons:
        return "; ".join(reasons)
    spilled = spilled_registers(kernels)
    return f"registers spilled per thread must be 0, got {spilled}" if spilled else None


def gate(job: Job, tile: Any, device: torch.device) -> Sequence[str]:
    """What the gate has against a tile on small siblings of the job's problems."""
    cases, tuning = part(job.family, "cases").cases, part(job.family, "tuning")
    siblings = dict.fromkeys((tuning.sibling(problem), dtype_name) for problem, dtype_name in job.problems)
    checked = 0
    for problem, dtype_name in siblings:
        for case in cases(problem, dtype_name, device, tiles=(tile,)):
            checked += 1
            reasons = testing.check(case).reasons
            if reasons:
                return reasons
    # Calls that the tile's kernel does not take fall back to the default, but some must be left.
    return () if checked else (f"it must take one of {', '.join(job.problem_names)}, got none",)


def _launch(job: Job, tile: Any, device: torch.device) -> None:
    """Run a tile on the real problems, but for those that are too large for a worker's part of the memory."""
    for problem, dtype_name in job.problems:
        with suppress(torch.OutOfMemoryError):
            part(job.family, "tuning").launcher(problem, dtype_name, device)(tile)
            torch.cuda.synchronize()
        torch.cuda.empty_cache()  # the process that times needs the memory


def source() -> dict[str, str]:
    """What a row says about where its times come from."""
    return {"date": datetime.now(UTC).date().isoformat(), "triton": triton.__version__, "torch": torch.__version__}


def forget(kernels: Iterable[Any]) -> None:
    """Drop what a process has compiled of these kernels, so that what is there afterwards belongs to one tile."""
    for kernel in kernels:
        caches = getattr(kernel, "device_caches", {})  # an interpreted kernel compiles nothing
        caches.clear()


def spilled_registers(kernels: Iterable[Any]) -> int:
    """The most 32-bit values that a thread of any compiled form of these kernels keeps in local memory."""
    compiled = [
        form
        for kernel in kernels
        for cache, *_ in getattr(kernel, "device_caches", {}).values()
        for form in cache.values()
    ]
    return max((form.n_spills for form in compiled), default=0)


def _first_line(error: Exception) -> str:
    """Compilers end with what is wrong and begin with where."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1].strip()}" if lines else type(error).__name__
