"""What is read of AIPerf's files: the export, and a line of the file of requests."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tokenwatt.imports.document import (
    Count,
    Nanoseconds,
    NonNegativeNumber,
    Number,
    Part,
    PositiveCount,
    PositiveNumber,
)


class Duration(Part):
    """A metric of time; of a distribution it has more than the mean."""

    unit: Literal["ns", "us", "ms", "sec"]
    avg: NonNegativeNumber
    p50: NonNegativeNumber | None = None
    p90: NonNegativeNumber | None = None
    p95: NonNegativeNumber | None = None
    p99: NonNegativeNumber | None = None


class Counted(Part):
    """A metric that counts."""

    avg: NonNegativeNumber
    count: Count | None = None


class Phase(Part):
    """How requests were sent."""

    kind: str | None = None
    type: str
    concurrency: PositiveCount | None = None
    rate: PositiveNumber | None = None
    smoothness: PositiveNumber | None = None


class Model(Part):
    """A model that was asked."""

    name: str


class Models(Part):
    """All of them."""

    items: list[Model] = Field(min_length=1)


class Config(Part):
    """What the tool was asked for."""

    models: Models
    phases: list[Phase] = Field(min_length=1)


class Export(Part):
    """The object."""

    aiperf_version: str
    input_config: Config
    start_time: str | None = None
    was_cancelled: bool = False
    benchmark_duration: Duration
    request_count: Counted
    error_request_count: Counted | None = None
    input_sequence_length: Counted | None = None
    total_isl: Counted | None = None
    total_osl: Counted | None = None
    usage_completion_tokens: Counted | None = None
    total_usage_completion_tokens: Counted | None = None
    time_to_first_token: Duration | None = None
    inter_token_latency: Duration | None = None
    inter_chunk_latency: Duration | None = None
    request_latency: Duration | None = None


class Value(Part):
    """A metric of one request."""

    value: Number | list[Number]
    unit: str


class Metadata(Part):
    """When a request was sent, and what it was."""

    conversation_id: str | None = None
    turn_index: Count = 0
    credit_issued_ns: Nanoseconds | None = None
    request_start_ns: Nanoseconds
    benchmark_phase: str
    was_cancelled: bool = False


class Failure(Part):
    """What went wrong with a request."""

    code: int | None = None
    message: str = ""


class Line(Part):
    """One request."""

    metadata: Metadata
    metrics: dict[str, Value]
    error: Failure | None = None
