"""Files of other tools, checked at the edge: what does not fit is one line with its place in the file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tokenwatt.errors import UserError

LARGEST = 1e15
"""No time, rate, energy or count of these tools comes near it; larger values would not fit a column."""

Number = Annotated[float, Field(ge=-LARGEST, le=LARGEST)]
PositiveNumber = Annotated[float, Field(gt=0, le=LARGEST)]
NonNegativeNumber = Annotated[float, Field(ge=0, le=LARGEST)]
Count = Annotated[int, Field(ge=0, le=int(LARGEST))]
PositiveCount = Annotated[int, Field(gt=0, le=int(LARGEST))]
Nanoseconds = Annotated[int, Field(ge=0, lt=2**63)]
"""Since 1970."""

SHOWN = 60
"""Characters of a found value that a message repeats."""


class Part(BaseModel):
    """An object of a file of which some keys are read. Others are left alone: tools add keys with each version."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, allow_inf_nan=False)


PartT = TypeVar("PartT", bound=Part)


def read_bytes(path: Path) -> bytes:
    """Content of a file.

    Raises:
        UserError: it is missing, a folder, unreadable or empty.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"no such file: {path}") from None
    except IsADirectoryError:
        names = sorted(one.name for one in path.glob("*.json"))
        raise UserError(f"{path}: is a folder; name a file in it ({', '.join(names) or 'it has no JSON'})") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    if not content.strip():
        raise UserError(f"{path}: the file is empty, expected JSON")
    return content


def json_value(content: bytes, where: str) -> Any:
    """The JSON value in `content`.

    Raises:
        UserError: half-written, not JSON in UTF-8, or beyond what Python reads.
    """
    try:
        return json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not JSON in UTF-8 ({error.reason} at byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise UserError(
            f"{where}: not complete JSON (line {error.lineno}, column {error.colno}: {error.msg.lower()});"
            " was it cut while it was written?"
        ) from None
    except (ValueError, RecursionError):
        raise UserError(f"{where}: no JSON that can be read: a number is too long or its lists too deep") from None


def parse(kind: type[PartT], content: Any, where: str, place: str = "$") -> PartT:
    """Read a JSON value as a `kind`.

    Args:
        kind: what is expected.
        content: the JSON value.
        where: name of the file.
        place: JSON path of the value.

    Raises:
        UserError: names file and JSON path of the first thing that is wrong, what was found and what is expected.
    """
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        path = place + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"])
        if problem["type"] == "missing":
            raise UserError(f"{where}: {path}: is missing") from None
        message = problem["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
        raise UserError(f"{where}: {path}: found {_shown(problem['input'])}, expected {message}") from None


def same_lengths(lists: Mapping[str, list[Any] | None], where: str) -> None:
    """Whether the lists of a file that have an entry for each request have as many; None is a list that is absent.

    Raises:
        UserError: two lists of different lengths.
    """
    lengths = {name: len(values) for name, values in lists.items() if values is not None}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise UserError(f"{where}: lists of requests have different lengths ({found}), expected one entry a request")


def at_most_sent(completed: int, failed: int | None, sent: int, where: str) -> None:
    """Whether no more requests ended than `$.num_prompts` were sent; `failed` is None where a file does not tell it.

    Raises:
        UserError: more ended.
    """
    if completed + (failed or 0) > sent:
        beside = "" if failed is None else f" and {failed} in $.failed"
        raise UserError(f"{where}: $.completed: found {completed}{beside}, expected at most {sent}, its $.num_prompts")


def _shown(value: Any) -> str:
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else f"a list of {len(value)}"
    text = repr(value)
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."
