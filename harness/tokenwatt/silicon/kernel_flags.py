"""How `kernels bench` and `kernels tune` are told to keep to some problems and to a budget, in one place."""

from __future__ import annotations

from collections.abc import Sequence

BUDGET_SHARE = 0.875
"""Of a step's limit: what is left is for the imports before, for what is under way then, and for the table after."""


def of_bench(problems: Sequence[str], limit_s: float) -> tuple[str, ...]:
    """Time these problems, and meter our kernel and the fastest baseline of each, within a limit, seconds."""
    return (*_only(problems), "--energy", "ours", *_budget(limit_s))


def of_tune(problems: Sequence[str], limit_s: float) -> tuple[str, ...]:
    """Tune for these problems within a limit, seconds, going on where an earlier attempt stopped."""
    return (*_only(problems), *_budget(limit_s), "--resume")


def _only(problems: Sequence[str]) -> tuple[str, ...]:
    return tuple(word for problem in problems for word in ("--problem", problem))


def _budget(limit_s: float) -> tuple[str, ...]:
    return ("--budget-s", str(round(BUDGET_SHARE * limit_s)))
