"""One case explained: its numbers, where time and energy go, what fits into memory, and what it all rests on."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from tokenwatt.errors import UserError
from tokenwatt.perf_model.assumptions import assumptions_of, limits_missed
from tokenwatt.perf_model.attribution import Attribution, Floor, attribute
from tokenwatt.perf_model.capacity import USABLE, WORKSPACE_BYTES
from tokenwatt.perf_model.choices import chosen_plans
from tokenwatt.perf_model.engine_model import GROUPS, group_place
from tokenwatt.perf_model.fit import Fit
from tokenwatt.perf_model.plan import Plan
from tokenwatt.perf_model.predictions import ENDS, OK, QUANTITIES


@dataclass(frozen=True, slots=True)
class Explanation:
    """Of one answered case."""

    case: str
    """Its case_id, else the number of its row."""
    model: str
    numbers: Mapping[str, tuple[float, float, float]]
    """Central value, low and high end by quantity, as answered."""
    method: str
    plan: Plan
    attribution: Attribution
    assumptions: tuple[str, ...]

    @property
    def group(self) -> str:
        """Whose overheads it has."""
        return GROUPS[group_place(self.plan)]

    @property
    def memory(self) -> dict[str, float]:
        """Of one GPU: usable = share of the memory; cache = what is left of it, or the least; largest batch = cache /
        sequence."""
        held = self.plan.capacity
        return {
            "memory_bytes": held.memory_bytes,
            "usable_share": USABLE,
            "weight_bytes": held.weight_bytes,
            "workspace_bytes": WORKSPACE_BYTES,
            "cache_bytes": held.cache_bytes,
            "sequence_bytes": held.sequence_bytes,
            "largest_batch": held.largest_batch,
        }


def case_name(row: Mapping[Any, Any], index: int) -> str:
    """The case_id of a row, else its number, from 1."""
    found = row.get("case_id")
    return f"row {index + 1}" if found is None or pd.isna(found) or not str(found).strip() else str(found).strip()


def chosen(given: pd.DataFrame, answers: pd.DataFrame, case_id: str | None) -> int:
    """Index of the case that is called so, else of the first answered one, of which there must be one.

    Raises:
        UserError: no case is called so, or it is refused.
    """
    if case_id is None:
        return int((answers["status"] == OK).idxmax())
    if "case_id" not in given.columns:
        raise UserError(f"no case is called {case_id!r}: the table has no column case_id")
    names = [case_name(row, place) for place, row in enumerate(given.to_dict("records"))]
    if case_id not in names:
        nearest = difflib.get_close_matches(case_id, names, n=3, cutoff=0.0)
        raise UserError(f"no case is called {case_id!r}; the nearest of {len(names)}: {', '.join(nearest)}")
    index = int(given.index[names.index(case_id)])
    if answers.loc[index, "status"] != OK:
        raise UserError(f"case {case_id!r} is refused: {answers.loc[index, 'reason']}")
    return index


def explain(row: Mapping[Any, Any], answer: Mapping[Any, Any], index: int, fit: Fit) -> Explanation:
    """Explain one case.

    row: valid (`check_cases`), at `index` of its table; answer: what `fit` predicted, columns `predictions.ANSWERED`.
    """
    if answer["method"] == "measured":
        measured = ["the numbers are those of rows that were fitted on; shares are the model's"]
    else:
        measured = []
    times = float(answer["predicted_tpot_s"]), float(answer["predicted_ttft_s"])
    ((plan,), _, _) = chosen_plans(pd.DataFrame([row]), fit)
    return Explanation(
        case=case_name(row, index),
        model=str(row["model"]),
        numbers={name: _ends(answer, name) for name in QUANTITIES},
        method=str(answer["method"]),
        plan=plan,
        attribution=attribute(fit, plan),
        assumptions=(*measured, *assumptions_of(row, plan, fit), *limits_missed(row, *times)),
    )


def _ends(answer: Mapping[Any, Any], quantity: str) -> tuple[float, float, float]:
    central, low, high = (float(answer[f"predicted_{quantity}{end}"]) for end in ENDS)
    return central, low, high


def explanation_as_json(found: Explanation) -> dict[str, Any]:
    """Everything that is printed, as plain values in SI units; shares from 0 to 1."""
    plan, shares = found.plan, found.attribution
    return {
        "case": found.case,
        "model": found.model,
        "family": plan.family,
        "system": plan.system,
        "engine_group": found.group,
        "method": found.method,
        "predicted": {
            name: dict(zip(("central", "low", "high"), ends, strict=True)) for name, ends in found.numbers.items()
        },
        "seconds": asdict(shares.seconds),
        "joules": asdict(shares.joules),
        "bound": {"decode": _floor(shares.decode_floor), "prompt": _floor(shares.prompt_floor)},
        "parts": [
            {
                "name": part.name,
                "seconds": asdict(part.seconds),
                "time_share": asdict(shares.time_share(part)),
                "joules": asdict(part.joules),
                "energy_share": asdict(shares.energy_share(part)),
                "bound": {"decode": part.decode_floor.bound, "prompt": part.prompt_floor.bound},
            }
            for part in shares.parts
        ],
        "waiting_gpu_s_per_token": shares.waiting_s,
        "operators_share_of_power": shares.operators_share,
        "cell_factor": shares.cell_factor,
        "batch": plan.batch,
        "requests_per_rank": plan.waits,
        "parallelism": asdict(plan.parallelism),
        "memory": found.memory,
        "assumptions": list(found.assumptions),
    }


def _floor(floor: Floor) -> dict[str, Any]:
    return {**asdict(floor), "bound": floor.bound}
