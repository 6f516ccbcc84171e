"""The virtual NVML: boards that draw exactly known power, so that joules can be checked where there is no GPU."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent / "power" / "virtual_nvml.c"


@dataclass(frozen=True)
class VirtualNvml:
    """A machine with virtual boards; take another one with `dataclasses.replace(virtual_nvml, gpus=2, ...)`.

    Board g draws (g + 1) * (base_w + amplitude_w * sin(2 pi t / period_s)) at `time.monotonic()` = t, and its counter
    is renewed every `tick_s`. The other fields are faults; virtual_nvml.c says what each does.
    """

    library_dir: Path
    base_w: float = 300.0
    amplitude_w: float = 0.0
    period_s: float = 1.0
    tick_s: float = 0.1
    gpus: int = 1
    bias: float = 1.0
    throttle: int = 0
    no_counter: bool = False
    no_instant: bool = False
    old_driver: bool = False
    lost: bool = False

    @property
    def settings(self) -> dict[str, str]:
        """Environment variables that shape the boards, read whenever NVML starts."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "library_dir"}
        return {f"VIRTUAL_NVML_{name.upper()}": str(float(value)) for name, value in values.items()}

    @property
    def environment(self) -> dict[str, str]:
        """Environment for a process that shall find these boards."""
        search = os.pathsep.join(filter(None, (str(self.library_dir), os.environ.get("LD_LIBRARY_PATH"))))
        return {**os.environ, "LD_LIBRARY_PATH": search, **self.settings}

    def uuid(self, board: int) -> str:
        """NVML UUID of a board."""
        return f"GPU-00000000-0000-0000-0000-{board:012d}"

    @property
    def uuids(self) -> tuple[str, ...]:
        """UUIDs of all boards."""
        return tuple(self.uuid(board) for board in range(self.gpus))

    def true_energy_j(self, start_s: float, end_s: float, board: int | None = None) -> float:
        """Energy drawn between two moments of `time.monotonic()`, by one board or (None) by all."""
        turn = 2 * math.pi / self.period_s
        swing_j = self.amplitude_w / turn * (math.cos(turn * start_s) - math.cos(turn * end_s))
        share = sum(range(1, self.gpus + 1)) if board is None else board + 1
        return share * (self.base_w * (end_s - start_s) + swing_j)


@pytest.fixture(scope="session")
def virtual_nvml(tmp_path_factory: pytest.TempPathFactory) -> VirtualNvml:
    """One virtual board at a constant 300 W whose counter ticks every 100 ms."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("the virtual NVML needs a C compiler (gcc)")
    folder = tmp_path_factory.mktemp("virtual_nvml")
    name = "libnvidia-ml.so.1"
    flags = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", f"-Wl,-soname,{name}"]
    subprocess.run([compiler, *flags, "-o", folder / name, SOURCE, "-lm"], check=True)
    return VirtualNvml(library_dir=folder)
