"""Mean board power of a serving GPU, from what the steady state moves and computes.

    power / limit = c0 + c1 x HBM bytes/s + c2 x token width/s + c3 x ln(steps/s)

per watt of the board's limit, and no more than the board can draw. Token width is tokens (prompts included) x layers x
hidden size: activations, which cost energy that neither weights nor caches explain. Fitted on rows with measured power.
Operators alone fall short by a third: between kernels, and under kernels that wait, a served GPU draws more than their
sum says. They say what share an operation has (`operator_power`), this says how much it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from tokenwatt.perf_model.base_times import BaseTimes
from tokenwatt.perf_model.engine_model import Loop, Served
from tokenwatt.perf_model.operation_kinds import DECODE, PREFILL
from tokenwatt.perf_model.plan import Plan
from tokenwatt.reference.systems import load_system

Floats = NDArray[np.float64]

FEATURES = ("1", "hbm_bytes_per_j_of_limit", "token_width_per_j_of_limit", "log_steps_per_s")
_SCALES = np.array([1.0, 1e10, 1e7, 1.0])
_START = np.array([0.5, 0.0, 0.0, 0.0])
"""Half of the limit whatever is done: where the search begins, and what a ridge pulls to."""
_SOFT_LOG = 0.05
_CAP, _CORNER = 0.985, 0.06
"""Boards at their limit draw 97 to 99 % of it; the corner below is rounded."""
_RIDGE = 0.02


def features(plans: Sequence[Plan], base: BaseTimes, loop: Loop, now: Served) -> tuple[Floats, Floats]:
    """One row of FEATURES for each case, and each board's limit, W."""
    limit = np.array([load_system(plan.system).tdp_w.value for plan in plans])
    streamed = base.streamed()
    steps = loop.osl / loop.accepted
    prompts = np.where(loop.has_pools, 0.0, loop.batch / steps)
    step = now.decode_s + prompts * now.prompt_s
    moved = (streamed[:, DECODE] * loop.stages + prompts * streamed[:, PREFILL] * loop.share_of_chunk) / step
    width = np.array([plan.shape.hidden_size * len(plan.shape.blocks) for plan in plans], dtype=np.float64)
    tokens = now.tokens_per_s_per_gpu * (1 + loop.isl / loop.osl)
    columns = (np.ones(len(plans)), moved / limit, tokens * width / limit, np.log(1 / step))
    return np.stack(columns, axis=1) / _SCALES, limit


def power_w(coefficients: Floats, rows: Floats, limit: Floats) -> Floats:
    """Mean board power, W."""
    asked = np.maximum(rows @ coefficients, 0.05)
    # A smooth minimum of what is asked and what the board can draw.
    gap = (asked - _CAP) / _CORNER
    return limit * (_CAP - _CORNER * np.logaddexp(0.0, -gap)).clip(0.02)


def fit_power(rows: Floats, limit: Floats, measured_w: Floats, weights: Floats) -> Floats | None:
    """Coefficients, from the rows whose power was measured; None where they are fewer than coefficients."""
    keep = np.isfinite(measured_w)
    if keep.sum() < len(_START):
        return None

    def residuals(coefficients: Floats) -> Floats:
        off = np.log(power_w(coefficients, rows[keep], limit[keep]) / measured_w[keep]) * weights[keep]
        return np.concatenate([off, _RIDGE * (coefficients - _START)])

    return least_squares(residuals, _START, loss="soft_l1", f_scale=_SOFT_LOG).x
