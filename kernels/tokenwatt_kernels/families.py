"""The kernel families by name. A family is a folder, and each of its parts is imported when it is asked for.

Every family has the parts `problems`, `tiles` and `work` (plain Python), `contest` and `mutants` (torch), `kernel`,
`cases`, `specimens` and `tuning` (triton too).
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

BenchProblem = tuple[str, Any, str]
"""Family, problem and dtype of something real, as the bench times it."""

FAMILIES: dict[str, str] = {
    "attention.prefill": "tokenwatt_kernels.attention.prefill",
    "attention.decode": "tokenwatt_kernels.attention.decode",
    "matmul.dense": "tokenwatt_kernels.matmul.dense",
    "matmul.skinny": "tokenwatt_kernels.matmul.skinny",
    "matmul.packed": "tokenwatt_kernels.matmul.packed",
    "matmul.nvfp4": "tokenwatt_kernels.matmul.nvfp4",
    "moe.route": "tokenwatt_kernels.moe.route",
    "moe.grouped": "tokenwatt_kernels.moe.grouped",
    "fused.norm": "tokenwatt_kernels.fused.norm",
    "fused.rope": "tokenwatt_kernels.fused.rope",
    "fused.top_k": "tokenwatt_kernels.fused.top_k",
}


def known_names() -> tuple[str, ...]:
    """What `select` takes: every family, and every group of them by the first part of its name.

    >>> [name for name in known_names() if "." not in name]
    ['attention', 'matmul', 'moe', 'fused']
    """
    return (*dict.fromkeys(family.partition(".")[0] for family in FAMILIES), *FAMILIES)


def select(names: Sequence[str]) -> tuple[str, ...]:
    """The named families in the order of the table, or all when no name is given. A group stands for its families.

    Raises ValueError for a name that is neither.
    """
    for name in names:
        if name not in known_names():
            raise ValueError(f"family must be one of {', '.join(known_names())}, got {name}")
    return tuple(family for family in FAMILIES if not names or family in names or family.partition(".")[0] in names)


def part(family: str, name: str) -> ModuleType:
    """One part of a family, such as part("matmul.dense", "problems")."""
    return import_module(f"{FAMILIES[family]}.{name}")


def bench_problems(
    families: Sequence[str], dtype_names: Sequence[str], names: Sequence[str] = ()
) -> list[BenchProblem]:
    """Every real problem of `families` in these dtypes, or those called one of `names`.

    Raises ValueError for a name that none of them has.
    """
    found = [
        (family, problem, dtype_name)
        for family in families
        for problem in part(family, "problems").BENCH_PROBLEMS
        for dtype_name in dtype_names
        if dtype_name in part(family, "problems").DTYPE_NAMES
        and part(family, "problems").takes(problem, dtype_name, None)
    ]
    known = dict.fromkeys(problem.name for _, problem, _ in found)
    for name in names:
        if name not in known:
            raise ValueError(
                f"problem must be one of {', '.join(known) or 'none'} in {', '.join(dtype_names)}, got {name}"
            )
    return [entry for entry in found if not names or entry[1].name in names]
