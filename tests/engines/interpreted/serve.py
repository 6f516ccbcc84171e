"""Serves a tiny model twice, on the kernels' references and on the Triton kernels themselves, interpreted.

Run in a process of its own under TRITON_INTERPRET=1: `python serve.py MODEL_FOLDER`. Prints how far their logits are
apart, and how often each kernel was launched, as JSON.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from tests.factories import closed
from torch import Tensor

from tokenwatt.engines.native import checkpoint
from tokenwatt.engines.native.batch import Batch
from tokenwatt.engines.native.engine import NativeEngine
from tokenwatt.engines.native.runner import Runner
from tokenwatt.engines.native.scheduler import Step
from tokenwatt.spec import BenchSpec
from tokenwatt.workloads import Request
from tokenwatt_kernels import interpreter
from tokenwatt_kernels.attention import mixed
from tokenwatt_kernels.attention.answer import new_answer
from tokenwatt_kernels.attention.decode import call as decode
from tokenwatt_kernels.attention.decode import kernel as decode_kernel
from tokenwatt_kernels.attention.keys import Keys
from tokenwatt_kernels.attention.options import Options
from tokenwatt_kernels.attention.prefill import call as prefill
from tokenwatt_kernels.attention.prefill import kernel as prefill_kernel
from tokenwatt_kernels.families import part
from tokenwatt_kernels.fused.norm import call as norm
from tokenwatt_kernels.fused.norm import kernel as norm_kernel
from tokenwatt_kernels.fused.rope import call as rope
from tokenwatt_kernels.fused.rope import kernel as rope_kernel
from tokenwatt_kernels.fused.rope.operands import Append, Rotation
from tokenwatt_kernels.fused.top_k import call as top_k
from tokenwatt_kernels.fused.top_k import kernel as top_k_kernel
from tokenwatt_kernels.matmul import call as matmul
from tokenwatt_kernels.matmul.operands import Operands
from tokenwatt_kernels.moe.grouped import call as grouped
from tokenwatt_kernels.moe.grouped import kernel as grouped_kernel
from tokenwatt_kernels.moe.grouped.product import Product
from tokenwatt_kernels.moe.route import call as route
from tokenwatt_kernels.moe.route import kernel as route_kernel
from tokenwatt_kernels.moe.route.options import Choice

PROMPTS, BUDGET, OUTPUT = (3, 90, 17), 70, 3
"""The second prompt comes in two chunks. A step of 70 tokens has more than `skinny` takes, the others have less."""

launches: Counter[str] = Counter()


def tile_of(family: str, what: str | None = None) -> Any:
    """The interpreter's first tile of a family, and its programs if it comes with some; the launch is counted."""
    launches[what or family] += 1
    return part(family, "tiles").INTERPRETER_TILES[0]


def attend_decodes(
    q: Tensor, queries: int, keys: Keys, options: Options, lse: Tensor | None = None, out: Tensor | None = None
) -> Tensor:
    """What `attention.decode.call.attend` does on CUDA, with the interpreter's tile, as all of these do."""
    out = new_answer(q, keys.value_dim) if out is None else out
    decode_kernel.launch(q, queries, keys, options, out, lse, *tile_of("attention.decode"))
    return out


def attend_chunks(
    q: Tensor, keys: Keys, query_starts: Tensor, max_queries: int, options: Options, lse: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """`attention.prefill.call.attend`."""
    out = new_answer(q, keys.value_dim) if out is None else out
    prefill_kernel.launch(q, keys, query_starts, max_queries, options, out, lse, tile_of("attention.prefill"))
    return out


def product(family: str, operands: Operands) -> Tensor:
    """`matmul.dispatch.answer`."""
    out = operands.new_out()
    part(family, "kernel").launch(operands, out, *tile_of(family), promotes=False)
    return out


def grouped_product(product: Product, residual: Tensor | None = None) -> Tensor:
    """`moe.grouped.call.answer`."""
    out = product.a.new_empty(product.out_shape, dtype=product.out_dtype)
    name = "moe.grouped" if product.token_weights is None else "moe.grouped combine"
    grouped_kernel.launch(product, residual, out, *tile_of("moe.grouped", name), promotes=False)
    return out


def routed(logits: Tensor, correction_bias: Tensor | None, choice: Choice) -> tuple[Tensor, ...]:
    """`moe_route`, which gives logits in fp32."""
    (tokens, experts), rows = logits.shape, len(logits) * choice.top_k
    weights = torch.empty(tokens, choice.top_k)
    chosen, order, inverse, offsets = (
        torch.empty(shape, dtype=torch.int32) for shape in (weights.shape, (rows,), (rows,), (experts + 1,))
    )
    tile = tile_of("moe.route")
    route_kernel.launch(logits, correction_bias, choice, weights, chosen, order, inverse, offsets, tile)
    return weights, chosen, order, inverse, offsets


def normed(x: Tensor, weight: Tensor, residual: Tensor | None, *, eps: float, unit_offset: bool) -> Tensor:
    """`rms_norm`."""
    out = torch.empty(x.shape, dtype=x.dtype)
    tile = tile_of("fused.norm", "fused.norm" if residual is None else "fused.norm residual")
    norm_kernel.launch(x, weight, residual, out, None, tile, eps=eps, unit_offset=unit_offset, scales="none")
    return out


def rotated(
    q: Tensor, k: Tensor, v: Tensor, rotation: Rotation, append: Append | None, k_out: Tensor | None,
    v_out: Tensor | None, *, validate: bool,
) -> Tensor:  # fmt: skip
    """`rotate_and_append`, and that of latents."""
    out = q.new_empty(q.shape)
    rope_kernel.launch(q, k, v, rotation, append, out, k_out, v_out, tile_of("fused.rope"))
    return out


def largest(logits: Tensor, k: int, temperature: Tensor | None, softcap: float | None) -> tuple[Tensor, Tensor, Tensor]:
    """`top_k`."""
    rows = len(logits)
    answer = torch.empty(rows, k), torch.empty(rows, k, dtype=torch.int32), torch.empty(rows)
    top_k_kernel.launch(logits, temperature, softcap, *answer, tile_of("fused.top_k"))
    return answer


ON_KERNELS = (
    (mixed, "attend_decodes", attend_decodes),
    (mixed, "attend_chunks", attend_chunks),
    (decode, "attend", attend_decodes),
    (prefill, "attend", attend_chunks),
    (matmul, "answer", product),
    (grouped, "answer", grouped_product),
    (route, "route_reference", routed),
    (norm, "_on_cpu", normed),
    (rope, "_run", rotated),
    (top_k, "top_k_reference", largest),
)
"""Where a tensor on a CPU goes to a reference, and what it goes to instead."""


def served(folder: str) -> Tensor:
    """Logits [steps x sequences, vocab_size] of three requests at concurrency 2: prompts, chunks and decoded tokens."""
    spec = BenchSpec(
        engine="native", model=folder, dtype="float32", device="cpu", workloads=("chat",), concurrency=(2,),
        options={"page_size": 16, "max_step_tokens": BUDGET},
    )  # fmt: skip
    engine = NativeEngine(spec)
    engine.load(max_concurrency=2, longest_context=max(PROMPTS) + OUTPUT)
    rng = np.random.default_rng(0)
    requests = [
        Request(index, rng.integers(0, engine._architecture.vocab_size, size, dtype=np.int32), OUTPUT)
        for index, size in enumerate(PROMPTS)
    ]
    seen: list[Tensor] = []
    sample = Runner._sample

    def watched(runner: Runner, step: Step, batch: Batch, logits: Tensor) -> Tensor:
        seen.append(logits)
        return sample(runner, step, batch, logits)

    with patch.object(Runner, "_sample", watched):
        for event in engine.serve(closed(requests, 2), clock=lambda: 0.0):
            assert event.failure is None
    return torch.cat(seen)


if __name__ == "__main__":
    interpreter.enable()
    checkpoint.INIT_STD = 0.1  # so that attention moves the logits by more than rounding does
    by_reference = served(sys.argv[1])
    assert not launches
    with ExitStack() as stack:
        for module, name, ours in ON_KERNELS:
            stack.enter_context(patch.object(module, name, ours))
        by_kernels = served(sys.argv[1])
    error = (by_kernels - by_reference).abs().max().item()
    largest_logit = by_reference.abs().max().item()
    print(json.dumps({"rows": len(by_reference), "largest": largest_logit, "error": error, "launches": launches}))
