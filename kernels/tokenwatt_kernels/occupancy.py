"""How many programs of a kernel a multiprocessor holds at a time. Plain Python.

The granularities and the order of roundings are those of `cuda_occupancy.h` in the CUDA toolkit, the same for every
capability from 8.0 to 12.1.
"""

from __future__ import annotations

from tokenwatt_kernels.targets import REGISTERS_PER_SM, Target

WARP_THREADS = 32
SUB_PARTITIONS = 4
"""A multiprocessor has four schedulers, each with a quarter of the registers."""
WARP_REGISTERS_STEP = 256
"""A warp gets its registers in multiples of this."""
SHARED_STEP_BYTES = 128
SHARED_RESERVED_BYTES = 1024
"""What the driver adds to each block's shared memory; a multiprocessor has that much more than a block may ask for."""


def programs_per_sm(
    target: Target, *, registers: int, shared_bytes: int, num_warps: int, tensor_memory_columns: int = 0
) -> int:
    """Programs that fit one multiprocessor at a time; 0 when not even one does.

    registers: per thread. shared_bytes, num_warps (all warps, specialised ones too) and tensor_memory_columns: per
    program.
    """
    warp_registers = _round_up(registers * WARP_THREADS, WARP_REGISTERS_STEP)
    register_warps = SUB_PARTITIONS * (REGISTERS_PER_SM // SUB_PARTITIONS // max(warp_registers, WARP_REGISTERS_STEP))
    # A launch is refused unless its warps, rounded up to whole sub-partitions, find registers.
    if _round_up(num_warps, SUB_PARTITIONS) > register_warps:
        return 0
    shared_per_sm_bytes = target.shared_limit_bytes + SHARED_RESERVED_BYTES
    limits = [
        target.blocks_per_sm,
        target.warps_per_sm // num_warps,
        register_warps // num_warps,
        shared_per_sm_bytes // _round_up(shared_bytes + SHARED_RESERVED_BYTES, SHARED_STEP_BYTES),
    ]
    if tensor_memory_columns:
        limits.append(target.tensor_memory_columns // tensor_memory_columns)
    return min(limits)


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step
