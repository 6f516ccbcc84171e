"""A server with a timetable for the tests of this folder, and the engine in front of it."""

from collections.abc import Iterator

import pytest
from tests.engines.endpoint.timed_server import Script, Served, serving


@pytest.fixture(scope="session")
def served() -> Iterator[Served]:
    """One that answers fast, and does what the request's own script says."""
    with serving(Script(ttft_s=0.005, gap_s=0.001)) as server:
        yield server
