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

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tokenwatt.errors import unknown_name
from tokenwatt.perf_model.operator_time.precision import Precision, precision
from tokenwatt.perf_model.operator_time.work import (
    Floats,
    Parameters,
    Shape,
    Work,
    all_reduce_work,
    attention_decode_work,
    attention_prefill_work,
    collective_work,
    grouped_matmul_work,
    latent_decode_work,
    latent_prefill_work,
    linear_decode_work,
    linear_prefill_work,
    matmul_work,
)


@dataclass(frozen=True, slots=True)
class Parameter:
    """A fitted parameter: where the search begins and what it may reach."""

    name: str
    unit: str
    start: float
    low: float
    high: float


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
        _link("all_reduce", all_reduce_work),
        _link("all_gather", collective_work),
        _link("reduce_scatter", collective_work),
        _link("all_to_all", collective_work),
        _link("moe_dispatch", collective_work),
        _link("moe_combine", collective_work),
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
