"""Operators: what each is asked for, what work that is, and the few parameters that turn work into time.

Compute operators:

    time = overhead_s + steps * step_s + experts * expert_s + copied_bytes * copy_factor / B
           + ((flop / (flop_efficiency * F))^p + (bytes / (byte_efficiency * B))^p)^(1 / p)

with F = dense peak of the precision, B = memory bandwidth, p = sharpness: 1 where arithmetic and traffic take turns,
large where the longer hides the shorter. `steps` is the walk that one block of threads cannot share with others: the
reduction of a matmul, the keys of a query. A device filled by few blocks waits for that walk, however fast it is.

Collectives, G GPUs, one curve for each G:

    time = (latency_s^p + (factor * bytes / (link_efficiency * L))^p)^(1 / p)

with L = bandwidth of one GPU's links in one direction, factor = 2 (G - 1) / G for an all-reduce and (G - 1) / G for the
others: the least that has to leave a GPU. p < 1 is a change of protocol that costs time about where the terms are even.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tokenwatt.errors import unknown_name
from tokenwatt.perf_model.operator_time.precision import Precision, precision

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
class Parameter:
    """A fitted parameter: where the search begins and what it may reach."""

    name: str
    unit: str
    start: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Work:
    """What a problem asks of a GPU; every field as long as the problem's arrays."""

    flop: Floats | float = 0.0
    bytes: Floats | float = 0.0
    steps: Floats | float = 0.0
    experts: Floats | float = 0.0
    copied_bytes: Floats | float = 0.0


@dataclass(frozen=True, slots=True)
class Ceilings:
    """What a GPU could do at best: FLOP/s in the precision, byte/s of memory, byte/s of its links in one direction."""

    flop_per_s: float
    hbm_bytes_per_s: float
    link_bytes_per_s: float


@dataclass(frozen=True, slots=True)
class Operator:
    """A kind of operator."""

    name: str
    kind: Literal["compute", "collective"]
    columns: tuple[str, ...]
    """Of its Shape."""
    groups: tuple[str, ...]
    """Columns that tell one layer from another; the others are load. A jackknife leaves out whole layers."""
    parameters: tuple[Parameter, ...]
    work: Callable[[Shape, Parameters, Precision], Work]

    def seconds(self, shape: Shape, parameters: Parameters, dtype: str, ceilings: Ceilings) -> Floats:
        """Time of each problem of `shape`, s."""
        work = self.work(shape, parameters, precision(dtype))
        sharpness = parameters["sharpness"]
        if self.kind == "collective":
            moved = np.asarray(work.bytes) / (parameters["link_efficiency"] * ceilings.link_bytes_per_s)
            return _meet(np.full_like(moved, parameters["latency_s"]), moved, sharpness)
        serial = parameters["overhead_s"] + work.steps * parameters["step_s"]
        serial = serial + work.experts * parameters.get("expert_s", 0.0)
        serial = serial + work.copied_bytes * parameters.get("copy_factor", 0.0) / ceilings.hbm_bytes_per_s
        compute = np.asarray(work.flop) / (parameters["flop_efficiency"] * ceilings.flop_per_s)
        memory = np.asarray(work.bytes) / (parameters["byte_efficiency"] * ceilings.hbm_bytes_per_s)
        return np.asarray(serial + _meet(compute, memory, sharpness), dtype=np.float64)


def _meet(one: Floats, other: Floats, sharpness: float) -> Floats:
    """(one^p + other^p)^(1/p), by the larger of the two so that nothing overflows."""
    larger = np.maximum(np.maximum(one, other), 1e-30)
    return larger * ((one / larger) ** sharpness + (other / larger) ** sharpness) ** (1.0 / sharpness)


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


def _collective_work(shape: Shape, parameters: Parameters, kind: Precision) -> Work:
    del parameters, kind
    return Work(bytes=shape["bytes"] * (shape["gpus"] - 1) / shape["gpus"])


def _all_reduce_work(shape: Shape, parameters: Parameters, kind: Precision) -> Work:
    del parameters, kind
    return Work(bytes=2 * shape["bytes"] * (shape["gpus"] - 1) / shape["gpus"])


_COMPUTE = (
    Parameter("overhead_s", "s", 5e-6, 1e-7, 1e-3),
    Parameter("step_s", "s", 3e-10, 1e-14, 1e-6),
    Parameter("flop_efficiency", "1", 0.6, 0.01, 1.0),
    Parameter("byte_efficiency", "1", 0.8, 0.01, 1.2),
    Parameter("sharpness", "1", 1.5, 1.0, 20.0),
)
_PREFILL = (Parameter("pair_elements", "1", 100.0, 0.1, 1e3), Parameter("window_pad", "1", 128.0, 1.0, 2e3))
_CONTEXT_PAD = Parameter("context_pad", "1", 50.0, 0.1, 1e3)
_ROW_TILE = Parameter("row_tile", "1", 40.0, 1.0, 128.0)
_COPY_FACTOR = Parameter("copy_factor", "1", 2.0, 1e-3, 50.0)
_GROUPED = (
    Parameter("row_pad", "1", 8.0, 0.01, 256.0),
    Parameter("expert_s", "s", 1e-7, 1e-12, 1e-4),
    _COPY_FACTOR,
)
_LINK = (
    Parameter("latency_s", "s", 8e-6, 1e-7, 1e-3),
    Parameter("link_efficiency", "1", 0.7, 0.005, 1.0),
    Parameter("sharpness", "1", 0.7, 0.25, 3.0),
)
_ATTENTION = ("heads", "kv_heads", "head_dim", "window")
_LINEAR = ("key_heads", "value_heads", "key_dim", "value_dim")
_MIXTURE = ("hidden", "intermediate", "top_k", "experts", "ep")


def _link(name: str, work: Callable[[Shape, Parameters, Precision], Work]) -> Operator:
    return Operator(name, "collective", ("bytes", "gpus"), ("bytes",), _LINK, work)


OPERATORS = {
    operator.name: operator
    for operator in (
        Operator("matmul", "compute", ("m", "n", "k"), ("n", "k"), (*_COMPUTE, _COPY_FACTOR), matmul_work),
        Operator(
            "attention.prefill",
            "compute",
            ("batch", "tokens", "prefix", *_ATTENTION),
            _ATTENTION,
            _COMPUTE + _PREFILL,
            attention_prefill_work,
        ),
        Operator(
            "attention.decode",
            "compute",
            ("batch", "context", *_ATTENTION),
            _ATTENTION,
            (*_COMPUTE, _CONTEXT_PAD),
            attention_decode_work,
        ),
        Operator(
            "latent.prefill",
            "compute",
            ("batch", "tokens", "prefix", "heads", "qk_head_dim", "v_head_dim"),
            ("heads", "tokens"),
            _COMPUTE,
            latent_prefill_work,
        ),
        Operator(
            "latent.decode",
            "compute",
            ("batch", "context", "heads", "latent_dim", "rotary_dim"),
            ("heads", "context"),
            (*_COMPUTE, _CONTEXT_PAD, _ROW_TILE),
            latent_decode_work,
        ),
        Operator(
            "grouped_matmul",
            "compute",
            ("tokens", *_MIXTURE, "copies", "touched"),
            _MIXTURE,
            _COMPUTE + _GROUPED,
            grouped_matmul_work,
        ),
        Operator(
            "linear_attention.prefill",
            "compute",
            ("batch", "tokens", *_LINEAR),
            _LINEAR,
            _COMPUTE,
            linear_prefill_work,
        ),
        Operator("linear_attention.decode", "compute", ("batch", *_LINEAR), _LINEAR, _COMPUTE, linear_decode_work),
        _link("all_reduce", _all_reduce_work),
        _link("all_gather", _collective_work),
        _link("reduce_scatter", _collective_work),
        _link("all_to_all", _collective_work),
        _link("moe_dispatch", _collective_work),
        _link("moe_combine", _collective_work),
    )
}


def operator_of(name: str) -> Operator:
    """The operator that a name belongs to; `all_reduce.8` is `all_reduce` among 8 GPUs.

    Raises:
        UserError: there is none of that name.
    """
    head, _, tail = name.rpartition(".")
    family = head if tail.isdigit() else name
    if family not in OPERATORS:
        raise unknown_name("operator", family, OPERATORS)
    return OPERATORS[family]


def among(name: str, gpus: int) -> str:
    """Name of a collective among `gpus` GPUs."""
    return f"{name}.{gpus}"
