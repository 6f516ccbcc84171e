"""What vLLM says of each of its steps: requests that run, and prompt tokens that were found in the prefix cache."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Any

from vllm.v1.metrics.loggers import StatLoggerBase

from tokenwatt.clock import Clock


@dataclass(slots=True)
class Statistics:
    """Of one run. A step is noted in the event loop's thread, before its tokens are handed to anybody."""

    clock: Clock
    _running: dict[int, int] = field(default_factory=dict)
    """Requests in the newest batch of each engine (data parallel: several), those that ended with it included."""
    _at_s: list[float] = field(default_factory=list)
    """When a step looked prompts up in the prefix cache ..."""
    _queries: list[int] = field(default_factory=list)
    """... the prompt tokens that were looked up until then ..."""
    _hits: list[int] = field(default_factory=list)
    """... and those of them that were found."""

    @property
    def running(self) -> int:
        """Requests in the newest batch."""
        return sum(self._running.values())

    def note(self, engine: int, running: int, queries: int, hits: int) -> None:
        """A step of an engine has ended."""
        self._running[engine] = running
        if queries:
            self._at_s.append(self.clock())
            self._queries.append(queries + (self._queries[-1] if self._queries else 0))
            self._hits.append(hits + (self._hits[-1] if self._hits else 0))

    def hit_rate(self, until_s: float) -> float | None:
        """Share of prompt tokens that were in the cache, since the run began; None where none was looked up."""
        steps = bisect_right(self._at_s, until_s)
        return self._hits[steps - 1] / self._queries[steps - 1] if steps else None


class Listener:
    """Hears of all steps; what vLLM is started with, while runs, and their statistics, come and go."""

    def __init__(self) -> None:
        self.statistics: Statistics | None = None
        """Of the run that is under way; None: nobody asks."""

    def logger(self, config: Any, engine_index: int = 0) -> StatLoggerBase:
        """A logger as vLLM makes one for each of its engines."""
        return _Logger(config, self, engine_index)


class _Logger(StatLoggerBase):
    def __init__(self, vllm_config: Any, listener: Listener, engine_index: int = 0) -> None:
        self._listener = listener
        self._engine = engine_index

    def record(
        self, scheduler_stats: Any, iteration_stats: Any, mm_cache_stats: Any = None, engine_idx: int = 0
    ) -> None:
        """The scheduler counts the requests that go on; those that ended with the step are in the iteration."""
        statistics = self._listener.statistics
        if statistics is None or scheduler_stats is None:
            return
        ended = 0 if iteration_stats is None else len(iteration_stats.finished_requests)
        found = scheduler_stats.prefix_cache_stats
        queries, hits = (0, 0) if found is None else (found.queries, found.hits)
        statistics.note(self._engine, scheduler_stats.num_running_reqs + ended, queries, hits)

    def log_engine_initialized(self) -> None:
        """Nothing to say."""
