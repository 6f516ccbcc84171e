"""Lengths of decode alone, by hand."""

import pytest

from tokenwatt.bench.decoding import Pace, plan, probe
from tokenwatt.bench.points import Point, longest_context
from tokenwatt.errors import EngineError
from tokenwatt.load import LoadPlan
from tokenwatt.spec import BenchSpec
from tokenwatt.workloads import load_workload

MIXED = Point(load_workload("chat-smoke"), LoadPlan.closed(4), window_s=20.0)


def test_the_prompt_makes_the_mean_context():
    # 20 s at 10 ms are 2000 tokens, half of them 1000, and 100 came before: 3000 - 1000 - 100.
    decode = plan(MIXED, context=3000.0, pace=Pace(0.01, 100.0), longest=10000)
    assert decode.decode is not None
    assert decode.decode.prompt_tokens == 1900
    # 2 x 100 before, 2000 x 1.25, and 2 s after the window x 1.25 plus one: 250 + 1.
    assert decode.decode.output_tokens == 2951
    assert (decode.window_s, decode.note, decode.phase) == (20.0, None, "decode")


def test_a_short_context_shortens_the_window():
    # A prompt of one token leaves 2 x (500 - 100 - 1) = 798 tokens: 7.98 s.
    decode = plan(MIXED, context=500.0, pace=Pace(0.01, 100.0), longest=10000)
    assert decode.decode is not None
    assert decode.decode.prompt_tokens == 1
    assert decode.window_s == pytest.approx(7.98)
    assert decode.note is not None
    assert "from 20 to 8 s" in decode.note


def test_a_model_without_room_shortens_the_window():
    # 4000 - 3000 - 100 - 251 = 649, and each token of the window takes 1.25 - 0.5 of it: 865.3 tokens.
    decode = plan(MIXED, context=3000.0, pace=Pace(0.01, 100.0), longest=4000)
    assert decode.decode is not None
    assert decode.window_s == pytest.approx(8.653, abs=0.001)
    assert decode.decode.prompt_tokens + decode.decode.output_tokens <= 4000


def test_where_nothing_fits_there_is_one_line():
    with pytest.raises(EngineError, match="decode alone has no window at a mean context of 80 tokens"):
        plan(MIXED, context=80.0, pace=Pace(0.01, 100.0), longest=4000)


def test_the_short_run_stays_in_the_model():
    decode = probe(MIXED, context=80.0, tpot_s=0.01, longest=96).decode
    assert decode is not None
    assert decode.prompt_tokens + decode.output_tokens <= 96


def test_requests_of_decode_have_one_length_and_no_end():
    decode = plan(MIXED, context=3000.0, pace=Pace(0.01, 100.0), longest=10000)
    requests = list(decode.load().take(0.0))
    assert [request.index for request in requests] == [0, 1, 2, 3]
    assert {len(request.prompt) for request in requests} == {1900}
    assert {request.sampling.stop_token_ids for request in requests} == {()}


@pytest.mark.parametrize(
    ("phases", "allowed", "expected"),
    [(False, None, 96), (True, None, 2 * 96 + 1024), (True, 500, 500), (True, 90, 96)],
    ids=["mixed alone", "no limit", "limit of the model", "too short a model, which check refuses"],
)
def test_an_engine_is_loaded_for_what_phases_need(phases, allowed, expected):
    spec = BenchSpec(engine="fake", workloads=("chat-smoke",), concurrency=(4,), phases=phases)
    assert longest_context([MIXED], spec, allowed) == expected
