"""From what one run saw, its timeline and its meter readings, to its row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np

from tokenwatt import power, steady_state
from tokenwatt.engines.protocol import EngineReport
from tokenwatt.record import EnergyStatus, Measurement, PowerSample, Reason, Status
from tokenwatt.spec import BenchSpec
from tokenwatt.steady_state import Timeline, Window


def row_without_numbers(asked: dict[str, Any], status: Status, reason: Reason, detail: str | None) -> Measurement:
    """The row of a run that gave nothing to count; `asked` holds the columns that are known beforehand."""
    return Measurement.model_validate({**asked, "status": status, "reasons": (reason,), "detail": detail})


def row_of(
    asked: dict[str, Any],
    timeline: Timeline,
    samples: list[PowerSample],
    meter_failure: str | None,
    report: Callable[[float, float], EngineReport],
    spec: BenchSpec,
) -> Measurement:
    """The measurement of one finished run. A meter that failed spoils the energy, not the tokens.

    report: what the engine says of a stretch of the run.
    """
    window = steady_state.find(timeline, spec.window_s, spec.min_window_s)
    if window is None:
        reason = Reason.NO_STEADY_WINDOW if meter_failure is None else Reason.METER_ERROR
        return row_without_numbers(asked, Status.FAILED, reason, meter_failure)
    if meter_failure is None:
        energy = power.integrate(samples, window.start_s, window.end_s)
    else:
        energy = power.Energy(EnergyStatus.INVALID, (Reason.METER_ERROR,))
    latencies = _latencies(timeline, window)
    reasons = [*window.reasons]
    if _power_drifts(samples, window):
        reasons.append(Reason.POWER_DRIFTS)
    if latencies["e2el_median_s"] is None:
        reasons.append(Reason.NO_REQUEST_COMPLETED)
    refused = [trace.refusal for trace in timeline.traces.values() if trace.refusal is not None]
    if refused:
        reasons.append(Reason.REQUESTS_REFUSED)
    numbers = {
        "status": Status.OK,
        "reasons": tuple(reasons),
        "detail": meter_failure or (f"refused: {refused[0]}" if refused else None),
        "window_start_s": window.start_s,
        "window_s": window.length_s,
        "is_stable": not reasons,
        "running": window.running,
        **_tokens(timeline, window),
        **latencies,
        **asdict(report(window.start_s, window.end_s)),
        "requests_refused": timeline.refused,
        **energy_columns(energy),
    }
    return Measurement.model_validate({**asked, **numbers})


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


def _power_drifts(samples: list[PowerSample], window: Window) -> bool:
    watts = power.binned_power_w(samples, window.start_s, window.end_s, steady_state.DRIFT_BINS)
    return watts is not None and steady_state.drifts(np.array(watts))


def _tokens(timeline: Timeline, window: Window) -> dict[str, Any]:
    """Token and request counts of the window."""
    traces = timeline.traces.values()
    answered = [trace for trace in traces if window.holds(trace.first_token_s)]
    return {
        "isl": float(np.mean([trace.isl for trace in answered])) if answered else None,
        "osl": float(np.mean([trace.osl for trace in answered])) if answered else None,
        "requests_completed": sum(trace.is_complete and window.holds(trace.last_token_s) for trace in traces),
        "input_tokens": sum(trace.isl for trace in answered),
        "output_tokens": sum(
            count for at_s, count in zip(timeline.token_times, timeline.token_counts, strict=True) if window.holds(at_s)
        ),
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


def _quantile(values: list[float], share: float) -> float | None:
    return float(np.quantile(values, share)) if values else None
