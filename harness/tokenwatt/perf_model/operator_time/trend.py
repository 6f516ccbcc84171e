"""Curves of a GPU that nobody measured, from those of its ancestors.

Every parameter is a ratio to a ceiling, a number of rows, or a time. Its logarithm moves along x = log of the dense
bf16 peak: the more arithmetic a device has, the more work it takes to fill it and the smaller the share of its ceilings
that a problem of a given size reaches. (The year of shipping would part H100 from H200, which are one die, and FLOP per
byte would put Rubin, with its faster memory, before Hopper.)

The centre starts from the nearest generation that was measured, the mean of its systems, as the same engine runs it
there (attention: as the fastest does, `SHARED`), and moves by share times slope times distance. A slope belongs to a
parameter of an operator family and is pooled over engines and precisions, each with a level of its own; it is shrunk by
what its own scatter is worth, so that two generations do not make a law. The share belongs to the family: the one that
would have predicted the newest measured generation best from those before it. A slope that could not be tried so has
none.

How sure: time of reference problems is a random walk along x with a jump between any two systems,
variance = jump + drift * distance; both come from predicting measured generations from the others. Systems of one
generation err together, so n generations are n - 1 steps that were observed: the walk's spread is that of Student's t
with n - 1 degrees of freedom, brought to the 80 % interval of a normal. An operator that one generation alone has
takes the drift of all operators.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import cast

import numpy as np
from scipy.optimize import nnls
from scipy.stats import chi2, norm
from scipy.stats import t as student

from tokenwatt.errors import UserError
from tokenwatt.perf_model.operator_time.ceilings import ceilings_of, runs_at
from tokenwatt.perf_model.operator_time.curves import Curve, Key, Library, candidates, load_curves
from tokenwatt.perf_model.operator_time.operators import OPERATORS, operator_of
from tokenwatt.perf_model.operator_time.reference_problems import reference_problems
from tokenwatt.reference.systems import load_system

GENERATIONS = {
    "A100 SXM": "Ampere",
    "H100 SXM": "Hopper",
    "H200 SXM": "Hopper",
    "B200 SXM": "Blackwell",
    "B300 SXM": "Blackwell",
    "GB200 NVL72": "Blackwell",
    "GB300 NVL72": "Blackwell",
}
"""Ancestors: one line of devices with HBM and NVLink. L40S and RTX PRO 6000 have neither."""

SHARED = ("attention.", "latent.")
"""Operators whose kernels come from libraries that engines share. One of them may be far behind on the last GPU, as
latents in fp8 on Hopper are 3 to 7 times slower in vLLM and SGLang than in TensorRT-LLM; it is not on the next."""
_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
_UPPER_END = 0.9
"""Of the 80 % interval."""
_STEP = 0.2
"""Distance above which two systems are not of one generation: B200 and GB200 are 0.1 apart, H200 and B200 0.8."""


@dataclass(frozen=True, slots=True)
class Extrapolation:
    """A curve for a system without one."""

    curve: Curve
    """Its `log_sd` holds the scatter of problems around a curve, the walk to the system and what stood in."""
    ancestors: tuple[str, ...]
    """Systems that it started from."""


@lru_cache(maxsize=1024)
def position(system: str) -> float:
    """x of a system: log of its dense bf16 peak in FLOP/s."""
    return math.log(load_system(system).flop_per_s("bfloat16").value)


class Trend:
    """Curves of the measured systems, and what follows from them for another.

    Args:
        library: curves by system.
        exclude: systems to be taken as not measured.
    """

    def __init__(self, library: Library, exclude: Collection[str] = ()) -> None:
        self._library = {
            name: curves for name, curves in library.items() if name in GENERATIONS and name not in set(exclude)
        }
        if not self._library:
            raise UserError(f"a trend needs operator curves of at least one of {', '.join(GENERATIONS)}")
        self._slopes = _slopes(self._library)
        self._shares: dict[str, float] = {}
        self._walks: dict[str, tuple[float, float]] = {}
        self._known_errors: dict[str, list[tuple[float, float]]] = {}
        steps = max(len({GENERATIONS[name] for name in self._library}) - 1, 1)
        self._wider = float(student.ppf(_UPPER_END, steps) / norm.ppf(_UPPER_END))

    def curve(self, system: str, engine: str, operator: str, dtype: str) -> Extrapolation | None:
        """The curve at `system`; None where no ancestor has one, nor one that may stand in."""
        for keys in _choices(engine, operator, dtype):
            found = self._fastest(system, keys, dtype)
            if found is not None:
                curve, ancestors = found
                key = curve.key
                family = operator_of(operator).name
                jump, drift = self._walk(family)
                distance = abs(position(system) - np.mean([position(name) for name in ancestors]))
                strange = self._strangeness(family) if key.dtype != dtype else 0.0
                walked = (jump + drift * distance) * self._wider**2
                sd = math.sqrt(curve.log_sd**2 + walked + strange)
                return Extrapolation(Curve(curve.key, curve.parameters, sd), ancestors)
        return None

    def _fastest(self, system: str, keys: Sequence[Key], dtype: str) -> tuple[Curve, tuple[str, ...]] | None:
        """The centre with the least mean log time of the reference problems, the first of equals."""
        found = [centre for centre in (self._centre(system, key) for key in keys) if centre is not None]
        if len(found) < 2:
            return found[0] if found else None
        ceilings, problems = ceilings_of(load_system(system), dtype), reference_problems(keys[0].operator)
        return min(found, key=lambda centre: np.log(centre[0].seconds(problems, dtype, ceilings)).mean())

    def _centre(self, system: str, key: Key) -> tuple[Curve, tuple[str, ...]] | None:
        having = [name for name, curves in self._library.items() if key in curves]
        if not having:
            return None
        x = position(system)
        nearest = GENERATIONS[min(having, key=lambda name: (abs(position(name) - x), name))]
        ancestors = tuple(name for name in having if GENERATIONS[name] == nearest)
        curves = [self._library[name][key] for name in ancestors]
        operator = operator_of(key.operator)
        share = self.share(operator.name)
        parameters = {}
        for parameter in operator.parameters:
            slope = share * self._slopes.get((operator.name, parameter.name), 0.0)
            moved = [
                math.log(curve.parameters[parameter.name]) + slope * (x - position(name))
                for name, curve in zip(ancestors, curves, strict=True)
            ]
            parameters[parameter.name] = min(max(math.exp(np.mean(moved)), parameter.low), parameter.high)
        return Curve(key, parameters, float(np.mean([curve.log_sd for curve in curves]))), ancestors

    def share(self, family: str) -> float:
        """How much of its slopes a family follows, 0 to 1."""
        if family not in self._shares:
            self._shares[family] = _best_share(self._library, family)
        return self._shares[family]

    def _walk(self, family: str) -> tuple[float, float]:
        """Variance of a jump, and of a walk of unit length, in log time."""
        if family not in self._walks:
            errors = self._errors(family)
            jump, drift = _walk(errors)
            if not any(distance > _STEP for distance, _ in errors):
                everything = [each for other in OPERATORS for each in self._errors(other)]
                drift = _walk(everything)[1]
            self._walks[family] = jump, drift
        return self._walks[family]

    def _errors(self, family: str) -> list[tuple[float, float]]:
        """(distance, log error) of each measured curve: by a sister of its generation, and by the other generations."""
        if family in self._known_errors:
            return self._known_errors[family]
        found = []
        for name, curves in self._library.items():
            sisters = {other for other in self._library if GENERATIONS[other] == GENERATIONS[name]} - {name}
            strangers = set(self._library) - sisters - {name}
            for others in (sisters, strangers):
                if not others:
                    continue
                trend = _Centres({other: self._library[other] for other in others})
                for key, curve in curves.items():
                    if operator_of(key.operator).name != family:
                        continue
                    guess = trend.centre(name, key)
                    if guess is not None:
                        guessed, ancestors = guess
                        distance = abs(position(name) - np.mean([position(each) for each in ancestors]))
                        found.append((float(distance), _log_ratio(guessed, curve, name, key.dtype)))
        self._known_errors[family] = found
        return found

    def _strangeness(self, family: str) -> float:
        """Variance of log time where the nearest precision stands in, from systems that have both."""
        errors = []
        for name, curves in self._library.items():
            for key, curve in curves.items():
                if operator_of(key.operator).name != family:
                    continue
                own = (each for each in candidates(key.engine, key.operator, key.dtype) if each.engine == key.engine)
                other = next((each for each in own if each in curves and each.dtype != key.dtype), None)
                if other is not None:
                    errors.append(_log_ratio(curves[other], curve, name, key.dtype))
        # By the median, as a kernel that one system lacks must not speak for all.
        return float(np.median(np.square(errors)) / chi2.ppf(0.5, 1)) if errors else 0.0


def _choices(engine: str, operator: str, dtype: str) -> list[list[Key]]:
    """Curves that may answer, the best first; of several together the fastest."""
    keys = candidates(engine, operator, dtype)
    if not operator.startswith(SHARED):
        return [[key] for key in keys]
    return [list(group) for _, group in groupby(keys, key=lambda key: key.dtype)]


class _Centres(Trend):
    """A trend that is asked for its centre alone, with a given share of its slopes."""

    def __init__(self, library: Library, share: float = 0.0) -> None:
        super().__init__(library)
        self._given_share = share

    def share(self, family: str) -> float:
        """The given one."""
        del family
        return self._given_share

    def centre(self, system: str, key: Key) -> tuple[Curve, tuple[str, ...]] | None:
        """Curve and ancestors, no spread."""
        return self._centre(system, key)


def _best_share(library: Library, family: str) -> float:
    """Share of the slopes that predicts the newest generation best from at least two before it; 0 without those."""
    newest = GENERATIONS[max(library, key=lambda name: (position(name), name))]
    older = {name: curves for name, curves in library.items() if GENERATIONS[name] != newest}
    if len({GENERATIONS[name] for name in older}) < 2:
        return 0.0
    return min(_SHARES, key=lambda share: _forward_error(library, older, newest, family, share))


def _forward_error(library: Library, older: Library, newest: str, family: str, share: float) -> float:
    """Mean |log error| of the newest generation's curves of a family, predicted from older ones."""
    trend = _Centres(older, share)
    errors = [
        abs(_log_ratio(guess[0], curve, name, key.dtype))
        for name, curves in library.items()
        if GENERATIONS[name] == newest
        for key, curve in curves.items()
        if operator_of(key.operator).name == family
        for guess in [trend.centre(name, key)]
        if guess is not None
    ]
    return float(np.mean(errors)) if errors else 0.0


def _log_ratio(guessed: Curve, measured: Curve, system: str, dtype: str) -> float:
    """Median of log(guessed / measured) over the reference problems."""
    ceilings = ceilings_of(load_system(system), dtype)
    problems = reference_problems(measured.key.operator)
    ratio = guessed.seconds(problems, dtype, ceilings) / measured.seconds(problems, dtype, ceilings)
    return float(np.median(np.log(ratio)))


def _walk(errors: Iterable[tuple[float, float]]) -> tuple[float, float]:
    pairs = np.array(list(errors), dtype=np.float64).reshape(-1, 2)
    if not len(pairs):
        return 0.0, 0.0
    design = np.column_stack([np.ones(len(pairs)), pairs[:, 0]])
    (jump, drift), _ = nnls(design, np.square(pairs[:, 1]))
    return float(jump), float(drift)


def _slopes(library: Library) -> Mapping[tuple[str, str], float]:
    """d log parameter / d x, by operator family and parameter."""
    levels: dict[tuple[str, str, Key], list[tuple[float, float]]] = defaultdict(list)
    for name, curves in library.items():
        for key, curve in curves.items():
            family = operator_of(key.operator).name
            for parameter, value in curve.parameters.items():
                levels[family, parameter, key].append((position(name), math.log(value)))
    pooled: dict[tuple[str, str], list[np.ndarray]] = defaultdict(list)
    for (family, parameter, _), points in levels.items():
        around = np.array(points)
        pooled[family, parameter].append(around - around.mean(axis=0))
    return {name: _shrunk_slope(np.concatenate(parts)) for name, parts in pooled.items()}


def _shrunk_slope(points: np.ndarray) -> float:
    """Slope of centred (x, y), times the share of its square that its own error does not explain."""
    spread = float(np.sum(points[:, 0] ** 2))
    if spread == 0:
        return 0.0
    slope = float(np.sum(points[:, 0] * points[:, 1])) / spread
    # Curves of one system err together: count the distinct positions, not the curves.
    places = len(np.unique(np.round(points[:, 0], 6)))
    scatter = float(np.mean((points[:, 1] - slope * points[:, 0]) ** 2))
    variance = scatter / (spread / len(points) * max(places - 1, 1))
    return slope * max(1.0 - variance / slope**2, 0.0) if slope else 0.0


@lru_cache(maxsize=16)
def load_trend(exclude: tuple[str, ...] = ()) -> Trend:
    """Trend of the shipped curves."""
    return Trend(load_curves(), exclude)


def measured_curve(system: str, engine: str, operator: str, dtype: str) -> Curve | None:
    """Shipped curve of a measured system, or the one that stands in for it there; None where there is neither."""
    curves = cast("Mapping[Key, Curve]", load_curves().get(system, {}))
    spec = load_system(system)
    for key in candidates(engine, operator, dtype):
        if key in curves and runs_at(spec, key.dtype):
            return curves[key]
    return None
