"""Operators of torch made from functions: what a compiler sees, and what an eager call does."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch import Tensor

import tokenwatt_kernels
from tokenwatt_kernels.fused.norm.call import rms_norm
from tokenwatt_kernels.operators import OPERATORS, operator, watched


def _like_scaled(a: Tensor, bias: Tensor | None = None, *, factor: float = 2.0) -> Tensor:
    if a.dim() != 2:
        raise ValueError(f"a must have 2 axes, got {a.dim()}")
    return torch.empty_like(a)


@pytest.fixture(scope="module")
def scaled():
    @operator(_like_scaled)
    def scaled_for_a_test(a: Tensor, bias: Tensor | None = None, *, factor: float = 2.0) -> Tensor:
        """Times a factor."""
        out = torch.empty_like(a)
        out.numpy()[:] = a.numpy() * factor + (0 if bias is None else bias.numpy())  # no compiler sees through numpy
        return out

    return scaled_for_a_test


def test_an_eager_call_does_not_go_through_the_dispatcher(scaled):
    assert scaled(torch.ones(1, 2)).tolist() == [[2, 2]]
    assert scaled.__doc__ == "Times a factor."


def test_the_schema_is_that_of_the_annotations(scaled):
    found = OPERATORS["scaled_for_a_test"]._opoverload._schema
    assert str(found) == ("tokenwatt::scaled_for_a_test(Tensor a, Tensor? bias=None, *, float factor=2.) -> Tensor")


def test_a_compiler_takes_it_whole(scaled):
    a, bias = torch.randn(3, 4), torch.randn(3, 4)
    compiled = torch.compile(lambda a: scaled(a, bias, factor=3.0).relu(), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(a), (a * 3 + bias).relu())
    torch.library.opcheck(OPERATORS["scaled_for_a_test"], (a, bias), {"factor": 3.0})


def test_inductor_takes_a_call_that_writes_to_nothing():
    x, weight = torch.randn(3, 64), torch.randn(64)
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: rms_norm(x, weight), fullgraph=True)
    assert torch.equal(compiled(x), rms_norm(x, weight))


def test_what_is_written_is_seen():
    @operator(lambda a, out: None, writes=("out",))
    def copied_for_a_test(a: Tensor, out: Tensor) -> None:
        out.numpy()[:] = a.numpy()

    def through(a):
        out = torch.zeros_like(a)
        copied_for_a_test(a + 1, out)
        return out * 2

    a = torch.randn(2, 3)
    assert torch.equal(torch.compile(through, fullgraph=True, backend="aot_eager")(a), (a + 1) * 2)
    torch.library.opcheck(OPERATORS["copied_for_a_test"], (a, torch.zeros_like(a)))


def test_a_compiler_reports_what_the_fake_refuses(scaled):
    with pytest.raises(RuntimeError, match="a must have 2 axes, got 1"):
        torch.compile(lambda a: scaled(a), fullgraph=True, backend="aot_eager")(torch.ones(3))


# Calls that are more than one operator, or wrap one whose answer is a tuple of tensors.
COMPOSED = {"moe_mlp", "route_top_k"}


def public_calls():
    """Module and function of every call that the kernels page lists."""
    page = (Path(tokenwatt_kernels.__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    return re.findall(r"^\| `([\w.]+)\.(\w+)\(", page, re.MULTILINE)


def test_every_public_call_is_an_operator():
    calls = public_calls()
    assert len(calls) >= 15
    for module, name in calls:
        assert callable(getattr(import_module(f"tokenwatt_kernels.{module}"), name))
    assert {name for _, name in calls} - COMPOSED <= set(OPERATORS)


def test_calls_within_a_block_can_be_watched():
    seen = []

    def watch(function, args, kwargs):
        seen.append((function.__name__, args, kwargs))
        return function(*args, **kwargs)

    x, weight = torch.ones(2, 4), torch.ones(4)
    with watched(watch):
        answer = rms_norm(x, weight, eps=0.0)
        with pytest.raises(RuntimeError, match="operators are watched already"), watched(watch):
            pass
    rms_norm(x, weight)
    assert [(name, kwargs) for name, _, kwargs in seen] == [("rms_norm", {"eps": 0.0})]
    assert torch.equal(answer, x)
