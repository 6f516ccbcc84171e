"""Work functions against numbers computed by hand."""

from __future__ import annotations

from tokenwatt_kernels.attention.decode.problems import DecodeProblem
from tokenwatt_kernels.attention.decode.work import work as decode_work
from tokenwatt_kernels.attention.prefill.problems import PrefillProblem
from tokenwatt_kernels.attention.prefill.work import work as prefill_work
from tokenwatt_kernels.matmul.dense.problems import MatmulProblem
from tokenwatt_kernels.matmul.dense.work import work as matmul_work
from tokenwatt_kernels.work import Work


def test_prefill_counts_only_visible_keys():
    # Lengths 2 and 3: 1+2 and 1+2+3 = 9 query-key meetings per head. 4 heads, D = 16: 9 * 4 * 16 * 4 flop = 2304.
    # 5 tokens: q and out 2*5*4*16 = 640 elements, k and v 2*5*2*16 = 320; 960 elements of 2 bytes = 1920.
    problem = PrefillProblem("hand", (2, 3), query_heads=4, kv_heads=2, head_dim=16)
    assert prefill_work(problem, element_bytes=2) == Work(flop=2304, bytes=1920)


def test_decode_counts_only_live_tokens():
    # Contexts 5 and 0: 5 live tokens. 4 heads, D = 16: 5 * 4 * 16 * 4 flop = 1280.
    # k and v 2*5*2*16 = 320 elements, q and out of 2 sequences 2*2*4*16 = 256: 576 elements of 2 bytes = 1152.
    # Pages of 4: 2 live pages and 2 context lengths, 4 integers of 4 bytes = 16. Together 1168.
    problem = DecodeProblem("hand", (5, 0), query_heads=4, kv_heads=2, head_dim=16, page_size=4)
    assert decode_work(problem, element_bytes=2) == Work(flop=1280, bytes=1168)


def test_matmul_counts_multiplications_and_additions():
    # 2 * 3 * 5 * 7 = 210 flop. 3*7 + 5*7 + 3*5 = 71 elements of 4 bytes = 284.
    assert matmul_work(MatmulProblem("hand", 3, 5, 7), element_bytes=4) == Work(flop=210, bytes=284)
