"""Where workloads are: files by name or by path."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from tokenwatt.errors import UserError, unknown_name
from tokenwatt.spec import load_toml
from tokenwatt.workloads.workload import Workload


def library_folder() -> Path:
    """Folder of the shipped workloads, suites and model shapes: `workloads/` of the tree, or the wheel's copy of it."""
    installed = Path(str(files("tokenwatt"))) / "_workloads"
    return installed if installed.is_dir() else Path(__file__).resolve().parents[3] / "workloads"


def load_workload(name: str) -> Workload:
    """Read a workload of the library by name, or any TOML file by path. A file that it names is found from its folder.

    Traces and recorded conversations are read when they are first needed.

    Raises:
        UserError: unknown name, missing file or a file that is not a workload.
    """
    path = find_toml(name, library_folder(), "workload")
    return load_toml(path, Workload).found_from(path.parent)


def find_toml(name: str, folder: Path, kind: str) -> Path:
    """Path of `<folder>/<name>.toml`, or of the TOML file that `name` already is."""
    if name.endswith(".toml"):
        path = Path(name)
        if not path.is_file():
            raise UserError(f"no such {kind} file: {name}")
        return path
    path = folder / f"{name}.toml"
    if not path.is_file():
        raise unknown_name(kind, name, (candidate.stem for candidate in folder.glob("*.toml")))
    return path
