"""The columns that every imported row shares: who made it, what nobody knows of it, and what was lost."""

from __future__ import annotations

import http
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from tokenwatt import __version__
from tokenwatt.errors import UserError
from tokenwatt.imports.source import Given, Source
from tokenwatt.record import Measurement, Reason, RequestRecord, RequestStatus, Status

UNKNOWN_ENGINE = "unknown"
"""Engine of a file that does not say what answered, where the importer does not either."""

NOBODY_KNOWS = (
    "device",
    "gpu_driver_version",
    "cpu_name",
    "cpu_count",
    "memory_bytes",
    "os_name",
    "python_version",
    "torch_version",
    "triton_version",
    "git_commit",
    "ceiling_memory_bytes_per_s",
    "ceiling_flop_per_s",
    "measured_at",
    "run_began_at",
    "workload_sha256",
    "engine_version",
    "weights_source",
    "dtype",
    "tp",
    "seed",
    "concurrency",
    "ramp_s",
)
"""Columns of the machine, the engine and the load that are null unless a file fills them."""

LAST_S = 253_402_300_799
"""The last second of the year 9999, since 1970."""

NO_MACHINE = "the file does not say on what host, system and versions it was measured"
WHOLE_RUN = "the window is the whole run, with its ramp-up and ramp-down; nobody tested whether it is steady"
FROM_SEND = "latencies begin when a request was sent, not when it was due"
NO_COUNT = "neither the file nor --gpus says how many GPUs computed"
NO_BUDGETS = "output budgets of requests are not in the file; osl is the mean of what came"
NO_ENERGY = "the file has no energy"


def measurement(source: Source, given: Given, index: int, losses: list[str], found: Mapping[str, Any]) -> Measurement:
    """A row of a file.

    Args:
        source: the file.
        given: what the importer knows beside it.
        index: of the row in the file.
        losses: what the row cannot hold, or the file does not say.
        found: columns that the file fills, `imported_from` among them.

    Raises:
        UserError: the columns contradict each other.
    """
    columns = {**_unknown(given), **_place(source, index), **found}
    # In a closed load a request is due when there is room for it, which is when it is sent.
    from_send = [FROM_SEND] if columns["load"] != "closed" and columns["status"] is Status.OK else []
    no_count = [NO_COUNT] if columns["gpu_count"] is None else []
    lost = tuple(losses + from_send + no_count)
    too_large = [name for name, value in columns.items() if isinstance(value, int) and abs(value) >= 2**63]
    if too_large:
        raise UserError(
            f"{source.where}: row {index}: {too_large[0]} would be {columns[too_large[0]]:.3g}, no real count"
        )
    try:
        return Measurement.model_validate({**columns, "workload": _lengths(columns), "import_losses": lost})
    except ValueError as error:
        raise UserError(f"{source.where}: row {index} does not make sense: {' '.join(str(error).split())}") from None


def _unknown(given: Given) -> dict[str, Any]:
    """Columns of the machine: what the importer says, else null, and never what this machine is."""
    return {
        **dict.fromkeys(NOBODY_KNOWS),
        "tokenwatt_version": __version__,
        "gpu_name": given.gpu_name,
        "gpu_count": given.gpu_count,
        "gpu_uuids": (),
        "usd_per_gpu_h": given.usd_per_gpu_h,
        "engine": given.engine or UNKNOWN_ENGINE,
        "status": Status.OK,
    }


def _place(source: Source, index: int) -> dict[str, str]:
    return {
        "run_id": source.run_id,
        "measurement_id": f"{source.run_id}/{index}",
        "point_id": f"{source.run_id}/p{index}",
        "suite": "import",
    }


def _lengths(columns: Mapping[str, Any]) -> str:
    """A name for a workload of which only the mean lengths are known."""
    isl, osl = columns.get("isl"), columns.get("osl")
    return "unknown" if isl is None or osl is None else f"imported {isl:.0f}/{osl:.0f}"


def without_answers(found: Mapping[str, Any], detail: str | None) -> dict[str, Any]:
    """Columns of a run in which no request was answered: a failed row without numbers.

    A tool writes zeros there, which are no measurement.
    """
    asked = ("imported_from", "engine", "model", "load", "concurrency", "request_rate_per_s", "burstiness")
    kept = (*asked, "requests_at_once", "measured_at", "run_began_at", "requests_failed", "gpu_name", "gpu_count")
    failed = {"status": Status.FAILED, "reasons": (Reason.REQUESTS_FAILED,), "detail": detail}
    return {**{name: found[name] for name in kept if name in found}, **failed}


def request(row: Measurement, index: int, **found: Any) -> RequestRecord:
    """A request of an imported row; without a word on conversations, each request is one of its own."""
    columns = {"conversation": index, "turn": 0, "osl": None, "is_ramp": False, **found}
    return RequestRecord.model_validate(
        {"run_id": row.run_id, "measurement_id": row.measurement_id, "request_index": index, **columns}
    )


def failure(code: int | None) -> RequestStatus:
    """How a request ended that an HTTP status ended; `failed` where there is none.

    >>> failure(429).value, failure(404).value, failure(500).value, failure(None).value
    ('overloaded', 'rejected', 'server_error', 'failed')
    """
    if code in (http.HTTPStatus.TOO_MANY_REQUESTS, http.HTTPStatus.SERVICE_UNAVAILABLE):
        return RequestStatus.OVERLOADED
    if code is not None and 400 <= code < 500:
        return RequestStatus.REJECTED
    return RequestStatus.SERVER_ERROR if code is not None and 500 <= code < 600 else RequestStatus.FAILED


def phrase_code(text: str) -> int | None:
    """HTTP status whose reason phrase a text is; None for any other text.

    >>> phrase_code("Too Many Requests"), phrase_code("Traceback")
    (429, None)
    """
    return next((status.value for status in http.HTTPStatus if status.phrase == text.strip()), None)


def moment(text: str, form: str | None, source: Source, place: str) -> datetime:
    """A time of day without a zone, taken as UTC: what the row's losses must say.

    Args:
        text: what the file says.
        form: for `strptime`; None for ISO 8601.
        source: the file.
        place: JSON path of the text.

    Raises:
        UserError: it is not a time.
    """
    try:
        found = datetime.fromisoformat(text) if form is None else datetime.strptime(text, form)  # noqa: DTZ007
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):  # A zone can carry the first and the last day out of all years.
        example = datetime(2026, 1, 31, 23, 59, tzinfo=UTC)
        expected = "an ISO 8601 time" if form is None else f"a time such as {example.strftime(form)}"
        raise UserError(f"{source.where}: {place}: found {text!r}, expected {expected}") from None


def epoch(seconds: float, source: Source, place: str) -> datetime:
    """A moment from seconds since 1970.

    Args:
        seconds: what the file says.
        source: the file.
        place: JSON path of the seconds.

    Raises:
        UserError: it lies outside of the years that a date can have, as milliseconds do.
    """
    if not 0 <= seconds <= LAST_S:
        raise UserError(
            f"{source.where}: {place}: found {seconds:.15g}, expected seconds since 1970, from 0 to {LAST_S}"
        )
    return datetime.fromtimestamp(seconds, UTC)
