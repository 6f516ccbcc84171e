"""Wrong kernels, which the gate must reject. Prints {mutant: reasons}; no reasons means that the gate was fooled.

Each mutant is the shipped source with one line changed, loaded as a module of its own.
"""

from __future__ import annotations

import importlib.util
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch

from tokenwatt_kernels import interpreter, testing
from tokenwatt_kernels.families import part


@dataclass(frozen=True)
class Mutant:
    """`line` of the family's kernel becomes `wrong`, and the gate must notice on `problem`."""

    name: str
    family: str
    problem: str
    line: str
    wrong: str


RESCALE = "acc = acc * rescale[:, None]"
MUTANTS = (
    Mutant(
        "prefill sees the future",
        "attention.prefill",
        "odd_lengths",
        'scores = tl.where(columns[None, :] <= rows[:, None], scores, float("-inf"))',
        "scores = scores",
    ),
    Mutant(
        "prefill does not see itself",
        "attention.prefill",
        "odd_lengths",
        "columns[None, :] <= rows[:, None]",
        "columns[None, :] < rows[:, None]",
    ),
    Mutant(
        "prefill skips the last tile",
        "attention.prefill",
        "group_3",
        "end = tl.minimum(first_row + BLOCK_M, length)",
        "end = tl.minimum(first_row + BLOCK_M, length) - BLOCK_N",
    ),
    Mutant("prefill does not rescale", "attention.prefill", "group_3", RESCALE, "acc = acc"),
    Mutant(
        "decode reads one token too many",
        "attention.decode",
        "page_boundaries",
        "length = tl.load(context_lens_ptr + sequence)",
        "length = tl.load(context_lens_ptr + sequence) + 1",
    ),
    Mutant(
        "decode misses the newest token",
        "attention.decode",
        "page_boundaries",
        "length = tl.load(context_lens_ptr + sequence)",
        "length = tl.load(context_lens_ptr + sequence) - 1",
    ),
    Mutant(
        "decode weighs dead tokens",
        "attention.decode",
        "page_boundaries",
        'scores = tl.where(token_is_live[None, :], scores, float("-inf"))',
        "scores = scores",
    ),
    Mutant("decode does not rescale", "attention.decode", "group_3_with_empty", RESCALE, "acc = acc"),
    Mutant(
        "decode weighs all splits alike",
        "attention.decode",
        "group_8",
        'weights = tl.exp2(log_sums - tl.where(highest > float("-inf"), highest, 0.0))',
        'weights = tl.where(log_sums > float("-inf"), 1.0, 0.0)',
    ),
    Mutant(
        "decode divides an empty context by zero",
        "attention.decode",
        "all_empty",
        'tl.where(highest > float("-inf"), highest, 0.0)',
        "highest",
    ),
    Mutant(
        "matmul skips the last step",
        "matmul.dense",
        "odd",
        "for first in range(0, K, BLOCK_K):",
        "for first in range(0, K - BLOCK_K, BLOCK_K):",
    ),
    Mutant(
        "matmul multiplies the slack after a row",
        "matmul.dense",
        "many_row_tiles",
        "a = tl.load(a_ptrs, mask=row_is_real[:, None] & step_is_real[None, :], other=0.0)",
        "a = tl.load(a_ptrs, mask=row_is_real[:, None], other=0.0)",
    ),
    Mutant(
        "matmul forgets the short last group",
        "matmul.dense",
        "many_row_tiles",
        "within_group // rows_in_group",
        "within_group // GROUP_M",
    ),
)


def reasons_against(mutant: Mutant, folder: Path) -> list[str]:
    """What the gate says about one mutant, on the first of the interpreter's tiles where it says anything."""
    launch = load(mutant, folder).launch
    problem = next(known for known in part(mutant.family, "problems").GATE_PROBLEMS if known.name == mutant.problem)
    cases = part(mutant.family, "cases").cases(problem, "float32", torch.device("cpu"), launch=launch)
    verdicts = (testing.check(case) for case in cases)
    return next((list(verdict.reasons) for verdict in verdicts if verdict.reasons), [])


def load(mutant: Mutant, folder: Path) -> ModuleType:
    """The family's kernel module with the mutant's line changed."""
    source = Path(str(part(mutant.family, "kernel").__file__)).read_text()
    found = source.count(mutant.line)
    if found != 1:
        raise ValueError(f"{mutant.line!r} must occur once in {mutant.family}, found {found}")
    path = folder / f"{mutant.name.replace(' ', '_')}.py"
    path.write_text(source.replace(mutant.line, mutant.wrong))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def unchanged(family: str, problem: str, line: str) -> Mutant:
    """The control: the same loading, with a line replaced by itself."""
    return Mutant(f"unchanged {family}", family, problem, line, line)


CONTROLS = (
    unchanged("attention.prefill", "odd_lengths", RESCALE),
    unchanged("attention.decode", "all_empty", RESCALE),
    unchanged("matmul.dense", "odd", "acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)"),
)

if __name__ == "__main__":
    interpreter.enable()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(json.dumps({mutant.name: reasons_against(mutant, folder) for mutant in (*MUTANTS, *CONTROLS)}))
