"""Time of a collective among any number of GPUs: between those that were measured, beyond, and out of the domain."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from tokenwatt.errors import UserError
from tokenwatt.perf_model.operator_time.curves import Curve
from tokenwatt.perf_model.operator_time.operators import among
from tokenwatt.perf_model.operator_time.resolution import ResolvedCurve, curve, known_ceilings
from tokenwatt.perf_model.operator_time.trend import load_trend, measured_curve
from tokenwatt.perf_model.operator_time.work import Floats
from tokenwatt.reference.ranges import Case
from tokenwatt.reference.systems import load_system

_SCALES = (2, 4, 8, 16, 32, 64)
"""Numbers of GPUs that collectives were measured among."""
_EXCHANGES = ("all_to_all", "moe_dispatch", "moe_combine")
SCALE_OUT_LATENCY_S = 1e-5
"""Of one hop between domains; aiconfigurator-core 0.12.0, systems/*.yaml: p2p_latency, which it calls unofficial."""


@dataclass(frozen=True, slots=True)
class CollectiveTimes:
    """Collectives of one engine on one system, as `times.OperatorTimes` has its operators."""

    system: str
    engine: str
    exclude_gpus: tuple[str, ...] = ()
    case: Case = "central"

    def resolve(self, name: str, gpus: int) -> ResolvedCurve:
        """The curve of a collective among `gpus` GPUs; of two between which they lie, that of the fewer."""
        scales = _known_scales(self.system, self.engine, name, self.exclude_gpus)
        nearest = max((each for each in scales if each <= gpus), default=scales[0])
        return curve(self.system, self.engine, among(name, nearest), "bf16", self.exclude_gpus)

    def seconds(self, name: str, bytes_: ArrayLike, gpus: int) -> Floats:
        """Time of all_reduce, all_gather, all_to_all ... among any number of GPUs, s.

        bytes_: of what each GPU holds before it, of a gather after it (`times.OperatorTimes.all_reduce_s` ...).

        Between two measured numbers of GPUs log time is a line in log GPUs. Beyond the largest, latency grows with the
        depth of a tree, log2(gpus), and the bytes that leave a GPU as the collective has it. Beyond the domain of the
        links it is `_scaled_out_s`.
        """
        moved = np.asarray(bytes_, dtype=np.float64)
        if gpus <= 1:
            return np.zeros_like(moved)
        if gpus > load_system(self.system).gpus_per_domain.value:
            return self._scaled_out_s(name, moved, gpus)
        scales = _known_scales(self.system, self.engine, name, self.exclude_gpus)
        below = max((each for each in scales if each <= gpus), default=scales[0])
        above = min((each for each in scales if each >= gpus), default=scales[-1])
        near = self._among_s(name, moved, below, gpus if above <= below else below)
        if below == above:
            return near
        far = self._among_s(name, moved, above, above)
        weight = math.log(gpus / below) / math.log(above / below)
        return near * (far / near) ** weight

    def _scaled_out_s(self, name: str, moved: Floats, gpus: int) -> Floats:
        """Time among GPUs of n > 1 domains, d in each, by the bytes that cross between them at the network's speed: no
        less than among those of one full domain.

        Reductions and gathers do their part within a domain, then each GPU with its n - 1 counterparts: of S bytes
        (n - 1) / n x S / d cross, of an all-reduce twice. What each GPU sends to all others goes both ways at once: of
        S bytes the share of the GPUs outside crosses, no copy standing for a whole domain (so send the kernels that are
        made for decoding). A hop costs SCALE_OUT_LATENCY_S, and a tree has log2(n).
        """
        spec = load_system(self.system)
        full = int(spec.gpus_per_domain.value)
        domains = math.ceil(gpus / full)
        each = math.ceil(gpus / domains)
        network = spec.scale_out_bytes_per_s.range.at(self.case)
        hops = SCALE_OUT_LATENCY_S * math.log2(domains)
        least = self.seconds(name, moved, full)
        if name in _EXCHANGES:
            return np.maximum(least, moved * (1 - 1 / domains) / network + hops)
        ways = 2 if name == "all_reduce" else 1
        across = moved / each * (1 - 1 / domains) / network + hops
        return np.maximum(least, self.seconds(name, moved, each)) + ways * across

    def _among_s(self, name: str, moved: Floats, measured: int, gpus: int) -> Floats:
        """Time among `gpus` GPUs by the curve of `measured` ones."""
        found = curve(self.system, self.engine, among(name, measured), "bf16", self.exclude_gpus).curve
        depth = math.log2(gpus) / math.log2(measured)
        shape = {"bytes": moved, "gpus": np.full_like(moved, gpus)}
        deeper = Curve(
            found.key, {**found.parameters, "latency_s": found.parameters["latency_s"] * depth}, found.log_sd
        )
        return deeper.seconds(shape, "bf16", known_ceilings(self.system, "bf16", self.case))


@lru_cache(maxsize=1024)
def _known_scales(system: str, engine: str, name: str, exclude: tuple[str, ...]) -> tuple[int, ...]:
    known = []
    domain = load_system(system).gpus_per_domain.value
    for gpus in _SCALES:
        if gpus > domain:
            continue
        own = None if system in exclude else measured_curve(system, engine, among(name, gpus), "bf16")
        if own is not None or load_trend(exclude).curve(system, engine, among(name, gpus), "bf16") is not None:
            known.append(gpus)
    if not known:
        raise UserError(f"no system was measured at {name}")
    return tuple(known)
