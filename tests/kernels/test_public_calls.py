"""Public functions as torch has them: taken whole by torch.compile, and on a GPU captured by graphs, without a wait."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tests.kernels.attention_calls import captured
from tests.kernels.public_calls import CALLS, Call
from torch import Tensor

CPU = torch.device("cpu")
CUDA = torch.device("cuda")
FIRST_CAPABILITY = {"float8": (8, 9), "block-scaled": (8, 9), "norm to float8": (8, 9), "nvfp4": (10, 0)}

BY_NAME = pytest.mark.parametrize("name", CALLS)
NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")


@pytest.fixture(autouse=True)
def _fresh_compiler() -> None:
    """Without it the ninth call would be one recompilation too many."""
    torch._dynamo.reset()


def on_gpu(name: str) -> Call:
    for kind, capability in FIRST_CAPABILITY.items():
        if name.startswith(kind) and torch.cuda.get_device_capability() < capability:
            pytest.skip(f"{kind} begins with sm_{capability[0]}{capability[1]}")
    return CALLS[name](CUDA)


def tensors(answer: Any) -> list[Tensor]:
    return [answer] if isinstance(answer, Tensor) else list(answer)


def assert_same(first: Any, second: Any) -> None:
    for one, other in zip(tensors(first), tensors(second), strict=True):
        assert torch.equal(one, other)


@BY_NAME
def test_a_compiler_takes_it_whole(name):
    call = CALLS[name](CPU)
    assert_same(torch.compile(call.run, fullgraph=True, backend="aot_eager")(), call.run())


@pytest.mark.gpu
@NEEDS_GPU
@BY_NAME
def test_it_answers_as_on_the_cpu(name):
    for found, wanted in zip(tensors(on_gpu(name).run()), tensors(CALLS[name](CPU).run()), strict=True):
        # One rounding step of bfloat16, or of float8 where that is the answer, at the largest answer. Experts round
        # twice: between their two products, whose sums are made in another order here, too.
        step = {"norm to float8": 2**-4, "experts": 2**-6, "mxfp4 experts": 2**-6}.get(name, 2**-7)
        limit = step * float(wanted.float().abs().max())
        torch.testing.assert_close(found.cpu().float(), wanted.float(), rtol=0, atol=limit)


@pytest.mark.gpu
@NEEDS_GPU
@BY_NAME
def test_a_graph_takes_new_inputs_in_place(name):
    call = on_gpu(name)
    graph, answer = captured(call.run)
    for _ in range(2):
        call.varied.normal_()
        graph.replay()
        assert_same([part.clone() for part in tensors(answer)], call.run())


@pytest.mark.gpu
@NEEDS_GPU
@BY_NAME
def test_inductor_takes_it_whole(name):
    call = on_gpu(name)
    assert_same(torch.compile(call.run, fullgraph=True)(), call.run())


@pytest.fixture
def sync_mode() -> Iterator[Any]:
    yield torch.cuda.set_sync_debug_mode
    torch.cuda.set_sync_debug_mode("default")


# Torch says so once when the mode is set.
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype feature:UserWarning")
@pytest.mark.gpu
@NEEDS_GPU
@BY_NAME
def test_it_does_not_wait_for_the_gpu(name, sync_mode):
    call = on_gpu(name)
    first = call.run()  # compiles
    torch.cuda.synchronize()
    sync_mode("error")
    second = call.run()
    sync_mode("default")
    assert_same(first, second)
