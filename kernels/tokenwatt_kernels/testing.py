"""The gate: one problem on one device, held against the naive reference in float64.

A kernel passes when its answer is finite, close enough, the same twice, and when nothing around it was written.
Everything that the answer must not depend on is NaN: the output before the launch, rows before and after each tensor,
slack after each row, unused cache pages, slots past a context.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from torch import Tensor

from tokenwatt_kernels.dtypes import DTYPES

GUARD_ROWS = 2
GUARD_COLUMNS = 16  # keeps rows aligned to 16 bytes


@dataclass(frozen=True, slots=True)
class Case:
    """One problem made concrete on one device.

    name: family, problem and tile.
    dtype_name: a key of DTYPES.
    out_shape: shape of the answer.
    terms: how many terms the longest sum of one output has; more of them may err more.
    launch: runs the kernel into the tensor that it is given.
    reference: the naive answer, computed in the dtype that it is given.
    held_to: the key of DTYPES whose limits hold for the answer; "" means dtype_name.
    out_dtype: what the kernel stores; None means the out_name of the dtype whose limits hold.
    read: the numbers that a stored answer stands for, such as quantised ones times their scales.
    """

    name: str
    dtype_name: str
    device: torch.device
    out_shape: tuple[int, ...]
    terms: int
    launch: Callable[[Tensor], None]
    reference: Callable[[torch.dtype], Tensor]
    held_to: str = ""
    out_dtype: torch.dtype | None = None
    read: Callable[[Tensor], Tensor] = Tensor.double


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate found. A case passes exactly when it has no reasons against it.

    max_abs_error: largest error of the kernel. peer_max_abs_error: the same for torch in the case's dtype.
    max_abs_limit: 2 * peer_max_abs_error + the dtype's max_allowance * the truth's largest value.
    rms_error: the kernel's RMS error as a fraction of the truth's RMS.
    """

    case: str
    dtype: str
    device: str
    status: Literal["passed", "failed"]
    reasons: tuple[str, ...]
    max_abs_error: float
    peer_max_abs_error: float
    max_abs_limit: float
    rms_error: float
    rms_limit: float

    def as_row(self) -> dict[str, object]:
        """The fields by name, for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Guarded:
    """A tensor inside a larger one that is NaN all around it."""

    buffer: Tensor
    view: Tensor

    def is_breached(self) -> bool:
        """Whether anything outside the view was written."""
        around = self.buffer.clone()
        _inside(around, self.view.shape).fill_(float("nan"))
        return not bool(around.float().isnan().all())


def guarded_empty(shape: Sequence[int], dtype: torch.dtype, device: torch.device, *, slack_axis: int = -1) -> Guarded:
    """A NaN tensor with guard rows before and after its first axis, and slack at the end of `slack_axis`.

    Slack of 16 columns keeps rows aligned; slack in another axis is one more of it.
    """
    padded = list(shape)
    padded[slack_axis] += GUARD_COLUMNS if slack_axis == -1 else 1
    padded[0] += 2 * GUARD_ROWS
    buffer = torch.full(padded, float("nan"), device=device).to(dtype)
    return Guarded(buffer, _inside(buffer, shape))


def guarded_randn(
    shape: Sequence[int],
    dtype: torch.dtype,
    device: torch.device,
    generator: torch.Generator,
    *,
    slack_axis: int = -1,
) -> Tensor:
    """A standard normal tensor inside NaN. Drawn on the CPU, so that every device gets the same numbers."""
    view = guarded_empty(shape, dtype, device, slack_axis=slack_axis).view
    view.copy_(torch.randn(tuple(shape), generator=generator))
    return view


def _inside(buffer: Tensor, shape: Sequence[int]) -> Tensor:
    inner = tuple(slice(size) for size in shape[1:])
    return buffer[(slice(GUARD_ROWS, GUARD_ROWS + shape[0]), *inner)]


def check(case: Case, runs: int = 2) -> Verdict:
    """Run one case and hold it against the truth, and its other runs against the first."""
    tolerance = DTYPES[case.held_to or case.dtype_name]
    dtype = getattr(torch, tolerance.out_name)
    rms_limit = tolerance.rms_limit(case.terms)
    stored = [guarded_empty(case.out_shape, case.out_dtype or dtype, case.device) for _ in range(runs)]
    answers = []
    for store in stored:
        case.launch(store.view)
        answers.append(case.read(store.view))
    first = answers[0]

    truth = case.reference(torch.float64)
    error = first.double() - truth
    max_abs_error = _max_abs(error)
    peer_max_abs_error = _max_abs(case.reference(dtype).double() - truth)
    max_abs_limit = 2 * peer_max_abs_error + tolerance.max_allowance(case.terms) * _max_abs(truth)
    rms_error = _rms(error) / (_rms(truth) or 1.0)

    reasons = []
    if not bool(first.isfinite().all()):
        reasons.append("every output must be written and finite, got NaN or infinity")
    # Written so that a NaN error fails too.
    if not max_abs_error <= max_abs_limit:
        reasons.append(f"max_abs_error must be <= {max_abs_limit:.3g}, got {max_abs_error:.3g}")
    if not rms_error <= rms_limit:
        reasons.append(f"rms_error must be <= {rms_limit:.3g}, got {rms_error:.3g}")
    if not all(torch.equal(first, answer) for answer in answers):
        reasons.append("two runs must give the same bits, got different ones")
    if any(store.is_breached() for store in stored):
        reasons.append("memory around the output must stay untouched, got a write")
    return Verdict(
        case=case.name,
        dtype=case.dtype_name,
        device=str(case.device),
        status="failed" if reasons else "passed",
        reasons=tuple(reasons),
        max_abs_error=max_abs_error,
        peer_max_abs_error=peer_max_abs_error,
        max_abs_limit=max_abs_limit,
        rms_error=rms_error,
        rms_limit=rms_limit,
    )


def _max_abs(values: Tensor) -> float:
    return float(values.abs().max()) if values.numel() else 0.0


def _rms(values: Tensor) -> float:
    return float(values.double().square().mean().sqrt()) if values.numel() else 0.0
