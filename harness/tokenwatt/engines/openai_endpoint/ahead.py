"""Requests rendered before they are due, while nothing else is to be done: JSON of a long prompt takes milliseconds."""

from __future__ import annotations

from collections.abc import Iterator

from tokenwatt.engines.openai_endpoint.render import Renderer
from tokenwatt.load import Load
from tokenwatt.workloads import Request

LOOKED_AHEAD = 64
"""Requests that are looked ahead, or as many as are in flight."""
MOST_BYTES = 2**26


class Ahead:
    """Rendered requests that will be sent."""

    def __init__(self, load: Load, renderer: Renderer) -> None:
        self._load, self._renderer = load, renderer
        self._rendered: dict[int, bytes] = {}
        self._bytes = 0
        self._count = LOOKED_AHEAD
        self._coming: Iterator[Request] | None = None
        """What is left to look through; None while it is not known what comes."""
        self.has_work = True
        """Whether there may be something to render."""

    def look_again(self, in_flight: int) -> None:
        """Other requests may be coming than before."""
        self._count = max(LOOKED_AHEAD, in_flight)
        self._coming, self.has_work = None, True

    def render_one(self) -> None:
        """Render the next request that is not rendered yet."""
        if self._coming is None:
            self._coming = iter(self._load.coming(self._count))
        for request in self._coming:
            if self._bytes > MOST_BYTES:
                break
            if request.index not in self._rendered:
                self._rendered[request.index] = data = self._renderer(request)
                self._bytes += len(data)
                return
        self.has_work = False

    def take(self, request: Request) -> bytes:
        """The bytes of a request, which is sent now."""
        data = self._rendered.pop(request.index, None)
        if data is None:
            return self._renderer(request)
        self._bytes -= len(data)
        return data
