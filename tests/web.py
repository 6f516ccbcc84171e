"""Servers for tests: real sockets, real HTTP, and answers in the shapes that BMCs, exporters and engines give."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Web:
    """A running server."""

    address: str
    authorizations: list[str | None] = field(default_factory=list)
    """Authorization header of each request so far."""


Answer = str | Callable[[], str]


@contextmanager
def serving(
    pages: Mapping[str, Answer], delay_s: float = 0.0, tls: ssl.SSLContext | None = None, password: str | None = None
) -> Iterator[Web]:
    """Serve `pages` (path -> body, or a function that makes it) on a free port; anything else is 404.

    password: Authorization header that is asked for; without it 401.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            web.authorizations.append(self.headers.get("Authorization"))
            time.sleep(delay_s)
            page = pages.get(self.path)
            refused = password is not None and self.headers.get("Authorization") != password
            self.send_response(401 if refused else 404 if page is None else 200)
            body = "" if page is None or refused else page if isinstance(page, str) else page()
            self.send_header("Content-Length", str(len(body.encode())))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            """A client that refuses the certificate hangs up."""

    server = Server(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    web = Web(f"{'http' if tls is None else 'https'}://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield web
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
