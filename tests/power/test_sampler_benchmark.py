"""What reading costs: `pytest --benchmark-enable tests/power/test_sampler_benchmark.py`.

The virtual driver answers at once, so this is what our own code and the binding need; a real driver adds its own time.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tokenwatt import power
from tokenwatt.power import virtual

BOARDS = 8
READINGS_PER_S = 20.0


@pytest.fixture
def eight_boards(virtual_nvml):
    uuids = tuple(virtual.uuid(board) for board in range(BOARDS))
    script = virtual.Script((virtual.Board(processes=("self",)),) * BOARDS)
    with virtual.load(script, virtual_nvml.library), power.open_meters(uuids, Path("/nonexistent")) as meters:
        (meter,) = meters.meters
        yield meter


def test_eight_boards_are_read(benchmark, eight_boards):
    """Every kind of reading in its proportion: sixteen in a row, one of them with processes, four with clocks."""

    def sixteen() -> power.PowerLog:
        log = power.PowerLog()
        for _ in range(16):
            log.extend(eight_boards.read(time.perf_counter))
        return log

    boards = benchmark.pedantic(sixteen, rounds=30, warmup_rounds=3).readings()
    assert [len(board) for board in boards.values()] == [16] * BOARDS
    assert [len(board.known("sm_clock_hz")) for board in boards.values()] == [4] * BOARDS
    if benchmark.enabled:
        share = benchmark.stats.stats.median / 16 * READINGS_PER_S
        benchmark.extra_info["percent of a core at 20 Hz"] = round(100 * share, 2)
