"""Attention calls as operators: what a compiler sees of them, on a CPU, and CUDA graphs of them on a GPU."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from tests.kernels.attention_calls import flattened, public_call
from torch import Tensor
from torch.fx.experimental import _config as fx_config

from tokenwatt_kernels.attention.decode.problems import latents, tokens
from tokenwatt_kernels.attention.inputs import make_inputs
from tokenwatt_kernels.attention.options import Options
from tokenwatt_kernels.attention.prefill.problems import chunks, prompts
from tokenwatt_kernels.attention.problem import AttentionProblem
from tokenwatt_kernels.operators import OPERATORS

FP8 = "float8_e4m3fn"
CPU = torch.device("cpu")
ALL_CHECKS = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")

# No defaults up to lse, the last that is written to: torch looks for it by position.
OPTIONS = "Tensor? sinks, Tensor? q_scale, Tensor? k_scale, Tensor? v_scale"
SCALARS = "float? scale=None, bool causal=True, SymInt? window=None, float? softcap=None, bool validate=False"
CACHE = "Tensor k_cache, Tensor v_cache, Tensor block_table, Tensor context_lens"
SCHEMAS = {
    "prefill_attention": (
        "Tensor q, Tensor k, Tensor v, Tensor cu_seqlens, SymInt max_seqlen, Tensor? cu_seqlens_k, "
        f"{OPTIONS}, Tensor(a10!)? lse, *, {SCALARS}"
    ),
    "paged_prefill_attention": (
        f"Tensor q, {CACHE}, Tensor cu_seqlens, SymInt max_seqlen, {OPTIONS}, Tensor(a11!)? lse, *, {SCALARS}"
    ),
    "decode_attention": f"Tensor q, {CACHE}, {OPTIONS}, Tensor(a9!)? lse, *, {SCALARS}",
    "mla_decode_attention": (
        "Tensor q, Tensor latent_cache, Tensor block_table, Tensor context_lens, "
        f"{OPTIONS}, Tensor(a8!)? lse, *, SymInt value_dim, {SCALARS}"
    ),
    "mixed_attention": (
        f"Tensor q, {CACHE}, Tensor cu_seqlens, SymInt max_seqlen, {OPTIONS}, Tensor(a11!)? lse, *, "
        f"SymInt decodes, SymInt decode_queries=1, {SCALARS}"
    ),
}

SINKS = {"window": 5, "has_sinks": True}
PLAIN = (
    prompts("prompts", (5, 0, 9), 4, 2, 32),
    chunks("chunks in pages", (2, 7), (11, 7), 4, 2, 48, page_size=4),
    tokens("decode", (11, 0, 3), 4, 2, 32, page_size=4),
    latents("decode latent", (11, 3), 4, 48, 32, page_size=4),
    chunks("mixed", (1, 1, 6), (11, 3, 9), 4, 2, 32, page_size=4),
)
SPECIAL = (
    prompts("prompts not causal", (5, 9), 4, 2, 32, causal=False),
    prompts("prompts window sinks", (5, 9), 4, 2, 32, value_dim=24, **SINKS),
    chunks("chunks", (2, 7), (11, 7), 4, 2, 32, softcap=5.0),
    chunks("chunks of float8 pages", (2, 7), (11, 7), 4, 2, 32, page_size=4, kv_dtype=FP8, scales="head"),
    tokens("decode verify", (11, 3), 4, 2, 32, queries=3, page_size=4, **SINKS),
    tokens("decode float8", (11, 3), 4, 2, 32, page_size=4, kv_dtype=FP8, scales="head"),
    chunks("mixed window sinks", (1, 1, 6), (11, 3, 9), 4, 2, 32, page_size=4, **SINKS),
)
CASES = [
    *((problem, "float32") for problem in (*PLAIN, *SPECIAL)),
    (prompts("prompts float8", (5, 9), 4, 2, 32, scales="head"), FP8),
]
each_case = pytest.mark.parametrize(
    ("problem", "dtype_name"), CASES, ids=[f"{problem.name}-{dtype_name}" for problem, dtype_name in CASES]
)
each_function = pytest.mark.parametrize("problem", PLAIN, ids=lambda problem: problem.name)


def compiled(function, backend="aot_eager", **how):
    torch._dynamo.reset()
    return torch.compile(function, fullgraph=True, backend=backend, **how)


@pytest.mark.parametrize("name", SCHEMAS)
def test_schema(name):
    assert str(OPERATORS[name]._opoverload._schema) == f"tokenwatt::{name}({SCHEMAS[name]}) -> Tensor"


@each_case
@pytest.mark.parametrize("has_lse", [False, True], ids=["", "lse"])
def test_opcheck(problem, dtype_name, has_lse):
    function, arguments = public_call(problem, make_inputs(problem, dtype_name, CPU))
    arguments["lse"] = torch.zeros_like(arguments["lse"]) if has_lse else None
    has_float8 = FP8 in (dtype_name, problem.kv_dtype)
    checks = ALL_CHECKS if not has_float8 else [name for name in ALL_CHECKS if name != "test_schema"]
    torch.library.opcheck(OPERATORS[function.__name__], (), flattened(arguments), test_utils=checks)


@each_case
def test_a_compiled_call_gives_the_same(problem, dtype_name):
    function, arguments = public_call(problem, make_inputs(problem, dtype_name, CPU))

    def through(arguments: dict[str, Any], lse: Tensor) -> Tensor:
        return function(**arguments, lse=lse).float() + lse[..., None]

    lse = arguments.pop("lse")
    expected_lse = lse.clone()
    out, expected = compiled(through)(arguments, lse), through(arguments, expected_lse)
    assert torch.equal(out, expected)
    assert torch.equal(lse, expected_lse)
    assert not lse.isnan().any()


@each_function
def test_a_compiled_call_takes_positions_and_options_made_inside(problem):
    function, arguments = public_call(problem, make_inputs(problem, "float32", CPU))
    in_order = ("q", "k", "v", "k_cache", "v_cache", "latent_cache", "block_table", "context_lens", "cu_seqlens")
    positions = [arguments.pop(name) for name in (*in_order, "max_seqlen") if name in arguments]
    del arguments["lse"], arguments["options"]

    def through(sinks: Tensor) -> Tensor:
        return function(*positions, **arguments, options=Options(scale=0.5, sinks=sinks))

    sinks = torch.linspace(-1.0, 1.0, 4)
    assert torch.equal(compiled(through)(sinks), through(sinks))


@pytest.mark.parametrize(
    ("problem", "queries", "contexts"),
    [
        (PLAIN[0], (8, 3, 2, 11), (8, 3, 2, 11)),
        (SPECIAL[2], (3, 1, 4), (12, 9, 4)),
        (PLAIN[1], (3, 1, 9), (12, 9, 40)),
        (PLAIN[2], (1, 1, 1, 1), (30, 2, 0, 9)),
        (SPECIAL[4], (3, 3, 3), (30, 3, 9)),
        (PLAIN[3], (1, 1, 1, 1), (30, 2, 0, 9)),
        (PLAIN[4], (1, 1, 9, 4), (30, 2, 9, 9)),
    ],
    ids=lambda value: value.name if isinstance(value, AttentionProblem) else "",
)
# Sizes that are small are equal by chance, of which torch would make a rule.
@patch.object(fx_config, "use_duck_shape", False)
@torch._dynamo.config.patch(error_on_recompile=True)
def test_another_batch_is_not_compiled_again(problem, queries, contexts):
    def through(arguments: dict[str, Any]) -> Tensor:
        return function(**arguments).float() + arguments["lse"][..., None]

    twice = compiled(through, dynamic=True)
    for other in (problem, replace(problem, queries=queries, contexts=contexts)):
        function, arguments = public_call(other, make_inputs(other, "float32", CPU, poisoned=False))
        found, expected = twice(arguments), through(arguments)
        assert torch.equal(found, expected)
        assert found.shape[0] == arguments["q"].shape[0]


@each_function
def test_an_exported_program_calls_the_operator(problem):
    function, arguments = public_call(problem, make_inputs(problem, "float32", CPU))
    del arguments["lse"], arguments["options"]

    class Layer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.sinks = torch.nn.Parameter(torch.linspace(-1.0, 1.0, 4))

        def forward(self, arguments: dict[str, Any]) -> tuple[Tensor, Tensor]:
            q = arguments["q"]
            lse = torch.empty(q.shape[:-1])
            out = function(**arguments, options=Options(scale=0.5, sinks=self.sinks), lse=lse)
            return out, lse

    layer = Layer().eval().requires_grad_(False)
    program = torch.export.export(layer, (arguments,))
    for found, expected in zip(program.module()(arguments), layer(arguments), strict=True):
        assert torch.equal(found, expected)
    assert f"tokenwatt.{function.__name__}.default" in str(program.graph)


@pytest.mark.parametrize(
    ("problem", "changes", "message"),
    [
        (PLAIN[0], {"k": torch.zeros(14, 2, 16)}, "k must have D = 32, got 16"),
        (PLAIN[0], {"lse": torch.zeros(14, 3)}, r"lse must be contiguous with shape \[14, 4\], got \[14, 3\]"),
        (PLAIN[1], {"block_table": torch.zeros(3, 1, dtype=torch.int32)}, "block_table must have B = 2, got 3"),
        (PLAIN[1], {"options": Options(window=0)}, "window must be >= 1 key, the query's own position included, got 0"),
        (
            PLAIN[2],
            {"q": torch.zeros(3, 4, 32).to(torch.float8_e4m3fn)},
            "q must have dtype .*, got torch.float8_e4m3fn",
        ),
        (PLAIN[2], {"options": Options(sinks=torch.zeros(3))}, "sinks must have 4 elements, got 3"),
        (PLAIN[3], {"value_dim": 49}, "value_dim must be from 1 to D = 48, got 49"),
        (PLAIN[4], {"decodes": 4}, "decodes must be from 0 to the 3 sequences of cu_seqlens, got 4"),
    ],
    ids=lambda value: value.name if isinstance(value, AttentionProblem) else "",
)
@pytest.mark.parametrize("is_dynamic", [False, True], ids=["", "dynamic"])
def test_a_compiler_reports_what_is_refused(problem, changes, message, is_dynamic):
    function, arguments = public_call(problem, make_inputs(problem, "float32", CPU))
    wrong = arguments | changes
    with pytest.raises((ValueError, TypeError), match=message):
        function(**wrong)
    with pytest.raises(RuntimeError, match=message if not is_dynamic else " must .* got "):
        compiled(lambda given: function(**given), dynamic=is_dynamic)(wrong)


@each_function
def test_a_compiler_refuses_names_that_the_function_does_not_have(problem):
    function, arguments = public_call(problem, make_inputs(problem, "float32", CPU))
    with pytest.raises(TypeError, match="got an unexpected keyword argument 'scale'"):
        function(**arguments, scale=1.0)
    with pytest.raises(Exception, match="got an unexpected keyword argument 'scale'"):
        compiled(lambda: function(**arguments, scale=1.0))()


@each_function
def test_values_are_still_read_on_a_cpu(problem):
    function, arguments = public_call(problem, make_inputs(problem, "float32", CPU))
    name = "context_lens" if "context_lens" in arguments else "cu_seqlens"
    arguments[name] = arguments[name] + 99
    with pytest.raises(ValueError, match=f"{name} must "):
        compiled(lambda given: function(**given))(arguments)
