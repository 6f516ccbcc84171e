"""From what one run saw, its timeline and its meter readings, to the rows of its windows."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from tokenwatt import power, steady_state
from tokenwatt.engines.protocol import EngineReport
from tokenwatt.record import Measurement, Reason, Status
from tokenwatt.steady_state import Timeline, Window

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
) -> Measurement:
    """The measurement of one window of a run. A meter that failed spoils the energy, not the tokens.

    Args:
        asked: columns that are known beforehand.
        recording: the run.
        index: of the window in the run.
        report: what the engine says of a stretch of the run.
        min_window_s: shorter windows are not stable.
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
    lag_s = _client_lag_s(timeline, window)
    if lag_s > MAX_CLIENT_LAG * (latencies["tpot_median_s"] or math.inf):
        reasons.append(Reason.CLIENT_BOUND)
    if latencies["e2el_median_s"] is None and timeline.phase != "decode":
        reasons.append(Reason.NO_REQUEST_COMPLETED)
    refused = [trace.refusal for trace in timeline.traces.values() if trace.refusal is not None]
    if refused:
        reasons.append(Reason.REQUESTS_REFUSED)
    lost = recording.meter_failure if Reason.METER_ERROR in energy.reasons else None
    numbers = {
        "status": Status.OK,
        "reasons": tuple(reasons),
        "detail": lost or (f"refused: {refused[0]}" if refused else asked.get("detail")),
        "window_start_s": window.start_s,
        "window_s": window.length_s,
        "is_stable": not reasons,
        "running": window.running,
        **_tokens(timeline, window),
        **latencies,
        "client_lag_mean_s": lag_s,
        **asdict(report(window.start_s, window.end_s)),
        "requests_refused": timeline.refused,
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
        "isl": float(np.mean([trace.isl for trace in answered])) if answered else None,
        "osl": float(np.mean([trace.osl for trace in answered])) if answered else None,
        "context": timeline.mean_context(window.start_s, window.end_s),
        "requests_completed": sum(trace.is_complete and window.holds(trace.last_token_s) for trace in traces),
        "input_tokens": sum(trace.isl for trace in answered),
        "output_tokens": timeline.output_tokens(window.start_s, window.end_s),
    }


def _latencies(timeline: Timeline, window: Window) -> dict[str, float | None]:
    """Latency summaries over the requests of the window; those of the ramp are left out."""
    ttft, tpot, e2el = [], [], []
    for trace in timeline.traces.values():
        if trace.is_ramp or trace.first_token_s is None or trace.last_token_s is None:
            continue
        if window.holds(trace.first_token_s):
            ttft.append(trace.first_token_s - trace.sent_s)
        if trace.is_complete and window.holds(trace.last_token_s):
            e2el.append(trace.last_token_s - trace.sent_s)
            if trace.output_tokens > 1:
                tpot.append((trace.last_token_s - trace.first_token_s) / (trace.output_tokens - 1))
    return {
        "ttft_median_s": _quantile(ttft, 0.5),
        "ttft_p99_s": _quantile(ttft, 0.99),
        "tpot_median_s": _quantile(tpot, 0.5),
        "tpot_p99_s": _quantile(tpot, 0.99),
        "e2el_median_s": _quantile(e2el, 0.5),
    }


def _client_lag_s(timeline: Timeline, window: Window) -> float:
    return float(np.mean(timeline.lags[timeline.events(window.start_s, window.end_s)]))


def _quantile(values: list[float], share: float) -> float | None:
    return float(np.quantile(values, share)) if values else None
