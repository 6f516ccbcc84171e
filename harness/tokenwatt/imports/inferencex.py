"""InferenceX (formerly InferenceMAX): `agg_*.json`, one aggregate or a list of them, rates per GPU and no duration.

Keys by https://github.com/SemiAnalysisAI/InferenceX/blob/main/utils/process_result.py, energy by aggregate_power.py
beside it: board power sampled by nvidia-smi (or amd-smi), integrated for each GPU over the benchmark (trapezoid),
summed over the GPUs of the deployment, and checked for its edges, its gaps and the number of boards: `power_valid`.
Latencies come from a fork of vLLM's client and mean what `vllm_bench` says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tokenwatt.errors import UserError
from tokenwatt.imports import columns, latencies
from tokenwatt.imports.document import Count, NonNegativeNumber, Part, PositiveCount, PositiveNumber, parse
from tokenwatt.imports.source import Given, Imported, Source
from tokenwatt.record import EnergyStatus, Measurement, Reason

MARKS = frozenset({"hw", "conc", "tput_per_gpu"})
"""Keys that this format has together and no other that is read here."""
NOMINAL_WINDOW_S = 1000.0
"""Window of a row whose file tells rates alone: so long that rounding tokens to whole ones changes no rate of 5
tokens/s or more by more than 1e-4 of it."""
ROUNDING = 1e-6
"""Share by which two rates that are equal may differ: each is a float divided by its GPUs."""

Summary = latencies.summary_model(lambda metric, statistic: f"{statistic.replace('_', '.')}_{metric}")
"""Keys such as `median_ttft` and `p99.9_itl`, in seconds."""


class Aggregate(Part):
    """One point."""

    hw: str
    conc: PositiveCount
    model: str
    framework: str
    precision: str
    tput_per_gpu: PositiveNumber
    output_tput_per_gpu: PositiveNumber
    isl: PositiveCount | None = None
    osl: PositiveCount | None = None
    image: str | None = None
    spec_decoding: str | None = None
    tp: PositiveCount | None = None
    pp: PositiveCount = 1
    pcp_size: PositiveCount = 1
    is_multinode: bool = False
    num_prefill_gpu: Count | None = None
    num_decode_gpu: Count | None = None
    power_valid: int | None = None
    avg_power_w: NonNegativeNumber | None = None
    avg_total_gpu_power_w: PositiveNumber | None = None
    total_gpu_energy_j: PositiveNumber | None = None
    joules_per_output_token: PositiveNumber | None = None
    joules_per_input_token: PositiveNumber | None = None
    joules_per_successful_query: PositiveNumber | None = None


@dataclass(frozen=True, slots=True)
class Window:
    """What the rates of a point amount to."""

    columns: dict[str, Any]
    is_measured: bool
    """Whether its length is the benchmark's; else it is `NOMINAL_WINDOW_S`."""


def matches(document: Any) -> bool:
    """Whether a JSON value looks like an aggregate, or a list of them."""
    points = document if isinstance(document, list) else [document]
    return bool(points) and all(isinstance(point, dict) and point.keys() >= MARKS for point in points)


def read(source: Source, given: Given) -> Imported:
    """One row for each aggregate.

    Raises:
        UserError: a key is missing, mistyped or contradicts another.
    """
    if not isinstance(source.document, list):
        return Imported([_row(source.document, "$", 0, source, given)], [])
    rows = [_row(point, f"$[{index}]", index, source, given) for index, point in enumerate(source.document)]
    if not rows:
        raise UserError(f"{source.where}: $: found a list of 0, expected at least one aggregate")
    return Imported(rows, [])


def _row(document: Any, place: str, index: int, source: Source, given: Given) -> Measurement:
    point = parse(Aggregate, document, source.where, place)
    gpus = _gpus(point, place, source)
    _check_rates(point, gpus, place, source)
    window = _window(point, gpus)
    found = {
        "imported_from": "InferenceX",
        "gpu_name": point.hw,
        "gpu_count": gpus,
        "engine": point.framework,
        "model": point.model,
        "quantization": point.precision,
        "tp": point.tp,
        "load": "closed",
        "concurrency": point.conc,
        **window.columns,
        **_energy(point),
        **latencies.told(parse(Summary, document, source.where, place), 1.0),
    }
    return columns.measurement(source, given, index, _losses(point, window), found)


def _gpus(point: Aggregate, place: str, source: Source) -> int:
    """GPUs of the deployment: those of both sides of several nodes, else those that share the model."""
    if point.num_prefill_gpu is not None and point.num_decode_gpu is not None:
        gpus = point.num_prefill_gpu + point.num_decode_gpu
    elif point.tp is not None:
        gpus = point.tp * point.pp * point.pcp_size
    else:
        raise UserError(f"{source.where}: {place}.tp: is missing, and so are num_prefill_gpu and num_decode_gpu")
    if not gpus:
        raise UserError(f"{source.where}: {place}.num_decode_gpu: found no GPU at all, expected at least one")
    return gpus


def _rates_per_s(point: Aggregate, gpus: int) -> tuple[float, float]:
    """Tokens/s of the deployment: all, and generated ones."""
    # Output tokens are counted per decoding GPU where prompts have GPUs of their own.
    return point.tput_per_gpu * gpus, point.output_tput_per_gpu * (point.num_decode_gpu or gpus)


def _check_rates(point: Aggregate, gpus: int, place: str, source: Source) -> None:
    """Whether generated tokens are no more than all tokens.

    Raises:
        UserError: they are more.
    """
    total_rate, output_rate = _rates_per_s(point, gpus)
    if output_rate > total_rate * (1 + ROUNDING):
        raise UserError(
            f"{source.where}: {place}.output_tput_per_gpu: found {point.output_tput_per_gpu:g}, which are"
            f" {output_rate:g} tokens/s in all, expected at most {total_rate:g}, those of {place}.tput_per_gpu"
        )


def _window(point: Aggregate, gpus: int) -> Window:
    """Energy over power is the benchmark's length, energy over energy per token its tokens; else a nominal window."""
    energy_j, power_w, per_output_j = (
        point.total_gpu_energy_j,
        point.avg_total_gpu_power_w,
        point.joules_per_output_token,
    )
    if _has_energy(point) and energy_j is not None and power_w is not None and per_output_j is not None:
        inputs = None if point.joules_per_input_token is None else round(energy_j / point.joules_per_input_token)
        outputs = round(energy_j / per_output_j)
        per_query_j = point.joules_per_successful_query
        completed = None if per_query_j is None else round(energy_j / per_query_j)
        counts = {"input_tokens": inputs, "output_tokens": outputs, "requests_completed": completed}
        means = {
            "isl": inputs / completed if completed and inputs is not None else _float(point.isl),
            "osl": outputs / completed if completed else _float(point.osl),
        }
        return Window({"window_s": energy_j / power_w, **counts, **means}, is_measured=True)
    total_rate, output_rate = _rates_per_s(point, gpus)
    counts = {
        # Equal rates may differ by their rounding.
        "input_tokens": round(max(total_rate - output_rate, 0.0) * NOMINAL_WINDOW_S),
        "output_tokens": round(output_rate * NOMINAL_WINDOW_S),
    }
    lengths = {"isl": _float(point.isl), "osl": _float(point.osl)}
    return Window({"window_s": NOMINAL_WINDOW_S, **counts, **lengths}, is_measured=False)


def _float(value: int | None) -> float | None:
    return None if value is None else float(value)


def _has_energy(point: Aggregate) -> bool:
    """Whether the tool calls its power valid and gives all that joules of a window need."""
    needed = (point.total_gpu_energy_j, point.avg_total_gpu_power_w, point.joules_per_output_token)
    return point.power_valid == 1 and None not in needed


def _energy(point: Aggregate) -> dict[str, Any]:
    """Joules of all boards of the deployment over the benchmark, doubted because their readings are not here."""
    if _has_energy(point):
        return {
            "energy_status": EnergyStatus.SUSPECT,
            "energy_reasons": (Reason.IMPORTED,),
            "power_scope": "engine_gpus",
            "gpu_energy_j": point.total_gpu_energy_j,
        }
    if point.power_valid == 0:
        return {"energy_status": EnergyStatus.INVALID, "energy_reasons": (Reason.IMPORTED,)}
    return {}


def _losses(point: Aggregate, window: Window) -> list[str]:
    losses = [
        "the file does not say which version of InferenceX wrote it, or when",
        columns.NO_MACHINE,
        columns.WHOLE_RUN,
        "hw is the name of its runner, not NVML's name of the board",
        "precision stands in quantization; the dtype of activations is not in the file",
        "requests one by one, and failed ones, are not in the file",
    ]
    losses += _window_losses(point, window) + _energy_losses(point)
    beside = {"image": point.image, "speculative decoding": point.spec_decoding}
    losses += [f"{name} {value!r} has no column" for name, value in beside.items() if value not in (None, "", "none")]
    if point.num_prefill_gpu is not None:
        losses.append("prompts and decoding may have GPUs of their own; the row counts all of them")
    return losses


def _window_losses(point: Aggregate, window: Window) -> list[str]:
    if window.is_measured:
        return ["duration and tokens are worked out from joules, watts and joules per token, which the file rounds"]
    lengths = [] if point.isl is None else ["isl and osl are those asked for, not the means of what came"]
    return [
        f"the file has no duration and no counts: the row holds {NOMINAL_WINDOW_S:g} s at its rates, so that rates are"
        " right and window_s, input_tokens and output_tokens are nominal",
        *lengths,
    ]


def _energy_losses(point: Aggregate) -> list[str]:
    if _has_energy(point):
        return [
            "energy is sampled board power of all GPUs, integrated by the tool; no counter, no readings in the file"
        ]
    if point.power_valid == 0:
        return ["its own check found the power readings invalid; the reasons are in another file"]
    if point.avg_power_w:
        return [
            f"{point.avg_power_w:g} W per GPU is a plain mean without a check or a window, so no energy is taken of it"
        ]
    return [columns.NO_ENERGY]
