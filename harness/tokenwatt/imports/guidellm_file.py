"""What is read of guidellm's report."""

from __future__ import annotations

from pydantic import Field

from tokenwatt.imports.document import Count, NonNegativeNumber, Number, Part, PositiveCount, PositiveNumber


class Percentiles(Part):
    """Of a distribution."""

    p90: NonNegativeNumber
    p95: NonNegativeNumber
    p99: NonNegativeNumber
    p999: NonNegativeNumber


class Distribution(Part):
    """Zeros where it counts nothing."""

    mean: NonNegativeNumber
    median: NonNegativeNumber
    count: Count
    total_sum: NonNegativeNumber
    percentiles: Percentiles


class Successful(Part):
    """A metric over the requests that were answered in full."""

    successful: Distribution


class Totals(Part):
    """Requests by their end."""

    successful: Count
    errored: Count
    incomplete: Count


class Metrics(Part):
    """Of one benchmark."""

    request_totals: Totals
    prompt_token_count: Successful
    output_token_count: Successful
    request_latency: Successful
    time_to_first_token_ms: Successful
    inter_token_latency_ms: Successful


class Strategy(Part):
    """When requests were sent."""

    type_: str
    streams: PositiveCount | None = None
    rate: PositiveNumber | None = None
    max_concurrency: PositiveCount | None = None
    rampup_duration: NonNegativeNumber | None = None


class BackendConfig(Part):
    """Whom they were sent to."""

    model: str | None = None


class BenchmarkConfig(Part):
    """What was asked for."""

    strategy: Strategy
    backend: BackendConfig = BackendConfig()


class Timings(Part):
    """Moments of a request, seconds since 1970."""

    targeted_start: Number | None = None
    request_start: Number | None = None
    first_token_iteration: Number | None = None
    last_token_iteration: Number | None = None


class Info(Part):
    """How a request went."""

    conversation_id: str | None = None
    turn_index: Count = 0
    timings: Timings
    error: str | None = None


class Request(Part):
    """One request."""

    info: Info
    prompt_tokens: Count | None = None
    output_tokens: Count | None = None
    inter_token_latency_ms: NonNegativeNumber | None = None


class Requests(Part):
    """Requests by their end; a sample of them where the tool was told so."""

    successful: list[Request]
    errored: list[Request]
    incomplete: list[Request]


class Benchmark(Part):
    """One rate, or one number of streams."""

    config: BenchmarkConfig
    metrics: Metrics
    requests: Requests
    start_time: PositiveNumber
    duration: PositiveNumber


class Origin(Part):
    """Who wrote the report."""

    version: int
    guidellm_version: str


class Head(Part):
    """What tells whether the rest can be read."""

    metadata: Origin


class Report(Head):
    """The object."""

    benchmarks: list[Benchmark] = Field(min_length=1)
