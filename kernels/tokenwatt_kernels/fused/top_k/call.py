"""The largest logits of each row, as values and indices, with what their log-probabilities need."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tokenwatt_kernels import device, tables
from tokenwatt_kernels.arguments import check_device, check_size, check_tensor
from tokenwatt_kernels.fused.top_k.reference import top_k_reference
from tokenwatt_kernels.fused.top_k.tiles import FAMILY, MAX_K, TopKTile, make_key
from tokenwatt_kernels.operators import operator

MAX_VOCABULARY = 2**20


def tile_for(logits: Tensor, k: int) -> TopKTile:
    """The tile for the k largest of logits on a GPU."""
    key = make_key(k, logits.element_size())
    return tables.tile_on(FAMILY, device.name(logits.device), device.capability(logits.device), key)


def _fake_top_k(
    logits: Tensor, k: int, temperature: Tensor | None = None, *, softcap: float | None = None, validate: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    check_tensor("logits", logits, ("B", "V"))
    rows, vocabulary = logits.shape
    if vocabulary > MAX_VOCABULARY:
        raise ValueError(f"logits must have V up to {MAX_VOCABULARY}, got {vocabulary}")
    if not 1 <= k <= min(MAX_K, vocabulary):
        raise ValueError(f"k must be from 1 to {MAX_K} and to V = {vocabulary}, got {k}")
    if temperature is not None:
        check_tensor("temperature", temperature, ("B",), (torch.float32,))
        check_size("temperature", "B", temperature.shape[0], rows)
        check_device("temperature", temperature, "logits", logits)
    if softcap is not None and not (softcap > 0 and math.isfinite(softcap)):
        raise ValueError(f"softcap must be a finite number > 0, got {softcap}")
    return (
        logits.new_empty((rows, k), dtype=torch.float32),
        logits.new_empty((rows, k), dtype=torch.int32),
        logits.new_empty((rows,), dtype=torch.float32),
    )


@operator(_fake_top_k)
def top_k(
    logits: Tensor, k: int, temperature: Tensor | None = None, *, softcap: float | None = None, validate: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """The k largest logits of each row, and the log-sum-exp of the row.

    logits: [B, V], one of float32, float16 or bfloat16, contiguous along V, which is at most 2^20. A logit of -inf
        rules its token out and stays -inf. NaN is chosen as -inf would be, and makes the row's log-sum-exp NaN, as
        +inf does.
    k: from 1 to 128 and to V.
    temperature: [B] fp32, all > 0: logits are divided by it. (Of 0, k = 1 without a temperature is the limit.)
    softcap: c * tanh(logits / c) comes first, as in Gemma.
    validate: read the temperatures back to the host, which waits for the GPU, and check them. On a CPU they always are
        checked.

    Softcap and temperature do not change the order, so logits are compared as they are given: larger before smaller,
    equal ones in the order of their indices.

    Returns values [B, k] fp32, after softcap and temperature, indices [B, k] int32, and the natural log-sum-exp [B]
    fp32 of all V values: value - log-sum-exp is the log-probability of a token. The Triton kernels' answer on CUDA,
    torch's on a CPU; the same bits in every call, and for every B.
    Raises TypeError or ValueError, before any launch, for arguments other than these.
    """
    values, indices, log_sum = _fake_top_k(logits, k, temperature, softcap=softcap)
    device.check_supported(logits.device)
    is_on_cpu = logits.device.type == "cpu"
    if temperature is not None and (validate or is_on_cpu) and not bool((temperature > 0).all()):
        raise ValueError(f"temperature must be > 0, got {temperature.tolist()}")
    if is_on_cpu:
        found = top_k_reference(logits, k, temperature, softcap)
        return values.copy_(found[0]), indices.copy_(found[1]), log_sum.copy_(found[2])

    from tokenwatt_kernels.fused.top_k.kernel import launch

    launch(logits, temperature, softcap, values, indices, log_sum, tile_for(logits, k))
    return values, indices, log_sum
