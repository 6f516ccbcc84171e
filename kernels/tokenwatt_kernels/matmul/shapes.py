"""Weights of real models as [N, K], projections fused as an engine runs them. Sources: the models' config.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tokenwatt_kernels.matmul.problem import MatmulProblem

LLAMA_8B = {"qkv": (6144, 4096), "out": (4096, 4096), "gate_up": (28_672, 4096), "down": (4096, 14_336)}
LLAMA_70B = {"qkv": (10_240, 8192), "out": (8192, 8192), "gate_up": (57_344, 8192), "down": (8192, 28_672)}
LLAMA_UNEMBED = (128_256, 4096)


def layer_problems(
    model: str, layers: Mapping[str, tuple[int, int]], rows: Sequence[int], scaling: str = "none"
) -> tuple[MatmulProblem, ...]:
    """The matmuls of a layer with their epilogues: gate_up ends in SwiGLU, out and down add the residual."""
    suffix = "" if scaling == "none" else f"_{scaling}"
    return tuple(
        MatmulProblem(
            f"{model}_{layer}_m{m}{suffix}",
            m,
            n,
            k,
            "swiglu" if layer == "gate_up" else "none",
            has_residual=layer in ("out", "down"),
            scaling=scaling,
        )
        for layer, (n, k) in layers.items()
        for m in rows
    )
