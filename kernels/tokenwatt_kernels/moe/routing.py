"""Where every token of a batch goes, and in which order the experts see them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Routing:
    """T tokens with k experts each, out of E: T * k rows, token after token, slot after slot, then sorted by expert.

    weights: [T, k] fp32, what each expert's answer counts.
    experts: [T, k] int32, best first.
    order: [T * k] int32, row token * k + slot of each place in the sorted order; rows of an expert keep their order.
    inverse: [T * k] int32, the place of each row: order[inverse[row]] == row.
    offsets: [E + 1] int32, where each expert's places begin: expert e has offsets[e] up to offsets[e + 1].
    """

    weights: Tensor
    experts: Tensor
    order: Tensor
    inverse: Tensor
    offsets: Tensor
