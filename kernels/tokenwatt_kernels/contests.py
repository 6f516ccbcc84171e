"""A contest: our kernel and its baselines on one problem, checked against each other, then timed side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from tokenwatt_kernels.dtypes import DTYPES
from tokenwatt_kernels.timing import Sampler, Timing, cold_l2_samples, interleave
from tokenwatt_kernels.work import Work

OURS = "tokenwatt"
TERA = 1e12


@dataclass(frozen=True, slots=True)
class Contender:
    """run: the timed call. in_our_layout: its answer as one tensor with the axes in the order of ours, not timed.

    is_compiled: torch.compile makes it for this problem, which takes some ten seconds.
    """

    run: Callable[[], Any]
    in_our_layout: Callable[[Any], Tensor] = lambda answer: answer
    is_compiled: bool = False


@dataclass(frozen=True, slots=True)
class Contest:
    """One problem with random inputs on one device.

    terms: how many terms the longest sum of one output has.
    held_to: the key of DTYPES whose limits hold for the answers; "" means dtype_name.
    contenders: OURS and at least one baseline.
    configuration: what our kernel chose for this problem, such as its tile.
    """

    family: str
    problem: str
    dtype_name: str
    terms: int
    work: Work
    contenders: Mapping[str, Contender]
    configuration: str = ""
    held_to: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """One contender's time. Only status "measured" carries numbers.

    flop_per_s and bytes_per_s divide the problem's unavoidable work by the median time.
    time_over_ours: median time as a multiple of our kernel's; above 1 ours is faster.
    configuration: the contest's, on the row of our kernel.
    """

    family: str
    problem: str
    dtype: str
    contender: str
    status: Literal["measured", "unavailable", "disagrees"]
    reasons: tuple[str, ...] = ()
    median_s: float | None = None
    low_s: float | None = None
    high_s: float | None = None
    flop_per_s: float | None = None
    bytes_per_s: float | None = None
    time_over_ours: float | None = None
    samples: int | None = None
    configuration: str = ""

    def as_row(self) -> dict[str, object]:
        """The fields by name, for JSON."""
        return asdict(self)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A baseline by torch.compile, for this problem alone.

    Without the reset, the ninth problem would be one recompilation too many, and run unfused.
    """
    torch._dynamo.reset()
    return torch.compile(function, dynamic=False, fullgraph=True)


def without_compiled(contest: Contest) -> Contest:
    """The contest without baselines by torch.compile; as it is where no other would say that our answer is right."""
    kept = {name: contender for name, contender in contest.contenders.items() if not contender.is_compiled}
    return replace(contest, contenders=kept) if len(kept) > 1 else contest


def run(contest: Contest, sampler: Sampler = cold_l2_samples) -> list[Result]:
    """Check every contender against the first baseline that runs, then time those that agree with it."""
    answers, rejected = _answers(contest)
    baselines = [name for name in answers if name != OURS]
    if not baselines:
        reason = "no baseline runs here, so nothing says that our answer is right"
        rejected[OURS] = _result(contest, OURS, "unavailable", (reason,))
        return [rejected[name] for name in _order(contest)]
    judge = baselines[0]
    limit = 2 * DTYPES[contest.held_to or contest.dtype_name].rms_limit(contest.terms)
    for name in [*answers]:
        distance = _rms_distance(answers[name], answers[judge])
        if not distance <= limit:
            rejected[name] = _result(
                contest, name, "disagrees", (f"RMS distance to {judge} must be <= {limit:.3g}, got {distance:.3g}",)
            )
            del answers[name]
    timings = interleave({name: contest.contenders[name].run for name in answers}, sampler=sampler)
    ours = timings.get(OURS)
    return [
        rejected[name] if name in rejected else _measured(contest, name, timings[name], ours)
        for name in _order(contest)
    ]


def _answers(contest: Contest) -> tuple[dict[str, Tensor], dict[str, Result]]:
    """Each contender's answer in our layout, and a result for each that cannot run here."""
    answers: dict[str, Tensor] = {}
    rejected: dict[str, Result] = {}
    for name, contender in contest.contenders.items():
        try:
            answers[name] = contender.in_our_layout(contender.run())
        except RuntimeError as error:  # torch's answer when an attention backend does not take this problem
            if name == OURS:
                raise
            rejected[name] = _result(contest, name, "unavailable", (str(error).splitlines()[0],))
    return answers, rejected


def _order(contest: Contest) -> list[str]:
    return [OURS, *(name for name in contest.contenders if name != OURS)]


def _measured(contest: Contest, name: str, timing: Timing, ours: Timing | None) -> Result:
    return Result(
        family=contest.family,
        problem=contest.problem,
        dtype=contest.dtype_name,
        contender=name,
        status="measured",
        median_s=timing.median_s,
        low_s=timing.low_s,
        high_s=timing.high_s,
        flop_per_s=contest.work.flop / timing.median_s,
        bytes_per_s=contest.work.bytes / timing.median_s,
        time_over_ours=timing.median_s / ours.median_s if ours else None,
        samples=timing.samples,
        configuration=_configuration(contest, name),
    )


def _result(
    contest: Contest, name: str, status: Literal["unavailable", "disagrees"], reasons: tuple[str, ...]
) -> Result:
    return Result(
        contest.family,
        contest.problem,
        contest.dtype_name,
        name,
        status,
        reasons,
        configuration=_configuration(contest, name),
    )


def _configuration(contest: Contest, name: str) -> str:
    return contest.configuration if name == OURS else ""


def _rms_distance(found: Tensor, judge: Tensor) -> float:
    """RMS of the difference, as a fraction of the judge's RMS."""
    difference = torch.linalg.vector_norm(found.float() - judge.float())
    return float(difference / torch.linalg.vector_norm(judge.float()))
