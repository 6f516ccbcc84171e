"""How `kernels bench` and `kernels tune` are told to keep to a part of a family and to a budget, in one place."""

from __future__ import annotations

from collections.abc import Sequence

HAS_BUDGETS = True
"""Whether the kernels' commands know --problem, --energy, --jobs, --budget-s and --resume. Without them a step takes
whole families, and the largest of these meet their limit; the rows until then are kept."""
TUNE_JOBS = 8
"""Processes that compile candidates while the GPU times others: half of the cores of the machine that lends the GPU."""
TUNE_BUDGET_SHARE = 0.875
"""Of a step's limit: what is left is for the imports before, and for the table after."""


def of_bench(problems: Sequence[str]) -> tuple[str, ...]:
    """Time these problems, and meter our kernel and the fastest baseline of each."""
    return (*_only(problems), "--energy", "ours") if HAS_BUDGETS else ()


def of_tune(problems: Sequence[str], limit_s: float) -> tuple[str, ...]:
    """Tune for these problems within a limit, seconds, going on where an earlier attempt stopped."""
    if not HAS_BUDGETS:
        return ()
    budget_s = round(TUNE_BUDGET_SHARE * limit_s)
    return (*_only(problems), "--jobs", str(TUNE_JOBS), "--budget-s", str(budget_s), "--resume")


def _only(problems: Sequence[str]) -> tuple[str, ...]:
    return tuple(word for problem in problems for word in ("--problem", problem))
