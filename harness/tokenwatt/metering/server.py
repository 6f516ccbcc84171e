"""A server that runs already: its tokens by its own counters, and the energy between the same two looks at them.

Its page of metrics is read when the window begins and when it ends, and the middles of these two requests *are* the
window's edges: tokens and joules belong to the same stretch, and no counter needs to be interpolated.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tokenwatt import power
from tokenwatt.clock import RunClock
from tokenwatt.errors import UserError
from tokenwatt.metering.session import Choice, Metered, Stretch, meter_stretch
from tokenwatt.metering.token_counters import KNOWN, TokenCounters, growth, recognise
from tokenwatt.orderly_end import signal_of
from tokenwatt.power.external.http import HttpError, get, is_address
from tokenwatt.power.external.prometheus import Labels, Samples, parse_metrics
from tokenwatt.record import Reason, Status
from tokenwatt.this_machine import is_this_machine

PATHS = ("/metrics", "/prometheus/metrics")
"""Where servers have their page; the second is TensorRT-LLM's."""
MAX_SECONDS = 86400.0
LOOK_EVERY_S = 0.5
"""A signal that another thread of this process was given is heard so late."""


def meter_server(url: str, seconds: float, choice: Choice, results: Path) -> Metered:
    """Meter for `seconds` around the server at `url`, and write `meter.parquet` and `power.parquet`.

    Ctrl-C, SIGTERM or SIGHUP ends the window early, with its numbers: a shorter window is a good window.

    Raises:
        UserError: no server there, or one whose GPUs cannot be read here; no such GPU or meter.
        MeterError: NVML is there and refuses to work.
    """
    if not 0 < seconds <= MAX_SECONDS:
        raise UserError(f"--seconds must be > 0 and at most {MAX_SECONDS:.0f}, got {seconds:g}")
    page = _find_page(url)
    if not (choice.gpus or choice.gpu_meter) and not is_this_machine(url) and power.boards():
        raise UserError(
            f"{url} is on another machine, whose GPUs cannot be read here; say --gpu-meter dcgm:http://HOST:9400/metrics"
            ", or --gpu UUID if they are this machine's after all"
        )

    def work(clock: RunClock) -> Stretch:
        first = _look(page, clock)
        ended_by = _wait(seconds)
        try:
            last = _look(page, clock)
        except power.MeterError as error:
            columns = {"status": Status.FAILED, "reasons": (Reason.ENGINE_ERROR,), "detail": str(error)}
            return Stretch(first.at_s, clock(), columns)
        except KeyboardInterrupt as interrupt:  # a second one, while a slow server is looked at
            columns = {"status": Status.INTERRUPTED, "reasons": (Reason.INTERRUPTED,)}
            return Stretch(first.at_s, clock(), columns, signal_of(interrupt))
        columns = _token_columns(page, first, last)
        if ended_by is not None:
            early = f"ended early by {signal.Signals(ended_by).name}, {last.at_s - first.at_s:.1f} of {seconds:g} s"
            columns["detail"] = "; ".join(filter(None, [early, columns.get("detail")]))
        return Stretch(first.at_s, last.at_s, columns, ended_by)

    return meter_stretch(url, replace(choice, idle_s=0.0, subject="present"), results, work)


@dataclass(frozen=True, slots=True)
class _Page:
    """Where a server's counters are read, if it has any."""

    url: str
    counters: TokenCounters | None


@dataclass(frozen=True, slots=True)
class _Look:
    """Both counters at one moment."""

    at_s: float
    output: Mapping[Labels, float]
    input: Mapping[Labels, float]


def _find_page(url: str) -> _Page:
    """The first page with counters that are known; else the server is only known to be there."""
    if not is_address(url):
        raise UserError(f"--attach needs an address like http://localhost:8000, got {url!r}")
    scheme, netloc, path, *_ = urlsplit(url)
    root = f"{scheme}://{netloc}"
    for page in [f"{root}{path}"] if path.endswith("metrics") else [f"{root}{path}" for path in PATHS]:
        try:
            samples = parse_metrics(get(page), page)
        except HttpError as error:
            if error.status is None:
                raise UserError(f"no server to meter: {error}") from None
        except power.MeterError:
            continue  # something else than metrics: TensorRT-LLM has JSON at /metrics
        else:
            counters = recognise(samples)
            if counters is not None:
                return _Page(page, counters)
    return _Page(root, None)


def _look(page: _Page, clock: RunClock) -> _Look:
    """Read the page; a server without one is still looked for, so that its end is noticed."""
    before_s = clock()
    samples: Samples = {}
    if page.counters is not None:
        samples = parse_metrics(get(page.url), page.url)
    else:
        try:
            get(page.url)
        except HttpError as error:
            if error.status is None:
                raise
    at_s = (before_s + clock()) / 2
    if page.counters is None:
        return _Look(at_s, {}, {})
    return _Look(at_s, samples.get(page.counters.output, {}), samples.get(page.counters.input, {}))


def _wait(seconds: float) -> int | None:
    """Let the time go by; the signal that ended it early."""
    until_s = time.monotonic() + seconds
    try:
        # In steps: a signal that another thread was given does not end a sleep.
        while (left_s := until_s - time.monotonic()) > 0:
            time.sleep(min(left_s, LOOK_EVERY_S))
    except KeyboardInterrupt as interrupt:
        return signal_of(interrupt)
    return None


def _token_columns(page: _Page, first: _Look, last: _Look) -> dict[str, Any]:
    """Tokens between two looks; a server that was started anew in between makes the row a failed one."""
    if page.counters is None:
        servers = ", ".join(counters.server for counters in KNOWN)
        return {"detail": f"{page.url} has no token counters that are known ({servers}): energy only"}
    output, input_ = growth(first.output, last.output), growth(first.input, last.input)
    if output is None or input_ is None:
        detail = f"the token counters of {page.url} went back: the server was started anew"
        return {"status": Status.FAILED, "reasons": (Reason.COUNTER_RESET,), "detail": detail}
    columns: dict[str, Any] = {"output_tokens": output, "input_tokens": input_ if last.input else None}
    if output == 0:
        columns["reasons"] = (Reason.TOO_FEW_TOKENS,)
        columns["detail"] = f"{page.counters.server} generated nothing in the window"
    elif page.counters.counts_at_end:
        columns["detail"] = (
            f"{page.counters.server} counts a request's tokens when it ends: make the window many requests long"
        )
    return columns
