"""Every fault of a server ends its request with a status, and no other request's."""

import json
import multiprocessing
import socket
from pathlib import Path

import pytest
from tests.engines.endpoint.driving import Run, engine, requests, run, run_requests
from tests.engines.endpoint.timed_server import KEY, Script, Served, serving

from tokenwatt.clock import RunClock
from tokenwatt.engines.openai_endpoint.answers import MalformedError, parse_head
from tokenwatt.engines.openai_endpoint.chunks import Dechunker
from tokenwatt.engines.openai_endpoint.key import Key
from tokenwatt.engines.openai_endpoint.outcome import Fault, of_fault, of_http
from tokenwatt.engines.openai_endpoint.tokens import Answer
from tokenwatt.errors import EngineError, UserError
from tokenwatt.load import Listed, Load

# Status, words and tokens of a request of 8 tokens, one each event: two events come before a fault within the answer.
FAULTS = {
    "400": ("rejected", "HTTP 400: scripted 400", 0),
    "404": ("rejected", "HTTP 404: scripted 404", 0),
    "429": ("overloaded", "HTTP 429: scripted 429", 0),
    "503": ("overloaded", "HTTP 503: scripted 503", 0),
    "500": ("server_error", "HTTP 500: scripted 500", 0),
    "error_event": ("server_error", "out of luck", 2),
    "closed": ("closed_early", "the server closed the connection", 2),
    "aborted": ("closed_early", "", 2),
    "never": ("no_answer", "no byte of an answer within 3 s", 0),
    "stall": ("stalled", "the answer stopped for 3 s", 2),
    "bad_sse": ("malformed", "no line of an event stream: b'this is no event'", 2),
    "bad_json": ("malformed", "an event is no JSON", 2),
    "bad_chunk": ("malformed", "no chunk size: b'this is no size'", 2),
    "no_http": ("malformed", "no HTTP status line: 'I speak no HTTP'", 0),
    "no_stream": ("malformed", "the answer is application/json, and should be text/event-stream", 0),
    "less_usage": ("miscounted", "8 tokens came, usage says 5", 8),
    "more_usage": ("complete", "", 11),
    "no_end": ("complete", "", 8),
}
# Good requests among them: the prompts 0 and 1, and those after the last fault.
IN_TURN = ("", "", *FAULTS)
COUNT = len(IN_TURN) + 2


def in_turn(*faults: str, **changes) -> Script:
    """A server whose requests have these faults, by prompt; request 1 has none, with whose prompt the engine probes."""
    return Script(ttft_s=0.005, gap_s=0.001, by_prompt=tuple({"fault": fault} for fault in faults), **changes)


@pytest.fixture(scope="module")
def all_faults() -> Run:
    """One run in which each fault happens once, four requests at a time."""
    with serving(in_turn(*IN_TURN)) as served:
        return run_requests(served, count=COUNT, concurrency=4, first_byte_s=3.0, stall_s=3.0)


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_has_its_status_and_what_came_before_is_kept(all_faults, fault):
    status, words, tokens = FAULTS[fault]
    index = IN_TURN.index(fault)
    assert all_faults.status(index) == status
    assert words in all_faults.detail(index)
    assert all_faults.tokens(index) == tokens


def test_the_other_requests_are_answered(all_faults):
    good = [0, 1, COUNT - 2, COUNT - 1]
    assert [(all_faults.status(index), all_faults.tokens(index)) for index in good] == [("complete", 8)] * 4
    assert len(all_faults.sent) == COUNT
    times = [event.at_s for event in all_faults.events]
    assert times == sorted(times)


def test_a_server_that_dies_leaves_no_request_without_an_end():
    with serving(in_turn("", "", "", "died")) as served:
        outcome = run_requests(served, count=8, concurrency=2)
    statuses = [outcome.status(index) for index in range(8)]
    assert statuses[:2] == ["complete"] * 2
    assert statuses[3] == "closed_early"
    assert set(statuses[4:]) <= {"closed_early", "unreachable"}
    assert statuses[-2:] == ["unreachable"] * 2
    assert "refused" in outcome.detail(7)
    assert outcome.tokens(3) == 2


def test_a_server_that_stays_away_ends_the_run(monkeypatch):
    monkeypatch.setattr("tokenwatt.engines.openai_endpoint.reader.GONE_S", 0.4)
    with serving(in_turn("", "", "died")) as served:
        subject = engine(served.url)
        subject.load(32, 64)
        with pytest.raises(EngineError, match=r"the server is gone: \d+ requests in .* s, Connection refused"):
            run(subject, Load.closed(Listed(requests(1000)), 32))


def test_the_key_is_shown_nowhere(monkeypatch):
    with serving(in_turn("", "", "400", needs_key=True)) as served:
        monkeypatch.setenv("THE_KEY", KEY)
        subject = engine(served.url, api_key_env="THE_KEY")
        subject.load(1, 64)
        outcome = run(subject, Load.closed(Listed(requests(3)), 1))
        # This server repeats the header that it was sent.
        assert outcome.detail(2) == "HTTP 400: scripted 400, Bearer <key>"
        assert KEY not in repr([outcome, subject.identity, vars(subject)])
        monkeypatch.setenv("THE_KEY", "sk-another-one")
        with pytest.raises(EngineError, match="refuses: HTTP 401: wrong key: Bearer <key>") as refused:
            engine(served.url, api_key_env="THE_KEY").load(1, 64)
    assert refused.value.__cause__ is None


def test_headers_are_hidden_like_the_key():
    with serving(in_turn("", "", "400", needs_key=True)) as served:
        subject = engine(served.url, headers={"Authorization": f"Bearer {KEY}"})
        subject.load(1, 64)
        outcome = run(subject, Load.closed(Listed(requests(3)), 1))
        assert outcome.detail(2) == "HTTP 400: scripted 400, <key>"
        assert KEY not in repr([outcome, subject.identity, subject._key])
    key = Key.of(None, {"Authorization": f"Bearer {KEY}", "X-Key": "it's\\8 more", "X-Team": "blue"})
    assert key.hide(f"{KEY} of blue") == "<key> of blue"
    assert key.hide(repr(b"it's\\8 more") + json.dumps("it's\\8 more")) == 'b"<key>""<key>"'


def test_options_without_a_tokenizer_are_refused_without_repeating_their_headers():
    with pytest.raises(UserError, match=r"the model's folder or hub id, got no tokenizer$"):
        engine("http://localhost", api="chat", headers={"Authorization": f"Bearer {KEY}"})


LONG_KEY = "sk-" + "0123456789" * 30


@pytest.mark.parametrize(
    "body",
    [
        b"x" * 70 + LONG_KEY.encode() + b"\n\n",
        b"data: " + b"x" * 70 + LONG_KEY.encode() + b"\n\n",
        b"data: [" + b"5," * 35 + b'"' + LONG_KEY.encode() + b'"]\n\n',
        b'data: {"error": "' + b"x" * 280 + LONG_KEY.encode() + b'"}\n\n',
        b"data: half of " + LONG_KEY[:50].encode(),
    ],
)
def test_a_key_is_hidden_before_words_are_shortened(body):
    told = Key.of(None, {"X-Key": LONG_KEY}).tell
    with pytest.raises(Fault) as fault:
        read_stream(body)
    words = told(of_fault(fault.value).detail)
    assert "<key>" in words
    assert LONG_KEY[:8] not in words
    assert len(words) <= 300


def read_stream(body: bytes) -> int:
    answer = Answer()
    answer.feed(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + body)
    return answer.conclude()


def test_a_key_in_a_wrong_head_or_chunk_is_hidden_before_words_are_shortened():
    told = Key.of(None, {"X-Key": LONG_KEY}).tell
    bad, dechunker = b"no size " + b"x" * 25 + LONG_KEY.encode() + b"\r\n", Dechunker()
    with pytest.raises(MalformedError) as fault:
        parse_head(bad)
    dechunker.feed(bad)
    for error in (fault.value, dechunker.fault):
        assert told(str(error)).count("<key>") == 1
    assert told(of_http(400, b"x" * 280 + LONG_KEY.encode()).detail) == "HTTP 400: " + "x" * 280 + "<key>"


@pytest.mark.parametrize(
    "options",
    [
        {"api_key_env": KEY},
        {"base_url": f"http://user:{KEY}@localhost"},
        {"base_url": f"http://user:{KEY}@localhost:x"},
        {"base_url": f"user:{KEY}@localhost"},
        {"base_url": f"http://localhost?key={KEY}"},
        {"base_url": f"http://localhost#{KEY}"},
        {"metrics_url": f"http://user:{KEY}@localhost/metrics"},
        {"metrics_url": f"http://localhost/metrics?key={KEY}"},
        {"headers": {"Authorization": [KEY]}},
        {"headers": {"Authorization": f"{KEY}\r\nX: y"}},
    ],
)
def test_options_that_hold_a_key_in_a_wrong_place_are_refused_without_repeating_it(options):
    with pytest.raises(UserError) as refused:
        engine(**{"url": "http://localhost", **options} if "base_url" not in options else {"url": options["base_url"]})
    assert KEY not in str(refused.value)


@pytest.mark.parametrize(
    "url", ["http://h:99999", "http://h:x", "http://h:0", "http://[bad", "http://:80", "http://a..b"]
)
def test_a_bad_port_or_host_is_one_line(url):
    for options in ({"url": url}, {"url": "http://localhost", "metrics_url": url}):
        with pytest.raises(UserError, match="_url: must be an address .*, got one without a host, or with a port that"):
            engine(**options)


def test_a_variable_without_a_key_is_named(monkeypatch):
    monkeypatch.delenv("NO_KEY", raising=False)
    with pytest.raises(UserError, match="api_key_env names NO_KEY, which is not set"):
        engine("http://localhost", api_key_env="NO_KEY")


def test_a_wrong_model_is_answered_with_the_right_one(served):
    with pytest.raises(EngineError, match=r"unknown served_model 'timd' \(did you mean 'timed'\?\); known: timed"):
        engine(served.url, served_model="timd").load(1, 64)


def test_no_server_is_one_line():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(EngineError, match=f"no server at {url}: .*refused"):
            engine(url).load(1, 64)


def test_the_clock_must_be_one_that_another_process_can_share(served):
    subject = engine(served.url)
    subject.load(1, 64)
    with pytest.raises(EngineError, match="it needs a RunClock"):
        list(subject.serve(Load.closed(Listed(requests(1)), 1), lambda: 0.0))


def test_a_run_that_cannot_begin_is_not_under_way(served):
    subject = engine(served.url)
    for _ in range(2):
        with pytest.raises(EngineError, match="the engine is not loaded"):
            list(subject.serve(Load.closed(Listed(requests(1)), 1), RunClock()))


def test_the_death_of_the_client_is_an_engine_error(served):
    subject = engine(served.url)
    subject.load(4, 64)
    events = subject.serve(Load.closed(Listed(requests(4, osl=5000)), 4), RunClock())
    next(events)
    (child,) = multiprocessing.active_children()
    child.kill()
    with pytest.raises(EngineError, match=r"the load client's process died \(exit code -9\)"):
        list(events)


def test_closing_abandons_what_is_in_flight_and_leaves_nothing_behind(served: Served):
    subject = engine(served.url)
    subject.load(4, 64)
    list(subject.serve(Load.closed(Listed(requests(1)), 1), RunClock()))  # what is opened once is open now
    before = open_files()
    events = subject.serve(Load.closed(Listed(requests(4, osl=5000)), 4), RunClock())
    next(events)
    assert len(multiprocessing.active_children()) == 1
    events.close()
    assert multiprocessing.active_children() == []
    assert open_files() == before
    again = run(subject, Load.closed(Listed(requests(2)), 2))
    assert [again.tokens(index) for index in range(2)] == [8, 8]


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
