"""From what one run saw, its timeline and its meter readings, to the rows of its windows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from tokenwatt import power, steady_state
from tokenwatt.engines.protocol import EngineReport
from tokenwatt.record import Measurement, Reason, Status
from tokenwatt.spec import ServiceLevel
from tokenwatt.steady_state import RequestTrace, Timeline, Window

MARGIN_S = 2.0
"""Readings that far outside a window belong to it: the ticks of a counter are found from those around an edge.
Neighbouring windows share them, and they are stored with both, so that each row can be computed from its own."""


@dataclass(slots=True)
class Recording:
    """What one run of an engine left behind; it fills while the engine serves."""

    timeline: Timeline
    wanted_s: float
    """Length of its windows at most."""
    instruments: power.Instruments = field(default_factory=dict)
    """What was learnt of the boards."""
    cap_w: float | None = None
    """Power limit that was set on purpose on each board."""
    margin_s: float = MARGIN_S
    """The run goes on so long after each window."""
    log: power.PowerLog = field(default_factory=power.PowerLog)
    """Readings so far."""
    windows: int = 0
    """Windows that are full and have readings on both sides."""
    meter_failure: str | None = None
    """What a meter said when it stopped."""

    def energy(self, start_s: float, end_s: float) -> power.Energy:
        """Energy of a window with its verdict: a meter that failed before its end, or a drift of power, spoils it."""
        near = self.readings(start_s, end_s)
        energy = power.recorded_energy(near, start_s, end_s, self.instruments, self.cap_w, failure=self.meter_failure)
        return energy.doubted(Reason.POWER_DRIFTS) if _power_drifts(near, start_s, end_s) else energy

    def readings(self, start_s: float, end_s: float) -> power.PowerReadings:
        """Those of a window and its margins."""
        return self.log.readings(start_s - MARGIN_S, end_s + MARGIN_S)


MAX_CLIENT_BUSY = 0.8
"""Share of its time that a client's process may be at work, before what it stamps waits for it."""
MAX_SEND_LAG = 0.1
"""Share of the median time to first token that 1 in 100 requests may go out late, before latencies are the client's."""
MAX_CLIENT_LAG = 0.1
"""Share of the time between two tokens of a request that taking note of one may lag, before speeds are the client's."""


def row_without_numbers(asked: dict[str, Any], status: Status, reason: Reason, detail: str | None) -> Measurement:
    """The row of a run that gave nothing to count; `asked` holds the columns that are known beforehand."""
    return Measurement.model_validate({**asked, "status": status, "reasons": (reason,), "detail": detail})


def row_of(
    asked: dict[str, Any],
    recording: Recording,
    index: int,
    report: Callable[[float, float], EngineReport],
    min_window_s: float,
    slo: ServiceLevel | None = None,
) -> Measurement:
    """The measurement of one window of a run. A meter that failed spoils the energy, not the tokens.

    Args:
        asked: columns that are known beforehand.
        recording: the run.
        index: of the window in the run.
        report: what the engine says of a stretch of the run.
        min_window_s: shorter windows are not stable.
        slo: what a request must keep to be a good one.
    """
    timeline = recording.timeline
    window = steady_state.find(timeline, recording.wanted_s, min_window_s, index)
    if window is None:
        failure = recording.meter_failure
        reason = Reason.NO_STEADY_WINDOW if failure is None else Reason.METER_ERROR
        return row_without_numbers(asked, Status.FAILED, reason, failure)
    energy = recording.energy(window.start_s, window.end_s)
    latencies = _latencies(timeline, window)
    reasons = [*window.reasons]
    if Reason.POWER_DRIFTS in energy.reasons:
        reasons.append(Reason.POWER_DRIFTS)
    told = report(window.start_s, window.end_s)
    lag_s = _client_lag_s(timeline, window) if told.client_lag_mean_s is None else told.client_lag_mean_s
    send_lag_s = _send_lag_s(timeline, window)
    if is_client_bound(told, lag_s, send_lag_s, timeline, latencies):
        reasons.append(Reason.CLIENT_BOUND)
    if latencies["e2el_median_s"] is None and timeline.phase != "decode":
        reasons.append(Reason.NO_REQUEST_COMPLETED)
    failed = [trace.failure for trace in timeline.traces.values() if trace.failure is not None]
    if failed:
        reasons.append(Reason.REQUESTS_FAILED)
    lost = recording.meter_failure if Reason.METER_ERROR in energy.reasons else None
    numbers = {
        "status": Status.OK,
        "reasons": tuple(reasons),
        "detail": lost or (f"{failed[0].status}: {failed[0].detail}" if failed else asked.get("detail")),
        "window_start_s": window.start_s,
        "window_s": window.length_s,
        "is_stable": not reasons,
        "running": window.running,
        "in_flight": _mean_in_flight(timeline, window),
        **_tokens(timeline, window),
        **latencies,
        **_judged(slo, timeline, window),
        **asdict(told),
        "client_lag_mean_s": lag_s,
        "send_lag_p99_s": send_lag_s,
        "requests_failed": timeline.failed,
        **energy_columns(energy),
    }
    return Measurement.model_validate({**asked, **numbers})


def work_tokens(timeline: Timeline, start_s: float, end_s: float) -> int:
    """Tokens that the energy of (start, end] is divided by: prompt tokens for prefill alone, else generated ones."""
    if timeline.phase == "prefill":
        return timeline.input_tokens(start_s, end_s)
    return timeline.output_tokens(start_s, end_s)


def energy_columns(energy: power.Energy) -> dict[str, Any]:
    """The columns of a `MeteredWindow` that its meters fill."""
    return {
        "energy_status": energy.status,
        "energy_reasons": energy.reasons,
        "gpu_energy_j": energy.gpu_energy_j,
        "gpu_energy_counter_j": energy.counter_j,
        "gpu_energy_sampled_j": energy.sampled_j,
        "gpu_energy_relative_difference": energy.relative_difference,
        "gpu_energy_half_width_j": energy.half_width_j,
        "gpu_energy_by_gpu_j": energy.by_gpu_j,
        "gpu_counter_period_s": energy.counter_period_s,
        "gpu_power_period_s": energy.power_period_s,
        "gpu_sampling_period_s": energy.sampling_period_s,
        "gpu_power_peak_w": energy.state.power_peak_w,
        "gpu_power_limit_w": energy.state.power_limit_w,
        "gpu_power_limit_default_w": energy.state.power_limit_default_w,
        "gpu_sm_clock_hz": energy.state.sm_clock_hz,
        "gpu_sm_clock_min_hz": energy.state.sm_clock_min_hz,
        "gpu_memory_clock_hz": energy.state.memory_clock_hz,
        "gpu_memory_clock_min_hz": energy.state.memory_clock_min_hz,
        "gpu_temperature_start_c": energy.state.temperature_start_c,
        "gpu_temperature_end_c": energy.state.temperature_end_c,
        "gpu_temperature_slope_c_per_s": energy.state.temperature_slope_c_per_s,
        "gpu_other_processes": energy.state.other_processes,
        "throttle_reasons": energy.state.throttle_reasons,
        "cpu_energy_j": energy.cpu_energy_j,
    }


def _power_drifts(readings: power.PowerReadings, start_s: float, end_s: float) -> bool:
    """Whether power has a slope; false where a board lacks readings for that test (`steady_state` says when)."""
    watts = power.binned_power_w(readings, start_s, end_s, steady_state.DRIFT_BINS)
    return watts is not None and steady_state.drifts(np.array(watts))


def _tokens(timeline: Timeline, window: Window) -> dict[str, Any]:
    """Token and request counts of the window."""
    traces = timeline.traces.values()
    answered = [trace for trace in traces if window.holds(trace.first_token_s)]
    return {
        "isl": float(np.mean([trace.sent.isl for trace in answered])) if answered else None,
        "osl": float(np.mean([trace.sent.osl for trace in answered])) if answered else None,
        "context": timeline.mean_context(window.start_s, window.end_s),
        "requests_completed": sum(trace.is_complete and window.holds(trace.last_token_s) for trace in traces),
        "input_tokens": sum(trace.sent.isl for trace in answered),
        "output_tokens": timeline.output_tokens(window.start_s, window.end_s),
    }


SUMMARIES: tuple[tuple[str, float], ...] = (
    ("median", 0.5),
    ("p90", 0.9),
    ("p95", 0.95),
    ("p99", 0.99),
    ("p99_9", 0.999),
)
"""Quantiles of a latency, by the words that its columns have for them; its mean stands beside them."""


def _latencies(timeline: Timeline, window: Window) -> dict[str, float | None]:
    """Latency summaries over the requests of the window; those of the ramp are left out."""
    traces = [trace for trace in timeline.traces.values() if not trace.sent.is_ramp]
    ended = [trace for trace in traces if trace.is_complete and window.holds(trace.last_token_s)]
    found = {
        "ttft": [ttft_s(trace) for trace in traces if window.holds(trace.first_token_s)],
        "tpot": [tpot_s(trace) for trace in ended if trace.output_tokens > 1],
        "itl": timeline.gaps_s(window.start_s, window.end_s),
        "e2el": [e2el_s(trace) for trace in ended],
    }
    return {column: value for name, values in found.items() for column, value in summary(name, values).items()}


def summary(name: str, values: Sequence[float] | np.ndarray) -> dict[str, float | None]:
    """Mean and quantiles of a latency as columns; None without values."""
    columns = [f"{name}_mean_s", *(f"{name}_{word}_s" for word, _ in SUMMARIES)]
    if not len(values):
        return dict.fromkeys(columns)
    figures = [np.mean(values), *np.quantile(values, [share for _, share in SUMMARIES])]
    return {column: float(figure) for column, figure in zip(columns, figures, strict=True)}


def ttft_s(trace: RequestTrace) -> float:
    """Time to first token of an answered request, from when it was due."""
    assert trace.first_token_s is not None
    return trace.first_token_s - trace.sent.due_s


def tpot_s(trace: RequestTrace) -> float:
    """Time per output token of a complete request; 0 with a single one, which nobody waits for after the first."""
    assert trace.first_token_s is not None
    assert trace.last_token_s is not None
    return (trace.last_token_s - trace.first_token_s) / max(1, trace.output_tokens - 1)


def e2el_s(trace: RequestTrace) -> float:
    """End-to-end latency of a complete request, from when it was due."""
    assert trace.last_token_s is not None
    return trace.last_token_s - trace.sent.due_s


def _judged(slo: ServiceLevel | None, timeline: Timeline, window: Window) -> dict[str, int]:
    """Requests that ended in the window, and those of them that keep every limit; nothing without limits."""
    if slo is None:
        return {}
    ended = [trace for trace in timeline.traces.values() if window.holds(trace.ended_s) and not trace.sent.is_ramp]
    good = [
        trace
        for trace in ended
        if trace.is_complete
        and trace.first_token_s is not None  # an answer without a token is nothing that anybody waited for
        and slo.holds(ttft_s(trace), tpot_s(trace), e2el_s(trace))
    ]
    return {"requests_judged": len(ended), "requests_within_slo": len(good)}


def is_client_bound(
    told: EngineReport,
    lag_s: float,
    send_lag_s: float,
    timeline: Timeline,
    latencies: Mapping[str, float | None],
) -> bool:
    """Whether the speeds may be those of whoever listens and asks."""
    listens_late = lag_s > MAX_CLIENT_LAG * (latencies["tpot_median_s"] or math.inf)
    if told.client_busy is None:  # no client: until an engine in this process looks, a request waits in its queue
        return listens_late
    asks_late = send_lag_s > MAX_SEND_LAG * (latencies["ttft_median_s"] or math.inf) and timeline.load != "offline"
    return listens_late or asks_late or told.client_busy > MAX_CLIENT_BUSY


def _client_lag_s(timeline: Timeline, window: Window) -> float:
    return float(np.mean(timeline.lags[timeline.events(window.start_s, window.end_s)]))


def _send_lag_s(timeline: Timeline, window: Window) -> float:
    """How late requests went out, 99th percentile over those due in the window; 0 without any."""
    lags = [trace.sent.sent_s - trace.sent.due_s for trace in timeline.due_in(window.start_s, window.end_s)]
    return float(np.quantile(lags, 0.99)) if lags else 0.0


def _mean_in_flight(timeline: Timeline, window: Window) -> float:
    """Mean over the window: what every request spent in it, over its length."""
    spent = 0.0
    for trace in timeline.traces.values():
        end_s = window.end_s if trace.ended_s is None else min(trace.ended_s, window.end_s)
        spent += max(0.0, end_s - max(trace.sent.due_s, window.start_s))
    return spent / window.length_s
