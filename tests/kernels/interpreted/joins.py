"""Tiles that join beside the same ones that do not. Prints a row for each launch of the first kind.

A row says which problem, how many programs shared the parts of a tile, what the gate objects to, whether the bits are
those of the two launches, and how many counters are not zero afterwards. Programs run in their order, and backwards:
on a GPU any may come last.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from triton.runtime.interpreter import interpreter_builder

from tokenwatt_kernels import arrivals, interpreter, testing
from tokenwatt_kernels.attention.decode.tiles import DecodeTile
from tokenwatt_kernels.dtypes import DTYPES
from tokenwatt_kernels.families import part
from tokenwatt_kernels.matmul.split_tile import SplitTile
from tokenwatt_kernels.testing import Case

CPU = torch.device("cpu")
DECODE = (DecodeTile(16, 16, 16, 4, 1, 1, parts_at_once=2), DecodeTile(16, 32, 16, 4, 1, 1, 2, descriptors=True))
PACKED = (SplitTile(16, 32, 128, 4, 1, 1), SplitTile(64, 16, 128, 4, 1, 1, descriptors=True))
FAMILIES: dict[str, tuple[str, tuple[str, ...], tuple[Any, ...]]] = {
    "matmul.skinny": (
        "float32",
        ("one_tile", "swiglu", "token_channel"),
        (SplitTile(64, 32, 32, 4, 1, 1), SplitTile(64, 16, 64, 4, 1, 1, 2, descriptors=True)),
    ),
    "matmul.packed": ("bfloat16", ("one_tile", "mxfp4_swiglu"), PACKED),
    "matmul.nvfp4": ("bfloat16", ("one_tile", "swiglu"), PACKED),
    "attention.decode": ("float32", ("page_256", "group_8", "verify_4"), DECODE),
}
"""Dtype, problems of the gate and tiles. Matmuls with a scale for each channel are those of float8."""


@contextmanager
def backwards() -> Iterator[None]:
    """The last program runs first."""
    forwards = interpreter_builder.set_grid_idx

    def set_grid_idx(x: int, y: int, z: int) -> None:
        forwards(interpreter_builder.grid_dim[0] - 1 - x, y, z)

    with patch.object(interpreter_builder, "set_grid_idx", set_grid_idx):
        yield


@contextmanager
def watched(parts: set[int], given: list[Tensor]) -> Iterator[None]:
    """Notes how many parts each shared tile has, and the counters that launches are given."""
    is_last, counters = arrivals.is_last, arrivals.counters

    def noting_is_last(counters_ptr: Any, tile: Any, count: Any) -> Any:
        parts.add(int(count.handle.data.item()))
        return is_last(counters_ptr, tile, count)

    def noting_counters(count: int, device: torch.device) -> Tensor:
        given.append(counters(count, device))
        return given[-1]

    with patch.object(arrivals, "is_last", noting_is_last), patch.object(arrivals, "counters", noting_counters):
        yield


def cases(family: str, problem: Any, dtype_name: str, tile: Any) -> list[Case]:
    return list(part(family, "cases").cases(problem, dtype_name, CPU, tiles=[tile]))


def answer(case: Case) -> Tensor:
    out = torch.full(case.out_shape, float("nan"), dtype=getattr(torch, DTYPES[case.dtype_name].out_name))
    case.launch(out)
    return out


def rows(family: str) -> Iterator[dict[str, Any]]:
    """One for each problem, tile, number of programs and order of them."""
    family_dtype, names, tiles = FAMILIES[family]
    for problem in part(family, "problems").GATE_PROBLEMS:
        if problem.name not in names:
            continue
        dtype_name = "float8_e4m3fn" if getattr(problem, "scaling", "none") != "none" else family_dtype
        for tile in tiles:
            for each in (1, 2, 4):
                shared = replace(tile, programs_per_multiprocessor=each)
                twice = cases(family, problem, dtype_name, shared)
                once = cases(family, problem, dtype_name, replace(shared, joins=True))
                for two_launches, case in zip(twice, once, strict=True):
                    expected = answer(two_launches)
                    parts: set[int] = set()
                    given: list[Tensor] = []
                    with watched(parts, given):
                        objections = list(testing.check(case, runs=1).reasons)
                        forwards = answer(case)
                        with backwards():
                            backward = answer(case)
                    yield {
                        "case": case.name,
                        "parts": sorted(parts),
                        "objections": objections,
                        "same": torch.equal(forwards, expected) and torch.equal(backward, expected),
                        "launches": len(given),
                        "left": sum(int(counters.count_nonzero()) for counters in given),
                    }


if __name__ == "__main__":
    interpreter.enable()
    print(json.dumps({family: list(rows(family)) for family in FAMILIES}))
