"""The search for the fastest tile of every key: what passes the gate is timed in rounds, each longer and of fewer.

Nothing here runs on a user's path: a launch looks its tile up in the table that this leaves behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar

from tokenwatt_kernels.families import bench_problems, part
from tokenwatt_kernels.tables import Row, Table

Effort = Literal["glance", "short", "long"]
Tell = Callable[[str], None]

FINALISTS = 4
CLOSE = 1.3
"""A tile that takes longer than this multiple of the fastest one's time at a glance is not looked at again."""
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

    def check(self, job: Job, tiles: Sequence[Any]) -> Sequence[str | None]:
        """For each tile why it may not be used, or None. Nothing of it goes on when this returns."""
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


def jobs(families: Sequence[str], dtype_names: Sequence[str], names: Sequence[str] = ()) -> list[Job]:
    """Every key that a bench problem has, or one called one of `names`, in the order in which they come.

    Raises ValueError for a name that no problem has.
    """
    found: dict[tuple[str, Any], list[tuple[Any, str]]] = {}
    for family, problem, dtype_name in bench_problems(families, dtype_names):
        key = part(family, "tiles").key_of(problem, dtype_name)
        found.setdefault((family, key), []).append((problem, dtype_name))
    wanted = {
        (family, part(family, "tiles").key_of(problem, dtype_name))
        for family, problem, dtype_name in bench_problems(families, dtype_names, names)
    }
    return [Job(family, key, tuple(listed)) for (family, key), listed in found.items() if (family, key) in wanted]


def is_done(job: Job, table: Table, source: Mapping[str, str]) -> bool:
    """Whether the table has a row of this source for the job, and no failure to tell of."""
    row = table.rows.get(job.family, {}).get(job.key)
    return (
        row is not None
        and row.default_median_s is not None
        and row.problems == job.problem_names
        and {name: getattr(row, name) for name in source} == dict(source)
    )


def search(
    candidates: Sequence[T],
    check: Callable[[Sequence[T]], Sequence[str | None]],
    time: Callable[[Sequence[T], Effort], Sequence[float]],
    tell: Callable[[T, str], None],
) -> Choice[T] | None:
    """The fastest of the candidates that `check` lets through; None if there is none.

    The first is the default, which is timed at length in any case.
    """
    default, survivors = candidates[0], []
    for tile, reason in zip(candidates, check(candidates), strict=True):
        if reason is None:
            survivors.append(tile)
        else:
            tell(tile, f"rejected: {reason}")
    if not survivors:
        return None
    glanced = dict(zip(survivors, time(survivors, "glance"), strict=True))
    limit_s = CLOSE * min(glanced.values())
    close = [tile for tile in survivors if glanced[tile] <= limit_s]
    screened = dict(zip(close, time(close, "short"), strict=True))
    for tile in survivors:
        verb, seconds = ("kept", screened[tile]) if tile in screened else ("left", glanced[tile])
        tell(tile, f"{verb}: {seconds * 1e6:.1f} us")
    best = sorted(close, key=screened.__getitem__)[:FINALISTS]
    finalists = list(dict.fromkeys([default, *best] if default in glanced else best))
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
            lambda tiles, job=job: trials.check(job, tiles),
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
