"""Engine `openai_endpoint` against a real server: what is sent, what is counted, and what connections go through."""

import json
import resource
import socket
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.engines.endpoint import one_answer
from tests.engines.endpoint.driving import Run, engine, requests, run, run_requests, scripted
from tests.engines.endpoint.one_answer import https_server
from tests.engines.endpoint.timed_server import Script, serving
from tokenizers import Tokenizer, decoders, models

from tokenwatt.clock import RunClock
from tokenwatt.engines import open_engine
from tokenwatt.engines.openai_endpoint.address import Address
from tokenwatt.engines.openai_endpoint.metrics_page import Look
from tokenwatt.engines.openai_endpoint.news import Finished, Outbox
from tokenwatt.engines.openai_endpoint.render import Extra, Renderer
from tokenwatt.errors import EngineError, UserError
from tokenwatt.load import Listed, Load
from tokenwatt.spec import BenchSpec, validate
from tokenwatt.workloads import FollowUp, Request, Sampling, Workload

EXTRAS = frozenset(Extra)


def renderer(**changes: Any) -> Renderer:
    address = Address.of("http://somewhere:8000/under")
    return replace(Renderer(address, "completions", "m", {"X-Team": "blue"}, EXTRAS, {}, None), **changes)


def test_every_token_of_every_request_comes_once(served):
    outcome = run_requests(served, count=20, osl=9, concurrency=4)
    assert [(outcome.status(index), outcome.tokens(index)) for index in range(20)] == [("complete", 9)] * 20
    times = [event.at_s for event in outcome.events]
    assert times == sorted(times)
    assert max(event.running for event in outcome.events) <= 4
    assert [sent.request_index for sent in outcome.sent] == list(range(20))
    for sent in outcome.sent:
        assert sent.due_s <= sent.sent_s <= outcome.of(sent.request_index)[0].at_s


FORMS = (
    {},
    {"sends_ids": True},  # to the prompt of the probe as well
    {"newline": "\r\n"},
    {"chunked": False},
    {"closes": True},
    {"cut": 1},
    {"cut": 150},
    {"sends_continuous_usage": True},
    {"sends_ids": True},
    {"per_event": 3},
    {"per_event": 3, "sends_continuous_usage": True},
)


@pytest.fixture(scope="module")
def all_forms() -> Run:
    """One run in which each request is answered in another form, one at a time."""
    with serving(Script(ttft_s=0.005, gap_s=0.001, by_prompt=FORMS)) as served:
        return run_requests(served, count=len(FORMS), concurrency=1, counting="token_ids")


@pytest.mark.parametrize("place", range(len(FORMS)), ids=lambda place: str(FORMS[place]))
def test_tokens_are_counted_whatever_form_the_answer_has(all_forms, place):
    assert (all_forms.status(place), all_forms.tokens(place)) == ("complete", 8)


def test_tokens_are_counted_event_by_event_where_the_server_says(all_forms):
    ids, end_usage, each_usage = ([e for e in all_forms.of(place) if e.tokens] for place in (8, 9, 10))
    assert [event.token_ids for event in ids] == [(number,) for number in range(8)]
    assert [event.tokens for event in each_usage] == [3, 3, 2]
    # Three events of text, and 5 tokens more by usage: with the last of them, or after it where a batch ends between.
    assert [event.tokens for event in end_usage] in ([1, 1, 6], [1, 1, 1, 5])


def test_chat_sends_the_text_of_the_prompt(served, tmp_path):
    Tokenizer(models.WordLevel({"zero": 0, "one": 1, "?": 2}, unk_token="?")).save(str(tmp_path / "tokenizer.json"))
    outcome = run_requests(served, count=2, api="chat", tokenizer=str(tmp_path))
    assert [outcome.tokens(index) for index in range(2)] == [8, 8]
    subject = engine(served.url, api="chat", tokenizer=str(tmp_path))
    subject.load(1, 64)
    body = json.loads(subject._ready.renderer.body(requests(2)[1]))
    assert body["messages"] == [{"role": "user", "content": "one one one one"}]
    with pytest.raises(UserError, match="prompts as text need a tokenizer"):
        engine(served.url, prompt_as="text")
    with pytest.raises(UserError, match=r"the folder has no tokenizer\.json"):
        engine(served.url, api="chat", tokenizer=str(tmp_path.parent))


def test_a_field_that_the_server_refuses_is_left_out_and_the_label_says_so():
    with serving(
        Script(ttft_s=0.0, gap_s=0.0, refuses=("ignore_eos", "continuous_usage_stats", "top_k"), sends_ids=True)
    ) as served:
        subject = engine(served.url)
        subject.load(1, 64)
        assert subject._ready.renderer.extras == {Extra.USAGE, Extra.TOKEN_IDS}
        assert subject.identity.version == "tests prompt_as=tokens counting=usage answers=ids ignore_eos=refused"
        outcome = run(subject, Load.closed(Listed(requests(2)), 1))
        assert [outcome.tokens(index) for index in range(2)] == [8, 8]
    with serving(Script(ttft_s=0.0, gap_s=0.0, refuses=("return_token_ids",))) as served:
        with pytest.raises(EngineError, match="counting = 'token_ids' needs return_token_ids, and the server refuses"):
            engine(served.url, counting="token_ids").load(1, 64)
        with pytest.raises(EngineError, match="refuses the plainest request: HTTP 400: unknown field return_token_ids"):
            engine(served.url, extra_body={"return_token_ids": True}).load(1, 64)


def test_a_server_that_ignores_the_wish_for_token_ids_is_no_server_that_sends_them(served):
    for counting, extras in (("auto", EXTRAS - {Extra.TOKEN_IDS}), ("chunks", {Extra.IGNORE_EOS, Extra.FULL_SAMPLING})):
        subject = engine(served.url, counting=counting)
        subject.load(1, 64)
        assert subject._ready.renderer.extras == extras
        assert " answers=unseen " in subject.identity.version
        assert [found.tolist() for found in subject.prompt_logprobs([np.zeros(4, np.int32)])] == [[-0.25, -0.5, -0.75]]
        assert subject.continuations([np.zeros(4, np.int32)], 3) is None
    with pytest.raises(EngineError, match="counting = 'token_ids' needs return_token_ids, and the server ignores it"):
        engine(served.url, counting="token_ids").load(1, 64)


def test_what_a_server_draws():
    with serving(Script(ttft_s=0.0, gap_s=0.0, sends_ids=True)) as served:
        subject = engine(served.url, counting="chunks")  # how tokens are counted has no part in it
        subject.load(1, 64)
        drawn = subject.continuations([np.zeros(4, np.int32), np.ones(9, np.int32)], 3)
        assert drawn is not None
        first, second = drawn
        assert first.tokens.tolist() == second.tokens.tolist() == [0, 1, 2]
        assert first.logprobs.tolist() == [0.0, -0.25, -0.5]


def test_the_bytes_of_a_request():
    sampling = Sampling(temperature=0.5, top_p=0.9, top_k=7, stop_token_ids=(2, 3))
    data = renderer()(Request(3, np.array([5, 6], dtype=np.int32), 4, sampling, seed=11))
    head, _, body = data.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /under/v1/completions HTTP/1.1\r\nHost: somewhere:8000\r\n")
    assert b"\r\nX-Team: blue\r\n" in head
    assert head.endswith(b"Content-Length: %d" % len(body))
    assert json.loads(body) == {
        "model": "m", "prompt": [5, 6], "max_tokens": 4, "stream": True, "temperature": 0.5, "top_p": 0.9, "seed": 11,
        "stop_token_ids": [2, 3], "top_k": 7, "min_p": 0.0, "repetition_penalty": 1.0, "ignore_eos": True,
        "return_token_ids": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    }  # fmt: skip


def test_only_what_does_something_is_sent_to_a_server_that_knows_no_more():
    bare = json.loads(renderer(extras=frozenset(), extra_body={"max_tokens": 99}).body(requests(1)[0]))
    assert bare == {
        "model": "m", "prompt": [0] * 4, "max_tokens": 99, "stream": True, "temperature": 0.0, "top_p": 1.0
    }  # fmt: skip
    asked = json.loads(renderer(extras=frozenset()).body(requests(1, sampling=Sampling(min_p=0.1))[0]))
    assert (asked["min_p"], "top_k" in asked) == (0.1, False)


def test_a_thousand_streams_at_a_time(served):
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert hard >= 1100, "this test needs as many open files"
    outcome = run_requests(
        served, count=1000, osl=4, concurrency=1000, extra_body=scripted(ttft_s=0.4, gap_s=0.1), counting="chunks"
    )
    assert sum(event.tokens for event in outcome.events) == 4000
    assert {outcome.status(index) for index in range(1000)} == {"complete"}
    assert max(event.running for event in outcome.events) == 1000


def test_too_few_files_are_said_before_anything_is_sent(served):
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with pytest.raises(EngineError, match=rf"open files, the hard limit is {hard}; raise it"):
        engine(served.url).load(hard, 64)


@dataclass(frozen=True)
class Echo:
    """Conversations of two turns: the second prompt is the first and what was answered."""

    @property
    def has_follow_ups(self) -> bool:
        return True

    def opening(self, place: int) -> Request | None:
        return requests(2)[place] if place < 2 else None

    def follow_up(self, request: Request, output) -> FollowUp | None:
        if request.turn:
            return None
        prompt = np.concatenate([request.prompt, np.array(output, dtype=np.int32)])
        return FollowUp(Request(10 + request.index, prompt, 2, conversation=request.index, turn=1), think_s=0.05)


def test_conversations_go_on_from_what_was_answered(served):
    subject = engine(served.url, extra_body=scripted(sends_ids=True))
    subject.load(2, 64)
    served.truth()
    outcome = run(subject, Load.closed(Echo(), 2))
    prompts = {tuple(answer["prompt"]) for answer in served.truth()}
    assert prompts == {(0,) * 4, (1,) * 4, (*[0] * 4, *range(8)), (*[1] * 4, *range(8))}
    assert [outcome.tokens(index) for index in (0, 1, 10, 11)] == [8, 8, 2, 2]
    for conversation in (0, 1):
        (second,) = (sent for sent in outcome.sent if sent.request_index == 10 + conversation)
        assert second.due_s >= outcome.of(conversation)[-1].at_s + 0.05


LETTERS = "t0123456789 abcdef"
"""A token each; the server's answers are such letters."""


@pytest.fixture
def letters(tmp_path) -> str:
    tokenizer = Tokenizer(models.BPE({letter: place for place, letter in enumerate(LETTERS)}, [], unk_token="a"))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return str(tmp_path)


TALK = {
    "name": "talk", "description": "three turns", "vocabulary": len(LETTERS), "salt": False,
    "input": {"kind": "fixed", "tokens": 5}, "output": {"kind": "fixed", "tokens": 3},
    "turns": {"count": {"kind": "fixed", "turns": 3}, "input": {"kind": "fixed", "tokens": 2}},
}  # fmt: skip
ANSWER = "t0 t1 t2 "


def new_text(talk: Workload, number: int) -> list[int]:
    turn = talk.script.turn(0, number)
    assert turn is not None
    return turn.text.tolist()


def test_a_chat_goes_on_as_messages_of_both_sides(served, letters):
    talk = validate(TALK, Workload, "test")
    subject = engine(served.url, api="chat", tokenizer=letters)
    subject.load(1, 64)
    served.truth()
    outcome = run(subject, Load.offline(talk, 1))
    assert [outcome.status(index) for index in range(3)] == ["complete"] * 3
    first, second, third = (answer["prompt"] for answer in served.truth())
    asked = ["".join(LETTERS[token] for token in new_text(talk, turn)) for turn in range(3)]
    assert first == [{"role": "user", "content": asked[0]}]
    assert second == [*first, {"role": "assistant", "content": ANSWER}, {"role": "user", "content": asked[1]}]
    assert third == [*second, {"role": "assistant", "content": ANSWER}, {"role": "user", "content": asked[2]}]


def test_an_answer_of_text_alone_goes_on_as_the_tokens_of_that_text(served, letters):
    talk = validate(TALK, Workload, "test")
    subject = engine(served.url, tokenizer=letters, counting="usage")
    subject.load(1, 64)
    served.truth()
    assert "answers=text" in subject.identity.version
    run(subject, Load.offline(talk, 1))
    first, second, _ = (answer["prompt"] for answer in served.truth())
    assert second == [*first, *(LETTERS.index(letter) for letter in ANSWER), *new_text(talk, 1)]


def test_the_client_ends_when_its_parent_is_gone_and_has_not_read_everything():
    parents, clients = socket.socketpair()
    with clients:
        outbox = Outbox(clients)
        outbox.put([Finished()])
        parents.close()
        with pytest.raises(BrokenPipeError, match="the parent is gone"):
            outbox.check()


def test_warm_up_says_why_nothing_is_answered(served):
    subject = engine(served.url)
    subject.load(1, 64)
    subject.warm_up(list(requests(2)), 1, RunClock())
    broken = replace(subject._ready.renderer, extra_body=scripted(fault="503"))
    subject._loaded = replace(subject._ready, renderer=broken)
    with pytest.raises(EngineError, match="no request of the warm-up was answered: overloaded, HTTP 503: scripted 503"):
        subject.warm_up(list(requests(2)), 1, RunClock())


def test_it_is_opened_by_name():
    spec = BenchSpec(engine="openai_endpoint", workloads=("chat",), concurrency=(1,), options={"base_url": "ftp://x"})
    with pytest.raises(UserError, match="options of engine 'openai_endpoint': base_url: must be an address like http"):
        open_engine(spec)
    identity = engine("http://localhost:1/v1", gpu_uuids=["GPU-1", "GPU-2"], dtype="bfloat16").identity
    assert (identity.device, identity.gpu_uuids, identity.tp) == ("cuda", ("GPU-1", "GPU-2"), 2)


def test_only_a_server_on_this_machine_is_metered_by_its_boards():
    elsewhere = "http://192.0.2.7:8000"  # TEST-NET-1, RFC 5737: nobody's
    assert engine("http://127.0.0.1:8000").identity.gpu_uuids is None
    assert engine(elsewhere).identity.gpu_uuids == ()
    assert engine("http://unknown.invalid").identity.gpu_uuids == ()  # RFC 2606: no name ends so
    assert engine(elsewhere, command=["serve"]).identity.gpu_uuids is None
    assert engine(elsewhere, command=["serve"], gpu_uuids=["GPU-1"]).identity.gpu_uuids == ("GPU-1",)
    with pytest.raises(UserError, match=r"and http://192\.0\.2\.7:8000 is none of its addresses; leave gpu_uuids out"):
        engine(elsewhere, gpu_uuids=["GPU-1"])


@pytest.fixture(scope="module")
def key_and_certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    key, certificate = folder / "key.pem", folder / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, "-days", "1",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"], check=True, capture_output=True,
    )  # fmt: skip
    return key, certificate


def test_an_https_server_whose_certificate_is_named(key_and_certificate):
    key, certificate = map(str, key_and_certificate)
    server = https_server(key, certificate)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        subject = engine(f"https://localhost:{server.server_address[1]}", ca_file=certificate, counting="chunks")
        subject.load(2, 64)
        outcome = run(subject, Load.closed(Listed(requests(4)), 2))
        assert [(outcome.status(index), outcome.tokens(index)) for index in range(4)] == [("complete", 2)] * 4
        with pytest.raises(EngineError, match="certificate verify failed"):
            engine(f"https://localhost:{server.server_address[1]}").load(2, 64)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_server_of_a_command_is_judged_by_the_certificate_and_its_log_is_kept_if_an_error_names_it(
    key_and_certificate, tmp_path, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = {"command": [sys.executable, one_answer.__file__, *map(str, key_and_certificate), str(port)]}
    subject = engine(
        f"https://localhost:{port}", ca_file=str(key_and_certificate[1]), counting="chunks", **options
    )  # fmt: skip
    subject.load(1, 64)
    assert [path.name for path in tmp_path.glob("tokenwatt-server-*/*")] == ["server.log"]
    subject.close()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(EngineError, match=r"is not healthy after 3 s: .*certificate verify failed") as raised:
        engine(f"https://localhost:{port}", start_timeout_s=3.0, **options).load(1, 64)
    (log,) = tmp_path.glob("tokenwatt-server-*/server.log")
    assert str(log) in str(raised.value)


def test_counters_of_a_page():
    page = b"""# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="a b"} 3.0
vllm:num_requests_waiting{engine="1",model_name="a b"} 2.0
vllm:prompt_tokens_total{engine="0"} 70.0
vllm:generation_tokens_total{engine="0"} 1e+03
vllm:prefix_cache_queries_total{engine="0"} 40.0
vllm:prefix_cache_hits_total{engine="0"} 10.0
"""
    assert Look.at(page) == Look(output=1000.0, input=70.0, waiting=5.0, queried=40.0, hit=10.0)
    other = b"llamacpp:tokens_predicted_total 9\nllamacpp:requests_deferred 1\n"
    assert Look.at(other) == Look(9.0, 0.0, 1.0, None, None)
    assert Look.at(b"<html>") is None


@pytest.mark.parametrize(
    ("page", "running"),
    [
        ("vllm:generation_tokens_total 0\nvllm:num_requests_waiting 3\nvllm:num_requests_running 0\n", 1),
        ("vllm:generation_tokens_total 0\nvllm:num_requests_waiting 9\n", 1),
        ("vllm:generation_tokens_total 0\n", 4),
        ("", 4),
    ],
)
def test_a_request_in_flight_runs_unless_the_server_says_that_it_waits(page, running):
    with serving(Script(ttft_s=0.05, gap_s=0.05, metrics=page)) as served:
        outcome = run_requests(served, count=4, osl=4, concurrency=4)
    assert {index: outcome.of(index)[0].running for index in range(4)} == dict.fromkeys(range(4), running)
