"""Attention over pages whose element offset passes 2^31. Prints the largest error against the reference.

The cache is a sparse file, so that it costs memory and disk only for the pages in use.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from tokenwatt_kernels import interpreter
from tokenwatt_kernels.attention.decode import kernel as decode_kernel
from tokenwatt_kernels.attention.decode import tiles as decode_tiles
from tokenwatt_kernels.attention.keys import Keys
from tokenwatt_kernels.attention.options import DEFAULT
from tokenwatt_kernels.attention.prefill import kernel as prefill_kernel
from tokenwatt_kernels.attention.prefill import tiles as prefill_tiles
from tokenwatt_kernels.attention.reference import attention_reference

PAGE_STRIDE = 2**30
PAGE_SIZE, KV_HEADS, HEAD_DIM = 16, 1, 16


def error(keys: Keys, queries: int) -> float:
    """Of one sequence's last queries, by the decode kernel and by the prefill kernel, whichever is larger."""
    q = torch.randn(queries, 2, HEAD_DIM, generator=torch.Generator().manual_seed(queries)).half()
    starts = [0, queries]
    expected, _ = attention_reference(q, keys.packed(keys.k), keys.packed(keys.v), starts, keys.bounds(), DEFAULT)
    answers = [torch.full_like(q, float("nan")) for _ in range(2)]
    tile, programs = decode_tiles.INTERPRETER_TILES[0]
    decode_kernel.launch(q, queries, keys, DEFAULT, answers[0], None, tile, programs)
    query_starts = torch.tensor(starts, dtype=torch.int32)
    prefill_kernel.launch(q, keys, query_starts, queries, DEFAULT, answers[1], None, prefill_tiles.INTERPRETER_TILES[0])
    return max(largest(answer - expected) for answer in answers)


def largest(difference: Tensor) -> float:
    """A NaN is larger than anything."""
    return float(difference.abs().nan_to_num(nan=float("inf")).max())


if __name__ == "__main__":
    interpreter.enable()
    elements = PAGE_SIZE * KV_HEADS * HEAD_DIM
    # Page 2 begins at element 2^31; k and v lie side by side in each page.
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "cache")
        memory = torch.from_file(file, shared=True, size=2 * PAGE_STRIDE + 2 * elements, dtype=torch.float16)
        shape, strides = (3, PAGE_SIZE, KV_HEADS, HEAD_DIM), (PAGE_STRIDE, KV_HEADS * HEAD_DIM, HEAD_DIM, 1)
        k_cache, v_cache = (memory.as_strided(shape, strides, offset) for offset in (0, elements))
        generator = torch.Generator().manual_seed(0)
        for cache in (k_cache, v_cache):
            cache.copy_(torch.randn(shape, generator=generator))
        block_table = torch.tensor([[2, 0]], dtype=torch.int32)
        context_lens = torch.tensor([20], dtype=torch.int32)
        keys = Keys(k_cache, v_cache, block_table=block_table, context_lens=context_lens)
        print(json.dumps(max(error(keys, queries) for queries in (1, 18))))
