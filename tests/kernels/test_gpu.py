"""The gate and the far pages on a real GPU."""

from __future__ import annotations

import pytest
import torch

from tokenwatt_kernels import commands
from tokenwatt_kernels.attention.decode.call import decode_attention
from tokenwatt_kernels.attention.decode.reference import decode_attention_reference
from tokenwatt_kernels.dtypes import DTYPES
from tokenwatt_kernels.families import FAMILIES

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU"),
]


@pytest.mark.parametrize("dtype_name", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_shipped_kernels_pass_on_the_gpu(family, dtype_name):
    verdicts = list(commands.check([family], [dtype_name], torch.device("cuda")))
    assert verdicts
    assert [verdict for verdict in verdicts if verdict.status != "passed"] == []


def test_decode_reaches_pages_past_2_to_the_31_elements():
    # Pages of 16 * 8 * 128 = 2^14 elements: page 2^17 begins at element 2^31. Two caches of 4.3 GB each.
    page_shape, far = (16, 8, 128), 2**17
    needed_bytes = 2 * (far + 1) * 2**14 * 2
    if torch.cuda.mem_get_info()[0] < 1.2 * needed_bytes:
        pytest.skip(f"needs {needed_bytes} bytes of free GPU memory")
    k_cache, v_cache = (torch.empty(far + 1, *page_shape, dtype=torch.float16, device="cuda") for _ in range(2))
    for cache in (k_cache, v_cache):
        cache[far].normal_()
    q = torch.randn(1, 32, 128, dtype=torch.float16, device="cuda")
    context_lens = torch.tensor([16], dtype=torch.int32, device="cuda")
    out = decode_attention(q, k_cache, v_cache, torch.tensor([[far]], dtype=torch.int32, device="cuda"), context_lens)
    first = torch.zeros(1, 1, dtype=torch.int32, device="cuda")
    expected = decode_attention_reference(q, k_cache[far:], v_cache[far:], first, context_lens, 128**-0.5)
    torch.testing.assert_close(out, expected, rtol=1e-3, atol=4e-3)
