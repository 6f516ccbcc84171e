"""The choice of tokens: numbers by hand, exact indices, refusals, the operator, tiles, work and contests."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tokenwatt_kernels import contests
from tokenwatt_kernels.fused.top_k import tiles
from tokenwatt_kernels.fused.top_k.call import top_k
from tokenwatt_kernels.fused.top_k.contest import contest
from tokenwatt_kernels.fused.top_k.problems import TopKProblem
from tokenwatt_kernels.fused.top_k.tiles import TopKKey, TopKTile
from tokenwatt_kernels.fused.top_k.work import work
from tokenwatt_kernels.operators import OPERATORS
from tokenwatt_kernels.targets import TARGETS
from tokenwatt_kernels.work import Work

CPU = torch.device("cpu")
INFINITY = float("inf")


def test_a_row_by_hand():
    logits = torch.tensor([[0.0, math.log(2.0), 0.0, math.log(4.0)]])
    values, indices, log_sum = top_k(logits, 3)
    assert indices.tolist() == [[3, 1, 0]]
    assert (values - log_sum[:, None]).exp().tolist() == [pytest.approx([4 / 8, 2 / 8, 1 / 8])]
    assert (values.dtype, indices.dtype, log_sum.dtype) == (torch.float32, torch.int32, torch.float32)


def test_softcap_then_temperature():
    logits, temperature = torch.tensor([[1.0, -100.0], [1.0, -INFINITY]]).half(), torch.tensor([0.5, 2.0])
    values, indices, log_sum = top_k(logits, 2, temperature, softcap=2.0)
    capped = 2 * math.tanh(0.5)
    # What is ruled out stays so: a softcap alone would make -2 of it.
    assert values.tolist() == [pytest.approx([capped / 0.5, -2 / 0.5]), [pytest.approx(capped / 2), -INFINITY]]
    assert indices.tolist() == [[0, 1], [0, 1]]
    both = math.log(math.exp(capped / 0.5) + math.exp(-2 / 0.5))
    assert log_sum.tolist() == pytest.approx([both, capped / 2])


def test_equal_logits_come_in_order_and_nan_last():
    logits = torch.tensor([[1.0, 2.0, 2.0, float("nan"), 1.0], [-INFINITY] * 5, [0.0, -0.0, 0.0, -0.0, 0.0]])
    values, indices, log_sum = top_k(logits, 4)
    assert indices.tolist() == [[1, 2, 0, 4], [0, 1, 2, 3], [0, 1, 2, 3]]
    assert values[1].tolist() == [-INFINITY] * 4
    assert log_sum.isnan().tolist() == [True, False, False]
    assert log_sum[1] == -INFINITY


def test_interpreted_kernels_give_exactly_the_indices_of_a_stable_sort(run_interpreted):
    pytest.importorskip("triton")
    found = run_interpreted("top_k.py")
    assert len(found) == 12
    assert {name: row for name, row in found.items() if row[0] != row[1]} == {}
    assert {name: row[2] for name, row in found.items() if "ruled out" in name or "nan" in name} == {
        "all ruled out": "-inf",
        "nan among others": "nan",
        "all nan": "nan",
    }


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((torch.zeros(4), 1), ValueError, r"logits must have shape \[B, V\], got \[4\]"),
        ((torch.zeros(2, 4).double(), 1), TypeError, "logits must have dtype .*, got torch.float64"),
        ((torch.zeros(4, 2).T, 1), ValueError, "logits must be contiguous along its last axis"),
        ((torch.zeros(0, 2**20 + 1), 1), ValueError, "logits must have V up to 1048576, got 1048577"),
        ((torch.zeros(2, 4), 0), ValueError, "k must be from 1 to 128 and to V = 4, got 0"),
        ((torch.zeros(2, 4), 5), ValueError, "k must be from 1 to 128 and to V = 4, got 5"),
        ((torch.zeros(2, 400), 129), ValueError, "k must be from 1 to 128 and to V = 400, got 129"),
        ((torch.zeros(2, 4), 1, torch.ones(3)), ValueError, "temperature must have B = 2, got 3"),
        ((torch.zeros(2, 4), 1, torch.ones(2).half()), TypeError, "temperature must have dtype torch.float32"),
        ((torch.zeros(2, 4), 1, torch.tensor([1.0, 0.0])), ValueError, r"temperature must be > 0, got \[1.0, 0.0\]"),
    ],
)
def test_bad_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        top_k(*arguments)


@pytest.mark.parametrize("softcap", [0.0, -1.0, INFINITY, float("nan")])
def test_bad_softcaps_are_refused(softcap):
    with pytest.raises(ValueError, match=f"softcap must be a finite number > 0, got {softcap}"):
        top_k(torch.zeros(2, 4), 1, softcap=softcap)


def test_no_rows_give_no_answers():
    values, indices, log_sum = top_k(torch.zeros(0, 4), 2)
    assert (values.shape, indices.shape, log_sum.shape) == ((0, 2), (0, 2), (0,))


def test_a_compiler_takes_the_operator_whole():
    logits, temperature = torch.randn(3, 40), torch.ones(3)
    torch.library.opcheck(OPERATORS["top_k"], (logits, 5, temperature), {"softcap": 3.0})
    compiled = torch.compile(lambda x: top_k(x * 2, 5)[0].exp(), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(logits), top_k(logits * 2, 5)[0].exp())


def test_cpu_path_imports_no_triton(run_python):
    script = """
import sys
import torch
from tokenwatt_kernels.fused.top_k.call import top_k
top_k(torch.zeros(2, 3), 1)
assert "triton" not in sys.modules
"""
    finished = run_python("-c", script)
    assert finished.returncode == 0, finished.stderr


def test_the_gate_sees_repeated_and_missing_indices():
    pytest.importorskip("triton")
    from tokenwatt_kernels.fused.top_k.cases import selected

    logits = torch.tensor([[5.0, 6.0, 7.0]] * 4)
    indices = torch.tensor([[2, 1], [2, 2], [-1, 0], [0, 3]], dtype=torch.int32)
    assert selected(logits, indices).isfinite().all(dim=1).tolist() == [True, False, False, False]
    assert selected(logits, indices)[0].tolist() == [7, 6]


@given(k=st.integers(1, 128), element_bytes=st.sampled_from([2, 4]), capability=st.sampled_from(sorted(TARGETS)))
def test_every_k_has_a_valid_tile(k, element_bytes, capability):
    key = tiles.make_key(k, element_bytes)
    assert k <= key.block_k < 2 * k
    assert tiles.is_valid_on(tiles.default(key, capability), key, capability)


@pytest.mark.parametrize(
    "tile",
    [
        TopKTile(4096, 48, 4, 2048, 8),
        TopKTile(16, 32, 4, 2048, 8),
        TopKTile(4096, 32, 1, 2048, 8),
        TopKTile(4096, 32, 4, 2048, 1),
        TopKTile(4096, 256, 4, 1024, 8),
    ],
)
def test_bad_tiles_are_invalid(tile):
    assert not tiles.is_valid(tile, TopKKey(64, 2))


def test_work_by_hand():
    # 2 * 10 logits: four flop and 2 bytes each; for each row 3 values, 3 indices and a log-sum-exp of 4 bytes.
    assert work(TopKProblem("p", 2, 10, 3), "bfloat16") == Work(flop=80, bytes=40 + 56)
    problem = TopKProblem("p", 2, 10, 3, softcap=2.0, has_temperature=True)
    assert work(problem, "float32") == Work(flop=120, bytes=80 + 64)


@pytest.mark.parametrize(
    "problem",
    [
        TopKProblem("greedy", 3, 100, 1),
        TopKProblem("ten", 3, 100, 10, has_temperature=True),
        TopKProblem("softcap", 3, 100, 4, softcap=5.0),
    ],
    ids=lambda problem: problem.name,
)
@pytest.mark.parametrize("dtype_name", ["float32", "bfloat16"])
def test_contests_agree(problem, dtype_name):
    found = contests.run(contest(problem, dtype_name, CPU), sampler=lambda function: [1.0, 1.0])
    assert [(row.contender, row.status, row.reasons) for row in found] == [
        ("tokenwatt", "measured", ()),
        ("torch", "measured", ()),
    ]
