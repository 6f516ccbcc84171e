"""Matmul of few rows beside cuBLAS."""

from __future__ import annotations

from functools import partial

from tokenwatt_kernels.matmul.contest import make_contest
from tokenwatt_kernels.matmul.skinny.tiles import FAMILY

contest = partial(make_contest, FAMILY)
