"""What a problem asks of a GPU: arithmetic, traffic, and the walk that cannot be shared. Sizes are those of one GPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tokenwatt.perf_model.operator_time.precision import Precision

Floats = NDArray[np.float64]
Shape = Mapping[str, Floats]
Parameters = Mapping[str, float]

REFERENCE_HEAD_DIM = 128
"""Head size at which `flop_efficiency` of attention holds."""
LEAST_ROWS = 16
"""Rows of the smallest tensor-core instruction: fewer query heads per KV head cost as much."""
STATE_BYTES = 4
"""Of an element of a recurrent state, which engines keep in fp32."""
CHUNK = 64
"""Tokens that linear attention takes at once in prefill."""
BF16_BYTES = 2


@dataclass(frozen=True, slots=True)
class Work:
    """What a problem asks of a GPU; every field as long as the problem's arrays."""

    flop: Floats | float = 0.0
    bytes: Floats | float = 0.0
    steps: Floats | float = 0.0
    experts: Floats | float = 0.0
    copied_bytes: Floats | float = 0.0


def matmul_work(shape: Shape, parameters: Parameters, kind: Precision) -> Work:
    """(m, k) times (k, n): weights and inputs read in their precision, bf16 written.

    Inputs come in bf16; bringing them into the precision moves them `copy_factor` times, outside the matmul.
    """
    del parameters
    m, n, k = shape["m"], shape["n"], shape["k"]
    moved = kind.weight_bytes * n * k + kind.activation_bytes * m * k + BF16_BYTES * m * n
    return Work(flop=2 * m * n * k, bytes=moved, steps=k, copied_bytes=BF16_BYTES * m * k)


def seen_pairs(tokens: Floats, prefix: Floats, window: Floats) -> Floats:
    """Pairs of a query and a key that it sees, when `tokens` queries follow `prefix` keys; window 0 means none."""
    width = np.where(window > 0, window, np.inf)
    first = np.minimum(prefix + 1, width)
    growing = np.minimum(tokens, np.maximum(width - prefix, 1.0))
    last = np.minimum(prefix + growing, width)
    limited = np.maximum(tokens - growing, 0.0) * np.where(np.isinf(width), 0.0, width)
    return growing * (first + last) / 2 + limited


def _padded(window: Floats, pad: float) -> Floats:
    return np.where(window > 0, window + pad, 0.0)


def attention_prefill_work(shape: Shape, parameters: Parameters, kind: Precision) -> Work:
    """Causal attention of `tokens` new tokens of each of `batch` sequences over `prefix` cached ones.

    A pair costs what its head's elements cost, and a fixed part (the exponential) worth `pair_elements` more. A window
    is walked in whole blocks: `window_pad` keys more.
    """
    batch, tokens, prefix, heads = (shape[name] for name in ("batch", "tokens", "prefix", "heads"))
    dim, window = shape["head_dim"], _padded(shape["window"], parameters["window_pad"])
    fixed = parameters["pair_elements"]
    elements = (dim + fixed) * REFERENCE_HEAD_DIM / (REFERENCE_HEAD_DIM + fixed)
    keys = np.minimum(prefix + tokens, np.where(window > 0, window + tokens, np.inf))
    walked = np.minimum(prefix + tokens, np.where(window > 0, window, np.inf))
    kv_bytes = 2 * shape["kv_heads"] * dim * kind.weight_bytes
    return Work(
        flop=4 * batch * heads * elements * seen_pairs(tokens, prefix, window),
        bytes=batch * (tokens * 2 * heads * dim * BF16_BYTES + keys * kv_bytes),
        steps=walked,
    )


def attention_decode_work(shape: Shape, parameters: Parameters, kind: Precision) -> Work:
    """One new token of each of `batch` sequences over `context` cached ones, itself included."""
    batch, heads, kv_heads, dim = (shape[name] for name in ("batch", "heads", "kv_heads", "head_dim"))
    seen = np.minimum(shape["context"], np.where(shape["window"] > 0, shape["window"], np.inf))
    read = seen + parameters["context_pad"]
    rows = np.maximum(heads / kv_heads, LEAST_ROWS)
    return Work(
        flop=4 * batch * read * kv_heads * dim * rows,
        bytes=batch * (read * 2 * kv_heads * dim * kind.weight_bytes + 2 * heads * dim * BF16_BYTES),
        steps=seen,
    )


def latent_prefill_work(shape: Shape, parameters: Parameters, kind: Precision) -> Work:
    """Latent attention with keys and values expanded for every head."""
    del parameters
    batch, tokens, prefix, heads = (shape[name] for name in ("batch", "tokens", "prefix", "heads"))
    qk, v = shape["qk_head_dim"], shape["v_head_dim"]
    pairs = seen_pairs(tokens, prefix, np.zeros_like(tokens))
    keys = prefix + tokens
    return Work(
        flop=2 * batch * heads * (qk + v) * pairs,
        bytes=batch * heads * (qk + v) * (tokens * BF16_BYTES + keys * kind.weight_bytes),
        steps=keys,
    )


def latent_decode_work(shape: Shape, parameters: Parameters, kind: Precision) -> Work:
    """Latent attention with absorbed projections: all heads read one latent and one rotary key for each token."""
    batch, context, heads = (shape[name] for name in ("batch", "context", "heads"))
    latent, rotary = shape["latent_dim"], shape["rotary_dim"]
    read = context + parameters["context_pad"]
    rows = np.maximum(heads, parameters["row_tile"])
    return Work(
        flop=2 * batch * read * rows * (2 * latent + rotary),
        bytes=batch * (read * (latent + rotary) * kind.weight_bytes + heads * (2 * latent + rotary) * BF16_BYTES),
        steps=context,
    )


def grouped_matmul_work(shape: Shape, parameters: Parameters, kind: Precision) -> Work:
    """Gate, up and down of the experts that one rank holds.

    Args:
        shape: `tokens` of all ranks, `hidden`, `intermediate` of one rank, `top_k`; `copies` of tokens on the rank and
            experts `touched` there (`routing.rank_load`).
        parameters: `row_pad` rows are multiplied for nothing in each touched expert; every copy of a token, of all
            ranks, is moved `copy_factor` times in bf16 outside the matmuls.
        kind: of weights and inputs.
    """
    hidden, inner = shape["hidden"], shape["intermediate"]
    weights = 3 * hidden * inner
    copies, touched = shape["copies"], shape["touched"]
    rows = copies + touched * parameters["row_pad"]
    activations = copies * (2 * hidden + 3 * inner) * BF16_BYTES
    return Work(
        flop=2 * weights * rows,
        bytes=touched * weights * kind.weight_bytes + activations,
        steps=hidden + inner,
        experts=touched,
        copied_bytes=shape["tokens"] * shape["top_k"] * hidden * BF16_BYTES,
    )


def _recurrent_bytes(shape: Shape, tokens: Floats) -> Floats:
    """State read and written, and queries, keys, values and answers through the convolution and the rule."""
    state = shape["value_heads"] * shape["key_dim"] * shape["value_dim"]
    through = shape["key_heads"] * shape["key_dim"] * 2 + shape["value_heads"] * shape["value_dim"]
    passes = 4  # the convolution reads and writes, the rule reads, and its answer is about as wide
    return shape["batch"] * (2 * state * STATE_BYTES + tokens * through * passes * BF16_BYTES)


def linear_prefill_work(shape: Shape, parameters: Parameters, kind: Precision) -> Work:
    """Gated delta rule in chunks, with its convolution: the state is updated and read, pairs within a chunk meet."""
    del parameters, kind
    tokens, heads, key, value = (shape[name] for name in ("tokens", "value_heads", "key_dim", "value_dim"))
    flop = 2 * shape["batch"] * tokens * heads * (3 * key * value + CHUNK * (key + value))
    return Work(flop=flop, bytes=_recurrent_bytes(shape, tokens), steps=tokens)


def linear_decode_work(shape: Shape, parameters: Parameters, kind: Precision) -> Work:
    """Gated delta rule for one token of each sequence, with its convolution."""
    del parameters, kind
    state = shape["value_heads"] * shape["key_dim"] * shape["value_dim"]
    moved = _recurrent_bytes(shape, np.ones_like(shape["batch"]))
    return Work(flop=6 * shape["batch"] * state, bytes=moved, steps=shape["key_dim"])


def collective_work(shape: Shape, parameters: Parameters, kind: Precision) -> Work:
    """Bytes that have to leave a GPU when all but its own share of `bytes` is elsewhere."""
    del parameters, kind
    return Work(bytes=shape["bytes"] * (shape["gpus"] - 1) / shape["gpus"])


def all_reduce_work(shape: Shape, parameters: Parameters, kind: Precision) -> Work:
    """Shares of a sum go out once, and the sums once more."""
    del parameters, kind
    return Work(bytes=2 * shape["bytes"] * (shape["gpus"] - 1) / shape["gpus"])
