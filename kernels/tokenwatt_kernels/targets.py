"""The GPU generations that the kernels compile for. Plain data: importing this needs neither torch nor triton.

Limits of a block and of a multiprocessor: CUDA C++ Programming Guide, table "Technical Specifications per Compute
Capability". That table does not list sm_107 yet: its shared memory, warps and blocks are those of sm_100.
"""

from __future__ import annotations

from dataclasses import dataclass

REGISTERS_PER_SM = 65_536
"""32-bit registers of a multiprocessor, the same in every generation below."""
REGISTERS_PER_THREAD = 255
"""The most that one thread may have, likewise."""


@dataclass(frozen=True, slots=True)
class Target:
    """One compute capability.

    capability: major * 10 + minor, so 90 is sm_90.
    shared_limit_bytes: the most shared memory that one thread block may ask for.
    min_triton: the oldest supported triton release that compiles for it.
    example: one GPU of this generation.
    warps_per_sm, blocks_per_sm: the most that a multiprocessor holds at a time.
    tensor_memory_columns: tensor memory of a multiprocessor; 0 where there is none
        (PTX ISA, "Tensor Memory Addressing"; sm_107: the limit that triton 3.9 enforces).
    """

    capability: int
    shared_limit_bytes: int
    min_triton: tuple[int, int]
    example: str
    warps_per_sm: int
    blocks_per_sm: int
    tensor_memory_columns: int = 0

    @property
    def name(self) -> str:
        """The name that compilers use, such as sm_90."""
        return f"sm_{self.capability}"

    @property
    def copies_tiles(self) -> bool:
        """Whether kernels let the hardware copy tiles (TMA): sm_90 to sm_107.

        sm_120 has it too, but with it triton 3.6 spills in every prefill kernel.
        """
        return 90 <= self.capability < 120

    @property
    def can_overlap(self) -> bool:
        """Whether a launch may begin before the one that it depends on has ended (programmatic dependent launch)."""
        return self.capability >= 90

    @property
    def shortens_float8_sums(self) -> bool:
        """Whether tensor cores keep some 14 bits of a sum of float8 products: before sm_100."""
        return self.capability < 100


TARGETS: dict[int, Target] = {
    target.capability: target
    for target in (
        Target(80, 166_912, (3, 6), "A100", 64, 32),
        Target(86, 101_376, (3, 6), "RTX A6000", 48, 16),
        Target(89, 101_376, (3, 6), "L40S", 48, 24),
        Target(90, 232_448, (3, 6), "H200", 64, 32),
        Target(100, 232_448, (3, 6), "B200", 64, 32, 512),
        Target(103, 232_448, (3, 6), "B300", 64, 32, 512),
        Target(107, 232_448, (3, 9), "Rubin", 64, 32, 576),
        Target(120, 101_376, (3, 6), "RTX PRO 6000", 48, 24),
    )
}


def target_for(capability: int) -> Target:
    """The target whose limits hold for `capability`: itself, or the next lower one of the same major generation.

    Raises ValueError for a generation that is not in the table.
    """
    same_major = [known for known in TARGETS if known // 10 == capability // 10 and known <= capability]
    if not same_major:
        raise ValueError(f"capability must belong to one of {sorted(TARGETS)}, got {capability}")
    return TARGETS[max(same_major)]
