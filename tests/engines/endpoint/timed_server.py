"""A real server with an exact timetable: what it has really sent, and when, is the truth that a client is held against.

A process of its own (`serving` starts it). Send times are absolute, so that errors do not add up, and its stamps are of
`time.perf_counter`, which all processes of a machine share.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

MODEL = "timed"
KEY = "sk-of-the-timed-server"
WRONG_USAGE = 3
"""Tokens by which the faults `more_usage` and `less_usage` are off."""


@dataclass(frozen=True)
class Script:
    """How a request is answered; a field `script` of its body changes it for that request."""

    ttft_s: float = 0.05
    gap_s: float = 0.005
    """From one event to the next."""
    at_once: bool = False
    """Write the whole answer in one piece, made before: as fast as the socket allows."""
    per_event: int = 1
    """Tokens of an event."""
    fault: str = ""
    """What goes wrong: a status of `STATUSES`, or, after two events, one of `WITHIN` or of those in `_break`."""
    newline: str = "\n"
    cut: int = 0
    """Write each event in two, cut after so many of its bytes; 0 writes it whole."""
    chunked: bool = True
    """Chunked encoding; else the end of the connection ends the answer."""
    closes: bool = False
    """Close the connection after each answer without having said so."""
    needs_key: bool = False
    refuses: tuple[str, ...] = ()
    """Fields that are answered with 400, as a server does that allows no others than it knows."""
    sends_ids: bool = False
    sends_continuous_usage: bool = False


STATUSES = {"400": 400, "404": 404, "429": 429, "500": 500, "503": 503}
"""Faults that are HTTP statuses."""
WITHIN = {
    "bad_sse": b"this is no event\n\n",
    "bad_json": b'data: {"choices": [\n\n',
    "error_event": b'data: {"error": {"message": "out of luck", "code": 500}}\n\n',
}
"""Faults that are bytes in the place of an event."""


class Answers:
    """The events of one answer."""

    def __init__(self, script: Script, body: dict[str, Any], is_chat: bool) -> None:
        self.script, self.tokens, self.is_chat = script, int(body["max_tokens"]), is_chat
        options = body.get("stream_options") or {}
        self.has_usage = bool(options.get("include_usage"))
        self.is_continuous = script.sends_continuous_usage and bool(options.get("continuous_usage_stats"))
        self.has_ids = script.sends_ids and bool(body.get("return_token_ids"))
        self.prompt_tokens = len(body.get("prompt") or body["messages"][0]["content"])

    def events(self) -> list[bytes]:
        """One for each `per_event` tokens; the last has the finish_reason."""
        step = self.script.per_event
        return [self._event(first, min(step, self.tokens - first)) for first in range(0, self.tokens, step)]

    def end(self) -> list[bytes]:
        """Usage, if it was asked for, and the end."""
        wrong = {"more_usage": WRONG_USAGE, "less_usage": -WRONG_USAGE}.get(self.script.fault, 0)
        usage = [self._data({"choices": [], "usage": self._usage(self.tokens + wrong)})] if self.has_usage else []
        return [*usage, self._line_ends(b"data: [DONE]\n\n")]

    def _event(self, first: int, count: int) -> bytes:
        text = "".join(f"t{number % 10} " for number in range(first, first + count))
        choice: dict[str, Any] = {"index": 0, "delta": {"content": text}} if self.is_chat else {"index": 0, "text": text}
        choice |= {"logprobs": None, "finish_reason": "length" if first + count == self.tokens else None}
        if self.has_ids:
            choice["token_ids"] = list(range(first, first + count))
        usage = {"usage": self._usage(first + count)} if self.is_continuous else {}
        return self._data({"choices": [choice], **usage})

    def _usage(self, completion: int) -> dict[str, int]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": completion,
            "total_tokens": self.prompt_tokens + completion,
        }

    def _data(self, fields: dict[str, Any]) -> bytes:
        kind = "chat.completion.chunk" if self.is_chat else "text_completion"
        head = {"id": "cmpl-0123456789abcdef", "object": kind, "created": 1764000000, "model": MODEL}
        return self._line_ends(b"data: " + json.dumps(head | fields, separators=(",", ":")).encode() + b"\n\n")

    def _line_ends(self, event: bytes) -> bytes:
        return event.replace(b"\n", self.script.newline.encode())


@cache
def whole(script: Script, tokens: int, is_chat: bool, options: str) -> bytes:
    """The answer in one piece, chunk by chunk as a server writes them."""
    body = {"max_tokens": tokens, "prompt": "x", "stream_options": json.loads(options), "messages": [{"content": "x"}]}
    answers = Answers(script, body, is_chat)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(map(chunk, [*answers.events(), *answers.end()])) + b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """In chunked encoding."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def main(script: Script) -> None:
    """Serve on a free port, which is printed."""
    from aiohttp import web

    truth: list[dict[str, Any]] = []

    def error(status: int, message: str) -> web.Response:
        return web.json_response({"error": {"message": message, "type": "error", "code": status}}, status=status)

    async def complete(request: web.Request) -> web.StreamResponse | web.Response:
        came_s = time.perf_counter()
        body = await request.json()
        own = Script(**{**asdict(script), **body.get("script", {})})
        if own.needs_key and request.headers.get("Authorization") != f"Bearer {KEY}":
            return error(401, f"wrong key: {request.headers.get('Authorization')}")
        if body["model"] != MODEL:
            return error(404, f"the model {body['model']} does not exist")
        unknown = [name for name in own.refuses if name in body or name in (body.get("stream_options") or {})]
        if unknown:
            return error(400, f"unknown field {unknown[0]}")
        if own.fault in STATUSES:
            return error(STATUSES[own.fault], f"scripted {own.fault}, {request.headers.get('Authorization')}")
        assert request.transport is not None
        is_chat = request.path.endswith("chat/completions")
        if own.at_once:
            options = json.dumps(body.get("stream_options") or {})
            request.transport.write(whole(own, int(body["max_tokens"]), is_chat, options))  # type: ignore[attr-defined]
            return _Nothing()
        sent: list[float] = []
        truth.append({"prompt": body.get("prompt"), "came_s": came_s, "sent_s": sent})
        return await stream(request, own, Answers(own, body, is_chat), came_s, sent)

    class _Nothing(web.Response):
        """An answer that has been written by hand."""

        async def prepare(self, request: web.BaseRequest) -> None:
            return None

        async def write_eof(self, data: bytes = b"") -> None:
            return None

    async def stream(
        request: web.Request, own: Script, answers: Answers, came_s: float, sent: list[float]
    ) -> web.StreamResponse:
        loop = asyncio.get_running_loop()
        offset_s = loop.time() - time.perf_counter()
        transport = request.transport
        assert transport is not None
        if own.fault == "never":
            await asyncio.sleep(3600)
        if own.fault == "no_http":
            transport.write(b"I speak no HTTP\r\n\r\n")
            transport.close()
            return _Nothing()
        if own.fault == "no_stream":
            return web.json_response({"choices": [{"text": "all at once"}]})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        if own.chunked:
            response.enable_chunked_encoding()
        else:
            response.force_close()
        await response.prepare(request)
        for number, event in enumerate(answers.events()):
            due_s = came_s + own.ttft_s + number * own.gap_s
            if due_s > time.perf_counter():
                await _until(loop, due_s + offset_s)
            if number == 2 and own.fault:
                broken = await _break(own.fault, response, transport)
                if broken:
                    return response
            sent.append(time.perf_counter())
            if own.cut:
                await response.write(event[: own.cut % len(event)] or event)
                await asyncio.sleep(0.002)
                sent[-1] = time.perf_counter()
                event = event[own.cut % len(event) :] if own.cut % len(event) else b""
            if event:
                await response.write(event)
        for event in answers.end() if own.fault != "no_end" else ():
            await response.write(event)
        await response.write_eof()
        if own.closes:
            transport.close()
        return response

    async def _break(fault: str, response: web.StreamResponse, transport: asyncio.WriteTransport) -> bool:
        if fault in WITHIN:
            await response.write(WITHIN[fault])
        elif fault == "closed":
            transport.close()
        elif fault == "aborted":
            transport.abort()
        elif fault == "stall":
            await asyncio.sleep(3600)
        elif fault == "bad_chunk":
            transport.write(b"this is no size\r\n")
        elif fault == "died":
            sys.stdout.flush()
            import os

            os._exit(1)
        return fault in ("closed", "aborted")

    async def _until(loop: asyncio.AbstractEventLoop, when_s: float) -> None:
        reached = loop.create_future()
        loop.call_at(when_s, reached.set_result, None)
        await reached

    async def models(request: web.Request) -> web.Response:
        if script.needs_key and request.headers.get("Authorization") != f"Bearer {KEY}":
            return error(401, f"wrong key: {request.headers.get('Authorization')}")
        return web.json_response({"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "tests"}]})

    async def told(request: web.Request) -> web.Response:
        answer = web.json_response(truth)
        truth.clear()
        return answer

    async def healthy(request: web.Request) -> web.Response:
        return web.Response()

    async def serve() -> None:
        app = web.Application(client_max_size=2**28)
        app.router.add_post("/v1/completions", complete)
        app.router.add_post("/v1/chat/completions", complete)
        app.router.add_get("/v1/models", models)
        app.router.add_get("/truth", told)
        app.router.add_get("/health", healthy)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, backlog=4096)
        await site.start()
        print(runner.addresses[0][1], flush=True)
        await asyncio.to_thread(sys.stdin.read)  # until whoever started it is gone
        await runner.cleanup()

    asyncio.run(serve())


@dataclass(frozen=True)
class Served:
    """A running server."""

    url: str
    process: subprocess.Popen[str]

    def truth(self) -> list[dict[str, Any]]:
        """What was answered since this was asked the last time."""
        with urllib.request.urlopen(f"{self.url}/truth") as page:
            return json.load(page)


@contextmanager
def serving(script: Script | None = None, cpu: int | None = None) -> Iterator[Served]:
    """Run the server in a process of its own, on one processor if `cpu` says which."""
    pinned = [] if cpu is None else ["taskset", "-c", str(cpu)]
    command = [*pinned, sys.executable, __file__, json.dumps(asdict(script or Script()))]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        yield Served(f"http://127.0.0.1:{int(process.stdout.readline())}", process)
    finally:
        process.stdin.close()
        process.kill()
        process.wait()
        process.stdout.close()


if __name__ == "__main__":
    fields = json.loads(sys.argv[1])
    main(Script(**{**fields, "refuses": tuple(fields["refuses"])}))
