"""`vllm bench serve --save-result`: one object, and with `--save-detailed` a list entry for each request.

Definitions by its `calculate_metrics` and `RequestFuncOutput`
(https://github.com/vllm-project/vllm/blob/main/vllm/benchmarks/serve.py, .../lib/endpoint_request_func.py):
TTFT runs from the sending of a request to its first chunk; TPOT is (latency - TTFT) / (output tokens - 1), as ours; ITL
is the gap between chunks, as ours. Output tokens are the server's usage, or the text tokenised again without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from tokenwatt.imports import columns, latencies
from tokenwatt.imports.document import (
    Count,
    NonNegativeNumber,
    Number,
    Part,
    PositiveCount,
    PositiveNumber,
    at_most_sent,
    parse,
    same_lengths,
)
from tokenwatt.imports.source import Given, Imported, Source
from tokenwatt.record import Measurement, RequestRecord, RequestStatus

MARKS = frozenset({"backend", "model_id", "num_prompts", "request_throughput", "total_output_tokens"})
"""Keys that this format has together and no other that is read here."""

Summary = latencies.summary_model(lambda metric, statistic: f"{statistic.replace('_', '.')}_{metric}_ms")
"""Keys such as `median_ttft_ms` and `p99.9_itl_ms`."""


class Bench(Part):
    """The object; lists are there with `--save-detailed`, two of them always."""

    date: str
    model_id: str
    num_prompts: Count
    """Requests asked for; with 0 some data sets send all that they have."""
    request_rate: PositiveNumber | Literal["inf"]
    burstiness: PositiveNumber | None = None
    max_concurrency: PositiveCount | None
    ramp_up_strategy: str | None = None
    ramp_up_start_rps: NonNegativeNumber | None = None
    ramp_up_end_rps: PositiveNumber | None = None
    duration: PositiveNumber
    completed: Count
    failed: Count | None = None
    total_input_tokens: Count
    total_output_tokens: Count
    request_goodput: NonNegativeNumber | None = None
    input_lens: list[Count] | None = None
    output_lens: list[Count] | None = None
    ttfts: list[NonNegativeNumber] | None = None
    itls: list[list[NonNegativeNumber]] | None = None
    latencies: list[NonNegativeNumber] | None = None
    start_times: list[Number] | None = None
    queue_times: list[Number] | None = None
    errors: list[str] | None = None


def matches(document: Any) -> bool:
    """Whether a JSON value looks like a result of `vllm bench serve`."""
    return isinstance(document, dict) and document.keys() >= MARKS


def read(source: Source, given: Given) -> Imported:
    """One row, and its requests where they are told.

    Raises:
        UserError: a key is missing, mistyped or contradicts another.
    """
    bench = parse(Bench, source.document, source.where)
    if bench.num_prompts:
        at_most_sent(bench.completed, bench.failed, bench.num_prompts, source.where)
    lists = {name: getattr(bench, name) for name in ("input_lens", "output_lens", "ttfts", "itls", "errors")}
    if bench.errors is not None:
        lists |= {name: getattr(bench, name) for name in ("latencies", "start_times", "queue_times")}
    same_lengths(lists, source.where)
    found = _columns(bench, source)
    if bench.completed == 0:
        detail = next(filter(None, bench.errors or []), None)
        row = columns.measurement(source, given, 0, _losses(bench), columns.without_answers(found, detail))
    else:
        row = columns.measurement(source, given, 0, _losses(bench), found)
    return Imported([row], _requests(bench, row))


def _columns(bench: Bench, source: Source) -> dict[str, Any]:
    return {
        "imported_from": "vllm bench",
        "model": bench.model_id,
        "measured_at": columns.moment(bench.date, "%Y%m%d-%H%M%S", source, "$.date"),
        **_load(bench),
        "window_s": bench.duration,
        "requests_completed": bench.completed,
        "requests_failed": _failed(bench),
        "input_tokens": bench.total_input_tokens,
        "output_tokens": bench.total_output_tokens,
        "isl": bench.total_input_tokens / max(bench.completed, 1),
        "osl": bench.total_output_tokens / max(bench.completed, 1),
        **_latencies(bench, source),
    }


def _failed(bench: Bench) -> int | None:
    """Older files do not count failed requests; without a number of prompts nobody knows it."""
    if bench.failed is None and bench.num_prompts:
        return bench.num_prompts - bench.completed
    return bench.failed


def _load(bench: Bench) -> dict[str, Any]:
    """A finite rate is an open load, an endless one with a bound of requests in flight a closed one, else offline."""
    if bench.ramp_up_strategy is not None:
        return {"load": "open", "burstiness": bench.burstiness}
    if bench.request_rate != "inf":
        return {"load": "open", "request_rate_per_s": bench.request_rate, "burstiness": bench.burstiness}
    if bench.max_concurrency is not None:
        return {"load": "closed", "concurrency": bench.max_concurrency}
    return {"load": "offline", "requests_at_once": bench.num_prompts}


def _latencies(bench: Bench, source: Source) -> dict[str, float | None]:
    """In seconds. The tool writes zeros where it has no value to average; a mean of 0 is no latency."""
    told = latencies.told(parse(Summary, source.document, source.where), latencies.MS)
    for metric in latencies.METRICS:
        if not told[latencies.column(metric, "mean")]:
            told |= latencies.computed(metric, ())
    return latencies.completed(told, _values_s(bench))


def _values_s(bench: Bench) -> dict[str, list[float]]:
    """Single values of the requests that were answered. Without `--save-detailed`, latencies are of those alone."""
    if bench.errors is None or bench.output_lens is None:
        return {} if bench.latencies is None else {"e2el": bench.latencies}
    lengths = dict(enumerate(bench.output_lens))
    answered = [index for index, length in lengths.items() if length and not bench.errors[index]]
    values = dict[str, list[float]]()
    if bench.ttfts is not None:
        values["ttft"] = [bench.ttfts[index] for index in answered]
    if bench.itls is not None:
        values["itl"] = [gap for index in answered for gap in bench.itls[index]]
    if bench.latencies is not None:
        values["e2el"] = [bench.latencies[index] for index in answered]
    if bench.ttfts is not None and bench.latencies is not None:
        spans_s = {index: bench.latencies[index] - bench.ttfts[index] for index in answered}
        values["tpot"] = [span_s / (lengths[index] - 1) for index, span_s in spans_s.items() if lengths[index] > 1]
    return values


def _losses(bench: Bench) -> list[str]:
    losses = [
        "the file does not say which vLLM wrote it",
        columns.NO_MACHINE,
        columns.NO_ENERGY,
        columns.WHOLE_RUN,
        columns.NO_BUDGETS,
        "its date is a local time without a zone, written at the end; measured_at has it as if it were UTC",
        "the workload, its seed and its sampling are not in the file",
    ]
    if bench.ramp_up_strategy is not None:
        rise = f"from {bench.ramp_up_start_rps} to {bench.ramp_up_end_rps} requests/s ({bench.ramp_up_strategy})"
        losses.append(f"the rate rose {rise} through the run, so the row has none")
    if _load(bench)["load"] == "open" and bench.max_concurrency is not None:
        losses.append(f"at most {bench.max_concurrency} requests were in flight; others waited in the client")
    if bench.request_goodput is not None:
        losses.append(
            f"its goodput, {bench.request_goodput:g} requests/s, has no column: the limits are not in the file"
        )
    if not _sent(bench):
        losses.append("requests one by one are not in the file (--save-detailed would write them)")
    return losses


@dataclass(frozen=True, slots=True)
class Sent:
    """One request, on the clock of the client."""

    start_s: float
    wait_s: float
    """How long it waited in the client before it was sent."""
    ttft_s: float
    latency_s: float
    isl: int
    output_tokens: int
    error: str

    @property
    def is_answered(self) -> bool:
        """A failed request has an output length of 0 and mostly, but not always, an error."""
        return self.output_tokens > 0 and not self.error


def _sent(bench: Bench) -> list[Sent]:
    """Every request; empty without `--save-detailed`, or where an older version tells less."""
    starts, ttfts, ends = bench.start_times, bench.ttfts, bench.latencies
    inputs, outputs, errors = bench.input_lens, bench.output_lens, bench.errors
    if starts is None or ttfts is None or ends is None or inputs is None or outputs is None or errors is None:
        return []
    waits = bench.queue_times or [0.0] * len(starts)
    return [Sent(*values) for values in zip(starts, waits, ttfts, ends, inputs, outputs, errors, strict=True)]


def _requests(bench: Bench, row: Measurement) -> list[RequestRecord]:
    """Requests on a clock that begins when the first of them was due: in a closed load, when it was sent."""
    requests = _sent(bench)
    dues_s = [request.start_s - (0.0 if row.load == "closed" else request.wait_s) for request in requests]
    zero_s = min(dues_s, default=0.0)
    return [
        _request(row, index, request, due_s - zero_s, request.start_s - zero_s)
        for index, (request, due_s) in enumerate(zip(requests, dues_s, strict=True))
    ]


def _request(row: Measurement, index: int, request: Sent, due_s: float, sent_s: float) -> RequestRecord:
    is_answered = request.is_answered
    return columns.request(
        row,
        index,
        isl=request.isl,
        output_tokens=request.output_tokens,
        due_s=due_s,
        sent_s=sent_s,
        first_token_s=sent_s + request.ttft_s if is_answered else None,
        last_token_s=sent_s + request.latency_s if is_answered else None,
        status=RequestStatus.COMPLETE if is_answered else columns.failure(columns.phrase_code(request.error)),
        detail=request.error or None,
    )
