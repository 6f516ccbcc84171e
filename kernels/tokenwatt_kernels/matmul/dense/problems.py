"""Shapes of dense matmuls: small odd ones for the gate, real ones for the bench."""

from __future__ import annotations

from dataclasses import dataclass

DTYPE_NAMES = ("float32", "float16", "bfloat16")


@dataclass(frozen=True, slots=True)
class MatmulProblem:
    """out [m, n] = a [m, k] @ weight[n, k].T"""

    name: str
    m: int
    n: int
    k: int

    @property
    def terms(self) -> int:
        """Terms in the sum of one output."""
        return self.k


GATE_PROBLEMS = (
    MatmulProblem("one", 1, 1, 1),
    MatmulProblem("no_rows", 0, 16, 16),
    MatmulProblem("odd", 17, 63, 129),
    MatmulProblem("one_row", 1, 129, 64),
    MatmulProblem("whole_tiles", 64, 32, 64),
    MatmulProblem("many_row_tiles", 163, 40, 33),
)

GPU_GATE_PROBLEMS = (
    MatmulProblem("skinny", 3, 1000, 4096),
    MatmulProblem("narrow", 33, 4096, 520),
    MatmulProblem("square", 1024, 1024, 1024),
    MatmulProblem("odd_large", 1000, 777, 1001),
)

# Llama-3.1-8B projections, fused as an engine runs them, and its unembedding.
_LAYERS = {"qkv": (6144, 4096), "out": (4096, 4096), "gate_up": (28_672, 4096), "down": (4096, 14_336)}

BENCH_PROBLEMS = (
    *(MatmulProblem(f"llama3.1-8b_{layer}_m{m}", m, n, k) for layer, (n, k) in _LAYERS.items() for m in (1, 64, 4096)),
    MatmulProblem("llama3.1-8b_unembed_m64", 64, 128_256, 4096),
    MatmulProblem("square_8192", 8192, 8192, 8192),
)


def takes(problem: MatmulProblem, dtype_name: str, capability: int | None) -> bool:
    """Whether the kernel takes the problem in a dtype on a GPU of `capability`: always."""
    return True
