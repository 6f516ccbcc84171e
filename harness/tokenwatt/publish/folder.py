"""The folder of a study, replaced as a whole: readers find the old study or the new one."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tokenwatt.errors import UserError
from tokenwatt.publish import environments, manifest, tile_table
from tokenwatt.publish.study import BY_HAND, PAGE
from tokenwatt.record import ClosureTerm, KernelTiming, Measurement, PowerRecord, RequestRecord, Result

TABLES = (Measurement, Result, KernelTiming, ClosureTerm, PowerRecord, RequestRecord)
"""Kinds of rows that a study may hold."""
GENERATED = (
    *(f"{kind.grain}.parquet" for kind in TABLES),
    environments.FILE,
    tile_table.FILE,
    manifest.FILE,
    PAGE,
)
"""Files that are written; beside them stand those of `BY_HAND`."""


@contextmanager
def replaced(place: Path, keeps: tuple[str, ...]) -> Iterator[Path]:
    """An empty folder to fill, with those files of `place` that are named in `keeps`; then it takes the place.

    Raises:
        UserError: it cannot be written there, or `place` holds a file that no study has.
    """
    _check(place)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=f".{place.name}.") as beside:
            new, old = Path(beside) / "new", Path(beside) / "old"
            new.mkdir()
            for name in keeps:
                if (place / name).is_file():
                    shutil.copyfile(place / name, new / name)
            yield new
            _swap(place, new, old)
    except OSError as error:
        raise UserError(f"{place}: the study cannot be written ({error.strerror or error})") from None


def _swap(place: Path, new: Path, old: Path) -> None:
    """Move `place` to `old` and `new` to `place`; where the second cannot be done, the first is undone."""
    if not place.exists():
        new.rename(place)
        return
    place.rename(old)
    try:
        new.rename(place)
    except OSError:
        old.rename(place)
        raise


def _check(place: Path) -> None:
    if place.exists() and not place.is_dir():
        raise UserError(f"{place} must be a folder, found a file; move it away")
    known = {*GENERATED, *BY_HAND}
    foreign = sorted(path.name for path in place.iterdir() if path.name not in known) if place.exists() else []
    if foreign:
        raise UserError(
            f"{place} holds {foreign[0]}, which no study has; known: {', '.join(sorted(known))}; move it away"
        )
