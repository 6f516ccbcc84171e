"""A generated part of a file, between two marker lines. The same text gives the same bytes."""

from __future__ import annotations

from pathlib import Path


def missing_place(path: Path, name: str) -> str | None:
    """What keeps the part `name` from being written to `path`, in one line; None when nothing does."""
    if not path.is_file():
        return f"--markdown must name a file, found none at {path}"
    markers = list(_markers(name))
    found = [line.rstrip() for line in _lines(path) if line.rstrip() in markers]
    if found != markers:
        begin, end = markers
        return f"{path} must hold the line {begin!r} once and below it {end!r} once, found {found or 'neither'}"
    return None


def write(path: Path, name: str, text: str) -> None:
    """Replace what stands between the markers of the part `name`. `missing_place` must have found nothing."""
    lines = _lines(path)
    stripped = [line.rstrip() for line in lines]
    begin, end = _markers(name)
    before, after = lines[: stripped.index(begin) + 1], lines[stripped.index(end) :]
    path.write_bytes("".join([*before, "\n", text, "\n", *after]).encode())


def _markers(name: str) -> tuple[str, str]:
    return f"<!-- {name}: begin -->", f"<!-- {name}: end -->"


def _lines(path: Path) -> list[str]:
    return path.read_bytes().decode().splitlines(keepends=True)
