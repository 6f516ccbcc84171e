"""The tile of a kernel whose programs take equal shares of the work along K (`parts`). Plain Python."""

from __future__ import annotations

from dataclasses import dataclass

from tokenwatt_kernels.targets import REGISTERS_PER_SM, REGISTERS_PER_THREAD


@dataclass(frozen=True, slots=True)
class SplitTile:
    """block_m rows and block_n columns of the output, block_k terms of their sums per step.

    programs_per_multiprocessor: how many programs share the weight, for each multiprocessor.
    least_steps: no program gets fewer steps, as long as there are any.
    descriptors: the hardware copies tiles.
    joins: there is no combining launch; the last program of a tile adds up its parts.
    """

    block_m: int
    block_n: int
    block_k: int
    num_warps: int
    num_stages: int
    programs_per_multiprocessor: int
    least_steps: int = 1
    descriptors: bool = False
    joins: bool = False

    @property
    def registers(self) -> int:
        """What a thread may take, so that a multiprocessor holds programs_per_multiprocessor. Multiples of 8 count."""
        threads = 32 * self.num_warps * self.programs_per_multiprocessor
        return min(REGISTERS_PER_THREAD, REGISTERS_PER_SM // threads // 8 * 8)

    @property
    def name(self) -> str:
        """Such as 16x64x128 w4 s5 p2 l4 desc join."""
        sides = f"{self.block_m}x{self.block_n}x{self.block_k}"
        least = f" l{self.least_steps}" if self.least_steps > 1 else ""
        flags = f"{' desc' if self.descriptors else ''}{' join' if self.joins else ''}"
        return f"{sides} w{self.num_warps} s{self.num_stages} p{self.programs_per_multiprocessor}{least}{flags}"
