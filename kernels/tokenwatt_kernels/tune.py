"""The search for the fastest tile of every key: candidates pass the gate, all are timed briefly, the best at length.

Nothing here runs on a user's path: a launch looks its tile up in the table that this leaves behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar

from tokenwatt_kernels.families import part
from tokenwatt_kernels.tables import Row, Table

Effort = Literal["short", "long"]
Tell = Callable[[str], None]

FINALISTS = 4
WORTH_A_CHANGE = 0.01
"""A tile takes the place of the default if it saves more than this share of its time. Less is noise, and churn."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Job:
    """One key of one family, and the real problems with their dtypes that have it."""

    family: str
    key: Any
    problems: tuple[tuple[Any, str], ...]

    @property
    def name(self) -> str:
        """Such as attention.prefill head_dim=128 value_dim=128 element_bytes=2 copied_keys=128."""
        return " ".join([self.family, *(f"{name}={value}" for name, value in asdict(self.key).items())])

    @property
    def problem_names(self) -> tuple[str, ...]:
        """Such as "square_8192 bfloat16"."""
        return tuple(f"{problem.name} {dtype_name}" for problem, dtype_name in self.problems)


class Trials(Protocol):
    """What can be found out about a tile. `trials.Trials` finds it out on a GPU."""

    def check(self, job: Job, tile: Any) -> str | None:
        """Why a tile may not be used, or None."""
        ...

    def time(self, job: Job, tiles: Sequence[Any], effort: Effort) -> Sequence[float]:
        """Seconds of each tile, all timed in turns."""
        ...


@dataclass(frozen=True, slots=True)
class Choice(Generic[T]):
    """The tile to use. default_s: None where the default was rejected."""

    tile: T
    seconds: float
    default_s: float | None


def jobs(families: Sequence[str], dtype_names: Sequence[str]) -> list[Job]:
    """Every key that a bench problem has, in the order in which they come."""
    found: dict[tuple[str, Any], list[tuple[Any, str]]] = {}
    for family in families:
        problems, tiles = part(family, "problems"), part(family, "tiles")
        for dtype_name in dtype_names:
            if dtype_name in problems.DTYPE_NAMES:
                for problem in problems.BENCH_PROBLEMS:
                    if problems.takes(problem, dtype_name, None):
                        found.setdefault((family, tiles.key_of(problem, dtype_name)), []).append((problem, dtype_name))
    return [Job(family, key, tuple(listed)) for (family, key), listed in found.items()]


def search(
    candidates: Sequence[T],
    check: Callable[[T], str | None],
    time: Callable[[Sequence[T], Effort], Sequence[float]],
    tell: Callable[[T, str], None],
) -> Choice[T] | None:
    """The fastest of the candidates that `check` lets through; None if there is none. The first is the default."""
    default, survivors = candidates[0], []
    for tile in candidates:
        reason = check(tile)
        if reason is None:
            survivors.append(tile)
        else:
            tell(tile, f"rejected: {reason}")
    if not survivors:
        return None
    screened = dict(zip(survivors, time(survivors, "short"), strict=True))
    for tile, seconds in screened.items():
        tell(tile, f"kept: {seconds * 1e6:.1f} us")
    best = sorted(survivors, key=screened.__getitem__)[:FINALISTS]
    finalists = list(dict.fromkeys([default, *best] if default in screened else best))
    timed = dict(zip(finalists, time(finalists, "long"), strict=True))
    fastest = min(finalists, key=timed.__getitem__)
    default_s = timed.get(default)
    if default_s is not None and timed[fastest] >= (1 - WORTH_A_CHANGE) * default_s:
        fastest = default
    return Choice(fastest, timed[fastest], default_s)


def tune(
    jobs: Iterable[Job],
    table: Table,
    trials: Trials,
    source: Mapping[str, str],
    save: Callable[[Table], None],
    tell: Tell,
) -> list[str]:
    """Search for every job, saving the table after each. Rows of other keys stay. Returns what failed.

    source: date, triton and torch of a row.
    A job fails if its default tile is rejected, because that is what runs where no table says otherwise.
    """
    failed = []
    for job in jobs:
        tell(f"{job.name}: {', '.join(job.problem_names)}")
        try:
            candidates = part(job.family, "tiles").candidates(job.key, table.capability)
        except ValueError as error:
            tell(f"  skipped: {error}")
            continue
        choice = search(
            candidates,
            lambda tile, job=job: trials.check(job, tile),
            lambda tiles, effort, job=job: trials.time(job, tiles, effort),
            lambda tile, outcome: tell(f"  {tile.name:32} {outcome}"),
        )
        if choice is None or choice.default_s is None:
            failed.append(job.name)
        if choice is None:
            tell("  no tile can be used")
            continue
        tell(f"  {choice.tile.name:32} chosen: {_compared(choice, is_default=choice.tile == candidates[0])}")
        row = Row(job.key, choice.tile, choice.seconds, choice.default_s, job.problem_names, **source)
        table = table.with_row(job.family, row)
        save(table)
    return failed


def _compared(choice: Choice[Any], *, is_default: bool) -> str:
    time = f"{choice.seconds * 1e6:.1f} us"
    if choice.default_s is None:
        return f"{time}; the default was rejected"
    if is_default:
        return f"{time}, the default"
    return f"{time}, {choice.seconds / choice.default_s:.3f} of the default's {choice.default_s * 1e6:.1f} us"
