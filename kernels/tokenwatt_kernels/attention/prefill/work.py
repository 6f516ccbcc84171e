"""Work of a problem of this family."""

from __future__ import annotations

from tokenwatt_kernels.attention.work import work

__all__ = ["work"]
