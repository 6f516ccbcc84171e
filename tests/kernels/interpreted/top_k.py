"""Indices of hard rows, interpreted. Prints {row: [indices of the kernels, those of a stable sort, log-sum-exp]}."""

from __future__ import annotations

import json

import torch

from tokenwatt_kernels import interpreter
from tokenwatt_kernels.fused.top_k.kernel import launch
from tokenwatt_kernels.fused.top_k.tiles import INTERPRETER_TILES

NAN, INFINITY = float("nan"), float("inf")
V = 75
COUNT = torch.arange(V, dtype=torch.float32)
ROWS = {
    "all equal": torch.full((V,), 1.5),
    "zeros of both signs": torch.where(COUNT % 2 == 0, -0.0, 0.0),
    "rising": COUNT - 40,
    "falling": 40 - COUNT,
    "two values": COUNT % 2,
    "negative, equal at parts' ends": -(COUNT % 32).div(31, rounding_mode="floor") - 1,
    "neighbours in fp32": 1 + (COUNT % 7) * 2**-23,
    "largest and smallest numbers": torch.where(COUNT % 3 == 0, 3e38, torch.where(COUNT % 3 == 1, -3e38, 1e-45)),
    "all ruled out": torch.full((V,), -INFINITY),
    "one left": torch.where(COUNT == 70, -5.0, -INFINITY),
    "nan among others": torch.where(COUNT % 5 == 0, NAN, -COUNT),
    "all nan": torch.full((V,), NAN),
}


def main() -> dict[str, list[object]]:
    """With every tile and several k; the first tile and k that differ are what a row shows."""
    logits = torch.stack(list(ROWS.values()))
    ordered = logits.masked_fill(logits.isnan(), -INFINITY).sort(dim=1, descending=True, stable=True).indices
    found: dict[str, list[object]] = {}
    for tile in INTERPRETER_TILES:
        for k in (1, 5, 16):
            values, log_sum = torch.empty(len(ROWS), k), torch.empty(len(ROWS))
            indices = torch.empty(len(ROWS), k, dtype=torch.int32)
            launch(logits, None, None, values, indices, log_sum, tile)
            for row, name in enumerate(ROWS):
                chosen, expected = indices[row].tolist(), ordered[row, :k].tolist()
                if name not in found or found[name][0] == found[name][1]:
                    found[name] = [chosen, expected, str(float(log_sum[row]))]
    return found


if __name__ == "__main__":
    interpreter.enable()
    print(json.dumps(main()))
