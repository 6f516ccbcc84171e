"""Work of a dense matmul."""

from __future__ import annotations

from tokenwatt_kernels.matmul.problem import work

__all__ = ["work"]
