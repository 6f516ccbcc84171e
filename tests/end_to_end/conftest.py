"""The command line in this process: its exit code and what it printed."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tokenwatt import cli


@dataclass(frozen=True)
class Outcome:
    """How one command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def tokenwatt(monkeypatch, capfd):
    """`tokenwatt("bench", "demo")` -> Outcome."""

    def run(*arguments: str) -> Outcome:
        monkeypatch.setattr("sys.argv", ["tokenwatt", *arguments])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        assert isinstance(exit_.value.code, int)
        return Outcome(exit_.value.code, *capfd.readouterr())

    return run
