"""A counter's energy at a moment from how old its readings may be: for renewals too irregular to be found one by one."""

from __future__ import annotations

import math

import numpy as np

from tokenwatt.power.series import Series, cumulative
from tokenwatt.power.ticks import Counter

REACH_S = 3.0
AGES = 16
HARMONICS = 12
GAIN_SD = 0.02
JUMPS = True


def energy_at(
    at_s: Series, total_j: Series, power_w: Series, edge_s: float, how: Counter, power_age_s: float = 0.0
) -> tuple[float, float]:
    near = np.abs(at_s - edge_s) <= REACH_S
    at_s, total_j, power_w = at_s[near], total_j[near], power_w[near]
    pat_s = at_s - power_age_s / 2
    flow_j = cumulative(pat_s, power_w)
    flow_j *= (total_j[-1] - total_j[0]) / (np.interp(at_s[-1], pat_s, flow_j) - flow_j[0])
    scale = (total_j[-1] - total_j[0]) / (flow_j[-1] - flow_j[0]) if flow_j[-1] > flow_j[0] else 1

    # linear extrapolation
    def flow(t):
        return (
            np.interp(t, pat_s, flow_j)
            + np.where(t > pat_s[-1], (t - pat_s[-1]) * power_w[-1], 0.0)
            + np.where(t < pat_s[0], (t - pat_s[0]) * power_w[0], 0.0)
        )

    sd_s = math.hypot(how.walk_s, math.sqrt(2) * how.jitter_s)
    p = how.period_s
    ages = np.linspace(0, p + 1.75 * sd_s, 33)
    ages = (ages[1:] + ages[:-1]) / 2
    weight = np.clip(0.5 - (ages - p) / (math.sqrt(12) * sd_s + 1e-9), 0, 1)
    weight /= weight.sum()
    since = flow(at_s[:, None]) - flow(at_s[:, None] - ages)
    mean_j = since @ weight
    var_j = ((since - mean_j[:, None]) ** 2) @ weight
    z = total_j + mean_j - flow(at_s)
    lag = np.abs(at_s[:, None] - at_s)
    damp2 = 2 * how.jitter_s**2 + lag / p * how.walk_s**2
    n = np.arange(1, HARMONICS + 1)[:, None, None]
    corr = np.sum(np.cos(2 * np.pi * n * lag / p) * np.exp(-2 * (np.pi * n) ** 2 * damp2 / p**2) / n**2, axis=0)
    corr /= np.sum(1.0 / n**2)
    np.fill_diagonal(corr, 1.0)
    sd = np.sqrt(var_j)
    age_cov = sd[:, None] * sd * corr
    # drift
    step = (np.diff(power_w) * (np.diff(at_s) + power_age_s)) ** 2 / 12
    V = np.concatenate(([0.0], np.cumsum(step)))
    walk = np.interp(at_s, pat_s, V) - np.interp(edge_s, pat_s, V)
    same = np.sign(walk)[:, None] == np.sign(walk)
    B = np.where(same, np.minimum(np.abs(walk)[:, None], np.abs(walk)), 0.0)
    f = flow(at_s) - flow(np.array([edge_s]))
    C = age_cov + B + np.eye(len(z)) * 1e-3 + GAIN_SD**2 * f[:, None] * f
    F0 = float(flow(np.array([edge_s]))[0])

    def gls(sel, zz, CC):
        zz, CC = zz[sel], CC[np.ix_(sel, sel)]
        Ci1 = np.linalg.solve(CC, np.ones(len(zz)))
        D = Ci1 @ zz / Ci1.sum()
        r = zz - D
        return D, math.sqrt(1 / Ci1.sum()), r @ np.linalg.solve(CC, r) / max(len(zz) - 1, 1)

    allr = np.arange(len(z))
    D, sd_j, chi2 = gls(allr, z, C)
    best = F0 + D
    gap = int(np.clip(np.searchsorted(pat_s, edge_s) - 1, 1, len(z) - 3))
    steps_w = np.abs(power_w[2:] - power_w[:-2])
    usual_w = 3 * np.median(steps_w)
    lo, hi = np.interp(edge_s - power_age_s/2 - 0.06, at_s, power_w), np.interp(edge_s + power_age_s +0.06, at_s, power_w)
    lo, hi = power_w[gap - 1], power_w[gap + 2]
    jump_w = hi - lo
    left, right = allr[pat_s <= pat_s[gap]], allr[pat_s >= pat_s[gap+1]]
    g0, g1 = max(gap - 2, 0), min(gap + 3, len(z) - 1)
    steady = max(abs(power_w[g0] - lo), abs(power_w[g1] - hi)) < 0.2 * abs(jump_w)
    if JUMPS and steady and abs(jump_w) > usual_w and min(len(left), len(right)) > 5:
        C2 = age_cov + np.eye(len(z)) * 1e-3 + GAIN_SD**2 * f[:, None] * f
        w2 = np.concatenate(([0.0], np.cumsum(step)))
        i0, i1 = gap - 1, gap + 2
        walkL, walkR = np.minimum(w2 - w2[i0], 0), np.maximum(w2 - w2[i1], 0)
        bl = np.minimum(np.abs(walkL)[:, None], np.abs(walkL))
        br = np.minimum(np.abs(walkR)[:, None], np.abs(walkR))
        DL, sl, _ = gls(left, z, C2 + bl)
        DR, sr, _ = gls(right, z, C2 + br)
        EL = flow_j[i0] + DL + lo * scale * (edge_s - pat_s[i0])
        ER = flow_j[i1] + DR - hi * scale * (pat_s[i1] - edge_s)
        side = max if jump_w > 0 else min
        best = side(EL, ER)
        sd_j = math.hypot(sl if best == EL else sr, 0.1 * 0.5*abs(jump_w) * (pat_s[i1] - pat_s[i0])/3)
    return float(best), sd_j
