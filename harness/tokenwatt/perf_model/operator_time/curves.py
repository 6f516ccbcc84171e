"""Fitted curves by system, engine, operator and precision, and the rules for what stands in where one is missing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from tokenwatt.perf_model.operator_time.operators import Ceilings, operator_of
from tokenwatt.perf_model.operator_time.precision import precision
from tokenwatt.perf_model.operator_time.work import Floats, Shape
from tokenwatt.reference.operators import OperatorRow, load_operator_rows

STAND_INS = {
    "vllm": ("vllm", "sglang", "trtllm", "nccl"),
    "sglang": ("sglang", "vllm", "trtllm", "nccl"),
    "trtllm": ("trtllm", "sglang", "vllm", "nccl"),
    "nccl": ("nccl", "trtllm", "sglang", "vllm"),
}
"""Engines whose curve is taken, the best first: they share kernels in this order. `nccl` is the library by itself."""


@dataclass(frozen=True, slots=True)
class Key:
    """Which curve, whatever the system."""

    engine: str
    operator: str
    dtype: str


@dataclass(frozen=True, slots=True)
class Curve:
    """Parameters of one operator on one system."""

    key: Key
    parameters: Mapping[str, float]
    log_sd: float
    """Standard deviation of log(predicted / measured)."""

    def seconds(self, shape: Shape, dtype: str, ceilings: Ceilings) -> Floats:
        """Time of each problem in precision `dtype`, which may be another than the curve's own, s."""
        return operator_of(self.key.operator).seconds(shape, self.parameters, dtype, ceilings)


Library = Mapping[str, Mapping[Key, Curve]]
"""Curves by system."""


def curves_of_rows(rows: Iterable[OperatorRow]) -> Library:
    """Curves that the rows describe."""
    figures: dict[str, dict[Key, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        figures[row.subject][Key(row.engine, row.operator, row.dtype)][row.parameter] = row.value
    return {
        subject: {key: _curve(key, values) for key, values in curves.items()} for subject, curves in figures.items()
    }


def _curve(key: Key, values: Mapping[str, float]) -> Curve:
    names = (parameter.name for parameter in operator_of(key.operator).parameters)
    return Curve(key, {name: values[name] for name in names}, values["log_sd"])


@lru_cache(maxsize=1)
def load_curves() -> Library:
    """The shipped curves."""
    return curves_of_rows(load_operator_rows())


def candidates(engine: str, operator: str, dtype: str) -> list[Key]:
    """Curves that may answer, the best first: own precision before the nearest one, own engine before another's.

    >>> [(key.engine, key.dtype) for key in candidates("nccl", "matmul", "int8")][:2]
    [('nccl', 'int8'), ('trtllm', 'int8')]
    """
    dtypes = (dtype, *precision(dtype).nearest)
    return [Key(each, operator, kind) for kind in dtypes for each in STAND_INS[engine]]
