"""A published study: runs collected with their provenance, and a page that anyone can make again from its folder.

collect     runs -> tables, manifest      (sources, readings, tile_table, invocation)
study       a folder -> everything that the page is made from
page        a study -> markdown           (one module for each section)
kernel_part a study -> the measured part of the kernels' page
"""

from __future__ import annotations

from pathlib import Path

from tokenwatt.errors import UserError
from tokenwatt.publish import collect, environments, folder, kernel_part, manifest
from tokenwatt.publish.collect import SOMEBODY, Choice
from tokenwatt.publish.manifest import Manifest
from tokenwatt.publish.page import page_text
from tokenwatt.publish.study import BY_HAND, PAGE, Study, check_name

__all__ = ["SOMEBODY", "Choice", "differences", "publish", "rewrite", "write_kernel_part"]


def publish(study: str, choice: Choice, root: Path) -> Path:
    """Collect runs into `<root>/<study>/`, in one step; what people wrote there is kept.

    Raises:
        UserError: the input is wrong; nothing has been written then.
    """
    collection, place = collect.read(choice), root / check_name(study)
    with folder.replaced(place, BY_HAND) as new:
        _finish(collect.write(collection, study, new), new)
    return place


def rewrite(study: str, root: Path) -> Path:
    """Write page, environment and manifest of a study anew from its folder, such as after a note was added.

    Raises:
        UserError: no such study, a damaged file, or tables that are not those that were published.
    """
    place = _existing(study, root)
    found = manifest.read(place)
    changed = [name for name in _differing(found, place) if name.endswith(".parquet")]
    if changed:
        raise UserError(f"{place}: {changed[0]} is not what was published; restore it, or collect the runs again")
    with folder.replaced(place, (*BY_HAND, *(name for name in folder.GENERATED if name not in _MADE))) as new:
        _finish(found, new)
    return place


def differences(study: str, root: Path) -> list[str]:
    """Files of a study that are not what its folder alone gives, one line each; none where all is well.

    Raises:
        UserError: no such study, or a file that cannot be read.
    """
    place = _existing(study, root)
    found = manifest.read(place)
    texts = _texts(Study.read(place, found))
    stale = [name for name, text in texts.items() if _bytes(place / name) != text.encode()]
    lines = [f"{place / name}: not what the other files of the study give" for name in stale]
    return lines + [
        f"{place / name}: not the file that the manifest describes"
        for name in _differing(found, place)
        if name not in stale
    ]


def write_kernel_part(study: str, root: Path, path: Path) -> None:
    """Write what a study says of each kernel family into the page of the kernels.

    Raises:
        UserError: no such study, one without measured kernels, or no place for the part in `path`.
    """
    kernel_part.check_place(path)
    kernel_part.write(Study.read(_existing(study, root)), path)


_MADE = (PAGE, environments.FILE, manifest.FILE)
"""Files that the others of a study give."""


def _existing(study: str, root: Path) -> Path:
    place = root / check_name(study)
    if not place.is_dir():
        known = ", ".join(sorted(path.parent.name for path in root.glob(f"*/{manifest.FILE}"))) or "none"
        raise UserError(f"no study {study!r} under {root}; known: {known}; `--from RUN` makes one")
    return place


def _texts(study: Study) -> dict[str, str]:
    return {PAGE: page_text(study), environments.FILE: environments.to_text(study.environments)}


def _finish(found: Manifest, place: Path) -> None:
    """Write what the tables give, then the manifest with the hash of every file."""
    for name, text in _texts(Study.read(place, found)).items():
        (place / name).write_bytes(text.encode())
    (place / manifest.FILE).write_bytes(manifest.to_text(manifest.with_files(found, place)).encode())


def _differing(found: Manifest, place: Path) -> list[str]:
    """Files that are missing, new, or have another hash than the manifest says."""
    now = manifest.with_files(found, place).files
    return sorted(name for name in {*now, *found.files} if now.get(name) != found.files.get(name))


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None
