"""A real server with an exact timetable: what it has really sent, and when, is the truth that a client is held against.

A process of its own (`serving` starts it). Send times are absolute, so that errors do not add up, and its stamps are of
`time.perf_counter`, which all processes of a machine share.
"""

from __future__ import annotations

import asyncio
import heapq
import json
import math
import os
import selectors
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any

MODEL = "timed"
KEY = "sk-of-the-timed-server"
AT_A_TIME = 32
"""Events sent before the server looks for requests."""
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
    by_prompt: tuple[dict[str, Any], ...] = ()
    """Changes to all this for a request, by the first token id of its prompt."""
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
    metrics: str = ""
    """Its page of metrics, if it has one."""


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
UNTIL_CLOSED = b"Connection: close\r\n\r\n"
STATUSES = {"400": 400, "404": 404, "429": 429, "500": 500, "503": 503}
"""Faults that are HTTP statuses."""
WITHIN = {
    "bad_sse": b"this is no event\n\n",
    "bad_json": b'data: {"choices": [\n\n',
    "error_event": b'data: {"error": {"message": "out of luck", "code": 500}}\n\n',
}
"""Faults that are bytes in the place of an event."""


@dataclass(frozen=True)
class Answer:
    """What an answer is made of."""

    script: Script
    tokens: int
    prompt_tokens: int
    is_chat: bool
    has_usage: bool
    is_continuous: bool
    has_ids: bool

    @classmethod
    def to(cls, script: Script, body: dict[str, Any], is_chat: bool) -> Answer:
        """The answer to a request."""
        options = body.get("stream_options") or {}
        return cls(
            script,
            tokens=int(body.get("max_tokens") or body["max_completion_tokens"]),
            prompt_tokens=len(body["messages"][0]["content"] if is_chat else body["prompt"]),
            is_chat=is_chat,
            has_usage=bool(options.get("include_usage")),
            is_continuous=script.sends_continuous_usage and bool(options.get("continuous_usage_stats")),
            has_ids=script.sends_ids and bool(body.get("return_token_ids")),
        )

    def events(self) -> list[bytes]:
        """One for each `per_event` tokens, framed; the last has the finish_reason."""
        step = self.script.per_event
        return [self._event(first, min(step, self.tokens - first)) for first in range(0, self.tokens, step)]

    def whole(self) -> bytes:
        """The answer in one piece, chunk by chunk as a server writes them."""
        return HEAD + CHUNKED + b"".join(map(chunk, [*self.events(), *self.end()])) + b"0\r\n\r\n"

    def in_one(self, echoes: bool) -> dict[str, Any]:
        """The answer without a stream: token `n` of prompt and answer has the log-probability -n / 4."""
        count = self.prompt_tokens * echoes + self.tokens
        numbers = [None if echoes and not place else -place / 4 for place in range(count)]
        choice = {"index": 0, "text": "", "logprobs": {"token_logprobs": numbers}, "finish_reason": "length"}
        return {"choices": [{**choice, "token_ids": list(range(self.tokens))} if self.has_ids else choice]}

    def end(self) -> list[bytes]:
        """Usage, if it was asked for, and the end."""
        wrong = {"more_usage": WRONG_USAGE, "less_usage": -WRONG_USAGE}.get(self.script.fault, 0)
        usage = [self._data({"choices": [], "usage": self._usage(self.tokens + wrong)})] if self.has_usage else []
        return [*usage, self._line_ends(b"data: [DONE]\n\n")]

    def _event(self, first: int, count: int) -> bytes:
        text = "".join(f"t{number % 10} " for number in range(first, first + count))
        words: dict[str, Any] = {"delta": {"content": text}} if self.is_chat else {"text": text}
        choice: dict[str, Any] = {"index": 0, **words}
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


class Sending:
    """Events of one answer, on their way."""

    def __init__(
        self, transport: asyncio.WriteTransport, events: list[bytes], script: Script, came_s: float, sent: list[float]
    ) -> None:
        self.done = asyncio.get_running_loop().create_future()
        self.transport, self.events, self.gap_s, self.sent = transport, events, script.gap_s, sent
        self.first_s = came_s + script.ttft_s

    def send(self) -> float | None:
        """Send the next event; when another one is due."""
        number = len(self.sent)
        self.sent.append(time.perf_counter())
        self.transport.write(self.events[number])
        if number + 1 == len(self.events) or self.transport.is_closing():
            self.done.set_result(None)
            return None
        return self.first_s + (number + 1) * self.gap_s


class Timetable:
    """All that is to be sent, behind a single timer: tens of thousands of events are due each second."""

    def __init__(self) -> None:
        self.due: list[tuple[float, int, Sending]] = []
        self.timer: asyncio.TimerHandle | None = None

    def add(self, sending: Sending) -> None:
        """Send these events when they are due."""
        heapq.heappush(self.due, (sending.first_s, id(sending), sending))
        self.wait()

    def send(self) -> None:
        """Send what is due, a little at a time, so that requests are read meanwhile."""
        for _ in range(AT_A_TIME):
            if not self.due or self.due[0][0] > time.perf_counter():
                break
            _, place, sending = self.due[0]
            next_s = sending.send()
            if next_s is None:
                heapq.heappop(self.due)
            else:
                heapq.heapreplace(self.due, (next_s, place, sending))
        self.wait()

    def wait(self) -> None:
        """Be woken when the first of them is due."""
        if self.timer is not None:
            self.timer.cancel()
        if self.due:
            left_s = self.due[0][0] - time.perf_counter()
            self.timer = asyncio.get_running_loop().call_later(max(0.0, left_s), self.send)


class Sleepless(selectors.EpollSelector):
    """Looks at the sockets again and again: a processor that sleeps takes up to a millisecond to wake, and a timer of
    epoll is as coarse."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """What is ready, as soon as it is."""
        end_s = math.inf if timeout is None else time.perf_counter() + timeout
        while True:
            ready = super().select(0)
            if ready or time.perf_counter() >= end_s:
                return ready


EVENTS, WHOLE = cache(Answer.events), cache(Answer.whole)
"""Made once for all requests that are alike: a server that renders while it serves is late."""


def chunk(data: bytes) -> bytes:
    """In chunked encoding."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def main(script: Script, selector: selectors.BaseSelector) -> None:
    """Serve on a free port, which is printed."""
    from aiohttp import web

    truth: list[dict[str, Any]] = []
    timetable = Timetable()
    came: dict[object, float] = {}
    receive = web.RequestHandler.data_received

    def stamp(self: web.RequestHandler, data: bytes) -> None:
        """When the bytes came, which may be long before their request's turn."""
        came[self] = time.perf_counter()
        receive(self, data)

    web.RequestHandler.data_received = stamp  # type: ignore[method-assign]

    def error(status: int, message: str) -> web.Response:
        return web.json_response({"error": {"message": message, "type": "error", "code": status}}, status=status)

    async def complete(request: web.Request) -> web.StreamResponse | web.Response:
        if request.content_type != "application/json":
            return error(415, f"a body of {request.content_type}")
        body = await request.json()
        came_s = came[request.protocol]
        own = replace(script, **body.get("script", {}))
        if isinstance(body.get("prompt"), list) and body["prompt"][0] < len(own.by_prompt):
            own = replace(own, **own.by_prompt[body["prompt"][0]])
        own = replace(own, by_prompt=())
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
        answer = Answer.to(own, body, request.path.endswith("chat/completions"))
        if not body.get("stream"):
            return web.json_response(answer.in_one(bool(body.get("echo"))))
        if own.at_once:
            request.transport.write(WHOLE(answer))
            return _Nothing()
        sent: list[float] = []
        truth.append({"prompt": body.get("prompt", body.get("messages")), "came_s": came_s, "sent_s": sent})
        return await stream(request, answer, came_s, sent)

    class _Nothing(web.Response):
        """An answer that has been written by hand."""

        keep_alive = True

        async def prepare(self, request: web.BaseRequest) -> None:
            return None

        async def write_eof(self, data: bytes = b"") -> None:
            return None

    async def stream(request: web.Request, answer: Answer, came_s: float, sent: list[float]) -> web.StreamResponse:
        own, transport = answer.script, request.transport
        assert transport is not None
        if own.fault == "never":
            await asyncio.sleep(3600)
        if own.fault == "no_http":
            transport.write(b"I speak no HTTP\r\n\r\n")
            transport.close()
            return _Nothing()
        if own.fault == "no_stream":
            return web.json_response({"choices": [{"text": "all at once"}]})
        transport.write(HEAD + (CHUNKED if own.chunked else UNTIL_CLOSED))
        frame = chunk if own.chunked else bytes
        if own.fault or own.cut:
            await send_with_faults(transport, answer, frame, came_s, sent)
        else:
            sending = Sending(transport, list(map(frame, EVENTS(answer))), own, came_s, sent)
            timetable.add(sending)
            await sending.done
        if own.fault != "no_end":
            transport.write(b"".join(map(frame, answer.end())))
        if own.chunked:
            transport.write(b"0\r\n\r\n")
        if own.closes or not own.chunked:
            transport.close()
        return _Nothing()

    async def send_with_faults(
        transport: asyncio.WriteTransport, answer: Answer, frame: Callable[[bytes], bytes], came_s: float,
        sent: list[float],
    ) -> None:  # fmt: skip
        own = answer.script
        for number, event in enumerate(EVENTS(answer)):
            await asyncio.sleep(max(0.0, came_s + own.ttft_s + number * own.gap_s - time.perf_counter()))
            if number == 2 and own.fault:
                await _break(own.fault, transport, frame)
            parts = [event[: own.cut], event[own.cut :]] if 0 < own.cut < len(event) else [event]
            for part in parts[:-1]:
                transport.write(frame(part))
                await asyncio.sleep(0.002)
            sent.append(time.perf_counter())
            transport.write(frame(parts[-1]))

    async def _break(fault: str, transport: asyncio.WriteTransport, frame: Callable[[bytes], bytes]) -> None:
        if fault in WITHIN:
            transport.write(frame(WITHIN[fault]))
        elif fault == "closed":
            transport.close()
        elif fault == "aborted":
            transport.abort()
        elif fault == "stall":
            await asyncio.sleep(3600)
        elif fault == "bad_chunk":
            transport.write(b"this is no size\r\n")
        elif fault == "died":
            os._exit(1)

    async def models(request: web.Request) -> web.Response:
        if script.needs_key and request.headers.get("Authorization") != f"Bearer {KEY}":
            return error(401, f"wrong key: {request.headers.get('Authorization')}")
        return web.json_response({"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "tests"}]})

    async def told(request: web.Request) -> web.Response:
        answer = web.json_response(truth)
        truth.clear()
        return answer

    async def metrics(request: web.Request) -> web.Response:
        return web.Response(text=script.metrics, status=200 if script.metrics else 404)

    async def healthy(request: web.Request) -> web.Response:
        return web.Response()

    async def serve() -> None:
        app = web.Application(client_max_size=2**28)
        app.router.add_post("/v1/completions", complete)
        app.router.add_post("/v1/chat/completions", complete)
        app.router.add_get("/v1/models", models)
        app.router.add_get("/truth", told)
        app.router.add_get("/health", healthy)
        app.router.add_get("/metrics", metrics)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, backlog=4096)
        await site.start()
        print(runner.addresses[0][1], flush=True)
        await asyncio.to_thread(sys.stdin.read)  # until whoever started it is gone
        await runner.cleanup()

    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
        runner.run(serve())


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
    """Run the server in a process of its own; a processor `cpu` is all its own, and it never lets that sleep."""
    words = [sys.executable, __file__, json.dumps(asdict(script or Script()))]
    command = words if cpu is None else ["taskset", "-c", str(cpu), *words, "sleepless"]
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
    fields: dict[str, Any] = json.loads(sys.argv[1])
    for name in ("refuses", "by_prompt"):
        fields[name] = tuple(fields[name])
    main(Script(**fields), Sleepless() if sys.argv[2:] == ["sleepless"] else selectors.DefaultSelector())
