"""The server's own counters, by its page of Prometheus metrics: what waits in its queue, and what it has counted."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import urlsplit

from tokenwatt.engines.openai_endpoint.address import Address
from tokenwatt.engines.openai_endpoint.answers import MalformedError
from tokenwatt.engines.openai_endpoint.options import LOOK_FOR_METRICS
from tokenwatt.engines.openai_endpoint.tokens import OK
from tokenwatt.engines.openai_endpoint.web import ask
from tokenwatt.errors import EngineError

LOOK_EVERY_S = 1.0
TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Names:
    """What one kind of server calls its counters and gauges; None for what it has not."""

    output: str
    """Generated tokens."""
    input: str
    """Prompt tokens."""
    waiting: str
    """Requests that it has and does not run yet."""
    queried: str | None = None
    """Prompt tokens looked for in the prefix cache."""
    hit: str | None = None
    """Those that were found."""


KNOWN = (
    # https://docs.vllm.ai/en/latest/usage/metrics.html
    Names(
        "vllm:generation_tokens_total", "vllm:prompt_tokens_total", "vllm:num_requests_waiting",
        "vllm:prefix_cache_queries_total", "vllm:prefix_cache_hits_total",
    ),
    # https://docs.sglang.io/references/production_metrics.html
    Names("sglang:generation_tokens_total", "sglang:prompt_tokens_total", "sglang:num_queue_reqs"),
    # https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md
    Names("llamacpp:tokens_predicted_total", "llamacpp:prompt_tokens_total", "llamacpp:requests_deferred"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Look:
    """The counters at one moment, summed over models and replicas."""

    output: float
    input: float
    waiting: float
    queried: float | None
    hit: float | None

    @classmethod
    def at(cls, page: bytes) -> Self | None:
        """Read a page; None if it has no counters that are known."""
        values = _values(page)
        for names in KNOWN:
            if names.output in values:
                return cls(
                    values[names.output], values.get(names.input, 0.0), values.get(names.waiting, 0.0),
                    values.get(names.queried or ""), values.get(names.hit or ""),
                )  # fmt: skip
        return None


def _values(page: bytes) -> dict[str, float]:
    """Sums over the time series of each name that is wanted; a page has thousands of others."""
    wanted = {name for names in KNOWN for name in (names.output, names.input, names.waiting, names.queried, names.hit)}
    values: dict[str, float] = {}
    for line in page.decode(errors="replace").splitlines():
        name = line.partition("{")[0].partition(" ")[0]
        if name in wanted:
            number = line[line.rfind("}") + 1 :].removeprefix(name).split()
            try:
                values[name] = values.get(name, 0.0) + float(number[0])
            except (ValueError, IndexError):
                continue
    return values


def _difference(first: float | None, last: float | None) -> float | None:
    return None if first is None or last is None else last - first


@dataclass(frozen=True, slots=True)
class MetricsPage:
    """Where the counters are."""

    address: Address
    path: str
    headers: Mapping[str, str] = field(repr=False)

    def look(self) -> Look | None:
        """Read them now; None where they cannot be read."""
        try:
            page = ask(self.address, self.path, self.headers, TIMEOUT_S)
        except (OSError, MalformedError):
            return None
        return Look.at(page.body) if page.status == OK else None


def find_page(address: Address, url: str | None, headers: Mapping[str, str]) -> MetricsPage | None:
    """The page at `url`, or at the server's `/metrics` if that has counters that are known; None if there is none.

    Raises:
        EngineError: a page that was asked for by its address has none.
    """
    if url is None:
        return None
    if url == LOOK_FOR_METRICS:
        page = MetricsPage(address, address.prefix + "/metrics", headers)
        return page if page.look() is not None else None
    # The key is the server's; whoever else has the page gets none.
    page = MetricsPage(Address.of(url, address.ca_file), urlsplit(url).path or "/metrics", {})
    if page.look() is None:
        raise EngineError(f"metrics_url: no page with counters of vLLM, SGLang or llama.cpp at {url}")
    return page


@dataclass(frozen=True, slots=True)
class Growth:
    """What the server counted since the run began."""

    output: float
    """Generated tokens."""
    hit_rate: float | None
    """Share of prompt tokens that were in the prefix cache already."""


class Watcher:
    """Looks at the page once a second, from a thread of its own: a busy server answers late."""

    def __init__(self, page: MetricsPage) -> None:
        self._page = page
        self.first = self.last = page.look()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="tokenwatt-metrics", daemon=True)
        self._thread.start()

    def running(self, in_flight: int) -> int:
        """Those in flight that did not wait in the server's queue at the last look; one at least, whose news this is.

        Not the gauge of its batch: a short request may begin and end between two looks, and is in no batch then."""
        return in_flight if self.last is None else max(1, in_flight - round(self.last.waiting))

    def growth(self) -> Growth | None:
        """What was counted from the first look to the last."""
        first, last = self.first, self.last
        if first is None or last is None or last.output < first.output:
            return None
        queried, hit = _difference(first.queried, last.queried), _difference(first.hit, last.hit)
        return Growth(last.output - first.output, hit / queried if queried and hit is not None else None)

    def close(self) -> None:
        """Look once more, and stop."""
        self._stop.set()
        self._thread.join()
        self.last = self._page.look() or self.last

    def _watch(self) -> None:
        while not self._stop.wait(LOOK_EVERY_S):
            self.last = self._page.look() or self.last
