"""Whose processes are on a GPU, by a real /proc and by one made for the case."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tokenwatt.power.processes import descends_from, has_mine, newcomers, others

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


@pytest.fixture
def child():
    process = subprocess.Popen(SLEEP)
    yield process.pid
    process.kill()
    process.wait()


def test_this_process_and_its_children_are_its_own(child: int):
    assert descends_from(os.getpid(), os.getpid())
    assert descends_from(child, os.getpid())
    assert not descends_from(os.getppid(), os.getpid())
    assert has_mine([1, child])
    assert not has_mine([1, os.getppid()])


def test_others_are_counted(child: int):
    assert others([os.getpid(), child], before=frozenset()) == 0
    assert others([os.getpid(), os.getppid(), child], before=frozenset()) == 1
    assert others([os.getppid()], before=frozenset()) == 1
    assert others([], before=frozenset({5})) == 0


def test_processes_that_came_later_are_counted_unless_those_from_before_started_them(child: int):
    ours = os.getpid()
    assert newcomers([1, 4711], before=frozenset({1, 4711})) == 0
    assert newcomers([ours, child], before=frozenset()) == 0  # a meter's own
    assert newcomers([os.getppid(), child], before=frozenset({os.getppid()})) == 0  # a server's new worker
    assert newcomers([os.getppid(), 4711], before=frozenset()) == 2
    assert newcomers([4711], before=frozenset({4712})) == 1


def test_numbers_of_another_namespace(tmp_path: Path):
    """/proc here knows 7 (this process under another name cannot be), and not 4711 or 4712."""
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "stat").write_text("7 (a (b) c) S 1 7 7 0")
    assert others([7], frozenset(), tmp_path) == 1  # to be seen, and not ours
    assert others([4711], frozenset(), tmp_path) == 0  # probably this very process, by its number on the host
    assert others([4711, 4712], frozenset({4712}), tmp_path) == 1  # was there before us
    own = tmp_path / str(os.getpid())
    own.mkdir()
    (own / "stat").write_text(f"{os.getpid()} (python) S 1 1 1 0")
    assert others([os.getpid(), 4711], frozenset(), tmp_path) == 1  # numbers are shared, so 4711 is somebody's
