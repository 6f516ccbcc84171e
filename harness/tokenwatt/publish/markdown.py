"""Markdown as GitHub draws it: what comes from a row can neither end a cell nor begin a tag."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a table; none without rows.

    >>> table(["a", "b"], [["1", "x|y"]])
    ['| a | b |', '|---|---|', '| 1 | x\\\\|y |']
    """
    body = [_line(map(cell, row)) for row in rows]
    return [_line(head), f"|{'---|' * len(head)}", *body] if body else []


def cell(text: str) -> str:
    """Text of a row on one line, its special characters made plain.

    >>> cell("<b>\\nof a|b")
    '&lt;b> of a\\\\|b'
    """
    return " ".join(text.split()).replace("<", "&lt;").replace("|", "\\|")


def code(text: str) -> str:
    """Text as code, such as a command.

    >>> code("make bench")
    '`make bench`'
    """
    return f"`{text.replace('`', chr(39))}`" if text else ""


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
