"""Dense matmul beside cuBLAS."""

from __future__ import annotations

from functools import partial

from tokenwatt_kernels.matmul.contest import make_contest
from tokenwatt_kernels.matmul.dense.tiles import FAMILY

contest = partial(make_contest, FAMILY)
