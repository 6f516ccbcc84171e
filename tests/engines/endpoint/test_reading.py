"""Reading an answer: any cut of it into pieces gives the same tokens, each with the piece that completes its event."""

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engines.endpoint.timed_server import Answer as Scripted
from tests.engines.endpoint.timed_server import Script, chunk

from tokenwatt.engines.openai_endpoint.answers import MalformedError, parse_head
from tokenwatt.engines.openai_endpoint.chunks import Dechunker
from tokenwatt.engines.openai_endpoint.shape import Shape
from tokenwatt.engines.openai_endpoint.tokens import Answer, MiscountedError, ServerError
from tokenwatt.engines.openai_endpoint.watch import Watch

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
PLAIN_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
TEXTS = st.text(min_size=1, max_size=6)


def event(text: str, finish: str | None = None, **fields) -> bytes:
    body = {"id": "cmpl-1", "choices": [{"index": 0, "text": text, "finish_reason": finish}], **fields}
    return b"data: " + json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"


def pieces_of(data: bytes, cuts: list[int]) -> list[bytes]:
    """`data` cut at these places."""
    edges = [0, *sorted({cut % len(data) for cut in cuts} - {0}), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


def read(pieces: list[bytes]) -> list[tuple[int, int]]:
    """(piece, tokens) of each event with tokens."""
    answer = Answer()
    found = [(place, found.tokens) for place, piece in enumerate(pieces) for found in answer.feed(piece)]
    assert answer.conclude() == 0
    assert answer.is_whole
    return found


@st.composite
def answers(draw) -> tuple[bytes, list[int]]:
    """An answer, and for each event where its last byte stands."""
    newline, chunked = draw(st.sampled_from([b"\n", b"\r\n"])), draw(st.booleans())
    texts = draw(st.lists(TEXTS, min_size=1, max_size=12))
    events = [event(text) for text in texts[:-1]] + [event(texts[-1], finish="length")]
    if draw(st.booleans()):
        events.insert(draw(st.integers(0, len(events) - 1)), b": a comment\n\n")
    data, ends = HEAD if chunked else PLAIN_HEAD, []
    for raw in [*events, b"data: [DONE]\n\n"]:
        block = raw.replace(b"\n", newline)
        framed = chunk(block) if chunked else block
        if raw.startswith(b"data: {"):
            ends.append(len(data) + len(framed) - (2 if chunked else 0) - 1)
        data += framed
    return data + (b"0\r\n\r\n" if chunked else b""), ends


@settings(max_examples=120, deadline=None)
@given(answers(), st.lists(st.integers(0, 2**16), max_size=12))
def test_any_cut_gives_the_same_tokens_with_the_piece_that_completed_them(answer, cuts):
    data, ends = answer
    pieces = pieces_of(data, cuts)
    starts = [sum(map(len, pieces[:place])) for place in range(len(pieces))]
    expected = [(max(place for place, start in enumerate(starts) if start <= end), 1) for end in ends]
    assert read(pieces) == expected


def test_every_single_cut_and_every_single_byte():
    data = HEAD + b"".join(map(chunk, [event("a"), event("b"), event("c", finish="stop")])) + b"0\r\n\r\n"
    assert [tokens for _, tokens in read([data[place : place + 1] for place in range(len(data))])] == [1, 1, 1]
    for place in range(1, len(data)):
        assert [tokens for _, tokens in read([data[:place], data[place:]])] == [1, 1, 1]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=40), max_size=8), st.lists(st.integers(0, 2**16), max_size=8))
def test_chunks_carry_any_bytes_through_any_cut(payloads, cuts):
    data = b"".join(map(chunk, payloads)) + b"0;last\r\nX-Trailer: yes\r\n\r\n"
    dechunker = Dechunker()
    assert b"".join(map(dechunker.feed, pieces_of(data, cuts))) == b"".join(payloads)
    assert dechunker.is_over


@pytest.mark.parametrize(
    "data", [b"xyz\r\n", b"-1\r\n", b"5\r\nabcdefg", b"1\r\nab\r\n", b"0\r\n\r\nmore", b"\r\n", b"1_0\r\n", b"1" * 5000]
)
def test_wrong_chunks_are_malformed(data):
    dechunker = Dechunker()
    assert dechunker.feed(b"3\r\nabc\r\n" + data).startswith(b"abc")  # what came before is given
    assert isinstance(dechunker.fault, MalformedError)


@pytest.mark.parametrize("cut", range(1, 8))
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_the_end_is_seen_with_its_last_byte_and_not_before(cut, newline):
    data = Scripted(Script(newline=newline), 5, 4, False, True, False, False).whole()
    for pieces in ([data[:-cut], data[-cut:]], [data[place : place + cut] for place in range(0, len(data), cut)]):
        watch = Watch()
        assert [watch.is_over_with(piece) for piece in pieces] == [False] * (len(pieces) - 1) + [True]


def test_the_end_by_length_and_by_a_trailer():
    watch = Watch()
    assert not watch.is_over_with(b"HTTP/1.1 429 Too Many\r\nContent-Length: 4\r\n\r\nab")
    assert watch.is_over_with(b"cd")
    watch = Watch()
    assert not watch.is_over_with(HEAD + chunk(event("a")))
    assert watch.is_over_with(b"0\r\nX-Took: 1\r\n\r\n")
    watch = Watch()
    assert not watch.is_over_with(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert watch.is_over_with(b"HTTP/1.1 204 No Content\r\n\r\n")


def read_events(*events: bytes) -> Answer:
    answer = Answer()
    for raw in events:
        answer.feed(PLAIN_HEAD + raw if answer.head is None else raw)
    return answer


def usage(tokens: int) -> dict:
    return {"usage": {"prompt_tokens": 3, "completion_tokens": tokens}}


def test_tokens_by_ids_by_usage_and_by_text():
    ids = {"choices": [{"index": 0, "text": "", "token_ids": [5, 6], "finish_reason": None}]}
    answer = read_events(b"data: " + json.dumps(ids).encode() + b"\n\n")
    assert (answer.counted, answer.token_ids) == (2, [5, 6])
    # 1, then 4 - 1 = 3, then none: text that was held back.
    answer = read_events(event("a", **usage(1)), event("bcd", **usage(4)), event("", finish="stop", **usage(4)))
    assert (answer.counted, answer.conclude()) == (4, 0)
    assert read_events(event("a"), event(""), event("b")).counted == 2


def test_usage_at_the_end_decides():
    last = b'data: {"choices": [], "usage": {"completion_tokens": %d}}\n\n'
    assert read_events(event("ab"), event("c", finish="stop"), last % 5).conclude() == 3
    with pytest.raises(MiscountedError, match="2 tokens came, usage says 1"):
        read_events(event("ab"), event("c", finish="stop"), last % 1).conclude()
    ids = b'data: {"choices": [{"text": "x", "token_ids": [1]}]}\n\n'
    with pytest.raises(MiscountedError, match="1 tokens came, usage says 2"):
        read_events(ids, last % 2).conclude()
    with pytest.raises(MiscountedError, match="2 tokens came, usage says 1"):
        read_events(event("a", **usage(2)), event("b", **usage(1)))


def test_chat_counts_content_reasoning_and_calls_and_not_the_role():
    deltas = [{"role": "assistant", "content": ""}, {"reasoning_content": "hm"}, {"content": "a"}, {"content": "b"}]
    deltas += [{"tool_calls": [{"index": 0}]}, {}]
    raw = [json.dumps({"choices": [{"index": 0, "delta": delta}]}).encode() for delta in deltas]
    assert read_events(*(b"data: " + data + b"\n\n" for data in raw)).counted == 4
    # A conversation goes on from what was said, and not from what was thought.
    kept = Answer(keeps_text=True)
    for data in (PLAIN_HEAD, *(b"data: " + data + b"\n\n" for data in raw)):
        kept.feed(data)
    assert (kept.counted, "".join(kept.texts)) == (4, "ab")


@given(answers())
def test_what_was_said_is_kept_whole(answer):
    data, _ = answer
    kept = Answer(keeps_text=True)
    kept.feed(data)
    texts = [json.loads(line[6:])["choices"][0]["text"] for line in data.splitlines() if line.startswith(b"data: {")]
    assert kept.texts == texts


def test_errors_within_the_stream():
    with pytest.raises(ServerError, match="no luck"):
        read_events(event("a"), b'data: {"error": {"message": "no luck"}}\n\n')
    with pytest.raises(MalformedError, match="an event is no JSON object: b'5'"):
        read_events(b"data: 5\n\n")
    with pytest.raises(MalformedError, match="ends within an event: b'data: half'"):
        read_events(event("a", finish="stop"), b"data: half").conclude()


@given(st.lists(TEXTS, min_size=1, max_size=20))
def test_counting_by_shape_is_counting_by_json(texts):
    shape = Shape.learn(event("seen").removeprefix(b"data: ").strip(), ("choices", 0, "text"))
    assert shape is not None
    blocks = b"".join(map(event, texts))
    plain = all(not set(text) & set('"\\') and json.dumps(text, ensure_ascii=False) == f'"{text}"' for text in texts)
    # Newlines and other control characters are escaped without quotes, and counted; quotes are left to JSON.
    assert shape.count(blocks) in ((len(texts),) if plain else (0, len(texts)))
    assert shape.count(blocks + event("")) == 0
    assert shape.count(event("x", finish="stop")) == 0


def test_a_text_that_could_be_another_field_teaches_nothing_wrong():
    data = b'{"text":"a","choices":[{"text":"a"}]}'
    shape = Shape.learn(data, ("choices", 0, "text"))
    assert shape is None or shape.count(b"data: " + data.replace(b'"text":"a"}', b'"text":"b"}') + b"\n\n") == 1


def test_heads():
    head = parse_head(b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\nCONTENT-TYPE: Text/Event-Stream")
    assert (head.status, head.length, head.keeps_alive, head.media_type) == (200, 12, True, "text/event-stream")
    assert not parse_head(b"HTTP/1.0 200 OK\r\nContent-Length: 12").keeps_alive
    assert not parse_head(b"HTTP/1.1 200 OK").keeps_alive
    for wrong in (b"ICY 200 OK", b"HTTP/1.1 OK", b"HTTP/1.1 200 OK\r\nContent-Length: -5"):
        with pytest.raises(MalformedError):
            parse_head(wrong)


FAULTS = {
    "an error within the stream": (b'data: {"error": {"message": "out of luck"}}\n\n', ServerError),
    "no JSON": (b"data: {\n\n", MalformedError),
    "no event": (b"this is no event\n\n", MalformedError),
}


@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize("fault", FAULTS)
def test_what_came_in_one_piece_with_a_fault_is_kept(fault, chunked):
    bad, kind = FAULTS[fault]
    parts = [event("a"), event("b"), bad]
    data = HEAD + b"".join(map(chunk, parts)) if chunked else PLAIN_HEAD + b"".join(parts)
    answer = Answer()
    with pytest.raises(kind):
        answer.feed(data)
    assert [found.tokens for found in answer.found] == [1, 1]
    assert answer.counted == 2


def test_what_came_in_one_piece_with_a_bad_chunk_is_kept():
    answer = Answer()
    with pytest.raises(MalformedError, match="no chunk size"):
        answer.feed(HEAD + chunk(event("a")) + chunk(event("b")) + b"this is no size\r\n")
    assert [found.tokens for found in answer.found] == [1, 1]
