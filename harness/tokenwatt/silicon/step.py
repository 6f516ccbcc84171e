"""What one step of the pass over a real GPU is, before anything runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tokenwatt.errors import unknown_name

LIMIT_S = 480.0
"""A step takes eight minutes at most: a GPU is lent for a call of ten, and files come back only after it."""


@dataclass(frozen=True, slots=True)
class Step:
    """One command of the pass, with what is run in its place where there is no GPU."""

    name: str
    group: str
    """Steps that are asked for together."""
    question: str
    """What it answers, in one line."""
    command: tuple[str, ...]
    """Arguments of the Python that runs this."""
    rehearsal: tuple[str, ...]
    """Arguments for a machine without a GPU: the same path with tiny problems."""
    limit_s: float = LIMIT_S
    """A command that takes longer is ended, seconds."""
    needs: tuple[str, ...] = ()
    """Steps without whose success this one says nothing."""
    suite: str | None = None
    """The suite that the command measures."""


def chosen(steps: Sequence[Step], names: Iterable[str]) -> list[Step]:
    """The steps that are named, by their own name or by their group's; all of them if none is.

    Raises:
        UserError: a name is neither.
    """
    wanted = set(names)
    known = {name for step in steps for name in (step.name, step.group)}
    for name in sorted(wanted - known):
        raise unknown_name("step", name, known)
    return [step for step in steps if not wanted or {step.name, step.group} & wanted]


def with_needs(steps: Sequence[Step], named: Sequence[Step]) -> list[Step]:
    """The named steps and all that they need, in the order of `steps`."""
    by_name = {step.name: step for step in steps}
    wanted, open_names = set[str](), [step.name for step in named]
    while open_names:
        name = open_names.pop()
        if name not in wanted:
            wanted.add(name)
            open_names += by_name[name].needs
    return [step for step in steps if step.name in wanted]
