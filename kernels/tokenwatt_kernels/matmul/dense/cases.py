"""Dense matmul as the gate sees it."""

from __future__ import annotations

from functools import partial

from tokenwatt_kernels.matmul import cases as shared
from tokenwatt_kernels.matmul.dense.tiles import FAMILY

cases = partial(shared.cases, FAMILY)
small_cases = partial(shared.small_cases, FAMILY)
