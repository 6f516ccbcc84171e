"""Routing: hand-computed choices, invariants of the order, refusals, and what a compiler of torch sees."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tokenwatt_kernels.contests import run
from tokenwatt_kernels.moe.route import tiles
from tokenwatt_kernels.moe.route.call import moe_route, route_top_k
from tokenwatt_kernels.moe.route.contest import contest
from tokenwatt_kernels.moe.route.options import Choice
from tokenwatt_kernels.moe.route.problems import RouteProblem, sigmoid, softmax
from tokenwatt_kernels.moe.route.work import work
from tokenwatt_kernels.operators import OPERATORS
from tokenwatt_kernels.targets import TARGETS
from tokenwatt_kernels.work import Work

CPU = torch.device("cpu")


def logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


def test_two_of_three_by_hand():
    # Weights of token 0: 4 and 2 of 4 + 2, of token 1: 3 and 1 of 3 + 1.
    logits = torch.tensor([[2.0, 1.0, 4.0], [1.0, 0.5, 3.0]]).log()
    routing = route_top_k(logits, 2)
    assert routing.experts.tolist() == [[2, 0], [2, 0]]
    torch.testing.assert_close(routing.weights, torch.tensor([[4 / 6, 2 / 6], [3 / 4, 1 / 4]]))
    # Rows: 0 and 2 go to expert 2, 1 and 3 to expert 0. Sorted: 1, 3, 0, 2.
    assert routing.order.tolist() == [1, 3, 0, 2]
    assert routing.inverse.tolist() == [2, 0, 3, 1]
    assert routing.offsets.tolist() == [0, 2, 2, 4]


def test_without_renormalising_the_sum_is_that_of_all():
    # exp: 2, 1, 4, of 7; times a scale of 7.
    routing = route_top_k(torch.tensor([[2.0, 1.0, 4.0]]).log(), 2, renormalize=False, scale=7.0)
    torch.testing.assert_close(routing.weights, torch.tensor([[4.0, 2.0]]))


def test_equal_logits_go_to_the_lower_expert():
    routing = route_top_k(torch.tensor([[1.0, 0.0, -0.0, 1.0, 0.0]]), 4)
    assert routing.experts.tolist() == [[0, 3, 1, 2]]


def test_the_bias_chooses_but_does_not_weigh():
    logits = torch.tensor([[logit(0.5), logit(0.4), logit(0.1)]])
    bias = torch.tensor([0.0, 0.0, 0.35])  # 0.45 beats 0.4
    routing = route_top_k(logits, 2, bias, score="sigmoid", scale=2.0)
    assert routing.experts.tolist() == [[0, 2]]
    # 0.5 and 0.1 of 0.6, twice.
    torch.testing.assert_close(routing.weights, torch.tensor([[2 * 5 / 6, 2 * 1 / 6]]))


def test_groups_are_ranked_by_their_two_best():
    # Sums of two: 0.9 + 0.1, 0.6 + 0.5, 0.4 + 0.3: the second group comes before the first, which has the best expert.
    scores = [0.9, 0.1, 0.6, 0.5, 0.4, 0.3, 0.2, 0.2]
    logits = torch.tensor([[logit(score) for score in scores]])
    first = route_top_k(logits, 2, score="sigmoid", groups=4, top_groups=1)
    both = route_top_k(logits, 3, score="sigmoid", groups=4, top_groups=2)
    assert first.experts.tolist() == [[2, 3]]
    assert both.experts.tolist() == [[0, 2, 3]]


@given(tokens=st.integers(0, 40), experts=st.integers(1, 12), top_k=st.integers(1, 12), seed=st.integers(0, 100))
def test_the_order_is_a_stable_sort(tokens, experts, top_k, seed):
    top_k = min(top_k, experts)
    logits = torch.randint(-3, 4, (tokens, experts), generator=torch.Generator().manual_seed(seed)).float()
    routing = route_top_k(logits, top_k)
    flat = routing.experts.flatten().tolist()
    assert routing.order.tolist() == sorted(range(len(flat)), key=lambda row: (flat[row], row))
    assert [routing.inverse.tolist()[row] for row in routing.order.tolist()] == list(range(len(flat)))
    assert routing.offsets.tolist() == [sum(expert < end for expert in flat) for end in range(experts + 1)]
    assert all(len(set(chosen)) == top_k for chosen in routing.experts.tolist())


LOGITS = torch.zeros(3, 8)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"router_logits": [1.0]}, TypeError, "router_logits must be a torch.Tensor, got list"),
        ({"router_logits": torch.zeros(8)}, ValueError, r"router_logits must have shape \[T, E\], got \[8\]"),
        ({"router_logits": LOGITS.double()}, TypeError, "router_logits must have dtype .*, got torch.float64"),
        ({"router_logits": torch.zeros(8, 3).T}, ValueError, "router_logits must be contiguous along its last axis"),
        ({"router_logits": torch.zeros(1, 513)}, ValueError, "router_logits must have E from 1 to 512, got 513"),
        ({"router_logits": LOGITS.to("meta")}, ValueError, "must be on a cpu or cuda device, got meta"),
        ({"top_k": 9}, ValueError, "top_k must be from 1 to E = 8 and at most 16, got 9"),
        ({"top_k": 0}, ValueError, "top_k must be from 1 to E = 8 and at most 16, got 0"),
        ({"router_logits": torch.zeros(1, 64), "top_k": 17}, ValueError, "at most 16, got 17"),
        ({"score": "tanh"}, ValueError, "score must be one of softmax, sigmoid, got tanh"),
        ({"top_groups": 2}, ValueError, "top_groups must be from 1 to groups = 1, got 2"),
        ({"groups": 2}, ValueError, "score must be sigmoid where experts lie in groups, got softmax"),
        ({"groups": 3, "score": "sigmoid"}, ValueError, r"groups must be a power of two .*, got 3"),
        ({"groups": 8, "score": "sigmoid"}, ValueError, r"groups must be a power of two .*, got 8"),
        ({"groups": 4, "score": "sigmoid", "top_k": 3}, ValueError, "top_k must be at most 2, .*, got 3"),
        ({"correction_bias": torch.zeros(7)}, ValueError, "correction_bias must have E = 8, got 7"),
        ({"correction_bias": torch.zeros(8).half()}, TypeError, "correction_bias must have dtype torch.float32, got"),
        ({"correction_bias": torch.zeros(8, device="meta")}, ValueError, "correction_bias must be on the device of"),
    ],
)
def test_bad_arguments_are_refused(changes, error, message):
    arguments: dict[str, Any] = {"router_logits": LOGITS, "top_k": 2, **changes}
    with pytest.raises(error, match=message):
        route_top_k(**arguments)


def test_a_compiler_takes_it_whole():
    logits, bias = torch.randn(5, 8), torch.randn(8)
    options = {"top_k": 3, "score": "sigmoid", "groups": 2, "top_groups": 1, "scale": 2.5}
    torch.library.opcheck(OPERATORS["moe_route"], (logits, bias), options)
    compiled = torch.compile(lambda x: moe_route(x, bias, **options)[0] + 1, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(logits), route_top_k(logits, correction_bias=bias, **options).weights + 1)


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda target: target.name)
def test_every_candidate_is_valid(target):
    for experts in (1, 8, 60, 128, 256, 512):
        key = tiles.make_key(experts)
        found = tiles.candidates(key, target.capability)
        assert found[0] == tiles.default(key, target.capability)
        assert all(tiles.is_valid_on(tile, key, target.capability) for tile in found)


def test_a_tile_of_128_experts():
    # 4 warps of 512 scores: 2048 / 128 = 16 tokens at a time.
    tile = tiles.default(tiles.make_key(100), 90)
    assert (tile.block_t, tile.name) == (16, "t16 w4 alone64 p256")
    # More than 32 scores of a thread.
    assert not tiles.is_valid_on(tiles.RouteTile(64, 4, 64, 256), tiles.RouteKey(128), 90)


def test_work_by_hand():
    # 3 tokens of 8 logits in bf16: 48 bytes. 6 rows of 4 numbers and 9 offsets: 33 numbers of 4 bytes, 132.
    assert work(softmax("hand", 3, 8, 2), "bfloat16") == Work(flop=24, bytes=180)
    # And a bias of 8 fp32.
    assert work(sigmoid("hand", 3, 8, 2), "bfloat16").bytes == 180 + 32


@pytest.mark.parametrize("problem", [softmax("s", 9, 8, 2), sigmoid("g", 9, 16, 3, groups=4, top_groups=2, scale=2.5)])
def test_contests_agree(problem):
    found = run(contest(problem, "float32", CPU), sampler=lambda function: [1.0, 1.0])
    assert [(row.contender, row.status) for row in found] == [("tokenwatt", "measured"), ("torch_eager", "measured")]


def test_a_problem_says_how_many_rows_it_has():
    assert RouteProblem("p", 5, 8, Choice(3)).rows == 15
