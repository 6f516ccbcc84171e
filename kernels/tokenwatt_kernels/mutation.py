"""Wrong kernels, which the gate must reject: the shipped source with one line changed, run through the same cases."""

from __future__ import annotations

import importlib.util
import re
import sys
import tempfile
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Literal

import torch

from tokenwatt_kernels import testing
from tokenwatt_kernels.families import part


@dataclass(frozen=True, slots=True)
class Mutant:
    """`line` of a module becomes `wrong`, and the gate must notice on `problem`.

    line: occurs once in the module.
    module: dotted name of the module; None means the family's kernel. Another one is imported by the kernel as
        "from PACKAGE import NAME as ...".
    """

    name: str
    problem: str
    line: str
    wrong: str
    module: str | None = None
    dtype_name: str = "float32"


@dataclass(frozen=True, slots=True)
class MutantVerdict:
    """Whether the gate rejected a mutant ("passed"), and what it said against it."""

    mutant: str
    family: str
    dtype: str
    status: Literal["passed", "failed"]
    reasons: tuple[str, ...]
    objections: tuple[str, ...]

    def as_row(self) -> dict[str, object]:
        """The fields by name, for JSON."""
        return asdict(self)


def judge(mutant: Mutant, family: str, device: torch.device) -> MutantVerdict:
    """Run a mutant through the gate, which must object."""
    objections = objections_to(mutant, family, device)
    return MutantVerdict(
        mutant=mutant.name,
        family=family,
        dtype=mutant.dtype_name,
        status="passed" if objections else "failed",
        reasons=() if objections else ("the gate must reject this wrong kernel, got no objection",),
        objections=objections,
    )


def objections_to(mutant: Mutant, family: str, device: torch.device) -> tuple[str, ...]:
    """What the gate says about one mutant, in the first case in which it says anything."""
    problems = part(family, "problems")
    problem = next(known for known in problems.GATE_PROBLEMS if known.name == mutant.problem)
    with tempfile.TemporaryDirectory() as folder:
        launch = load(mutant, family, Path(folder)).launch
        # With the small tiles on a GPU too: with its own, such small problems would not cross any.
        for case in part(family, "cases").small_cases(problem, mutant.dtype_name, device, launch=launch):
            reasons = testing.check(case, runs=1).reasons
            if reasons:
                return reasons
    return ()


def load(mutant: Mutant, family: str, folder: Path) -> ModuleType:
    """The family's kernel module with the mutant's line changed, from files in `folder`, which triton reads again."""
    kernel = part(family, "kernel")
    stem = "mutant_" + re.sub(r"\W", "_", mutant.name)
    if mutant.module is None:
        return _load(stem, _changed(kernel, mutant), folder)
    package, _, name = mutant.module.rpartition(".")
    helper = f"{stem}_{name}"
    _load(helper, _changed(import_module(mutant.module), mutant), folder)
    imported = f"from {package} import {name} as"
    return _load(stem, _replaced(_source(kernel), imported, f"import {helper} as", kernel.__name__), folder)


def _changed(module: ModuleType, mutant: Mutant) -> str:
    return _replaced(_source(module), mutant.line, mutant.wrong, module.__name__)


def _replaced(source: str, old: str, new: str, where: str) -> str:
    if source.count(old) != 1:
        raise ValueError(f"{old!r} must occur once in {where}, found {source.count(old)}")
    return source.replace(old, new)


def _source(module: ModuleType) -> str:
    return Path(str(module.__file__)).read_text()


def _load(name: str, source: str, folder: Path) -> ModuleType:
    path = folder / f"{name}.py"
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"no import loader for {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
