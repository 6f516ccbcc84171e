"""The Prometheus text format, as the values of every time series of a name: exporters and servers speak it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec

from tokenwatt.errors import UserError
from tokenwatt.power.meter import MeterError

Labels = tuple[tuple[str, str], ...]
"""Labels of one time series, sorted by name."""
Samples = Mapping[str, Mapping[Labels, float]]
"""Metric name -> time series -> value. A counter is found with and without `_total`."""
_TOTAL = "_total"


def parse_metrics(body: bytes, origin: str) -> Samples:
    """Every sample of a page of metrics.

    Raises:
        UserError: the parser is not installed.
        MeterError: the page is something else; names `origin`.
    """
    if find_spec("prometheus_client") is None:
        raise UserError("reading metrics needs prometheus-client; install it with: pip install 'tokenwatt[bench]'")
    from prometheus_client.parser import text_string_to_metric_families

    found: dict[str, dict[Labels, float]] = {}
    try:
        for family in text_string_to_metric_families(body.decode()):
            for sample in family.samples:
                labels = tuple(sorted(sample.labels.items()))
                # The parser adds `_total` to counters that lack it, as DCGM's do.
                for name in (
                    {sample.name, sample.name.removesuffix(_TOTAL)} if family.type == "counter" else {sample.name}
                ):
                    found.setdefault(name, {})[labels] = float(sample.value)
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise MeterError(f"{origin} is not a page of Prometheus metrics ({error})") from None
    return found
