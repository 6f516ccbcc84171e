"""What a row is: one declaration gives validation, the Arrow schema (`schema`) and the data dictionary.

The attribute docstring is the column's description, `Annotated[..., Unit(...)]` its unit. Every numeric column has one.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, ClassVar, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, model_validator

from tokenwatt.units import Unit

SCHEMA_VERSION = 2
"""Meaning of the columns. Raise it when one changes, and write the migration into `store`."""

Phase = Literal["mixed", "prefill", "decode"]
"""What the requests of a window are."""
LoadKind = Literal["closed", "open", "replay", "offline"]
"""When requests are sent."""
LOAD_COLUMNS: dict[LoadKind, str] = {
    "closed": "concurrency",
    "open": "request_rate_per_s",
    "replay": "replay_speed",
    "offline": "requests_at_once",
}
"""The column that says how much of a load there was, by its kind."""
LOAD_WORDS: dict[LoadKind, str] = {
    "closed": "x{:g}",
    "open": "{:g} req/s",
    "replay": "replay x{:g}",
    "offline": "{:g} at once",
}
"""The same in words."""

AccuracyStatus = Literal["agrees", "disagrees", "not_checked", "not_applicable"]
"""What is known of an engine's answers."""

Seconds = Annotated[float, Unit("s")]
Joules = Annotated[float, Unit("J")]
Watts = Annotated[float, Unit("W")]
Hertz = Annotated[float, Unit("Hz")]
Celsius = Annotated[float, Unit("Cel")]
Ratio = Annotated[float, Unit("1")]
Index = Annotated[int, Unit("1")]
Tokens = Annotated[int, Unit("token")]
MeanTokens = Annotated[float, Unit("token")]
Requests = Annotated[int, Unit("request")]
MeanRequests = Annotated[float, Unit("request")]
Count = Annotated[int, Unit("1")]
Bytes = Annotated[int, Unit("byte")]
BytesPerSecond = Annotated[float, Unit("byte/s")]
Flop = Annotated[int, Unit("flop")]
FlopPerSecond = Annotated[float, Unit("flop/s")]
TokensPerSecond = Annotated[float, Unit("token/s")]
RequestsPerSecond = Annotated[float, Unit("request/s")]
Quantity = Annotated[float, Unit("1")]


class Status(StrEnum):
    """How a measurement ended. Only `ok` carries numbers."""

    OK = "ok"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


class EnergyStatus(StrEnum):
    """How far an energy figure can be trusted. Only `valid` and `suspect` carry joules."""

    VALID = "valid"
    SUSPECT = "suspect"
    INVALID = "invalid"
    NO_METER = "no_meter"


WORST_FIRST = (EnergyStatus.INVALID, EnergyStatus.NO_METER, EnergyStatus.SUSPECT, EnergyStatus.VALID)
"""What several windows are worth together is the first of these that one of them has."""


class Reason(StrEnum):
    """Why a row is not `ok`, not stable, or its energy not `valid`: a closed list."""

    ENGINE_ERROR = "engine_error"
    METER_ERROR = "meter_error"
    INTERRUPTED = "interrupted"
    NO_STEADY_WINDOW = "no_steady_window"
    WINDOW_TOO_SHORT = "window_too_short"
    TOO_FEW_RUNNING = "too_few_running"
    TOKEN_RATE_DRIFTS = "token_rate_drifts"
    POWER_DRIFTS = "power_drifts"
    NOT_CONVERGED = "not_converged"
    TOO_FEW_TOKENS = "too_few_tokens"
    NO_REQUEST_COMPLETED = "no_request_completed"
    EDGE_NOT_BRACKETED = "edge_not_bracketed"
    SAMPLE_GAP = "sample_gap"
    CLOCK_STEPPED_BACK = "clock_stepped_back"
    CLOCKS_APART = "clocks_apart"
    INSTRUMENTS_DISAGREE = "instruments_disagree"
    COUNTER_MISSING = "counter_missing"
    COUNTER_STUCK = "counter_stuck"
    COUNTER_RESET = "counter_reset"
    POWER_MISSING = "power_missing"
    POWER_STUCK = "power_stuck"
    TRAILING_AVERAGE = "trailing_average"
    MODULE_SCOPE = "module_scope"
    MIG = "mig"
    WRONG_GPU_COUNT = "wrong_gpu_count"
    OTHER_PROCESS = "other_process"
    CAP_BELOW_DEFAULT = "cap_below_default"
    CAP_CHANGED = "cap_changed"
    THROTTLED = "throttled"
    HOST_BOUND = "host_bound"
    CLIENT_BOUND = "client_bound"
    REQUESTS_FAILED = "requests_failed"
    QUEUE_GROWS = "queue_grows"
    IMPORTED = "imported"
    ACCURACY = "accuracy"


class RequestStatus(StrEnum):
    """How a request ended: a closed list."""

    COMPLETE = "complete"
    """All of its answer came."""
    CUT = "cut"
    """It was in flight when the run stopped watching."""
    REFUSED = "refused"
    """The engine cannot serve it: too long, or tokens that it does not know."""
    UNREACHABLE = "unreachable"
    """No connection to the server."""
    REJECTED = "rejected"
    """The server says that the request is wrong (HTTP 4xx): its model, its key, its form."""
    OVERLOADED = "overloaded"
    """The server has no room now (HTTP 429 or 503)."""
    SERVER_ERROR = "server_error"
    """The server failed (any other HTTP 5xx, or an error within the stream)."""
    CLOSED_EARLY = "closed_early"
    """The connection was closed before the answer was over."""
    NO_ANSWER = "no_answer"
    """Nothing came for as long as was allowed."""
    STALLED = "stalled"
    """The answer began, then nothing came for as long as was allowed."""
    MALFORMED = "malformed"
    """What came is not what the protocol says."""
    MISCOUNTED = "miscounted"
    """The server's usage is not the number of tokens that came."""
    FAILED = "failed"
    """It failed, and the tool whose result was imported does not say how."""


class Record(BaseModel):
    """Base of every row that tokenwatt writes."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)
    grain: ClassVar[str]
    """Name of the table, which is the name of its parquet file."""


class Environment(Record):
    """Where a row was measured: hardware, software and the machine's own measured ceilings."""

    grain = "environment"

    device: Literal["cuda", "cpu", "none"] | None
    """What the engine computed on; `none` for an engine that computes nothing (fake); null in an imported row."""
    gpu_name: str | None
    """Board name by NVML; null without NVML. Of an imported row, what its source or its importer calls the GPU."""
    gpu_count: Count | None
    """GPUs behind the row: the engine's, or every board of the host where the engine cannot tell; null in an imported
    row that nobody told."""
    gpu_uuids: tuple[str, ...]
    """NVML UUIDs of those GPUs."""
    gpu_driver_version: str | None
    """NVIDIA driver."""
    gpu_ecc: bool | None = None
    """Whether the memory of every GPU corrects errors; null where NVML does not say."""
    gpu_mig: bool | None = None
    """Whether a GPU is cut in slices (MIG): its power is that of all of them."""
    cpu_name: str | None
    """Processor model; null in an imported row."""
    cpu_count: Count | None
    """Processors that this process may run on; null in an imported row."""
    memory_bytes: Bytes | None
    """Host memory; null in an imported row."""
    os_name: str | None
    """Operating system and kernel release; null in an imported row."""
    python_version: str | None
    """Python; null in an imported row."""
    torch_version: str | None
    """PyTorch; null where the engine does not use it."""
    triton_version: str | None
    """Triton; null where the engine does not use it."""
    tokenwatt_version: str
    """The tokenwatt that measured the row, or imported it."""
    git_commit: str | None
    """Commit of the tokenwatt tree, with `+dirty` when files differed from it; null for an installed wheel."""
    ceiling_memory_bytes_per_s: BytesPerSecond | None
    """Memory bandwidth of the device, the better of a large copy and a large read; null where not measured."""
    ceiling_flop_per_s: FlopPerSecond | None
    """Best matmul rate of the device in the row's dtype on random data; null where not measured."""


class MeteredWindow(Environment):
    """A stretch of one run with the energy that went into it, and how far that energy can be trusted."""

    grain = "windows"

    run_id: str
    """Invocation that wrote the row; also the name of its folder."""
    measurement_id: str
    """The row's own name: `<run_id>/<index>`."""
    measured_at: datetime | None
    """UTC time at which this row's point, or contest, began; null in an imported row whose source does not say."""
    run_began_at: datetime | None
    """UTC time of zero on the run's clock; null in an imported row whose source does not say."""

    window_start_s: Seconds | None = None
    """Start of the window on the run's clock."""
    window_s: Seconds | None = None
    """Length of the window."""

    energy_status: EnergyStatus = EnergyStatus.NO_METER
    """Whether the energy can be trusted."""
    energy_reasons: tuple[Reason, ...] = ()
    """Why it is not `valid`."""
    power_scope: Literal["engine_gpus", "all_gpus"] | None = None
    """Boards inside the joules: those of the engine, or every board of the host where the engine cannot tell."""
    gpu_energy_j: Joules | None = None
    """Board energy over the window, summed over GPUs: the counter's where there is one, else the integral's."""
    gpu_energy_counter_j: Joules | None = None
    """Same by the boards' energy counters, each edge interpolated between two of their ticks."""
    gpu_energy_sampled_j: Joules | None = None
    """Same by integrating sampled instantaneous power (trapezoid)."""
    gpu_energy_relative_difference: Ratio | None = None
    """(sampled - counter) / counter."""
    gpu_energy_half_width_j: Joules | None = None
    """Half of the 95 % interval around gpu_energy_j: what the window's edges leave open between two ticks of a counter,
    or two power readings. A wrong scale of the meter itself is not in it."""
    gpu_energy_by_gpu_j: tuple[Joules, ...] = ()
    """gpu_energy_j of each GPU, in the order of gpu_uuids; empty where there is none."""
    gpu_power_peak_w: Watts | None = None
    """Highest sum of the GPUs' sampled powers in the window."""
    gpu_counter_period_s: Seconds | None = None
    """How often the energy counter is renewed, by a start-up trial: the slowest GPU's."""
    gpu_power_period_s: Seconds | None = None
    """How often the power reading is renewed, by the same trial."""
    gpu_sampling_period_s: Seconds | None = None
    """Median spacing of the readings that were really taken."""
    gpu_power_limit_w: Watts | None = None
    """Enforced power limit, summed over GPUs; the lowest seen in the window."""
    gpu_power_limit_default_w: Watts | None = None
    """Power limit that the GPUs come with, summed."""
    gpu_sm_clock_hz: Hertz | None = None
    """SM clock, mean over the window and GPUs."""
    gpu_sm_clock_min_hz: Hertz | None = None
    """SM clock, lowest seen on any GPU."""
    gpu_memory_clock_hz: Hertz | None = None
    """Memory clock, mean over the window and GPUs."""
    gpu_memory_clock_min_hz: Hertz | None = None
    """Memory clock, lowest seen on any GPU."""
    gpu_temperature_start_c: Celsius | None = None
    """Hottest GPU at the start of the window."""
    gpu_temperature_end_c: Celsius | None = None
    """Hottest GPU at the end of the window."""
    gpu_temperature_slope_c_per_s: Annotated[float, Unit("Cel/s")] | None = None
    """Straight line through the temperatures of the GPU that warms fastest."""
    gpu_other_processes: Count | None = None
    """Most processes of others seen on these GPUs at a time; null where NVML does not list them."""
    throttle_reasons: tuple[str, ...] = ()
    """NVML reasons that held clocks back at some time in the window (idle left out)."""
    cpu_energy_j: Joules | None = None
    """CPU package energy over the window by RAPL; null where it cannot be read."""
    node_meter: str | None = None
    """The meter of the whole machine that was asked for, such as `csv:rack.csv` or `ipmi`."""
    node_energy_j: Joules | None = None
    """Energy of the whole machine over the window by that meter, aligned by time of day."""
    node_energy_status: EnergyStatus = EnergyStatus.NO_METER
    """Whether node_energy_j can be trusted."""
    node_energy_reasons: tuple[Reason, ...] = ()
    """Why it is not `valid`."""

    @model_validator(mode="after")
    def _joules_agree_with_their_status(self) -> Self:
        trusted = self.energy_status in (EnergyStatus.VALID, EnergyStatus.SUSPECT)
        if trusted != (self.gpu_energy_j is not None):
            raise ValueError(f"energy_status {self.energy_status} contradicts gpu_energy_j {self.gpu_energy_j}")
        trusted = self.node_energy_status in (EnergyStatus.VALID, EnergyStatus.SUSPECT)
        if trusted != (self.node_energy_j is not None):
            raise ValueError(
                f"node_energy_status {self.node_energy_status} contradicts node_energy_j {self.node_energy_j}"
            )
        return self


class Measurement(MeteredWindow):
    """One steady window of one engine, model, workload and concurrency. A failed run is a row too, without numbers."""

    grain = "measurements"

    status: Status
    """`ok`, `failed` or `interrupted`."""
    reasons: tuple[Reason, ...] = ()
    """Why the row is not `ok` or not stable."""
    detail: str | None = None
    """The error's own words, where there are any."""

    point_id: str
    """What is measured in several windows: rows of one `point_id` differ in nothing that was asked for."""
    window_index: Index = 0
    """Position among the windows of its point."""
    phase: Phase = "mixed"
    """`mixed`: requests as the workload has them; `prefill`: their prompts alone, one token each; `decode`: sequences
    of the same mean context, of which none begins or ends in the window."""
    variant: Literal["A", "B"] | None = None
    """Side of a comparison; null outside one."""
    gpu_power_cap_w: Watts | None = None
    """Power limit that was set on each GPU for this row; null where the limit was left as it is."""
    suite: str
    """Suite that asked for the row."""
    workload: str
    """Workload name."""
    workload_sha256: str | None
    """SHA-256 over the workload's first 256 requests: equal hashes, the same sequence of prompts and budgets; null in
    an imported row."""
    engine: str
    """Engine name."""
    engine_version: str | None
    """Version of the engine; null in an imported row."""
    model: str | None
    """Architecture: a model of the library, the folder of its config.json, or its hub id; null for an engine without
    one."""
    weights_source: Literal["random", "safetensors", "none"] | None
    """Where the weights came from; null in an imported row."""
    dtype: Literal["float32", "bfloat16", "float16"] | None
    """Precision of activations, and of weights and KV cache unless the next columns say otherwise."""
    quantization: str | None = None
    """Format of projections and MLPs: `none`, `fp8`, `int4` or the engine's own word; null where it does not say."""
    kv_cache_dtype: str | None = None
    """Format of keys and values; null where the engine does not say."""
    tp: Count | None = 1
    """GPUs (or processes) that share each product: tensor parallelism; null in an imported row that does not say."""
    seed: Index | None
    """Seed of random weights; null in an imported row."""
    load: LoadKind = "closed"
    """`closed`: so many conversations are kept going; `open`: they come at a rate, whatever the engine does; `replay`:
    at the instants of a trace; `offline`: all at once."""
    concurrency: Requests | None
    """Conversations kept going; null unless the load is closed."""
    request_rate_per_s: RequestsPerSecond | None = None
    """Conversations that come a second, of an open load."""
    burstiness: Ratio | None = None
    """Of an open load: shape of the gamma distribution of its gaps; 1 is Poisson, infinity a constant gap."""
    replay_speed: Ratio | None = None
    """How many times as fast as it was recorded a trace is replayed."""
    requests_at_once: Requests | None = None
    """Conversations of an offline load."""
    ramp_s: Seconds | None = 0.0
    """Over how long a closed load begins its conversations, or an open one rises to its rate; null in an imported row
    that does not say."""
    isl: MeanTokens | None = None
    """Mean prompt length of the requests that had their first token in the window."""
    osl: MeanTokens | None = None
    """Mean output budget of those requests."""
    context: MeanTokens | None = None
    """Mean context over the window: tokens before each generated one, prompt and output."""

    is_stable: bool | None = None
    """Whether the window passes every test of steadiness; `reasons` says which it failed."""
    running: MeanRequests | None = None
    """Mean running batch of the engine over the window; below `concurrency` when requests queue inside the engine. Of a
    server, those in flight that its metrics do not say to wait in its queue."""
    in_flight: MeanRequests | None = None
    """Mean number of requests that were due and not yet answered in full, over the window."""
    requests_completed: Requests | None = None
    """Requests whose last token fell into the window."""
    input_tokens: Tokens | None = None
    """Prompt tokens of the requests whose first token fell into the window."""
    output_tokens: Tokens | None = None
    """Tokens that the engine generated in the window."""
    ttft_mean_s: Seconds | None = None
    """Time to first token from the intended send time, mean over requests first answered in the window."""
    ttft_median_s: Seconds | None = None
    """Same, median."""
    ttft_p90_s: Seconds | None = None
    """Same, 90th percentile."""
    ttft_p95_s: Seconds | None = None
    """Same, 95th percentile."""
    ttft_p99_s: Seconds | None = None
    """Same, 99th percentile."""
    ttft_p99_9_s: Seconds | None = None
    """Same, 99.9th percentile."""
    tpot_mean_s: Seconds | None = None
    """Time per output token, (e2el - ttft) / (output tokens - 1), mean over requests completed in the window."""
    tpot_median_s: Seconds | None = None
    """Same, median."""
    tpot_p90_s: Seconds | None = None
    """Same, 90th percentile."""
    tpot_p95_s: Seconds | None = None
    """Same, 95th percentile."""
    tpot_p99_s: Seconds | None = None
    """Same, 99th percentile."""
    tpot_p99_9_s: Seconds | None = None
    """Same, 99.9th percentile."""
    itl_mean_s: Seconds | None = None
    """Gap between one appearance of tokens of a request and the next, mean over gaps that end in the window."""
    itl_median_s: Seconds | None = None
    """Same, median."""
    itl_p90_s: Seconds | None = None
    """Same, 90th percentile."""
    itl_p95_s: Seconds | None = None
    """Same, 95th percentile."""
    itl_p99_s: Seconds | None = None
    """Same, 99th percentile."""
    itl_p99_9_s: Seconds | None = None
    """Same, 99.9th percentile."""
    e2el_mean_s: Seconds | None = None
    """End-to-end latency from the intended send time, mean over requests completed in the window."""
    e2el_median_s: Seconds | None = None
    """Same, median."""
    e2el_p90_s: Seconds | None = None
    """Same, 90th percentile."""
    e2el_p95_s: Seconds | None = None
    """Same, 95th percentile."""
    e2el_p99_s: Seconds | None = None
    """Same, 99th percentile."""
    e2el_p99_9_s: Seconds | None = None
    """Same, 99.9th percentile."""
    client_lag_mean_s: Seconds | None = None
    """How long after its tokens appeared an event was taken note of, mean over the window: whoever listens slowly makes
    the engine look slow. Of a server's answers, how long at most their bytes waited to be stamped."""

    flop: Annotated[float, Unit("flop")] | None = None
    """Operations that the window's steps could not avoid, by the kernels' count; null where the engine cannot say."""
    bytes: Annotated[float, Unit("byte")] | None = None
    """Bytes to and from memory that they could not avoid. Experts are counted as touched where routing is uniform."""
    prefix_cache_hit_rate: Ratio | None = None
    """Share of prompt tokens, since the run began, that were in the cache already; null without prefix caching."""
    server_output_tokens: MeanTokens | None = None
    """Tokens that a server has generated since the run began, by its own counter and for whomever."""
    client_busy: Ratio | None = None
    """Share of the window in which the process that stamps a server's answers was at work: near 1, stamps are late."""
    requests_failed: Requests | None = None
    """Requests since the run began that ended as anything but complete; the requests table says how."""
    send_lag_p99_s: Seconds | None = None
    """How long after its intended time a request went out, 99th percentile over those due in the window."""

    slo_ttft_s: Seconds | None = None
    """Longest time to first token of a good request; null where none was asked for."""
    slo_tpot_s: Seconds | None = None
    """Longest time per output token of a good request."""
    slo_e2el_s: Seconds | None = None
    """Longest end-to-end latency of a good request."""
    requests_judged: Requests | None = None
    """Requests that ended in the window, complete or failed, but for those of the ramp; null without a limit."""
    requests_within_slo: Requests | None = None
    """Those of them that are complete and kept every limit."""
    usd_per_gpu_h: Annotated[float, Unit("USD/h")] | None = None
    """Price of a GPU for an hour that the suite names."""

    accuracy_status: AccuracyStatus = "not_checked"
    """Whether the engine computes the model: `agrees` or `disagrees` with a reference engine, which is a failed row;
    `not_checked`: nobody asked, or the check failed; `not_applicable`: weights are random, so that each engine has
    others."""
    accuracy_reference: str | None = None
    """Reference engine with its version and dtype, and its weights where the suite names others than the engine's."""
    accuracy_tokens: Tokens | None = None
    """Tokens whose probabilities were compared."""
    accuracy_mean_difference: Annotated[float, Unit("nat/token")] | None = None
    """Mean over them of |log-probability by the engine - that by the reference|."""
    accuracy_perplexity: Ratio | None = None
    """exp(-mean log-probability) by the engine."""
    accuracy_reference_perplexity: Ratio | None = None
    """The same by the reference."""
    accuracy_decoded_tokens: Tokens | None = None
    """Tokens that the engine drew after prompts; null of an engine that decodes those compared, or does not tell."""
    accuracy_decode_difference: Annotated[float, Unit("nat/token")] | None = None
    """Mean over them of |log-probability as it decoded them - that as part of a prompt|, by the engine itself."""
    accuracy_detail: str | None = None
    """What was allowed, what exceeds it, why there is no check, and scores of lm-eval tasks."""

    imported_from: str | None = None
    """Tool and version whose result the row was made of; null for a row that tokenwatt measured."""
    import_losses: tuple[str, ...] = ()
    """What that result says and this row cannot hold, or needs and that result does not say."""

    gpu_idle_power_w: Watts | None = None
    """Board power before the engine was loaded, summed over GPUs."""
    gpu_idle_power_after_w: Watts | None = None
    """Board power after the engine was closed, summed over GPUs; the boards are still warm."""
    gpu_static_power_w: Watts | None = None
    """Board power with the engine loaded, its clocks up and no step running, summed over GPUs."""

    @model_validator(mode="after")
    def _only_good_rows_carry_numbers(self) -> Self:
        if self.status is not Status.OK and self.output_tokens is not None:
            raise ValueError(f"a row with status {self.status} cannot carry output_tokens")
        if self.status is Status.OK and (self.window_s is None or self.output_tokens is None):
            raise ValueError("a row with status ok needs window_s and output_tokens")
        if self.status is Status.OK and self.accuracy_status == "disagrees":
            raise ValueError("a row whose accuracy_status is disagrees cannot be ok")
        return self


OUR_KERNEL = "tokenwatt"
"""`contender` of our own kernels; the others are baselines."""


class KernelTiming(MeteredWindow):
    """One contender on one problem: the device time of a call with a cold L2 cache, and the energy of a loop of calls.

    The window is that loop, in which L2 stays warm.
    """

    grain = "kernels"

    family: str
    """Kernel family, such as `matmul.dense`."""
    problem: str
    """Shapes and inputs, by name."""
    dtype: Literal["float32", "bfloat16", "float16", "float8_e4m3fn"]
    """Element type of inputs, and of the output but for float8, whose output has 16 bits."""
    contender: str
    """Who computed: `tokenwatt`, which is our kernel, or a baseline."""
    configuration: str
    """What our kernel chose for the problem, such as its tile; empty for a baseline, or where it does not say."""
    status: Literal["measured", "unavailable", "disagrees"]
    """`measured`; `unavailable`: it does not take this problem here; `disagrees`: its answer is not the others'."""
    reasons: tuple[str, ...] = ()
    """Why there is no time, or no energy, in the words of whoever refused."""
    flop: Flop
    """Floating-point operations that the problem cannot avoid."""
    bytes: Bytes
    """Bytes to and from memory that the problem cannot avoid."""
    median_s: Seconds | None = None
    """Device time of one call, cold L2: median of `samples` calls, all contenders in turns."""
    low_s: Seconds | None = None
    """Same, 20 % quantile."""
    high_s: Seconds | None = None
    """Same, 80 % quantile."""
    samples: Count | None = None
    """Timed calls."""
    window_calls: Count | None = None
    """Calls in the metered window."""

    @model_validator(mode="after")
    def _only_measured_rows_carry_numbers(self) -> Self:
        times = (self.median_s, self.low_s, self.high_s, self.samples)
        if self.status == "measured" and None in times:
            raise ValueError("a row with status measured needs median_s, low_s, high_s and samples")
        if self.status != "measured" and {*times, self.window_calls, self.gpu_energy_j} != {None}:
            raise ValueError(f"a row with status {self.status} cannot carry times or joules")
        if (self.window_s is None) != (self.window_calls is None):
            raise ValueError(f"window_s {self.window_s} contradicts window_calls {self.window_calls}")
        return self


class Result(Record):
    """What the windows of one point say together: a mean and its 95 % interval, from its rows of `measurements`."""

    grain = "results"

    run_id: str
    """Invocation that wrote the rows."""
    point_id: str
    """Point, as in `measurements`."""
    suite: str
    """Suite that asked for it."""
    workload: str
    """Workload name."""
    engine: str
    """Engine name."""
    model: str | None
    """Architecture."""
    phase: Phase
    """Phase, as in `measurements`."""
    variant: Literal["A", "B"] | None
    """Side of a comparison."""
    load: LoadKind
    """Load, as in `measurements`."""
    concurrency: Requests | None
    """Conversations kept going."""
    request_rate_per_s: RequestsPerSecond | None
    """Conversations that come a second."""
    replay_speed: Ratio | None
    """How many times as fast as it was recorded a trace is replayed."""
    requests_at_once: Requests | None
    """Conversations of an offline load."""
    gpu_power_cap_w: Watts | None
    """Power limit that was set on each GPU."""
    windows: Count
    """Windows that carry the quantity below: good rows, and for energy those whose energy is trusted."""
    quantity: str
    """Column or metric of `measurements` that is averaged; `B/A of ...`: ratio of the pairs of windows of a comparison,
    filed under the point of side B."""
    unit: str
    """Its unit."""
    mean: Quantity
    """Mean over windows."""
    low: Quantity | None
    """Lower end of the 95 % interval of that mean; null with fewer than two windows. With energy it allows for what
    the meters leave open beside the spread of the windows."""
    high: Quantity | None
    """Upper end."""
    method: Literal["t", "bootstrap", "bisection"] | None
    """How the interval was made; `bisection`: the ends are rates that were tried, and surely keep or break a service
    level."""
    has_converged: bool | None
    """Whether the interval reached the width that was asked for; null where none was asked for."""
    stable_windows: Count
    """Windows among those behind it that are stable; of a ratio, pairs of which both are."""
    energy_status: EnergyStatus | None
    """The worst verdict on the energy of those windows; null for a quantity without energy."""


class ClosureTerm(Record):
    """One part of a window's energy: what static power, a kernel family, or nothing known explains of it."""

    grain = "closure"

    run_id: str
    """Invocation that wrote the row."""
    measurement_id: str
    """Window whose energy is explained."""
    term: Literal["static", "attention", "matmul", "moe", "fused", "rest"]
    """Static power times time, a kernel family, or what is left unexplained."""
    energy_j: Joules
    """Joules of the term; the rest may be negative."""
    half_width_j: Joules | None = None
    """Half of its 95 % interval; null where it cannot be said."""
    flop: Annotated[float, Unit("flop")] | None = None
    """Operations of the family in the window."""
    bytes: Annotated[float, Unit("byte")] | None = None
    """Bytes of the family in the window."""
    joules_per_flop: Annotated[float, Unit("J/flop")] | None = None
    """Energy of an operation above static power, from metered loops at the window's shapes."""
    joules_per_byte: Annotated[float, Unit("J/byte")] | None = None
    """Energy of a byte above static power, from the same loops."""
    loops: Count = 0
    """Metered loops behind both figures."""


class MeteredRun(MeteredWindow):
    """Any command, or any server for a while, with the energy of the boards behind it."""

    grain = "meter"

    status: Status
    """`ok`: the command ended, or the time was up; `failed`: it could not be started, or the server not be reached."""
    reasons: tuple[Reason, ...] = ()
    """Why the row is not `ok`."""
    detail: str | None = None
    """The error's own words, where there are any."""
    subject: str
    """The command line, or the address of the server."""
    exit_code: Annotated[int, Unit("1")] | None = None
    """Exit code of the command, negative for a signal; null for a server."""
    input_tokens: Tokens | None = None
    """Prompt tokens that the server counted in the window; null where it does not say."""
    output_tokens: Tokens | None = None
    """Generated tokens that the server counted in the window; null where it does not say."""
    gpu_idle_power_w: Watts | None = None
    """Board power before the command began, summed over GPUs."""


class RequestRecord(Record):
    """One request of one measurement."""

    grain = "requests"

    run_id: str
    """Invocation that wrote the row."""
    measurement_id: str
    """Window in which the request was first answered; the nearest one for a request that was answered outside."""
    request_index: Index
    """Position in the workload."""
    conversation: Index
    """Conversation that it is a turn of; `request_index` where conversations have one turn."""
    turn: Index
    """Position in its conversation."""
    isl: Tokens | None
    """Prompt length; null in an imported row that does not say."""
    osl: Tokens | None
    """Output budget; null in an imported row, whose source tells the tokens that came, not those asked for."""
    output_tokens: Tokens
    """Tokens generated until the run stopped watching."""
    due_s: Seconds
    """Intended send time on the run's clock."""
    sent_s: Seconds
    """When it went out."""
    first_token_s: Seconds | None
    """First token on the run's clock; null if none came."""
    last_token_s: Seconds | None
    """Latest token on the run's clock; null if none came."""
    is_ramp: bool
    """Sent at the start in mid-life, a part of its output already in its prompt, so that slots do not march in step;
    outside all latencies."""
    status: RequestStatus
    """How it ended: `complete`, `cut` (in flight when the run stopped watching), or what went wrong."""
    detail: str | None = None
    """What went wrong, in the words of whoever said so."""


class PowerSample(NamedTuple):
    """One reading of one meter as it is taken, 16 times a second: fields of `PowerRecord`, None where not told."""

    at_s: float
    source: str
    energy_j: float | None = None
    power_w: float | None = None
    sm_clock_hz: float | None = None
    memory_clock_hz: float | None = None
    temperature_c: float | None = None
    power_limit_w: float | None = None
    throttle_reasons: tuple[str, ...] = ()
    call_s: float | None = None
    module_power_w: float | None = None
    other_processes: int | None = None
    unmetered_gpus: int | None = None


class PowerRecord(Record):
    """One meter reading, filed under the measurement during which it was taken."""

    grain = "power"

    at_s: Seconds
    """When the energy counter, or whatever the meter has, was read, on the run's clock: the middle of the call."""
    source: str
    """GPU UUID, or `rapl:<package>`."""
    energy_j: Joules | None
    """Cumulative energy counter; null where the meter has none."""
    power_w: Watts | None
    """Instantaneous power; null where the meter has none."""
    sm_clock_hz: Hertz | None
    """SM clock."""
    memory_clock_hz: Hertz | None
    """Memory clock."""
    temperature_c: Celsius | None
    """GPU core temperature."""
    power_limit_w: Watts | None
    """Enforced power limit."""
    throttle_reasons: tuple[str, ...] = ()
    """NVML reasons that hold clocks back at this moment."""
    call_s: Seconds | None = None
    """How long that call took, waiting for a processor included; null where it was not timed."""
    module_power_w: Watts | None = None
    """Instantaneous power of the module around the GPU (CPU and GPU of a Grace superchip); null where there is none."""
    other_processes: Count | None = None
    """Processes on the GPU that are neither this one nor its descendants; null where NVML does not list them."""
    unmetered_gpus: Count | None = None
    """Boards beside the metered ones on which this process or its descendants run."""
    run_id: str
    """Invocation that wrote the row."""
    measurement_id: str
    """Measurement in whose window, or shortly before or after it, the reading was taken."""


class FleetEstimate(Record):
    """A power budget filled with one system: one row per end of the range.

    Each quantity has its own range, so a `low` row holds every quantity's low end and is not itself one scenario.
    """

    grain = "fleet"

    system: str
    """Accelerator system that fills the budget."""
    case: Literal["low", "central", "high"]
    """End of each quantity's range that this row holds."""
    power_budget_w: Watts
    """Power that the all-in watts are counted against."""
    model: str
    """Architecture that is served."""
    dtype: str
    """Precision of the weights in the reference measurement."""
    reference_row: str
    """Measurement, or published Hopper row, that the estimate is scaled from."""
    reference_system: str
    """System of that row."""
    concurrency: Requests
    """Requests in flight per model replica in that row."""
    output_tokens_per_s_per_gpu: TokensPerSecond
    """Generated tokens per second and GPU."""
    output_tokens_per_s_per_user: TokensPerSecond
    """Interactivity: 1 / TPOT."""
    gpu_power_w: Watts
    """Board power per GPU under that load."""
    all_in_power_w_per_gpu: Watts
    """All-in power per GPU by dated analyst constants, provisioned and not measured: the newer copy (central) counts
    chip, host and network, the older one (high end) the facility."""
    gpus: Quantity
    """GPUs that the budget feeds."""
    output_tokens_per_s: TokensPerSecond
    """Generated tokens per second of the whole site, all GPUs busy."""
    output_tokens_per_s_per_mw: Annotated[float, Unit("token/s/MW")]
    """Generated tokens per second and all-in megawatt."""
    gpu_joules_per_output_token: Annotated[float, Unit("J/token")]
    """Board energy per generated token."""
    all_in_joules_per_output_token: Annotated[float, Unit("J/token")]
    """All-in energy per generated token, every provisioned watt counted."""
    usd_per_gpu_h: Annotated[float, Unit("USD/h")]
    """Cost of ownership of one GPU for an hour."""
    usd_per_mtok: Annotated[float, Unit("USD/Mtoken")]
    """Cost of a million generated tokens at full utilisation."""
    method: str
    """How the reference row was carried over."""
    sources: tuple[str, ...]
    """Facts and rows that the estimate rests on, with their sources."""


RECORDS: tuple[type[Record], ...] = (
    Measurement,
    Result,
    ClosureTerm,
    MeteredRun,
    RequestRecord,
    PowerRecord,
    KernelTiming,
    FleetEstimate,
)
"""Every table that is written, for the data dictionary."""
