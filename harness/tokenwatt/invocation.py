"""What a finished run leaves beside its tables: the command that made it. A run without it was cut short."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from tokenwatt import __version__, store
from tokenwatt.errors import UserError
from tokenwatt.spec import validate

FILE = "run.json"


class Invocation(BaseModel):
    """The command of a run that came to its end, whatever its rows say."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    command: str
    """As it was typed, such as `tokenwatt bench energy`."""
    tokenwatt_version: str
    """tokenwatt that ran it."""
    ended_at: datetime
    """UTC time at which it ended."""


def write(folder: Path, arguments: Sequence[str]) -> Path:
    """Write `run.json` into the folder of a run that has just ended; `arguments` are those after the program's name.

    Raises:
        UserError: the folder cannot be written to.
    """
    command = shlex.join(["tokenwatt", *arguments])
    ended = Invocation(command=command, tokenwatt_version=__version__, ended_at=datetime.now(UTC))
    text = ended.model_dump_json(indent=2) + "\n"
    return store.write_whole(folder / FILE, lambda file: file.write(text.encode()))


def read(folder: Path) -> Invocation | None:
    """The command of the run in `folder`; None for a run that was cut short, or is older than this file.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / FILE
    return validate(read_json(path), Invocation, str(path)) if path.is_file() else None


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        UserError: it cannot be read, or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error}); restore it or move it away") from None
