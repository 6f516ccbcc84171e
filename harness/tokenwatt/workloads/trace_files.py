"""Trace files of others, read row by row; what is wrong with a row is said with its line.

Formats as published:

* azure: `TIMESTAMP,ContextTokens,GeneratedTokens`, a date with time: of 2023 to 100 ns without zone, of 2024 with zone
  and sometimes without a fraction. https://github.com/Azure/AzurePublicDataset
* burstgpt: `Timestamp` in seconds, `Request tokens`, `Response tokens` (0 where the request failed) and columns that
  are not needed here, of which newer files have more. https://github.com/HPMLL/BurstGPT
* mooncake: JSON lines with `timestamp` in milliseconds, `input_length`, `output_length` and `hash_ids`, one for each
  block of 512 tokens, the last one perhaps not full. https://github.com/kvcache-ai/Mooncake (FAST25-release)
"""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple, TextIO

from tokenwatt.errors import UserError

Format = Literal["azure", "burstgpt", "mooncake"]
LARGEST = 2**31 - 1


class Row(NamedTuple):
    """One request of a trace."""

    line: int
    """Line of the file, from 1."""
    at_s: float
    """Seconds since the first row."""
    isl: int
    osl: int
    blocks: tuple[int, ...] = ()
    """Numbers of the blocks of its prompt; equal ones hold equal tokens."""


class _Wrong(Exception):  # noqa: N818 (never leaves this module)
    """What is wrong with a row."""


def read_rows(path: Path, format: Format, block_tokens: int) -> Iterator[Row]:
    """Rows in the order of the file, as long as somebody asks for more.

    Raises:
        UserError: the file cannot be read; a column is missing; or a row has something that is not a number, is
            negative, or lies before the row above it.
    """
    reader = {"azure": _azure, "burstgpt": _burstgpt, "mooncake": _mooncake}[format]
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from _in_order(path, reader(path, file, block_tokens))
    except FileNotFoundError:
        raise UserError(f"no such trace file: {path}") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None


def _in_order(path: Path, rows: Iterator[Row]) -> Iterator[Row]:
    """The rows with times since the first."""
    first_s = last_s = None
    for row in rows:
        first_s = row.at_s if first_s is None else first_s
        if last_s is not None and row.at_s < last_s:
            raise UserError(
                f"{path}, line {row.line}: time goes back by {last_s - row.at_s:g} s; sort the rows by time"
            )
        last_s = row.at_s
        yield row._replace(at_s=row.at_s - first_s)


def _azure(path: Path, file: TextIO, block_tokens: int) -> Iterator[Row]:
    names = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
    return _csv_rows(path, file, names, _instant_s)


def _burstgpt(path: Path, file: TextIO, block_tokens: int) -> Iterator[Row]:
    names = ("Timestamp", "Request tokens", "Response tokens")
    return _csv_rows(path, file, names, lambda text: _seconds(text, float))


def _csv_rows(
    path: Path, file: TextIO, names: tuple[str, str, str], read_time: Callable[[str], float]
) -> Iterator[Row]:
    """Rows by the columns of these names: time, prompt and output."""
    lines = csv.reader(file)
    header = [name.strip() for name in next(lines, [])]
    missing = [name for name in names if name not in header]
    if missing:
        raise UserError(f"{path}, line 1: no column {missing[0]!r}; found: {', '.join(header) or 'nothing'}")
    places = [header.index(name) for name in names]
    for cells in lines:
        if not cells:
            continue
        try:
            if len(cells) != len(header):
                raise _Wrong(f"{len(cells)} columns where the header has {len(header)}")
            at, isl, osl = (cells[place] for place in places)
            yield Row(lines.line_num, _named(names[0], read_time, at), *_lengths(names[1:], isl, osl))
        except _Wrong as wrong:
            raise UserError(f"{path}, line {lines.line_num}: {wrong}") from None


def _mooncake(path: Path, file: TextIO, block_tokens: int) -> Iterator[Row]:
    for line, text in enumerate(file, start=1):
        if not text.strip():
            continue
        try:
            yield _mooncake_row(line, text, block_tokens)
        except _Wrong as wrong:
            raise UserError(f"{path}, line {line}: {wrong}") from None


def _mooncake_row(line: int, text: str, block_tokens: int) -> Row:
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise _Wrong(f"not valid JSON ({error.msg})") from None
    except (ValueError, RecursionError):
        raise _Wrong("not valid JSON (a number is too long or its lists too deep)") from None
    if not isinstance(values, dict):
        raise _Wrong(f"not a JSON object, found {text.strip()[:40]!r}")
    at_s = _named("timestamp", lambda value: _seconds(value, _number) / 1000, _value(values, "timestamp"))
    names = ("input_length", "output_length")
    isl, osl = _lengths(names, *(_value(values, name) for name in names))
    blocks = _value(values, "hash_ids")
    if not isinstance(blocks, list) or not all(map(_is_block, blocks)):
        raise _Wrong(f"hash_ids: not an array of whole numbers from 0, found {str(blocks)[:40]}")
    wanted = math.ceil(isl / block_tokens)
    if len(blocks) != wanted:
        raise _Wrong(
            f"hash_ids: {len(blocks)} for {isl} tokens, which are {wanted} blocks of {block_tokens}; "
            "if its blocks have another size, set block_tokens"
        )
    return Row(line, at_s, isl, osl, tuple(blocks))


def _is_block(value: Any) -> bool:
    """Whether a JSON value is the number of a block; it has to fit an int64."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _value(values: Mapping[str, Any], name: str) -> Any:
    if name not in values:
        raise _Wrong(f"no {name!r}; found: {', '.join(values) or 'nothing'}")
    return values[name]


def _named(name: str, read: Callable[[Any], Any], value: Any) -> Any:
    """The value as `read` sees it."""
    try:
        return read(value)
    except ValueError as error:
        raise _Wrong(f"{name}: {error}, found {repr(value)[:40]}") from None


def _lengths(names: tuple[str, ...], isl: Any, osl: Any) -> tuple[int, int]:
    return _named(names[0], _whole, isl), _named(names[1], _whole, osl)


def _instant_s(text: str) -> float:
    """Seconds since 1970; what is finer than a microsecond is cut off, and no zone means UTC."""
    try:
        instant = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ValueError("not a date with time") from None
    return (instant if instant.tzinfo else instant.replace(tzinfo=UTC)).timestamp()


def _seconds(value: Any, read: Callable[[Any], float]) -> float:
    try:
        time = read(value)
    except ValueError:
        raise ValueError("not a number") from None
    except OverflowError:
        raise ValueError(f"is beyond {sys.float_info.max:g}") from None
    if not math.isfinite(time):
        raise ValueError("not a finite number")
    if time < 0:
        raise ValueError("is negative")
    return time


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("not a number")
    return float(value)


def _whole(value: Any) -> int:
    """A whole number from a cell of text or a JSON value."""
    if isinstance(value, str):
        sign, digits = value.strip()[:1] == "-", value.strip().removeprefix("-")
        if not (digits.isascii() and digits.isdigit()):
            raise ValueError("not a whole number")
        value = -int(digits) if sign else int(digits)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("not a whole number")
    if value < 0:
        raise ValueError("is negative")
    if value > LARGEST:
        raise ValueError(f"is beyond {LARGEST}")
    return value
