"""What `check`, `compile` and `bench` do, as generators of results. The gate's process is set up in __main__."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tokenwatt_kernels.families import part
from tokenwatt_kernels.targets import TARGETS

if TYPE_CHECKING:
    import torch

    from tokenwatt_kernels.compiling import CompileReport
    from tokenwatt_kernels.contests import Result
    from tokenwatt_kernels.testing import Verdict


def check(families: Sequence[str], dtype_names: Sequence[str], device: torch.device) -> Iterator[Verdict]:
    """The gate on every problem: interpreted on a cpu device; on a GPU, with larger problems as well."""
    from tokenwatt_kernels import testing

    if device.type == "cpu":
        from tokenwatt_kernels import interpreter

        interpreter.enable()
    for family in families:
        problems = part(family, "problems")
        chosen = problems.GATE_PROBLEMS + (() if device.type == "cpu" else problems.GPU_GATE_PROBLEMS)
        for problem in chosen:
            for dtype_name in dtype_names:
                for case in part(family, "cases").cases(problem, dtype_name, device):
                    yield testing.check(case)


def compile_all(
    families: Sequence[str], dtype_names: Sequence[str], capabilities: Sequence[int]
) -> Iterator[CompileReport]:
    """Every shipped kernel and tile for every target."""
    from tokenwatt_kernels.compiling import compile_for

    for family in families:
        for capability in capabilities:
            target = TARGETS[capability]
            for specimen in part(family, "specimens").specimens(target, tuple(dtype_names)):
                yield compile_for(specimen, target)


def bench(families: Sequence[str], dtype_names: Sequence[str], device: torch.device) -> Iterator[Result]:
    """Our kernels and their baselines on every real problem."""
    from tokenwatt_kernels import contests

    for family in families:
        for problem in part(family, "problems").BENCH_PROBLEMS:
            for dtype_name in dtype_names:
                yield from contests.run(part(family, "contest").contest(problem, dtype_name, device))
