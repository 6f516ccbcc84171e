"""Where the time and the energy of a case go: shares of its operations in a decode step, a prompt and an output token.

Time. A decode step and a prompt are sums: each operation's time, the launches that no curve times, and what the host
adds beyond what the GPU hides of it. An output token of all sequences and GPUs takes

    GPU time of a token = GPUs x decode step / tokens that the step yields + GPUs of a rank x prompt / osl

Energy. Operators draw what `operator_power` says (pJ/FLOP, pJ/byte of memory and links, the power of a busy family of
kernels), and the board its static power for all of its time, that of waiting requests included: `static/idle`. Their
sum falls short of what a served GPU draws, or passes it, so that all parts, static/idle among them, are scaled by one
factor that makes them add up to the predicted joules per output token (`board_power`). Shares are thus the operators',
the sum is the board's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tokenwatt.perf_model.base_times import computed_dtype
from tokenwatt.perf_model.cell_effects import expected
from tokenwatt.perf_model.engine_model import multipliers, of_groups, served
from tokenwatt.perf_model.fit import Fit, Planned, central, planned
from tokenwatt.perf_model.operation_kinds import DECODE, PREFILL
from tokenwatt.perf_model.operations import Operation
from tokenwatt.perf_model.operator_power.model import Coefficients
from tokenwatt.perf_model.operator_power.prediction import load_operator_power
from tokenwatt.perf_model.operator_time.ceilings import ceilings_of
from tokenwatt.perf_model.operator_time.precision import PRECISIONS
from tokenwatt.perf_model.plan import Plan
from tokenwatt.reference.systems import load_system

Floats = NDArray[np.float64]
Bound = Literal["FLOP", "bytes", "links", ""]

LAUNCHES, HOST, STATIC = "launches", "host", "static/idle"
"""Parts that are no operation."""
_BUSY = {
    "grouped_matmul": "moe",
    "attention.prefill": "context_attention",
    "latent.prefill": "context_attention",
    "attention.decode": "generation_attention",
    "latent.decode": "generation_attention",
}
"""Family of `operator_power` that a kind belongs to; that of a plain matmul is 0 by definition."""


@dataclass(frozen=True, slots=True)
class Split:
    """A number of one GPU's decode step, of one prompt on one GPU, and of an output token on all GPUs."""

    decode: float
    prompt: float
    token: float


@dataclass(frozen=True, slots=True)
class Floor:
    """Least time of work: FLOP at the peaks of their formats, memory at its bandwidth, links in one direction; s."""

    flop_s: float
    bytes_s: float
    links_s: float

    @property
    def bound(self) -> Bound:
        """The longest of them; nothing where there is no work.

        >>> Floor(1.0, 2.0, 0.0).bound
        'bytes'
        """
        longest = max(self.flop_s, self.bytes_s, self.links_s)
        if not longest:
            return ""
        return "FLOP" if longest == self.flop_s else "bytes" if longest == self.bytes_s else "links"

    def __add__(self, other: Floor) -> Floor:
        return Floor(self.flop_s + other.flop_s, self.bytes_s + other.bytes_s, self.links_s + other.links_s)


NO_WORK = Floor(0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Part:
    """An operation by its name, or one of LAUNCHES, HOST and STATIC."""

    name: str
    seconds: Split
    joules: Split
    decode_floor: Floor = NO_WORK
    prompt_floor: Floor = NO_WORK


@dataclass(frozen=True, slots=True)
class Attribution:
    """Parts of one case, operations first, the longest of an output token before the others."""

    parts: tuple[Part, ...]
    waiting_s: float
    """GPU time of an output token in which nothing is computed: requests that wait, or the faster of two pools."""
    operators_share: float
    """Of the predicted power, that operators and static power explain before they are scaled to it."""
    cell_factor: float
    """What all times are multiplied by for what cells of the fit have in common with this one."""

    @property
    def seconds(self) -> Split:
        """Of all parts."""
        return _total([part.seconds for part in self.parts])

    @property
    def joules(self) -> Split:
        """Of all parts; that of a token is the predicted one."""
        return _total([part.joules for part in self.parts])

    @property
    def decode_floor(self) -> Floor:
        """Of a decode step."""
        return sum((part.decode_floor for part in self.parts), NO_WORK)

    @property
    def prompt_floor(self) -> Floor:
        """Of a prompt."""
        return sum((part.prompt_floor for part in self.parts), NO_WORK)

    def time_share(self, part: Part) -> Split:
        """Of each total, 0 to 1."""
        return _share(part.seconds, self.seconds)

    def energy_share(self, part: Part) -> Split:
        """Of each total, 0 to 1."""
        return _share(part.joules, self.joules)


def attribute(fit: Fit, plan: Plan) -> Attribution:
    """Time and energy of one case as the fit predicts them; rows that were measured play no part.

    Raises:
        UserError: a Fact or a parameter of power is missing for the system.
    """
    cases = planned([plan], fit.exclude_gpus)
    mean, _ = expected(cases.places, fit.cells, fit.spreads)
    now = served(fit.vector, cases.loop, mean)
    found = central(fit, cases, now)
    factor = float(np.exp(mean[0]))
    times, total = _seconds(fit, cases, factor), np.array([now.decode_s[0], now.prompt_s[0]])
    times[HOST] = total - sum(times.values())
    per_token = _per_token(plan)
    power = load_operator_power(plan.system, exclude_gpus=fit.exclude_gpus).coefficients
    joules = _operator_joules(plan, cases, power, _busy_seconds(fit, cases, factor))
    token_s = float(total @ per_token)
    wall_s = max(1.0 / float(found["output_tokens_per_s_per_gpu"][0]), token_s)
    static = Split(*(power.static_w * np.array([*total, wall_s])))
    unscaled = sum(float(each @ per_token) for each in joules.values()) + static.token
    scale = float(found["joules_per_output_token"][0]) / unscaled
    floors = _floors(plan, cases)
    parts = [
        Part(
            name,
            _split(seconds, per_token),
            _split(joules.get(name, np.zeros(2)) * scale, per_token),
            *floors.get(name, (NO_WORK, NO_WORK)),
        )
        for name, seconds in times.items()
    ]
    parts.sort(key=lambda part: (part.name in (LAUNCHES, HOST), -part.seconds.token))
    idle = Split(static.decode * scale, static.prompt * scale, static.token * scale)
    parts.append(Part(STATIC, Split(0.0, 0.0, 0.0), idle))
    return Attribution(tuple(parts), wall_s - token_s, 1 / scale, factor)


def _seconds(fit: Fit, cases: Planned, factor: float) -> dict[str, Floats]:
    """Time of a decode step and of a prompt by part, without what the host adds."""
    base, loop = cases.base, cases.loop
    launch = of_groups(fit.vector, "launch_s")[loop.group[0]]
    stretch = _stretch(fit, cases, factor)
    times = _by_name(base.names, base.phase, _busy_seconds(fit, cases, factor))
    return times | {LAUNCHES: base.by_phase(base.launches)[0] * launch * stretch}


def _busy_seconds(fit: Fit, cases: Planned, factor: float) -> Floats:
    """Time of each entry in a decode step, or in one prompt."""
    base, loop = cases.base, cases.loop
    own = multipliers(fit.vector)[loop.group[0], base.term]
    return base.seconds * own * _stretch(fit, cases, factor)[base.phase]


def _stretch(fit: Fit, cases: Planned, factor: float) -> Floats:
    """What times of the two phases are multiplied by in `engine_model.served`."""
    prefill = of_groups(fit.vector, "prefill")[cases.loop.group[0]]
    return _amount(cases) * np.array([factor, prefill * factor])


def _amount(cases: Planned) -> Floats:
    """Steps of one GPU in what is counted: every stage of a decode step, and a prompt's share of a prefill step."""
    return np.array([cases.loop.stages[0], cases.loop.share_of_chunk[0]])


def _per_token(plan: Plan) -> Floats:
    """GPU steps, and GPU prompts, in an output token."""
    decode, prompt = plan.parallelism, plan.prefill or plan.parallelism
    yielded = plan.batch * decode.attention_dp * plan.accepted_length
    return np.array([decode.gpus / yielded, prompt.gpus / prompt.attention_dp / plan.osl])


def _operations(plan: Plan) -> list[Operation]:
    """In the order of the entries of `base_times`."""
    return [*plan.decode_operations(), *plan.prefill_operations()]


def _operator_joules(plan: Plan, cases: Planned, power: Coefficients, busy_s: Floats) -> dict[str, Floats]:
    """What operators draw beside static power, in a decode step and in a prompt, J."""
    base, operations = cases.base, _operations(plan)
    per_flop = np.array([power.j_per_flop[_format(operation, plan.system)] for operation in operations])
    busy_w = np.array([power.busy_w.get(_BUSY.get(operation.kind, ""), 0.0) for operation in operations])
    moved = base.bytes * power.j_per_byte + _leaving(operations) * power.j_per_link_byte
    joules = (base.flop * per_flop + moved) * _amount(cases)[base.phase] + busy_w * busy_s
    return _by_name(base.names, base.phase, joules)


def _floors(plan: Plan, cases: Planned) -> dict[str, tuple[Floor, Floor]]:
    base, operations, spec = cases.base, _operations(plan), load_system(plan.system)
    peak = np.array([spec.flop_per_s(_format(operation, plan.system)).value for operation in operations])
    ceilings = ceilings_of(spec, "bf16")
    seconds = (
        base.flop / peak,
        base.bytes / ceilings.hbm_bytes_per_s,
        _leaving(operations) / ceilings.link_bytes_per_s,
    )
    amount = _amount(cases)[base.phase]
    flop, memory, links = (_by_name(base.names, base.phase, each * amount) for each in seconds)
    return {name: _floor_pair(flop[name], memory[name], links[name]) for name in flop}


def _floor_pair(flop: Floats, memory: Floats, links: Floats) -> tuple[Floor, Floor]:
    decode, prompt = (Floor(*map(float, each)) for each in zip(flop, memory, links, strict=True))
    return decode, prompt


def _format(operation: Operation, system: str) -> str:
    """Number format of the tensor cores that an operation is counted in; states in float32 count as bfloat16."""
    dtype = computed_dtype(operation.dtype, system)
    peak = PRECISIONS[dtype].peak if dtype in PRECISIONS else "bfloat16"
    return peak if load_system(system).has_peak(peak) else "bfloat16"


def _leaving(operations: list[Operation]) -> Floats:
    """Bytes that leave a GPU over its links, the least that a collective can do with."""
    return np.array([operation.count * operation.bytes * _times_sent(operation) for operation in operations])


def _times_sent(operation: Operation) -> float:
    ranks = operation.ranks
    match operation.kind:
        case "all_reduce":
            return 2 * (ranks - 1) / ranks
        case "all_gather":
            return ranks - 1
        case "all_to_all":
            return (ranks - 1) / ranks
        case "send":
            return 1.0
        case _:
            return 0.0


def _by_name(names: tuple[str, ...], phase: NDArray[np.int64], values: Floats) -> dict[str, Floats]:
    """Sums of the entries of each name, (2 phases)."""
    sums = {name: np.zeros(2) for name in names}
    for name, place, value in zip(names, phase, values, strict=True):
        sums[name][place] += value
    return sums


def _split(values: Floats, per_token: Floats) -> Split:
    return Split(float(values[DECODE]), float(values[PREFILL]), float(values @ per_token))


def _total(splits: list[Split]) -> Split:
    return Split(*(sum(getattr(split, name) for split in splits) for name in ("decode", "prompt", "token")))


def _share(part: Split, total: Split) -> Split:
    return Split(part.decode / total.decode, part.prompt / total.prompt, part.token / total.token)
