"""Requests rendered before they are due, while nothing else is to be done: JSON of a long prompt takes milliseconds."""

from __future__ import annotations

from collections.abc import Iterator

from tokenwatt.engines.openai_endpoint.render import Renderer
from tokenwatt.load import Load
from tokenwatt.workloads import Request

OPENINGS = 64
"""Conversations that are looked ahead, or as many as are in flight."""
MOST_BYTES = 2**26


class Ahead:
    """Rendered requests that will be sent."""

    def __init__(self, load: Load, renderer: Renderer) -> None:
        self._load, self._renderer = load, renderer
        self._rendered: dict[int, bytes] = {}
        self._bytes = 0
        self._coming: Iterator[Request] | None = None
        """What is left to look through; None once everything that is known to come has been rendered."""
        self.look_again(OPENINGS)

    def look_again(self, in_flight: int) -> None:
        """Other requests may be coming than before."""
        self._coming = self._load.coming(max(OPENINGS, in_flight))

    @property
    def has_work(self) -> bool:
        """Whether there may be something to render."""
        return self._coming is not None

    def render_one(self) -> None:
        """Render the next request that is not rendered yet."""
        while self._coming is not None:
            request = next(self._coming, None)
            if request is None or self._bytes > MOST_BYTES:
                self._coming = None
            elif request.index not in self._rendered:
                self._rendered[request.index] = data = self._renderer(request)
                self._bytes += len(data)
                return

    def take(self, request: Request) -> bytes:
        """The bytes of a request, which is sent now."""
        data = self._rendered.pop(request.index, None)
        if data is None:
            return self._renderer(request)
        self._bytes -= len(data)
        return data
