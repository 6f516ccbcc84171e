"""cuBLAS in the place of a tile of ours. Plain Python; what it runs is in `library`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LibraryTile:
    """No tile: cuBLAS, where it was measured to be faster than the kernel with any."""

    @property
    def name(self) -> str:
        """What the results call it."""
        return "cublas"

    def takes(self, element_bytes: int, *, is_blocked: bool, can_copy: bool) -> bool:
        """Whether torch has a product for such operands: of float8, with rows of whole 16 bytes, scaled by row."""
        return element_bytes > 1 or (can_copy and not is_blocked)
