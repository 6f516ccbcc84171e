"""ML.ENERGY benchmark: `results.json` of an LLM run: a steady window with its energy, latencies of the whole run.

Keys and definitions by https://github.com/ml-energy/benchmark/blob/master/mlenergy/llm/benchmark.py: the steady window
runs from the first token of request B to that of request N - B, with N requests and a batch of at most B; its energy is
that of Zeus' monitor (NVML's counter, or sampled power on boards without one), for each GPU that the server was given.
ITL counts the tokens of one chunk after its first as 0 s.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from tokenwatt.errors import UserError
from tokenwatt.imports import columns, latencies
from tokenwatt.imports.document import (
    Count,
    NonNegativeNumber,
    Part,
    PositiveCount,
    PositiveNumber,
    at_most_sent,
    parse,
    same_lengths,
)
from tokenwatt.imports.source import Given, Imported, Source
from tokenwatt.record import EnergyStatus, Reason

Summary = latencies.summary_model(lambda metric, statistic: f"{statistic.replace('_', '.')}_{metric}_ms")
"""Keys such as `median_ttft_ms`."""


ROUNDING = 1e-6
"""Share by which a sum of energies may differ from the file's own: both are sums of the same floats."""


class Energies(Part):
    """What Zeus measured over a window."""

    time: PositiveNumber
    gpu_energy: dict[str, NonNegativeNumber] = Field(min_length=1)


class Answer(Part):
    """One request, in newer files."""

    input_len: Count
    output_len: Count
    latency: NonNegativeNumber
    ttft: NonNegativeNumber
    itl: list[NonNegativeNumber]
    error: str = ""


class Result(Part):
    """The object; requests are `results` in newer files and lists in older ones."""

    date: str
    model_id: str
    num_prompts: Count
    request_rate: PositiveNumber | Literal["inf"]
    burstiness: PositiveNumber | None = None
    max_concurrency: PositiveCount | None = None
    completed: Count
    steady_state_energy: PositiveNumber
    steady_state_energy_per_token: PositiveNumber
    steady_state_measurement: Energies
    total_input_tokens: Count
    total_output_tokens: Count
    results: list[Answer] | None = None
    ttfts: list[NonNegativeNumber] | None = None
    itls: list[list[NonNegativeNumber]] | None = None
    output_lens: list[Count] | None = None
    errors: list[str] | None = None


def matches(document: Any) -> bool:
    """Whether a JSON value looks like an LLM result of the ML.ENERGY benchmark."""
    return isinstance(document, dict) and document.keys() >= {"steady_state_energy", "steady_state_measurement"}


def read(source: Source, given: Given) -> Imported:
    """One row, of the steady window.

    Raises:
        UserError: a key is missing, mistyped or contradicts another.
    """
    result = parse(Result, source.document, source.where)
    at_most_sent(result.completed, None, result.num_prompts, source.where)
    _check_energy(result, source)
    found = {**_columns(result, source), **_energy(result)}
    return Imported([columns.measurement(source, given, 0, _losses(result), found)], [])


def _check_energy(result: Result, source: Source) -> None:
    """Whether the energy is the sum of its GPUs'.

    Raises:
        UserError: it is not.
    """
    total_j = sum(result.steady_state_measurement.gpu_energy.values())
    if abs(total_j - result.steady_state_energy) > ROUNDING * result.steady_state_energy:
        raise UserError(
            f"{source.where}: $.steady_state_energy: found {result.steady_state_energy:g}, expected {total_j:g},"
            " the sum of $.steady_state_measurement.gpu_energy"
        )


def _columns(result: Result, source: Source) -> dict[str, Any]:
    return {
        "imported_from": "ML.ENERGY benchmark",
        "engine": "vllm",
        "model": result.model_id,
        "measured_at": columns.moment(result.date, "%Y%m%d-%H%M%S", source, "$.date"),
        **_load(result),
        "window_s": result.steady_state_measurement.time,
        "output_tokens": round(result.steady_state_energy / result.steady_state_energy_per_token),
        "requests_failed": result.num_prompts - result.completed,
        "isl": result.total_input_tokens / result.completed if result.completed else None,
        "osl": result.total_output_tokens / result.completed if result.completed else None,
        **latencies.completed(_told(source), _values_s(result, source)),
    }


def _energy(result: Result) -> dict[str, Any]:
    """Joules of the GPUs that the server was given, doubted because their readings are not in the file."""
    per_gpu_j = tuple(result.steady_state_measurement.gpu_energy.values())
    return {
        "gpu_count": len(per_gpu_j),
        "energy_status": EnergyStatus.SUSPECT,
        "energy_reasons": (Reason.IMPORTED,),
        "power_scope": "engine_gpus",
        "gpu_energy_j": result.steady_state_energy,
        "gpu_energy_by_gpu_j": per_gpu_j,
    }


def _load(result: Result) -> dict[str, Any]:
    """Without a rate, all requests are sent at once, or wait in the client for one of `max_concurrency` places."""
    if result.request_rate != "inf":
        return {"load": "open", "request_rate_per_s": result.request_rate, "burstiness": result.burstiness}
    if result.max_concurrency is not None:
        return {"load": "closed", "concurrency": result.max_concurrency}
    return {"load": "offline", "requests_at_once": result.num_prompts}


def _told(source: Source) -> dict[str, float | None]:
    """In seconds; the tool writes 0 where it has no value to average, which no latency is."""
    told = latencies.told(parse(Summary, source.document, source.where), latencies.MS)
    for metric in latencies.METRICS:
        if not told[latencies.column(metric, "mean")]:
            told |= latencies.computed(metric, ())
    return told


def _values_s(result: Result, source: Source) -> dict[str, list[float]]:
    """Single values of the requests that were answered, of the whole run."""
    if result.results is not None:
        answers = [answer for answer in result.results if not answer.error and answer.output_len]
        return {
            "ttft": [answer.ttft for answer in answers],
            "tpot": [(a.latency - a.ttft) / (a.output_len - 1) for a in answers if a.output_len > 1],
            "itl": [gap for answer in answers for gap in answer.itl],
            "e2el": [answer.latency for answer in answers],
        }
    lists = {name: getattr(result, name) for name in ("ttfts", "itls", "output_lens", "errors")}
    same_lengths(lists, source.where)
    if result.ttfts is None or result.itls is None or result.errors is None:
        return {}
    answered = [index for index, error in enumerate(result.errors) if not error]
    return {
        "ttft": [result.ttfts[index] for index in answered],
        "itl": [gap for index in answered for gap in result.itls[index]],
    }


def _losses(result: Result) -> list[str]:
    losses = [
        "the file does not say which version of the benchmark, of Zeus or of vLLM wrote it",
        columns.NO_MACHINE,
        "window, energy and output_tokens are of its steady state, which is not ours: it ends by counting requests, and"
        " nobody tested whether tokens or power drift",
        "latencies, isl, osl and requests_failed are of the whole run; requests_completed and input_tokens of the"
        " window are not in the file",
        "output_tokens is worked out from joules and joules per token",
        "itl counts the tokens of one chunk after its first as 0 s",
        "the energy of the whole run and the timeline of power have no column",
        "whether the energy is a counter's or sampled power's is not in the file, nor its readings",
        "its date is a local time without a zone, written at the end; measured_at has it as if it were UTC",
        "requests have no times of their own in the file, so they are not carried over",
    ]
    if result.request_rate != "inf" and result.max_concurrency is not None:
        losses.append(f"at most {result.max_concurrency} requests were in flight; others waited in the client")
    return losses
