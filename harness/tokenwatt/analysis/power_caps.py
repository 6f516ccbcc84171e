"""Which power cap gives the most tokens per joule, what it costs in speed, and whether that is more than noise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from tokenwatt.analysis.points import ASKED, groups, point_name, with_point
from tokenwatt.record import LOAD_COLUMNS

SPEED = "output_tokens_per_s"
ENERGY = "joules_per_output_token"
_CAP = "gpu_power_cap_w"
_SWEEP = tuple(column for column in ASKED if column != _CAP)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its 95 % interval; without ends where one window alone was measured."""

    mean: float
    low: float | None
    high: float | None

    def is_above(self, other: Estimate) -> bool | None:
        """Whether the intervals are apart, this one on top; None if one of the two is missing."""
        if self.low is None or other.high is None:
            return None
        return self.low > other.high

    def inverse(self) -> Estimate:
        """Of 1 / x: the ends change places; an interval that reaches 0 has no upper end.

        >>> Estimate(0.5, 0.4, 1.0).inverse()
        Estimate(mean=2.0, low=1.0, high=2.5)
        """
        return Estimate(
            1 / self.mean,
            None if self.high is None else 1 / self.high,
            None if self.low is None or self.low <= 0 else 1 / self.low,
        )


@dataclass(frozen=True, slots=True)
class CapPoint:
    """One cap of a sweep."""

    cap_w: float | None
    """Watts per GPU; None where the limit was left as it is."""
    windows: int
    """Windows behind the energy."""
    tokens_per_s: Estimate
    """Generated tokens per second."""
    tokens_per_j: Estimate
    """Generated tokens per board joule: the inverse of joules_per_output_token."""
    is_pareto: bool
    """Whether no other cap is both as fast and as frugal."""

    @property
    def label(self) -> str:
        """`500 W` or `no cap`."""
        return "no cap" if self.cap_w is None else f"{self.cap_w:g} W"


@dataclass(frozen=True, slots=True)
class CapFrontier:
    """Speed against frugality of one point over its caps."""

    name: str
    """Point, but for its cap."""
    points: tuple[CapPoint, ...]
    """No cap first, then from the highest cap down."""

    @property
    def reference(self) -> CapPoint:
        """No cap, or the highest one where all are capped."""
        return self.points[0]

    @property
    def most_frugal(self) -> CapPoint:
        """Most tokens per joule."""
        return max(self.points, key=lambda point: point.tokens_per_j.mean)

    @property
    def best(self) -> CapPoint | None:
        """The most frugal cap if it beats the reference beyond noise."""
        found = self.most_frugal
        return found if found.tokens_per_j.is_above(self.reference.tokens_per_j) else None

    @property
    def speed_loss(self) -> float:
        """Share of the reference's speed that the most frugal cap takes."""
        return 1 - self.most_frugal.tokens_per_s.mean / self.reference.tokens_per_s.mean

    @property
    def gain(self) -> float:
        """Tokens per joule that the most frugal cap adds, as a share of the reference's."""
        return self.most_frugal.tokens_per_j.mean / self.reference.tokens_per_j.mean - 1


def frontiers(measurements: pd.DataFrame, results: pd.DataFrame) -> tuple[CapFrontier, ...]:
    """Every sweep in the tables `measurements` and `results`: points that differ in their cap alone.

    A cap needs both `output_tokens_per_s` and `joules_per_output_token` among its results; prompts alone (phase
    `prefill`) generate too few tokens to count.
    """
    wanted = results[results["quantity"].isin([SPEED, ENERGY]) & (results["phase"] != "prefill")]
    rows = with_point(wanted, measurements)
    found = [_frontier(sweep) for sweep in groups(rows, _SWEEP) if sweep[_CAP].notna().any()]
    return tuple(frontier for frontier in found if len(frontier.points) > 1)


def sentence(frontier: CapFrontier) -> str:
    """What the sweep says, in words."""
    best, reference = frontier.most_frugal, frontier.reference
    where = "without a cap" if reference.cap_w is None else f"at {reference.label}"
    against = f"{_words(best.tokens_per_j)} against {_words(reference.tokens_per_j)} {where}"
    if best is reference:
        cap = "cap" if reference.cap_w is None else "lower cap"
        return f"No {cap} is better: tokens per joule are most {where}, {_words(reference.tokens_per_j)}."
    beyond_noise = best.tokens_per_j.is_above(reference.tokens_per_j)
    if beyond_noise is None:
        return (
            f"Not to be said without intervals: most tokens per joule at {best.label}, {against}; measure several"
            " windows of each cap."
        )
    if not beyond_noise:
        return f"No cap is better beyond noise: most tokens per joule at {best.label}, {against}; the intervals meet."
    return f"Best cap {best.label}: {frontier.gain * 100:.1f} % more tokens per joule, {against}; {_price(frontier)}."


def _price(frontier: CapFrontier) -> str:
    """What the most frugal cap does to the speed."""
    capped, reference = frontier.most_frugal.tokens_per_s, frontier.reference.tokens_per_s
    if reference.is_above(capped):
        return f"it takes {frontier.speed_loss * 100:.1f} % of the speed"
    if capped.is_above(reference):
        return f"it adds {-frontier.speed_loss * 100:.1f} % to the speed"
    return "the speed does not differ beyond noise"


def _frontier(sweep: pd.DataFrame) -> CapFrontier:
    raw = [point for rows in groups(sweep, [_CAP]) if (point := _point(rows)) is not None]
    ordered = sorted(raw, key=lambda point: float("-inf") if point.cap_w is None else -point.cap_w)
    columns = ("engine", "model", "dtype", "workload", *LOAD_COLUMNS.values(), "phase")
    return CapFrontier(
        name=point_name(sweep.iloc[0].to_dict(), columns),
        points=tuple(
            CapPoint(each.cap_w, each.windows, each.tokens_per_s, each.tokens_per_j, not _is_beaten(each, ordered))
            for each in ordered
        ),
    )


def _point(rows: pd.DataFrame) -> CapPoint | None:
    """One cap from its two results; None where one is missing."""
    by_quantity = {str(row["quantity"]): row for row in rows.to_dict("records")}
    speed, energy = by_quantity.get(SPEED), by_quantity.get(ENERGY)
    if speed is None or energy is None or energy["mean"] <= 0:
        return None
    cap_w = energy[_CAP]
    return CapPoint(
        cap_w=None if pd.isna(cap_w) else float(cap_w),
        windows=int(energy["windows"]),
        tokens_per_s=_estimate(speed),
        tokens_per_j=_estimate(energy).inverse(),
        is_pareto=True,
    )


def _is_beaten(point: CapPoint, points: list[CapPoint]) -> bool:
    """Whether another point is as good in both and better in one."""
    mine = (point.tokens_per_s.mean, point.tokens_per_j.mean)
    others = [(other.tokens_per_s.mean, other.tokens_per_j.mean) for other in points]
    return any(speed >= mine[0] and frugality >= mine[1] and (speed, frugality) != mine for speed, frugality in others)


def _estimate(row: Mapping[Any, Any]) -> Estimate:
    ends = [None if pd.isna(row[end]) else float(row[end]) for end in ("low", "high")]
    return Estimate(float(row["mean"]), *ends)


def _words(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return f"{estimate.mean:#.3g}"
    return f"{estimate.mean:#.3g} ({estimate.low:#.3g} to {estimate.high:#.3g})"
