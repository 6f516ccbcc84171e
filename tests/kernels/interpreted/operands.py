"""bf16 queries of any size over float8 keys, by both kernels. Prints {what the queries are: the largest error}."""

from __future__ import annotations

import json
from dataclasses import replace

import torch
from torch import Tensor

from tokenwatt_kernels import interpreter
from tokenwatt_kernels.attention.decode import kernel as decode_kernel
from tokenwatt_kernels.attention.decode import tiles as decode_tiles
from tokenwatt_kernels.attention.decode.problems import tokens
from tokenwatt_kernels.attention.inputs import Inputs, make_inputs
from tokenwatt_kernels.attention.prefill import kernel as prefill_kernel
from tokenwatt_kernels.attention.prefill import tiles as prefill_tiles

# D = 48: keys in two parts. Two sequences of two queries, so that rows of one tile differ in size.
PROBLEM = tokens("p", (70, 18), 4, 2, 48, queries=2, value_dim=32, kv_dtype="float8_e4m3fn", page_size=32)
QUERIES = PROBLEM.queries[0]


def answers(inputs: Inputs) -> list[Tensor]:
    """[Tq, Hq, Dv] of the decode kernel and of the prefill kernel."""
    out = [torch.full((*inputs.q.shape[:2], PROBLEM.values), float("nan"), dtype=torch.bfloat16) for _ in range(2)]
    tile, programs = decode_tiles.INTERPRETER_TILES[0]
    decode_kernel.launch(inputs.q, QUERIES, inputs.keys, inputs.options, out[0], None, tile, programs)
    prefill_kernel.launch(
        inputs.q, inputs.keys, inputs.query_starts, QUERIES, inputs.options, out[1], None,
        prefill_tiles.INTERPRETER_TILES[0],
    )  # fmt: skip
    return out


def error(inputs: Inputs, rows: slice = slice(None)) -> float:
    """The largest of both kernels, in `rows` of the answer; a NaN is larger than anything."""
    expected = inputs.reference(torch.float64)[0]
    differences = [(answer - expected)[rows].abs().nan_to_num(nan=float("inf")) for answer in answers(inputs)]
    return max(float(difference.max()) for difference in differences)


def of_size(factor: float) -> Inputs:
    """Queries times a factor that the scale takes back, so that the scores stay as they are."""
    made = make_inputs(PROBLEM, "bfloat16", torch.device("cpu"))
    return replace(made, q=made.q * factor, options=replace(made.options, scale=PROBLEM.head_dim**-0.5 / factor))


def of_two_sizes() -> Inputs:
    """The first query of each sequence, and one number of the others, at 2^-20 of the rest."""
    made = of_size(1.0)
    q = made.q.clone()
    q[::QUERIES] *= 2.0**-20
    q[1, :, 7] *= 2.0**-20
    return replace(made, q=q)


def with_infinity() -> Inputs:
    """The first query's largest number is infinite."""
    made = of_size(1.0)
    q = made.q.clone()
    q[0, 0, 3] = float("inf")
    return replace(made, q=q)


if __name__ == "__main__":
    interpreter.enable()
    report = {str(exponent): error(of_size(2.0**exponent)) for exponent in (-100, -20, 0, 14, 100)}
    report["two sizes"] = error(of_two_sizes())
    report["zero"] = error(replace(of_size(1.0), q=torch.zeros_like(of_size(1.0).q)))
    report["infinity in another row"] = error(with_infinity(), slice(1, None))
    print(json.dumps(report))
