"""What the kernel tests share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tokenwatt_kernels

SOURCE_ROOT = Path(tokenwatt_kernels.__file__).parents[1]
INTERPRETED = Path(__file__).parent / "interpreted"


@pytest.fixture(scope="session")
def run_python() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run python in its own process, with this checkout's package first on its path."""

    def run(*arguments: str, interpret: bool = False) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
        inherited = [environment["PYTHONPATH"]] if "PYTHONPATH" in environment else []
        environment["PYTHONPATH"] = os.pathsep.join([*inherited, str(SOURCE_ROOT)])
        environment["OMP_NUM_THREADS"] = "1"
        if interpret:
            environment["TRITON_INTERPRET"] = "1"
        return subprocess.run(
            [sys.executable, *arguments], capture_output=True, text=True, env=environment, check=False, timeout=200
        )

    return run


@pytest.fixture(scope="session")
def run_interpreted(run_python: Callable[..., subprocess.CompletedProcess[str]]) -> Callable[[str], Any]:
    """Run a script of interpreted/ under Triton's interpreter and return the JSON that it prints."""

    def run(script: str) -> Any:
        finished = run_python(str(INTERPRETED / script), interpret=True)
        assert finished.returncode == 0, finished.stderr
        return json.loads(finished.stdout)

    return run
