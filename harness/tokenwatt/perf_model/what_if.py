"""What a faster operation is worth: every case predicted again with the times of some operations divided by a factor.

An operation that is 1.1 times as fast moves the same bytes and computes the same FLOP in less time. Engine overheads
that are asked for by name go too: `launches`, what kernels without a curve cost beside their traffic, and `host`.
What cells have in common still multiplies everything. Answers keep their method and the width of their interval: they
are those without the change, times what the model says of the change.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tokenwatt.errors import UserError, unknown_name
from tokenwatt.perf_model.attribution import HOST, LAUNCHES
from tokenwatt.perf_model.cell_effects import expected
from tokenwatt.perf_model.choices import chosen_plans
from tokenwatt.perf_model.engine_model import priors, served
from tokenwatt.perf_model.fit import Fit, Planned, central, planned
from tokenwatt.perf_model.operation_kinds import DECODE
from tokenwatt.perf_model.predictions import ENDS, OK, QUANTITIES
from tokenwatt.reference.systems import load_system

Floats = NDArray[np.float64]

ALL = "all"
"""In place of a name: each operation by itself, one after the other."""
OVERHEADS = {LAUNCHES: ("launch_s",), HOST: ("host_s", "per_sequence_s", "eager_s")}
"""Names that are no operation, and the parameters of the engine model that they divide."""
WORTH = ("output_tokens_per_s_per_gpu", "joules_per_output_token")
"""Quantities that `worth` has ratios of."""


@dataclass(frozen=True, slots=True)
class Change:
    """Operations of a name, or whose names begin with it, are `factor` times as fast."""

    name: str
    factor: float

    def __str__(self) -> str:
        return f"{self.name}={self.factor:g}x"

    def touches(self, operation: str) -> bool:
        """Whether it changes an operation.

        >>> Change("attention", 2.0).touches("attention.qkv"), Change("att", 2.0).touches("attention.qkv")
        (True, False)
        """
        return operation == self.name or operation.startswith(f"{self.name}.")


def parse_change(text: str) -> Change:
    """NAME=FACTORx.

    Raises:
        UserError: another form, or a factor that is no finite number above 0.

    >>> parse_change("moe.experts=1.25x")
    Change(name='moe.experts', factor=1.25)
    """
    found = re.fullmatch(r"\s*([^=\s]+)\s*=\s*([^=]*?)[xX]?\s*", text)
    if found is None:
        raise UserError(f"--what-if needs NAME=FACTORx, such as attention.decode=1.1x, got {text!r}")
    name, number = found.groups()
    try:
        factor = float(number)
    except ValueError:
        raise UserError(f"factor of --what-if {name} must be a number > 0, such as 1.1x, got {number!r}") from None
    if not 0 < factor < math.inf:
        raise UserError(f"factor of --what-if {name} must be a finite number > 0, got {number}")
    return Change(name, factor)


def parse_changes(texts: Sequence[str]) -> tuple[Change, ...]:
    """Several changes at once; those of one operation multiply.

    Raises:
        UserError: one cannot be read, or `all` stands beside others.
    """
    changes = tuple(map(parse_change, texts))
    if len(changes) > 1 and any(change.name == ALL for change in changes):
        raise UserError(f"--what-if {ALL}=FACTORx prices each operation by itself: give it alone")
    return changes


@dataclass(frozen=True, slots=True)
class Known:
    """Cases that a fit can plan, ready to be predicted again and again."""

    index: pd.Index
    fit: Fit
    cases: Planned
    log_factor: Floats
    """What cells have in common with each case."""

    @classmethod
    def of(cls, rows: pd.DataFrame, fit: Fit) -> Known | None:
        """Valid rows (`check_cases`); those that cannot be planned are left out. None if none is left."""
        plans, index, _ = chosen_plans(rows, fit)
        if not plans:
            return None
        cases = planned(plans, fit.exclude_gpus)
        return cls(index, fit, cases, expected(cases.places, fit.cells, fit.spreads)[0])

    def predicted(self, changes: Iterable[Change] = ()) -> dict[str, Floats]:
        """Central values of every quantity under changes."""
        base, vector = self.cases.base, self.fit.vector
        divided = np.ones(len(base.names))
        for change in changes:
            divided = divided * np.where([change.touches(name) for name in base.names], change.factor, 1.0)
            vector = vector - math.log(change.factor) * _is_overhead(change.name)
        # What is faster than the memory can be moves fewer bytes: the floor of a step goes along.
        less = replace(base, bytes=base.bytes / divided).streamed()[:, DECODE] / base.streamed()[:, DECODE]
        seconds = base.by_term(base.seconds / divided)
        loop = replace(self.cases.loop, seconds=seconds, least_s=self.cases.loop.least_s * less)
        return central(self.fit, self.cases, served(vector, loop, self.log_factor))


def _is_overhead(name: str) -> Floats:
    """1 for each parameter of the engine model that a name divides."""
    divided = OVERHEADS.get(name, ())
    return np.array([prior.name.partition(":")[0] in divided for prior in priors()], dtype=np.float64)


def operation_names(known: Iterable[Known]) -> list[str]:
    """Names that cases have operations of, then those of overheads."""
    return [*sorted({name for each in known for name in each.cases.base.names}), *OVERHEADS]


def check_names(changes: Iterable[Change], names: Sequence[str]) -> None:
    """Whether each change has something to change.

    Raises:
        UserError: it names no operation of these cases and no part in front of a dot of one.
    """
    allowed = {*names, *(name[: dot.start()] for name in names for dot in re.finditer(r"\.", name))}
    for change in changes:
        if change.name not in allowed and change.name != ALL:
            raise unknown_name("operation", change.name, [*allowed, ALL])


def ratios(known: Known, changes: Sequence[Change]) -> pd.DataFrame:
    """Each quantity under changes over that without, of each case; columns QUANTITIES."""
    before, after = known.predicted(), known.predicted(changes)
    return pd.DataFrame({name: after[name] / before[name] for name in QUANTITIES}, index=known.index)


def worth(known: Known, factor: float) -> pd.DataFrame:
    """What each operation of each case is worth if it alone is `factor` times as fast.

    Returns:
        A row for each case and each of its operations, `launches` and `host`: `case` (its index), `operation`, and
        for each quantity of WORTH its ratio to that without the change.
    """
    before, base = known.predicted(), known.cases.base
    having = {name: np.zeros(base.cases, dtype=bool) for name in operation_names([known])}
    for name, case in zip(base.names, base.case, strict=True):
        having[name][case] = True
    parts = []
    for name, has_it in having.items():
        rows = np.full(base.cases, True) if name in OVERHEADS else has_it
        after = known.predicted([Change(name, factor)])
        values = {quantity: (after[quantity] / before[quantity])[rows] for quantity in WORTH}
        parts.append(pd.DataFrame({"case": known.index[rows], "operation": name, **values}))
    return pd.concat(parts, ignore_index=True).sort_values("case", kind="stable", ignore_index=True)


def under(answers: pd.DataFrame, cases: pd.DataFrame, ratio: pd.DataFrame) -> pd.DataFrame:
    """Answers times the ratios of the cases that have them; power goes no higher than the board's limit.

    cases: valid ones (`check_cases`), of which `ratio` has rows.
    """
    changed = answers.copy()
    for quantity in QUANTITIES:
        for end in ENDS:
            name = f"predicted_{quantity}{end}"
            changed.loc[ratio.index, name] = answers.loc[ratio.index, name] * ratio[quantity]
    limit = cases.loc[ratio.index, "system"].map(lambda system: load_system(system).tdp_w.range.high)
    central_w, high_w = (changed.loc[ratio.index, f"predicted_gpu_power_w{end}"] for end in ("", "_high"))
    changed.loc[ratio.index, "predicted_gpu_power_w_high"] = np.maximum(np.minimum(high_w, limit), central_w)
    return changed


def compared(answers: pd.DataFrame, changed: pd.DataFrame) -> pd.DataFrame:
    """Before, after and their ratio of each answered case; columns `QUANTITY_before`, `QUANTITY_after`, ..."""
    answered = answers["status"] == OK
    columns = {}
    for quantity in QUANTITIES:
        before, after = (table.loc[answered, f"predicted_{quantity}"] for table in (answers, changed))
        columns |= {f"{quantity}_before": before, f"{quantity}_after": after, f"{quantity}_ratio": after / before}
    return pd.DataFrame(columns)
