"""`tokenwatt meter` as a process, and its row."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Row = dict[str, Any]
STALLS_FORGIVEN = 3
STALLS = frozenset({"sample_gap", "edge_not_bracketed"})


def start(folder: Path, *arguments: str, machine: Any = None, **env: str) -> subprocess.Popen[str]:
    """The process, working in `folder` with its streams piped; `env` are further variables of its environment."""
    environment = {**(os.environ if machine is None else machine.environment), **env}
    command = [sys.executable, "-m", "tokenwatt", "meter", "--json", "row.json", "--results", "raw", *arguments]
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def meter(folder: Path, *arguments: str, machine: Any = None, stdin: str = "", **env: str) -> tuple[int, str, str, Row]:
    """Exit code, both streams, and the row."""
    process = start(folder, *arguments, machine=machine, **env)
    out, err = process.communicate(stdin, timeout=60)
    return process.returncode, out, err, row_in(folder)


def undisturbed(take: Callable[[], Row]) -> Row:
    """A row, taken again where this computer stalled the sampler: that says nothing about the meter."""
    for _ in range(STALLS_FORGIVEN):
        row = take()
        if not STALLS.intersection(row.get("energy_reasons", ())):
            return row
    pytest.fail(f"the sampler fell behind in each of {STALLS_FORGIVEN} windows; is this computer overloaded?")


def row_in(folder: Path) -> Row:
    """What `--json` wrote; empty if it was not written."""
    row = folder / "row.json"
    return json.loads(row.read_text()) if row.exists() else {}
