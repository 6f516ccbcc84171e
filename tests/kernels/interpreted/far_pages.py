"""Decode from pages whose element offset passes 2^31. Prints the largest error against the reference.

The cache is a sparse file, so that it costs memory and disk only for the pages in use.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch

from tokenwatt_kernels import interpreter
from tokenwatt_kernels.attention.decode.kernel import launch
from tokenwatt_kernels.attention.decode.reference import decode_attention_reference
from tokenwatt_kernels.attention.decode.tiles import DecodeTile

PAGE_STRIDE = 2**30
PAGE_SIZE, KV_HEADS, HEAD_DIM = 16, 1, 16

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
        q = torch.randn(1, 2, HEAD_DIM, generator=generator).half()
        block_table = torch.tensor([[2, 0]], dtype=torch.int32)
        context_lens = torch.tensor([20], dtype=torch.int32)
        out = torch.full_like(q, float("nan"))
        launch(q, k_cache, v_cache, block_table, context_lens, 0.25, out, DecodeTile(16, 4, 1), 1)
        expected = decode_attention_reference(q, k_cache, v_cache, block_table, context_lens, 0.25)
        print(json.dumps(float((out - expected).abs().max())))
