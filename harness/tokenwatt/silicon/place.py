"""Which tree, packages and boards a pass runs with."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tokenwatt import power
from tokenwatt.environment import git_commit
from tokenwatt.errors import UserError
from tokenwatt.silicon.state import Place

SOURCES = ("harness", "kernels", "tests", "workloads", "pyproject.toml")
"""What a result depends on, below the root of the tree."""
WRITTEN_BY_STEPS = ("__pycache__", "gpu_tables")
"""Folders that change while steps run. A tile table is a result; whoever times with it needs the step that wrote it."""


def tree_root() -> Path:
    """The root of the source tree that this runs from.

    Raises:
        UserError: it runs from an installed wheel, which has no tests.
    """
    root = Path(__file__).resolve().parents[3]
    if not (root / "tests").is_dir():
        raise UserError(f"silicon runs the tests too, and {root} has none; run it from a checkout of tokenwatt")
    return root


def place_of(root: Path) -> Place:
    """Where a pass over the tree at `root` runs."""
    return Place(
        tree=tree_hash(root),
        git_commit=git_commit(),
        torch=_version("torch"),
        triton=_version("triton"),
        gpu=_boards(),
    )


def tree_hash(root: Path) -> str:
    """SHA-256 over paths and contents of the sources, which says the same where git is missing."""
    digest = hashlib.sha256()
    for path in _files(root):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def _files(root: Path) -> Iterator[Path]:
    for name in SOURCES:
        top = root / name
        found = [top] if top.is_file() else sorted(top.rglob("*"))
        yield from (path for path in found if path.is_file() and not set(path.parts) & set(WRITTEN_BY_STEPS))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _boards() -> str | None:
    """What NVML says, or why it does not: the doctor's step, which comes first, says what to do."""
    try:
        return ", ".join(board.name for board in power.boards()) or None
    except power.MeterError as error:
        return f"NVML is broken: {error}"
