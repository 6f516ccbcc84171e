"""The gate, the far pages and the public attention functions on a real GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from tests.kernels.attention_calls import captured, public_call
from torch import Tensor

from tokenwatt_kernels import commands
from tokenwatt_kernels.attention.decode.call import decode_attention
from tokenwatt_kernels.attention.decode.problems import latents, tokens
from tokenwatt_kernels.attention.inputs import Inputs, make_inputs
from tokenwatt_kernels.attention.prefill.problems import chunks, prompts
from tokenwatt_kernels.attention.problem import AttentionProblem
from tokenwatt_kernels.device import capability
from tokenwatt_kernels.dtypes import DTYPES
from tokenwatt_kernels.families import FAMILIES, part

FP8 = "float8_e4m3fn"
CPU = torch.device("cpu")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU"),
]


def skip_unless_it_has(dtype_name: str) -> None:
    if dtype_name == FP8 and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("float8 begins with sm_89")


def int32(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int32, device="cuda")


@pytest.mark.parametrize(
    ("family", "dtype_name"),
    [(family, dtype_name) for family in FAMILIES for dtype_name in part(family, "problems").DTYPE_NAMES],
)
def test_shipped_kernels_pass_on_the_gpu(family, dtype_name):
    skip_unless_it_has(dtype_name)
    if family == "matmul.nvfp4" and torch.cuda.get_device_capability() < (10, 0):
        pytest.skip("nvfp4 begins with sm_100")
    verdicts = list(commands.check([family], [dtype_name], torch.device("cuda")))
    assert verdicts
    assert [verdict for verdict in verdicts if verdict.status != "passed"] == []


def through_the_public_function(problem: AttentionProblem, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """The answer [Tq, Hq, Dv] and its log-sum-exp [Tq, Hq]."""
    function, arguments = public_call(problem, inputs)
    out = function(**arguments)
    return out.flatten(0, -3), arguments["lse"].flatten(0, -2)


SINKS = {"window": 20, "has_sinks": True}
PROBLEMS = (
    prompts("prompts", (70, 0, 129), 8, 2, 64),
    prompts("prompts not causal", (70, 33), 8, 2, 64, causal=False),
    prompts("prompts window sinks", (70, 129), 8, 2, 64, **SINKS),
    prompts("prompts softcap", (70,), 4, 2, 128, softcap=5.0),
    prompts("prompts 192 values 128", (70,), 4, 4, 192, value_dim=128),
    chunks("chunks", (5, 70), (300, 70), 8, 2, 64),
    chunks("chunks in pages", (5, 70), (300, 70), 8, 2, 96, page_size=16, **SINKS),
    chunks("chunks in long pages", (5, 70), (300, 70), 8, 2, 128, page_size=128),
    chunks("chunks of float8 pages", (5, 70), (300, 70), 8, 2, 64, page_size=16, kv_dtype=FP8, scales="head"),
    tokens("decode", (300, 0, 17), 8, 2, 128),
    tokens("decode window sinks", (300, 17), 8, 2, 64, **SINKS),
    tokens("decode softcap", (300, 17), 8, 2, 64, softcap=5.0),
    tokens("decode verify", (300, 17), 8, 2, 128, queries=5, page_size=64),
    tokens("decode float8", (300, 17), 8, 2, 128, kv_dtype=FP8, scales="head"),
    latents("decode latent", (300, 17), 16, 576, 512, page_size=64),
    chunks("mixed", (1, 1, 1, 70, 5), (300, 0, 17, 129, 300), 8, 2, 128, page_size=16, **SINKS),
)
CASES = [
    *((problem, dtype_name) for problem in PROBLEMS for dtype_name in ("float16", "bfloat16")),
    (prompts("prompts float8", (70, 129), 8, 2, 64, scales="head"), FP8),
]


@pytest.mark.parametrize(
    ("problem", "dtype_name"), CASES, ids=[f"{problem.name}-{dtype_name}" for problem, dtype_name in CASES]
)
def test_public_functions_equal_the_reference_on_the_cpu(problem, dtype_name):
    skip_unless_it_has(problem.kv_dtype or dtype_name)
    on_gpu, on_cpu = (make_inputs(problem, dtype_name, device) for device in (torch.device("cuda"), CPU))
    out, lse = through_the_public_function(problem, on_gpu)
    expected_out, expected_lse = on_cpu.reference(torch.float64)
    # A rounding step at the largest answer, once for the weights and once for the answer.
    limit = 2 * DTYPES[dtype_name].max_floor * float(expected_out.abs().max())
    assert out.dtype == getattr(torch, DTYPES[dtype_name].out_name)
    torch.testing.assert_close(out.cpu().double(), expected_out, rtol=0, atol=limit)
    # Of float8 sums, Hopper's tensor cores keep some 14 bits.
    rtol, atol = (1e-3, 5e-3) if dtype_name == "float8_e4m3fn" else (1e-5, 1e-4)
    torch.testing.assert_close(lse.cpu().double(), expected_lse, rtol=rtol, atol=atol)


def test_a_cuda_graph_of_decode_takes_new_lengths_in_place():
    problem = tokens("decode", (700, 33, 1), 32, 8, 128, has_sinks=True)
    inputs = make_inputs(problem, "bfloat16", torch.device("cuda"), poisoned=False)
    keys, lengths = inputs.keys, inputs.keys.context_lens
    assert keys.block_table is not None
    assert lengths is not None
    # Every sequence may use every page, so that any length below is within the table.
    pages = torch.arange(len(keys.k), dtype=torch.int32, device="cuda").repeat(3, 1)
    lse = torch.empty(inputs.q.shape[:2], device="cuda")

    def attend() -> Tensor:
        return decode_attention(inputs.q, keys.k, keys.v, pages, lengths, options=inputs.options, lse=lse)

    graph, captured_answer = captured(attend)
    for changed in ((700, 33, 1), (1, 2, 700), (0, 0, 0), (16, 17, 640)):
        lengths.copy_(int32(*changed))
        inputs.q.normal_()
        graph.replay()
        replayed, replayed_lse = captured_answer.clone(), lse.clone()
        assert torch.equal(replayed, attend()), changed
        assert torch.equal(replayed_lse, lse), changed


@pytest.mark.parametrize(("family", "name"), [("matmul.skinny", "long"), ("attention.decode", "many_parts")])
def test_replays_of_tiles_that_join_give_the_bits_of_a_call(family, name):
    tiles, problems = part(family, "tiles"), part(family, "problems")
    problem = next(known for known in problems.GPU_GATE_PROBLEMS if known.name == name)
    default = tiles.default(tiles.key_of(problem, "bfloat16"), capability(torch.device("cuda")))
    tile = replace(default, joins=True)
    case, *_ = part(family, "cases").cases(problem, "bfloat16", torch.device("cuda"), tiles=[tile])

    def call() -> Tensor:
        out = torch.full(case.out_shape, float("nan"), dtype=torch.bfloat16, device="cuda")
        case.launch(out)
        return out

    expected = call()
    graph, replayed = captured(call)
    for _ in range(3):
        graph.replay()
        assert torch.equal(replayed, expected)
        assert torch.equal(call(), expected)  # with other counters of the same ring


def test_validation_reads_lengths_back():
    inputs = make_inputs(tokens("decode", (300,), 8, 2, 64), "bfloat16", torch.device("cuda"))
    k, v, table = inputs.keys.k, inputs.keys.v, inputs.keys.block_table
    assert table is not None
    with pytest.raises(ValueError, match="context_lens must be from 0 to"):
        decode_attention(inputs.q, k, v, table, int32(99_999), validate=True)


@pytest.fixture
def no_sync() -> Iterator[Callable[[str], None]]:
    yield torch.cuda.set_sync_debug_mode
    torch.cuda.set_sync_debug_mode("default")


# Torch says so once when the mode is set.
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype feature:UserWarning")
@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
def test_no_call_waits_for_the_gpu(problem, no_sync):
    skip_unless_it_has(problem.kv_dtype or "bfloat16")
    inputs = make_inputs(problem, "bfloat16", torch.device("cuda"))
    first, _ = through_the_public_function(problem, inputs)  # compiles
    torch.cuda.synchronize()
    no_sync("error")
    second, _ = through_the_public_function(problem, inputs)
    no_sync("default")
    assert torch.equal(first, second)
