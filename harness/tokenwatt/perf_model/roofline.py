"""The physical ceiling of a closed loop, and how it moves from one system to another. Pure arithmetic.

One cycle: each of C requests prefills `isl` tokens and generates `osl`. Nothing on the device can be faster than its
memory or its tensor cores, so with everything overlapped perfectly

    time >= max(memory bytes / bandwidth, FLOP / rate)        output tokens/s <= C * osl / time

Bytes. A request needs `osl` forward passes, one after the other: its prefill, which yields the first token, and
`osl - 1` decode steps. Requests share the passes, so at least `osl` passes a cycle stream the weights:

    osl * matmul_bytes
    + C * kv_bytes_per_token * ((osl - 1) * isl + (osl - 1) * (osl - 2) / 2)     context read back by decode steps
    + C * kv_bytes_per_token * (isl + osl - 1)                                   every processed token, written once

(the decode step that yields token j reads isl + j - 2 tokens; its own key and value are still on the chip). Reading
the prompt's keys back during prefill, activations and the embedding look-up are left out: on-chip in the best case.

FLOP. n = isl + osl - 1 tokens a request pass through the layers; the last generated token is never fed back. The output
head is needed only for the osl positions that yield a token, not for the whole prompt:

    C * (2 * (matmul_parameters - head) * n + 2 * head * osl + 4 * layers * q_size * n * (n + 1) / 2)

with head = hidden_size * vocab_size; causal attention costs 4 * q_size FLOP per layer and pair of tokens.

It is a limit for plain decoding of weights that do not fit into the on-chip cache: speculative decoding, prefix
caching, quantised weights or caches can pass it. Mean lengths are enough: the terms are convex in each length, so a
spread of lengths that are drawn independently only adds work.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tokenwatt.architecture import BYTES_PER_ELEMENT, Architecture
from tokenwatt.errors import UserError
from tokenwatt.reference.ranges import Range
from tokenwatt.reference.systems import SystemSpec

FLOP_PER_MULTIPLY_ADD = 2
MATMULS_IN_ATTENTION = 2


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
    read_back = steps * isl + steps * max(osl - 2, 0.0) / 2
    written = isl + steps
    kv = architecture.kv_bytes_per_token(dtype) * (read_back + written)
    return max(osl, 1.0) * architecture.matmul_bytes(dtype) + concurrency * kv


def cycle_flop(architecture: Architecture, isl: float, osl: float, concurrency: float) -> float:
    """Least arithmetic of one cycle, FLOP (formula above)."""
    head = architecture.hidden_size * architecture.vocab_size
    tokens = isl + max(osl - 1, 0.0)
    pairs = tokens * (tokens + 1) / 2
    layers = FLOP_PER_MULTIPLY_ADD * (architecture.matmul_parameters - head) * tokens
    logits = FLOP_PER_MULTIPLY_ADD * head * osl
    per_pair = FLOP_PER_MULTIPLY_ADD * MATMULS_IN_ATTENTION * architecture.num_hidden_layers * architecture.q_size
    return concurrency * (layers + logits + per_pair * pairs)


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
