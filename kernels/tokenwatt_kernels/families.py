"""The kernel families by name. A family is a folder, and each of its parts is imported when it is asked for.

Every family has the parts `problems`, `tiles` and `work` (plain Python), `call`, `contest` and `mutants` (torch),
`kernel`, `cases`, `specimens` and `tuning` (triton too).
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

FAMILIES: dict[str, str] = {
    "attention.prefill": "tokenwatt_kernels.attention.prefill",
    "attention.decode": "tokenwatt_kernels.attention.decode",
    "matmul.dense": "tokenwatt_kernels.matmul.dense",
}


def select(names: Sequence[str]) -> tuple[str, ...]:
    """The named families, or all of them when no name is given. Raises ValueError for a name not in the table."""
    for name in names:
        if name not in FAMILIES:
            raise ValueError(f"family must be one of {', '.join(FAMILIES)}, got {name}")
    return tuple(names) or tuple(FAMILIES)


def part(family: str, name: str) -> ModuleType:
    """One part of a family, such as part("matmul.dense", "problems")."""
    return import_module(f"{FAMILIES[family]}.{name}")
