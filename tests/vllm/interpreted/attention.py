"""The backend's layer on the Triton kernels themselves, interpreted; run under TRITON_INTERPRET=1.

Prints the largest error of each case, and how often each kernel was launched, as JSON.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any
from unittest.mock import patch

from tests.vllm.attention_case import Case, answer_and_truth
from torch import Tensor

from tokenwatt.engines.vllm_engine.attention import layer
from tokenwatt_kernels import interpreter
from tokenwatt_kernels.attention.decode import kernel as decode_kernel
from tokenwatt_kernels.attention.keys import Keys
from tokenwatt_kernels.attention.options import Options
from tokenwatt_kernels.attention.prefill import kernel as prefill_kernel
from tokenwatt_kernels.families import part

CASES = {
    "plain": Case(),
    "window, softcap and sinks": Case(window=33, softcap=2.0, has_sinks=True),
    "float8": Case(cache_dtype="fp8"),
}
launches: Counter[str] = Counter()


def tile_of(family: str) -> Any:
    """The interpreter's first tile of a family; the launch is counted."""
    launches[family] += 1
    return part(family, "tiles").INTERPRETER_TILES[0]


def decodes(q: Tensor, queries: int, keys: Keys, options: Options, lse: Tensor | None, out: Tensor) -> None:
    decode_kernel.launch(q, queries, keys, options, out, lse, *tile_of("attention.decode"))


def chunks(
    q: Tensor, keys: Keys, starts: Tensor, longest: int, options: Options, lse: Tensor | None, out: Tensor
) -> None:
    prefill_kernel.launch(q, keys, starts, longest, options, out, lse, tile_of("attention.prefill"))


def main() -> None:
    interpreter.enable()
    with patch.object(layer, "attend_decodes", decodes), patch.object(layer, "attend_chunks", chunks):
        pairs = {name: answer_and_truth(case) for name, case in CASES.items()}
    errors = {name: (found - truth).abs().max().item() for name, (found, truth) in pairs.items()}
    print(json.dumps({"errors": errors, "launches": launches}))


if __name__ == "__main__":
    main()
