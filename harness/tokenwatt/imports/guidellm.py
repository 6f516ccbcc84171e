"""guidellm: `benchmarks.json`, report version 2: one benchmark for each rate or number of streams, with its requests.

Definitions by https://github.com/vllm-project/guidellm/blob/main/docs/guides/metrics.md and the properties of its
`GenerativeRequestStats`: TTFT runs from the sending of a request to its first token; `inter_token_latency_ms` is a mean
for each request, (last token - first token) / (output tokens - 1), which is our TPOT, and its distribution counts a
request as often as it has such tokens; `time_per_output_token_ms` has the first token inside it and is no column here;
gaps between chunks are not kept; `request_latency` ends when the response is closed.
"""

from __future__ import annotations

from typing import Any

from tokenwatt.errors import UserError
from tokenwatt.imports import columns, latencies
from tokenwatt.imports.document import parse
from tokenwatt.imports.guidellm_file import Benchmark, Distribution, Head, Report, Request
from tokenwatt.imports.source import Given, Imported, Source
from tokenwatt.record import Measurement, RequestRecord, RequestStatus

REPORT_VERSION = 2
"""Of the layout that is read here; guidellm 0.8 writes it."""


def matches(document: Any) -> bool:
    """Whether a JSON value looks like guidellm's report."""
    metadata = document.get("metadata") if isinstance(document, dict) else None
    return isinstance(metadata, dict) and "guidellm_version" in metadata


def read(source: Source, given: Given) -> Imported:
    """One row for each benchmark, and its requests.

    Raises:
        UserError: another version of the report, or a key that is missing, mistyped or contradicts another.
    """
    origin = parse(Head, source.document, source.where).metadata
    if origin.version != REPORT_VERSION:
        raise UserError(
            f"{source.where}: $.metadata.version: found {origin.version}, expected {REPORT_VERSION}; write the report"
            " again with guidellm 0.8"
        )
    report = parse(Report, source.document, source.where)
    imported = Imported([], [])
    for index, benchmark in enumerate(report.benchmarks):
        row = _row(benchmark, f"guidellm {origin.guidellm_version}", index, source, given)
        imported.measurements.append(row)
        imported.requests.extend(_requests(benchmark, row))
    return imported


def _row(benchmark: Benchmark, tool: str, index: int, source: Source, given: Given) -> Measurement:
    metrics, totals = benchmark.metrics, benchmark.metrics.request_totals
    inputs, outputs = metrics.prompt_token_count.successful, metrics.output_token_count.successful
    began_at = columns.epoch(benchmark.start_time, source, f"$.benchmarks[{index}].start_time")
    found = {
        "imported_from": tool,
        "model": benchmark.config.backend.model or None,
        "measured_at": began_at,
        "run_began_at": began_at,
        "ramp_s": benchmark.config.strategy.rampup_duration,
        **_load(benchmark, f"$.benchmarks[{index}].config.strategy", source),
        "window_s": benchmark.duration,
        "requests_completed": totals.successful,
        "requests_failed": totals.errored,
        "input_tokens": round(inputs.total_sum),
        "output_tokens": round(outputs.total_sum),
        "isl": inputs.mean if inputs.count else None,
        "osl": outputs.mean if outputs.count else None,
        **_latencies(benchmark),
    }
    if totals.successful == 0:
        detail = next((request.info.error for request in benchmark.requests.errored if request.info.error), None)
        found = columns.without_answers(found, detail)
    return columns.measurement(source, given, index, _losses(benchmark), found)


def _load(benchmark: Benchmark, place: str, source: Source) -> dict[str, Any]:
    strategy = benchmark.config.strategy
    totals = benchmark.metrics.request_totals
    if strategy.type_ == "synchronous":
        return {"load": "closed", "concurrency": 1}
    if strategy.type_ == "concurrent" and strategy.streams is not None:
        return {"load": "closed", "concurrency": strategy.streams}
    if strategy.type_ in ("constant", "poisson") and strategy.rate is not None:
        burstiness = 1.0 if strategy.type_ == "poisson" else float("inf")
        return {"load": "open", "request_rate_per_s": strategy.rate, "burstiness": burstiness}
    if strategy.type_ == "throughput":
        return {"load": "offline", "requests_at_once": totals.successful + totals.errored + totals.incomplete}
    raise UserError(
        f"{source.where}: {place}: found type_ {strategy.type_!r}, expected synchronous, concurrent with streams,"
        " constant or poisson with a rate, or throughput"
    )


def _told(metric: str, found: Distribution, scale: float) -> dict[str, float | None]:
    if not found.count:
        return latencies.computed(metric, ())
    shares = found.percentiles
    values = (found.mean, found.median, shares.p90, shares.p95, shares.p99, shares.p999)
    return {
        latencies.column(metric, statistic): value * scale
        for statistic, value in zip(latencies.STATISTICS, values, strict=True)
    }


def _latencies(benchmark: Benchmark) -> dict[str, float | None]:
    metrics = benchmark.metrics
    tpot = latencies.computed("tpot", _tpots_s(benchmark))
    if not _is_complete(benchmark):
        tpot = _told("tpot", metrics.inter_token_latency_ms.successful, latencies.MS)
    return {
        **_told("ttft", metrics.time_to_first_token_ms.successful, latencies.MS),
        **tpot,
        **_told("e2el", metrics.request_latency.successful, 1.0),
    }


def _is_complete(benchmark: Benchmark) -> bool:
    """Whether every answered request is in the file, not a sample of them."""
    return len(benchmark.requests.successful) == benchmark.metrics.request_totals.successful


def _tpots_s(benchmark: Benchmark) -> list[float]:
    """One value a request, as our TPOT is counted."""
    told_ms = (request.inter_token_latency_ms for request in benchmark.requests.successful)
    return [value_ms * latencies.MS for value_ms in told_ms if value_ms is not None]


def _losses(benchmark: Benchmark) -> list[str]:
    losses = [
        columns.NO_MACHINE,
        columns.NO_ENERGY,
        "the window runs from the first request's start to the last one's end, unless a warm-up was asked for; nobody"
        " tested whether it is steady",
        columns.NO_BUDGETS,
        "itl is unknown: gaps between chunks are not in the file",
        "e2el ends when the response was closed, a little after its last token",
        "percentiles of ttft and e2el are observed values, not interpolated between two",
        "the workload, its seed and its sampling are not carried over",
    ]
    if _is_complete(benchmark):
        losses.append(
            "tpot is computed from requests, each counted once; guidellm counts each as often as it has tokens"
        )
    else:
        losses.append(
            "tpot is its inter_token_latency, which counts a request as often as it has tokens; the file holds a"
            " sample of the requests"
        )
    cut = benchmark.metrics.request_totals.incomplete
    if cut:
        losses.append(f"{cut} requests were in flight at its end, neither complete nor failed")
    if benchmark.config.strategy.type_ == "throughput" and benchmark.config.strategy.max_concurrency is not None:
        losses.append(f"at most {benchmark.config.strategy.max_concurrency} requests were in flight at a time")
    return losses


def _requests(benchmark: Benchmark, row: Measurement) -> list[RequestRecord]:
    """Requests that were sent, in the order of their sending, on a clock that begins with the benchmark."""
    ends = (
        (benchmark.requests.successful, RequestStatus.COMPLETE),
        (benchmark.requests.errored, RequestStatus.FAILED),
        (benchmark.requests.incomplete, RequestStatus.CUT),
    )
    sent = [
        (request.info.timings.request_start, status, request)
        for requests, status in ends
        for request in requests
        if request.info.timings.request_start is not None
    ]
    sent.sort(key=lambda entry: entry[0])
    names = dict.fromkeys(request.info.conversation_id or str(sent_at) for sent_at, _, request in sent)
    places = {name: place for place, name in enumerate(names)}
    return [_request(row, index, entry, places, benchmark.start_time) for index, entry in enumerate(sent)]


def _request(
    row: Measurement, index: int, entry: tuple[float, RequestStatus, Request], places: dict[str, int], zero_s: float
) -> RequestRecord:
    sent_at, status, request = entry
    timings = request.info.timings
    due_at = sent_at if row.load != "open" or timings.targeted_start is None else timings.targeted_start
    first, last = timings.first_token_iteration, timings.last_token_iteration
    return columns.request(
        row,
        index,
        conversation=places[request.info.conversation_id or str(sent_at)],
        turn=request.info.turn_index,
        isl=request.prompt_tokens,
        output_tokens=request.output_tokens or 0,
        due_s=due_at - zero_s,
        sent_s=sent_at - zero_s,
        first_token_s=None if first is None else first - zero_s,
        last_token_s=None if last is None else last - zero_s,
        status=status,
        detail=request.info.error,
    )
