"""AIPerf: `profile_export_aiperf.json`, and the requests of `profile_export.jsonl` beside it.

Definitions by https://docs.nvidia.com/aiperf/reference/ai-perf-metrics-reference: `time_to_first_token` runs from the
sending of a request to its first content; `inter_token_latency` is a mean for each request, (latency - TTFT) / (output
tokens - 1), which is our TPOT; `inter_chunk_latency` is the gap between chunks, which is our ITL. Its own count of
output tokens is that of the text, tokenised again; the server's usage stands beside it.
"""

from __future__ import annotations

from typing import Any

from tokenwatt.errors import UserError
from tokenwatt.imports import columns, latencies
from tokenwatt.imports.aiperf_file import Duration, Export, Line, Phase
from tokenwatt.imports.document import parse
from tokenwatt.imports.source import Given, Imported, Source
from tokenwatt.record import Measurement, RequestRecord, RequestStatus

SECONDS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "sec": 1.0}
"""Seconds of each unit of time that it writes."""
TAGS = {
    "ttft": "time_to_first_token",
    "tpot": "inter_token_latency",
    "itl": "inter_chunk_latency",
    "e2el": "request_latency",
}
"""Our latency -> its metric."""
NS = 1e-9
"""Seconds of a nanosecond."""


def matches(document: Any) -> bool:
    """Whether a JSON value looks like AIPerf's export."""
    return isinstance(document, dict) and document.keys() >= {"aiperf_version", "input_config"}


def records_name(name: str) -> str:
    """Name of the file of requests that lies beside an export.

    >>> records_name("profile_export_aiperf.json"), records_name("mine.json")
    ('profile_export.jsonl', 'mine.jsonl')
    """
    return name.removesuffix(".json").removesuffix("_aiperf") + ".jsonl"


def read(source: Source, given: Given) -> Imported:
    """One row, and its requests where they were recorded.

    Raises:
        UserError: a key is missing, mistyped or contradicts another, or the requests are those of another run.
    """
    export = parse(Export, source.document, source.where)
    lines = _lines(export, source)
    found = _columns(export, lines, source)
    losses = _losses(export, lines)
    if export.request_count.avg == 0:
        detail = next((line.error.message for line in lines if line.error), None)
        row = columns.measurement(source, given, 0, losses, columns.without_answers(found, detail))
    else:
        row = columns.measurement(source, given, 0, losses, found)
    return Imported([row], _requests(lines, row))


def _lines(export: Export, source: Source) -> list[Line]:
    """Requests of the measured phase; none without their file."""
    if source.lines is None:
        return []
    parsed = [
        parse(Line, line, f"{source.lines_where}: line {number}") for number, line in enumerate(source.lines, start=1)
    ]
    lines = [line for line in parsed if line.metadata.benchmark_phase == "profiling"]
    answered, told = sum(_is_answered(line) for line in lines), int(export.request_count.avg)
    if answered != told:
        raise UserError(
            f"{source.lines_where}: holds {answered} answered requests, {source.where} says {told};"
            " they are of two runs: move one of them away"
        )
    return lines


def _is_answered(line: Line) -> bool:
    return line.error is None and not line.metadata.was_cancelled


def _columns(export: Export, lines: list[Line], source: Source) -> dict[str, Any]:
    completed = int(export.request_count.avg)
    tokens = _output_tokens(export)
    inputs = None if export.total_isl is None else int(export.total_isl.avg)
    if tokens is None and completed:
        raise UserError(f"{source.where}: $.total_osl: is missing, and so is $.total_usage_completion_tokens")
    return {
        "imported_from": f"AIPerf {export.aiperf_version}",
        "model": export.input_config.models.items[0].name,
        "measured_at": export.start_time and columns.moment(export.start_time, None, source, "$.start_time"),
        **_load(export, source),
        "window_s": export.benchmark_duration.avg * SECONDS[export.benchmark_duration.unit],
        "requests_completed": completed,
        "requests_failed": 0 if export.error_request_count is None else int(export.error_request_count.avg),
        "input_tokens": inputs,
        "output_tokens": tokens,
        "isl": None if inputs is None or not completed else inputs / completed,
        "osl": None if tokens is None or not completed else tokens / completed,
        **latencies.completed(_told(export), _values_s(lines)),
    }


def _has_usage(export: Export) -> bool:
    """Whether the server told the output tokens of every answered request."""
    usage, total = export.usage_completion_tokens, export.total_usage_completion_tokens
    return usage is not None and total is not None and usage.count == int(export.request_count.avg)


def _output_tokens(export: Export) -> int | None:
    total = export.total_usage_completion_tokens if _has_usage(export) else export.total_osl
    return None if total is None else int(total.avg)


def _phase(export: Export) -> Phase:
    """The measured phase: the last that is not a warm-up."""
    measured = [phase for phase in export.input_config.phases if phase.kind != "warmup"]
    return (measured or export.input_config.phases)[-1]


def _load(export: Export, source: Source) -> dict[str, Any]:
    phase = _phase(export)
    if phase.type == "concurrency" and phase.concurrency is not None:
        return {"load": "closed", "concurrency": phase.concurrency}
    if phase.type in ("poisson", "gamma", "constant") and phase.rate is not None:
        shapes = {"poisson": 1.0, "gamma": phase.smoothness, "constant": float("inf")}
        return {"load": "open", "request_rate_per_s": phase.rate, "burstiness": shapes[phase.type]}
    if phase.type == "fixed_schedule":
        return {"load": "replay"}
    raise UserError(
        f"{source.where}: $.input_config.phases: found type {phase.type!r}, expected concurrency with its number,"
        " poisson, gamma or constant with its rate, or fixed_schedule"
    )


def _told(export: Export) -> dict[str, float | None]:
    told = dict[str, float | None]()
    for metric, tag in TAGS.items():
        found: Duration | None = getattr(export, tag)
        if found is None:
            continue
        values = {"mean": found.avg, "median": found.p50, "p90": found.p90, "p95": found.p95, "p99": found.p99}
        for statistic, value in values.items():
            told[latencies.column(metric, statistic)] = None if value is None else value * SECONDS[found.unit]
    return told


def _seconds(line: Line, tag: str) -> list[float]:
    """Values of a metric of time of one request; none where it has none."""
    found = line.metrics.get(tag)
    if found is None or found.unit not in SECONDS:
        return []
    values = found.value if isinstance(found.value, list) else [found.value]
    return [value * SECONDS[found.unit] for value in values]


def _values_s(lines: list[Line]) -> dict[str, list[float]]:
    return {
        metric: [value for line in lines if _is_answered(line) for value in _seconds(line, tag)]
        for metric, tag in TAGS.items()
    }


def _count(line: Line, *tags: str) -> int | None:
    """The first of these metrics that a request has."""
    values = (line.metrics[tag].value for tag in tags if tag in line.metrics)
    return next((int(value) for value in values if not isinstance(value, list)), None)


def _losses(export: Export, lines: list[Line]) -> list[str]:
    losses = [
        columns.NO_MACHINE,
        columns.WHOLE_RUN,
        columns.NO_BUDGETS,
        "GPU telemetry is not read: it is another file, and no energy of this window",
        "tpot is its inter_token_latency, itl its inter_chunk_latency",
        "the workload, its seed and its sampling are not carried over",
        "start_time has no zone; measured_at has it as if it were UTC",
    ]
    if _has_usage(export) and export.total_osl is not None:
        losses.append(
            f"output_tokens is the server's usage; AIPerf itself counts {int(export.total_osl.avg)} by tokenising the"
            " text again, and its tpot uses that count"
        )
    elif export.total_osl is not None:
        losses.append("output_tokens is the text tokenised again: the server told no usage")
    if not lines:
        losses.append("requests one by one, and p99.9, are not in the file (--export-level records would write them)")
    if export.was_cancelled:
        losses.append("the run was cancelled before its end")
    return losses


def _requests(lines: list[Line], row: Measurement) -> list[RequestRecord]:
    """Requests on a clock that begins when the first of them was due; due is when the tool issued its credit."""
    if not lines:
        return []
    conversations = {name: place for place, name in enumerate(dict.fromkeys(map(_conversation, lines)))}
    zero_ns = min(_due_ns(line, row) for line in lines)
    return [_request(row, index, line, conversations, zero_ns) for index, line in enumerate(lines)]


def _conversation(line: Line) -> str:
    return line.metadata.conversation_id or str(line.metadata.request_start_ns)


def _due_ns(line: Line, row: Measurement) -> int:
    """In a closed load a request is due when it is sent."""
    issued = line.metadata.credit_issued_ns
    return line.metadata.request_start_ns if issued is None or row.load == "closed" else issued


def _request(row: Measurement, index: int, line: Line, places: dict[str, int], zero_ns: int) -> RequestRecord:
    sent_s = (line.metadata.request_start_ns - zero_ns) * NS
    ttft, latency = (_seconds(line, TAGS[metric]) for metric in ("ttft", "e2el"))
    status = RequestStatus.COMPLETE
    if line.error is not None:
        status = columns.failure(line.error.code)
    elif line.metadata.was_cancelled:
        status = RequestStatus.CUT
    return columns.request(
        row,
        index,
        conversation=places[_conversation(line)],
        turn=line.metadata.turn_index,
        isl=_count(line, "input_sequence_length", "error_isl"),
        output_tokens=_count(line, "usage_completion_tokens", "output_sequence_length") or 0,
        due_s=(_due_ns(line, row) - zero_ns) * NS,
        sent_s=sent_s,
        first_token_s=sent_s + ttft[0] if ttft else None,
        last_token_s=sent_s + latency[0] if ttft and latency else None,
        status=status,
        detail=line.error.message if line.error else None,
    )
