"""Errors that a person can act on.

Every message says what is wrong, what was found, what is allowed and, where it is not obvious, what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TokenwattError(Exception):
    """Base of every error that tokenwatt raises on purpose."""


class UserError(TokenwattError):
    """The input is wrong: the command line prints this one line and exits with code 2."""


class EngineError(TokenwattError):
    """An engine could not do its work: the row that it was measuring becomes `failed`, with this text as its reason."""


class GateError(TokenwattError):
    """A kernel is wrong: nothing is timed."""


def unknown_name(kind: str, found: str, allowed: Iterable[str]) -> UserError:
    """Say which names exist when somebody asks for one that does not, the nearest one first.

    >>> str(unknown_name("engine", "natve", ["native", "fake"]))
    "unknown engine 'natve' (did you mean 'native'?); known: fake, native"
    """
    names = sorted(allowed)
    folded = {name.casefold(): name for name in names}
    nearest = difflib.get_close_matches(found.casefold(), folded, n=1)
    hint = f" (did you mean {folded[nearest[0]]!r}?)" if nearest else ""
    return UserError(f"unknown {kind} {found!r}{hint}; known: {', '.join(names) or 'none'}")
