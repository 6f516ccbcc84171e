"""Serves a tiny model twice, on the kernels' references and on the Triton kernels themselves, interpreted.

Run in a process of its own under TRITON_INTERPRET=1: `python serve.py MODEL_FOLDER`. Prints how far their logits are
apart, as JSON.
"""

from __future__ import annotations

import json
import sys
from unittest.mock import patch

import numpy as np
import torch

from tokenwatt.engines.native import model, weights
from tokenwatt.engines.native.batch import Batch
from tokenwatt.engines.native.engine import NativeEngine
from tokenwatt.engines.native.kv_cache import KvCache
from tokenwatt.spec import BenchSpec
from tokenwatt.workloads import Request
from tokenwatt_kernels import interpreter
from tokenwatt_kernels.attention.decode import kernel as decode_kernel
from tokenwatt_kernels.attention.decode import tiles as decode_tiles
from tokenwatt_kernels.attention.keys import Keys
from tokenwatt_kernels.attention.options import DEFAULT
from tokenwatt_kernels.attention.prefill import kernel as prefill_kernel
from tokenwatt_kernels.attention.prefill import tiles as prefill_tiles
from tokenwatt_kernels.matmul.call import FEW_ROWS
from tokenwatt_kernels.matmul.dense import kernel as dense_kernel
from tokenwatt_kernels.matmul.dense import tiles as dense_tiles
from tokenwatt_kernels.matmul.operands import Operands
from tokenwatt_kernels.matmul.skinny import kernel as skinny_kernel
from tokenwatt_kernels.matmul.skinny import tiles as skinny_tiles


def interpreted_matmul(a: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """What the launchers do on CUDA, with the interpreter's tiles."""
    operands = Operands(a, weight)
    out = operands.new_out()
    if operands.m <= FEW_ROWS:
        tile, programs = skinny_tiles.INTERPRETER_TILES[0]
        skinny_kernel.launch(operands, out, tile, programs, promotes=False)
    else:
        tile, programs = dense_tiles.INTERPRETER_TILES[0]
        dense_kernel.launch(operands, out, tile, programs, promotes=False)
    return out


def interpreted_prefill(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu_seqlens: torch.Tensor, max_seqlen: int
) -> torch.Tensor:
    """Same for prefill attention."""
    out = torch.empty(q.shape, dtype=q.dtype)
    keys = Keys(k, v, starts=cu_seqlens)
    prefill_kernel.launch(q, keys, cu_seqlens, max_seqlen, DEFAULT, out, None, prefill_tiles.INTERPRETER_TILES[0])
    return out


def interpreted_decode(
    q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, block_table: torch.Tensor, context_lens: torch.Tensor
) -> torch.Tensor:
    """Same for decode attention."""
    out = torch.empty(q.shape, dtype=q.dtype)
    cache = Keys(keys, values, block_table=block_table, context_lens=context_lens)
    tile, programs = decode_tiles.INTERPRETER_TILES[0]
    decode_kernel.launch(q, 1, cache, DEFAULT, out, None, tile, programs)
    return out


def served(folder: str) -> torch.Tensor:
    """Logits [steps x sequences, vocab_size] of three requests at concurrency 2, prompts and decoded tokens mixed."""
    spec = BenchSpec(
        engine="native", model=folder, dtype="float32", device="cpu", workloads=("chat",), concurrency=(2,)
    )
    engine = NativeEngine(spec)
    engine.load(max_concurrency=2, longest_context=40)
    rng = np.random.default_rng(0)
    requests = [Request(index, rng.integers(0, 128, size, dtype=np.int32), 4) for index, size in enumerate((3, 20, 17))]
    seen: list[torch.Tensor] = []
    forward = model.Decoder.forward

    def watched(decoder: model.Decoder, batch: Batch, cache: KvCache) -> torch.Tensor:
        seen.append(forward(decoder, batch, cache))
        return seen[-1]

    with patch.object(model.Decoder, "forward", watched):
        for _ in engine.serve(iter(requests), 2, clock=lambda: 0.0):
            pass
    return torch.cat(seen)


if __name__ == "__main__":
    interpreter.enable()
    weights.INIT_STD = 0.3  # so that attention moves the logits by more than rounding does
    by_reference = served(sys.argv[1])
    with (
        patch.object(model, "matmul", interpreted_matmul),
        patch.object(model, "prefill_attention", interpreted_prefill),
        patch.object(model, "decode_attention", interpreted_decode),
    ):
        by_kernels = served(sys.argv[1])
    error = (by_kernels - by_reference).abs().max().item()
    print(json.dumps({"rows": len(by_reference), "largest": by_reference.abs().max().item(), "error": error}))
