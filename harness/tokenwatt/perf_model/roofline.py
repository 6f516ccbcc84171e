"""The physical ceiling of a closed loop, and how it moves from one system to another. Pure arithmetic.

One cycle: each of C requests prefills `isl` tokens and generates `osl`. Nothing on the device can be faster than its
memory or its tensor cores, so with everything overlapped perfectly

    time >= max(memory bytes / bandwidth, FLOP / rate)        output tokens/s <= C * osl / time

Bytes. A request needs `osl` forward passes, one after the other: its prefill, which yields the first token, and
`osl - 1` decode steps. Requests share the passes, so at least `osl` passes a cycle stream the weights that C tokens
touch; and the KV cache of every layer is read back and written:

    osl * touched_matmul_parameters(C) * size
    + C * sum over layers of cached_size * size * (read back + written)

    read back = g * isl + g * (g - 1) / 2 + (osl - 1 - g) * (window - 1)     by the osl - 1 decode steps
    written   = min(isl, window - 1) + osl - 1                               once, what a later token may see

with size = bytes of an element. The decode step that yields token j sees isl + j - 2 tokens before its own, whose key
and value are still on the chip, but no more than window - 1; g = min(max(window - 1 - isl, 0), osl - 1) steps see fewer
than that. Without a window g = osl - 1, and isl + osl - 1 tokens are written. Reading the prompt's keys back during
prefill, activations and the embedding look-up are left out: on-chip in the best case.

Routing is taken as uniform: one pass over C tokens touches as many experts of a mixture as are expected to have a token
if every choice is as likely as any other; a prefill in the same pass touches more. Routing that prefers some experts
touches fewer and can pass the limit. For a dense model touched_matmul_parameters is matmul_parameters.

FLOP. n = isl + osl - 1 tokens a request pass through the layers; the last generated token is never fed back. The output
head is needed only for the osl positions that yield a token, not for the whole prompt:

    C * (2 * (active_matmul_parameters - head) * n + 2 * head * osl + sum over layers of pair_flop * pairs)

    pairs = m * (m + 1) / 2 + (n - m) * window        m = min(n, window), or n without a window

with head = hidden_size * vocab_size; of the experts only a token's own count. pair_flop is 4 * q_size in grouped
attention; in latent attention that of expanded keys and values, the fewest: absorbed projections cost more a pair.

It is a limit for plain decoding of weights that do not fit into the on-chip cache: speculative decoding, prefix
caching, quantised weights or caches can pass it. Without windows mean lengths are enough: the terms are convex in each
length, so a spread of lengths that are drawn independently only adds work. A window makes them concave where it begins
to bind; there the limit is that of requests that all have the mean lengths, and a wide spread can pass it.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Literal

from tokenwatt.architecture import BYTES_PER_ELEMENT, Architecture
from tokenwatt.errors import UserError
from tokenwatt.reference.ranges import Range
from tokenwatt.reference.systems import SystemSpec

FLOP_PER_MULTIPLY_ADD = 2


@dataclass(frozen=True, slots=True)
class RooflineLimit:
    """Fastest closed loop that a memory bandwidth and a FLOP rate allow."""

    output_tokens_per_s: float
    """Ceiling on generated tokens per second."""
    bound: Literal["memory", "compute"]
    """What sets it."""
    bytes: float
    """Memory traffic of one cycle at least, byte."""
    flop: float
    """Arithmetic of one cycle at least, FLOP."""


def closed_loop_limit(
    architecture: Architecture,
    dtype: str,
    isl: float,
    osl: float,
    concurrency: float,
    memory_bytes_per_s: float,
    flop_per_s: float,
) -> RooflineLimit:
    """Ceiling of `concurrency` requests of `isl` and `osl` tokens on one device, or on several taken as one.

    Raises:
        UserError: a dtype that has no size here, or a quantity that is not positive.
    """
    if dtype not in BYTES_PER_ELEMENT:
        raise UserError(f"no roofline for dtype {dtype!r}; known: {', '.join(BYTES_PER_ELEMENT)}")
    given = {
        "isl": isl,
        "osl": osl,
        "concurrency": concurrency,
        "memory_bytes_per_s": memory_bytes_per_s,
        "flop_per_s": flop_per_s,
    }
    for name, value in given.items():
        if not value > 0:
            raise UserError(f"{name} must be > 0, got {value}")
    moved = cycle_bytes(architecture, dtype, isl, osl, concurrency)
    flop = cycle_flop(architecture, isl, osl, concurrency)
    memory_s, compute_s = moved / memory_bytes_per_s, flop / flop_per_s
    bound: Literal["memory", "compute"] = "memory" if memory_s >= compute_s else "compute"
    return RooflineLimit(concurrency * osl / max(memory_s, compute_s), bound, moved, flop)


def cycle_bytes(architecture: Architecture, dtype: str, isl: float, osl: float, concurrency: float) -> float:
    """Least memory traffic of one cycle, byte (formula above)."""
    steps = max(osl - 1, 0.0)
    size = BYTES_PER_ELEMENT[dtype]
    cached = architecture.attention.cached_size * size
    kv = sum(
        layers * cached * (_read_back(isl, steps, before) + (min(isl, before) + steps))
        for before, layers in _keys_before(architecture).items()
    )
    return max(osl, 1.0) * architecture.touched_matmul_parameters(concurrency) * size + concurrency * kv


def cycle_flop(architecture: Architecture, isl: float, osl: float, concurrency: float) -> float:
    """Least arithmetic of one cycle, FLOP (formula above)."""
    head = architecture.head_parameters
    tokens = isl + max(osl - 1, 0.0)
    linear = FLOP_PER_MULTIPLY_ADD * (architecture.active_matmul_parameters - head) * tokens
    logits = FLOP_PER_MULTIPLY_ADD * head * osl
    attention = sum(
        layers * architecture.attention.pair_flop * _pairs(tokens, before)
        for before, layers in _keys_before(architecture).items()
    )
    return concurrency * (linear + logits + attention)


def _keys_before(architecture: Architecture) -> Counter[float]:
    """How many keys before its own a query sees at most, inf without a window, and the number of layers with that."""
    return Counter(math.inf if layer.window is None else layer.window - 1 for layer in architecture.layers)


def _read_back(isl: float, steps: float, before: float) -> float:
    """Cached tokens that the decode steps of one request read in one layer."""
    growing = min(max(before - isl, 0.0), steps)
    # Without a window nothing is left to multiply with inf.
    limited = (steps - growing) * before if growing < steps else 0.0
    return growing * isl + growing * max(growing - 1, 0.0) / 2 + limited


def _pairs(tokens: float, before: float) -> float:
    """Pairs of a query and a key that it sees, its own included, in one layer."""
    growing = min(tokens, before + 1)
    limited = (tokens - growing) * (before + 1) if growing < tokens else 0.0
    return growing * (growing + 1) / 2 + limited


def system_limit(
    architecture: Architecture, dtype: str, isl: float, osl: float, concurrency: float, spec: SystemSpec, gpus: int = 1
) -> Range:
    """Ceiling of `gpus` GPUs of a system at their data-sheet peaks, token/s; its range is that of the peaks."""
    bandwidth, rate = spec.hbm_bytes_per_s.range, spec.flop_per_s(dtype).range

    def limit(bytes_per_s: float, flop_per_s: float) -> float:
        ceilings = bytes_per_s * gpus, flop_per_s * gpus
        return closed_loop_limit(architecture, dtype, isl, osl, concurrency, *ceilings).output_tokens_per_s

    return Range(
        limit(bandwidth.low, rate.low), limit(bandwidth.central, rate.central), limit(bandwidth.high, rate.high)
    )


def throughput_ratio(
    architecture: Architecture,
    dtype: str,
    isl: float,
    osl: float,
    concurrency: float,
    spec_from: SystemSpec,
    spec_to: SystemSpec,
) -> Range:
    """Ceiling of one GPU of `spec_to` over that of one GPU of `spec_from`, at the same operating point."""
    if spec_from.name == spec_to.name:
        return Range.exact(1.0)
    point = (architecture, dtype, isl, osl, concurrency)
    return system_limit(*point, spec_to) / system_limit(*point, spec_from)
