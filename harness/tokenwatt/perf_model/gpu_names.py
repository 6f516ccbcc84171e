"""What people call a GPU, as the name of the system that has its Facts."""

from __future__ import annotations

import re
from collections.abc import Iterable

from tokenwatt.errors import unknown_name
from tokenwatt.reference.facts import FactBook, load_facts

_NOISE = {"nvidia", "gpu", "tensor", "core", "sxm4", "sxm5", "sxm6", "hbm3", "hbm3e", "40gb", "80gb", "141gb", "180gb"}
"""Words that do not tell one system from another: a board of another form (PCIe, NVL) is not among the systems."""
_OTHER_NAMES = {
    "VR NVL72": ("VR", "VR200", "VR200 NVL72", "Rubin", "Rubin NVL72", "Vera Rubin", "Vera Rubin NVL72", "VR NVL144"),
    "RTX PRO 6000": ("RTX PRO 6000 Blackwell", "RTX PRO 6000 Blackwell Server Edition"),
}


def system_of_gpu(name: str, facts: FactBook | None = None) -> str:
    """The system that `name` means: its own name, the chip's, NVML's or the rack's, in any case and with or without
    "NVIDIA"; of "Rubin (VR NVL72)" both parts, which have to agree.

    Raises:
        UserError: no system has that name; the nearest ones are offered.

    >>> system_of_gpu("NVIDIA H200"), system_of_gpu("gb200"), system_of_gpu("Rubin (VR NVL72)")
    ('H200 SXM', 'GB200 NVL72', 'VR NVL72')
    """
    systems = (load_facts() if facts is None else facts).subjects
    table = _names(systems)
    found = {table.get(key) for part in _parts(name) if (key := _key(part))}
    if len(found) == 1 and (system := found.pop()) is not None:
        return system
    raise unknown_name("GPU", name, {*systems, *(system.split()[0] for system in systems)})


def _names(systems: Iterable[str]) -> dict[str, str]:
    """Every spelling's key with its system; a chip's name stands for the first system that has it."""
    names: dict[str, str] = {}
    for system in systems:
        chip = system.split()[0]
        chips = [chip] if re.search(r"\d", chip) else []
        for spelling in (system, *chips, *_OTHER_NAMES.get(system, ())):
            names.setdefault(_key(spelling), system)
    return names


def _parts(name: str) -> tuple[str, str]:
    """What stands outside brackets, and inside."""
    found = re.search(r"\(([^()]*)\)", name)
    return (name, "") if found is None else (name[: found.start()] + name[found.end() :], found[1])


def _key(name: str) -> str:
    words = re.split(r"[\s_\-]+", name.strip().casefold())
    return " ".join(word for word in words if word not in _NOISE)
