"""Attention problems as cases of the gate: one per launch, and one more for the log-sum-exp."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from tokenwatt_kernels.attention.inputs import Inputs
from tokenwatt_kernels.attention.problem import FLOAT8, AttentionProblem
from tokenwatt_kernels.testing import Case

Launch = Callable[[Tensor, Tensor | None], None]
"""Runs the kernel into out [Tq, Hq, Dv] and, unless None, into the log-sum-exp [Tq, Hq]."""

NOTHING_SEEN = -4.0  # stands for a log-sum-exp of -inf, of which no difference can be taken; random ones lie above it


def attention_cases(
    name: str, problem: AttentionProblem, dtype_name: str, inputs: Inputs, launch: Launch
) -> Iterator[Case]:
    """The case of the answer, and that of the log-sum-exp if the problem asks for it."""
    device, shape = inputs.q.device, inputs.q.shape
    yield Case(
        name=name,
        dtype_name=dtype_name,
        device=device,
        out_shape=(*shape[:2], problem.values),
        terms=problem.terms,
        launch=lambda out: launch(out, None),
        reference=lambda dtype: inputs.reference(dtype)[0],
    )
    if problem.checks_lse:
        out_dtype = torch.bfloat16 if dtype_name == FLOAT8 else inputs.q.dtype

        def launch_lse(out: Tensor) -> None:
            log_sum = torch.full(shape[:2], float("nan"), device=device)
            launch(torch.empty(*shape[:2], problem.values, dtype=out_dtype, device=device), log_sum)
            out.copy_(_finite(log_sum))

        yield Case(
            name=f"{name} lse",
            # Scores are sums in fp32, but of float8 Hopper's tensor cores keep some 14 bits.
            dtype_name="bfloat16" if dtype_name == FLOAT8 else "float32",
            device=device,
            out_shape=tuple(shape[:2]),
            terms=problem.terms,
            launch=launch_lse,
            reference=lambda dtype: _finite(inputs.reference(dtype)[1]),
        )


def _finite(log_sum: Tensor) -> Tensor:
    return log_sum.masked_fill(log_sum.isneginf(), NOTHING_SEEN)
