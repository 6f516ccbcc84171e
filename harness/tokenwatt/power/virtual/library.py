"""The virtual NVML compiled, checked, given to a child process, or put in the place of this process's own NVML."""

from __future__ import annotations

import atexit
import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenwatt.errors import UserError
from tokenwatt.power.virtual.script import Script

SOURCES = tuple(Path(__file__).with_name(name) for name in ("nvml.c", "script.c", "instruments.c"))
FILE_NAME = "libnvidia-ml.so.1"
# No -soname: the loader would hand the library out to whoever asks for NVML later in this process.
FLAGS = ("-std=gnu11", "-O2", "-shared", "-fPIC", "-pthread")
SCRIPT_VARIABLE = "VIRTUAL_NVML_SCRIPT"


@dataclass(frozen=True, slots=True)
class Library:
    """The compiled library; get it from `build`."""

    path: Path
    """The shared object, alone in its folder with scripts for child processes."""

    def check(self, text: str, where: str = "virtual NVML script") -> None:
        """See whether a script is right.

        Raises:
            UserError: `where` has a mistake; the line says which, and what is allowed.
        """
        calls = _calls(self.path)
        if calls.virtual_nvml_check_script(text.encode()):
            raise UserError(f"{where}: {calls.virtual_nvml_error().decode()}")

    def settings(self, script: Script) -> dict[str, str]:
        """What tells the library of a child process which script to play: the name of a file, written beside it.

        Raises:
            UserError: the script has a mistake.
        """
        text = script.text()
        self.check(text)
        file = self.path.with_name(f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.script")
        file.write_text(text, encoding="utf-8")
        return {SCRIPT_VARIABLE: str(file)}

    def environment(self, script: Script) -> dict[str, str]:
        """This process's environment, changed so that a child finds the script's boards.

        Raises:
            UserError: the script has a mistake.
        """
        search = os.pathsep.join(filter(None, (str(self.path.parent), os.environ.get("LD_LIBRARY_PATH"))))
        return {**os.environ, "LD_LIBRARY_PATH": search, **self.settings(script)}


class Machine:
    """The script that this process's copy of the library plays now. There is one at a time: a new one ends it."""

    def __init__(self, library: Library, text: str, where: str = "virtual NVML script") -> None:
        self._calls = _calls(library.path)
        if self._calls.virtual_nvml_load_script(text.encode()):
            raise UserError(f"{where}: {self._calls.virtual_nvml_error().decode()}")

    def clock(self) -> float:
        """Now, on the script's clock: a `Clock`."""
        return self._calls.virtual_nvml_time()

    def set_time(self, at_s: float) -> None:
        """Move a manual clock."""
        self._calls.virtual_nvml_set_time(at_s)

    def sleep(self, seconds: float) -> None:
        """Let a manual clock run: in the place of `time.sleep`."""
        self.set_time(self.clock() + seconds)

    def true_energy_j(self, board: int, start_s: float, end_s: float) -> float:
        """Energy that a board draws between two moments of the clock, in closed form."""
        return self._calls.virtual_nvml_true_energy_j(board, start_s, end_s)


def build(folder: Path) -> Library:
    """Compile the library into a folder.

    Raises:
        UserError: there is no C compiler, or it refuses.
    """
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise UserError("the virtual NVML must be compiled, and no C compiler was found (cc or gcc); install gcc")
    path = folder / FILE_NAME
    done = subprocess.run(  # noqa: S603
        [compiler, *FLAGS, "-o", path, *SOURCES, "-lm"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        first = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr)
        raise UserError(f"{compiler} cannot compile the virtual NVML: {first}")
    return Library(path)


@functools.cache
def temporary() -> Library:
    """The library in a temporary folder: compiled once in a process, gone with it."""
    folder = tempfile.mkdtemp(prefix="tokenwatt-virtual-")
    atexit.register(shutil.rmtree, folder)
    return build(Path(folder))


@contextmanager
def load(script: Script | str, library: Library | None = None, where: str = "virtual NVML script") -> Iterator[Machine]:
    """Within the block, `pynvml` speaks to the virtual boards of a script (or its text) instead of this machine's.

    Raises:
        UserError: the script is wrong, pynvml is missing, or the library cannot be compiled.
    """
    try:
        import pynvml
    except ModuleNotFoundError:
        raise UserError("the virtual NVML is read through nvidia-ml-py: pip install 'tokenwatt[bench]'") from None
    library = library or temporary()
    machine = Machine(library, script if isinstance(script, str) else script.text(), where)
    before = pynvml.nvmlLib
    _point(pynvml, _calls(library.path))
    try:
        yield machine
    finally:
        _point(pynvml, before)


def _point(binding: Any, library: ctypes.CDLL | None) -> None:
    """Make the binding call `library`; None: what it finds when it starts next. Functions that it remembers go too."""
    binding.nvmlLib = library
    binding._nvmlGetFunctionPointer_cache.clear()


@functools.cache
def _calls(path: Path) -> ctypes.CDLL:
    """The library in this process, with the types of its own calls."""
    calls = ctypes.CDLL(str(path))
    for name in ("virtual_nvml_check_script", "virtual_nvml_load_script"):
        getattr(calls, name).argtypes = [ctypes.c_char_p]
    calls.virtual_nvml_error.restype = ctypes.c_char_p
    calls.virtual_nvml_time.restype = ctypes.c_double
    calls.virtual_nvml_set_time.argtypes = [ctypes.c_double]
    calls.virtual_nvml_set_time.restype = None
    calls.virtual_nvml_true_energy_j.argtypes = [ctypes.c_int, ctypes.c_double, ctypes.c_double]
    calls.virtual_nvml_true_energy_j.restype = ctypes.c_double
    return calls
