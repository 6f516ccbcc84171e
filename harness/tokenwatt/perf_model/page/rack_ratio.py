"""Speed of one system over another's for the same model, with a range in which what both share cancels.

A published ratio is between systems at their best: for each scenario each system takes, of the same layouts and loads,
the one with most tokens/s per GPU whose predicted TPOT and TTFT stay within the scenario's limits. Beside it stands the
ratio where the newer system keeps the layout and load of the other.

The range is that of log time of the newer system given the other's: engine overheads, the family of the model and
everything else that the same fitted parameters say of both cancel. What is left, as variances that are added:

- what cells of the two systems may differ by, given all cells that are known (`cell_effects`), each with its own draw
  where nobody has measured it, and a common one for what they share
- curves carried over from other systems, and Facts with ranges, of either system (`predict.log_spreads`)
- two runs of the same labels differ (`measured_rows.REPEAT_LOG_SD`), once for each system

times what calibration widened such intervals by. At each end the newer system picks its load anew.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from tokenwatt.errors import UserError
from tokenwatt.perf_model.base_times import base_times
from tokenwatt.perf_model.cases import check_cases
from tokenwatt.perf_model.cell_effects import Cell, Place, Spreads, covariance, expected
from tokenwatt.perf_model.engine_model import Loop, Served, loop_of, served
from tokenwatt.perf_model.fit import Fit, Planned, plannable, planned
from tokenwatt.perf_model.measured_rows import REPEAT_LOG_SD
from tokenwatt.perf_model.page.named_cases import mean_lengths
from tokenwatt.perf_model.predict import Z80, log_spreads
from tokenwatt.reference.published_ratios import PublishedRatio
from tokenwatt.reference.ranges import Case, Range

Floats = NDArray[np.float64]

WORKLOAD, MODEL, ENGINE, FORMAT = "mlperf-deepseek-r1", "deepseek-ai/DeepSeek-R1", "trtllm", "fp4"
LAYOUTS = ((4, 4, 1), (8, 8, 1), (8, 1, 8), (16, 1, 16), (32, 1, 32))
"""GPUs, attention tensor parallel, attention data parallel; data parallel ones spread their experts."""
PER_GPU = tuple(2 ** (step / 3) for step in range(-3, 31))
"""Requests in flight for each GPU."""
_SPEED = "output_tokens_per_s_per_gpu"


@dataclass(frozen=True, slots=True)
class Best:
    """What a system would be run at."""

    speed: float
    """Output tokens/s per GPU."""
    gpus: int
    layout: str
    batch: float
    """Requests in flight for each GPU."""
    tpot_s: float
    place: int
    """Of its case."""


@dataclass(frozen=True, slots=True)
class RackRatio:
    """A predicted ratio beside the published one."""

    published: PublishedRatio
    own_load: Range
    """Each system at its own best."""
    same_load: Range
    """The newer system at what is best for the other."""
    new: Best
    old: Best
    sds: dict[str, float]
    """Standard deviations of log time by where they come from, before widening."""
    widen: float
    at_facts: dict[Case, float]
    """The ratio at the same load with the newer system's Facts at one end of their ranges."""


def rack_ratio(published: PublishedRatio, fit: Fit) -> RackRatio:
    """The predicted ratio of a published one.

    Raises:
        UserError: no layout of one of the systems stays within the limits.
    """
    new, old = (_Runs.of(name, published, fit) for name in (published.system, published.against))
    below, chosen = old.best(), new.best()
    same = new.place_of(old.index[below.place])
    sds = _sds(fit, new, old, chosen, below)
    widen = fit.widened(_SPEED, new.cases.plans[0].setting)
    reach = Z80 * widen * math.sqrt(sum(sd**2 for sd in sds.values()))
    shifts, ends = (reach, 0.0, -reach), ("low", "central", "high")
    return RackRatio(
        published=published,
        own_load=Range(*(new.best(shift).speed / below.speed for shift in shifts)),
        same_load=Range(*(float(new.speeds(shift)[same] / below.speed) for shift in shifts)),
        new=chosen,
        old=below,
        sds=sds,
        widen=widen,
        at_facts={end: float(new.speeds(end=end)[same] / below.speed) for end in ends},
    )


@dataclass(frozen=True, slots=True)
class _Runs:
    """Everything that a system could be run at in one scenario."""

    published: PublishedRatio
    fit: Fit
    cases: Planned
    index: pd.Index
    """Of each case in the table that both systems share."""

    @classmethod
    def of(cls, system: str, published: PublishedRatio, fit: Fit) -> _Runs:
        checked = check_cases(_cases(system, published.tpot_limit_s is None))
        kept, plans = plannable(checked.valid)
        if not plans:
            raise UserError(f"{MODEL} fits no layout of {system}")
        return cls(published, fit, planned(plans, fit.exclude_gpus), kept.index)

    def best(self, shift: float = 0.0) -> Best:
        """The fastest within the limits; shift: added to log time.

        Raises:
            UserError: nothing is within them.
        """
        now = self._served(shift, "central")
        limits = self.published.tpot_limit_s or math.inf, self.published.ttft_limit_s or math.inf
        allowed = (now.tpot_s <= limits[0]) & (now.ttft_s <= limits[1])
        if not allowed.any():
            raise UserError(
                f"no load of {self.cases.plans[0].system} is within the limits of {self.published.scenario}"
            )
        place = int(np.argmax(np.where(allowed, now.tokens_per_s_per_gpu, 0.0)))
        plan = self.cases.plans[place]
        split = plan.parallelism
        return Best(
            speed=float(now.tokens_per_s_per_gpu[place]),
            gpus=split.gpus,
            layout=f"DP{split.attention_dp} EP{split.moe_ep}" if split.attention_dp > 1 else f"TP{split.attention_tp}",
            batch=plan.concurrency / split.gpus,
            tpot_s=float(now.tpot_s[place]),
            place=place,
        )

    def place_of(self, case: object) -> int:
        """Where a case of the shared table stands.

        Raises:
            UserError: it does not fit this system.
        """
        if case not in self.index:
            raise UserError(f"{MODEL} does not fit {self.cases.plans[0].system} as it fits {self.published.against}")
        return list(self.index).index(case)

    def speeds(self, shift: float = 0.0, end: Case = "central") -> Floats:
        """Output tokens/s per GPU of every case; end: of the ranges of Facts."""
        return self._served(shift, end).tokens_per_s_per_gpu

    def _served(self, shift: float, end: Case) -> Served:
        mean, _ = expected(self.cases.places, self.fit.cells, self.fit.spreads)
        return served(self.fit.vector, self._loop(end), mean + shift)

    def _loop(self, end: Case) -> Loop:
        if end == "central":
            return self.cases.loop
        return loop_of(self.cases.plans, base_times(self.cases.plans, self.fit.exclude_gpus, end), end)


def _cases(system: str, is_offline: bool) -> pd.DataFrame:
    isl, osl = mean_lengths(WORKLOAD)
    loads: tuple[float | None, ...] = (None,) if is_offline else PER_GPU
    lines = [
        {
            "model": MODEL,
            "gpu": system,
            "engine": ENGINE,
            "weight_dtype": FORMAT,
            "num_gpus": gpus,
            "tp": tp,
            "dp": dp,
            "ep": dp,
            "isl": isl,
            "osl": osl,
            "concurrency": None if load is None else load * gpus,
        }
        for (gpus, tp, dp), load in product(LAYOUTS, loads)
    ]
    return pd.DataFrame(lines, dtype="object")


def _sds(fit: Fit, new: _Runs, old: _Runs, chosen: Best, below: Best) -> dict[str, float]:
    """Standard deviations of log(time of the newer / time of the other)."""
    places = [new.cases.places[0], old.cases.places[0]]
    found = {"cells": math.sqrt(max(difference_variance(fit.cells, fit.spreads, places), 0.0))}
    for runs, best in ((new, chosen), (old, below)):
        system = runs.cases.plans[0].system
        found[f"curves and Facts of {system}"] = math.sqrt(max(_of_specs(fit, runs, best.place), 0.0))
    return found | {"repetition": REPEAT_LOG_SD * math.sqrt(2)}


def difference_variance(cells: Sequence[Cell], spreads: Spreads, places: Sequence[Place]) -> float:
    """Posterior variance of the difference of two places' residuals, given cells that are known."""
    prior = covariance(places, places, spreads)
    if cells:
        known = [cell.place for cell in cells]
        noise = np.diag([spreads.row**2 / cell.rows for cell in cells])
        cross = covariance(places, known, spreads)
        prior = prior - cross @ cho_solve(cho_factor(covariance(known, known, spreads) + noise), cross.T)
    return float(prior[0, 0] + prior[1, 1] - 2 * prior[0, 1])


def _of_specs(fit: Fit, runs: _Runs, place: int) -> float:
    """Variance of log time that curves from elsewhere and ranges of Facts give one case."""
    total = log_spreads(fit, runs.cases)[_SPEED][place]
    _, of_cell = expected(runs.cases.places, fit.cells, fit.spreads)
    widen = fit.widened(_SPEED, runs.cases.plans[place].setting)
    return float((total / widen) ** 2 - of_cell[place] - fit.row_log_sd[_SPEED] ** 2)
