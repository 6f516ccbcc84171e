"""An https server that answers everybody alike; as a program it serves until it is ended."""

from __future__ import annotations

import ssl
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class OneAnswer(BaseHTTPRequestHandler):
    """Two tokens for everybody, with a length."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.answer(b'{"data": [{"id": "one"}]}', "application/json")

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        events = b"".join(
            b'data: {"choices": [{"text": "t", "finish_reason": %s}]}\n\n' % end for end in (b"null", b'"length"')
        )
        self.answer(events + b"data: [DONE]\n\n", "text/event-stream")

    def answer(self, body: bytes, kind: str):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *args):
        pass


def https_server(key: str, certificate: str, port: int = 0) -> ThreadingHTTPServer:
    """A server on localhost that is not started yet; port 0 is any free one."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    server = ThreadingHTTPServer(("127.0.0.1", port), OneAnswer)
    server.socket = tls.wrap_socket(server.socket, server_side=True)
    return server


if __name__ == "__main__":
    https_server(sys.argv[1], sys.argv[2], int(sys.argv[3])).serve_forever()
