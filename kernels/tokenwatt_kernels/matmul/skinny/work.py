"""Work of a matmul of few rows."""

from __future__ import annotations

from tokenwatt_kernels.matmul.problem import work

__all__ = ["work"]
