"""Kernels loaded as mutants are, but with a line replaced by itself. Prints {family: objections}, all of them empty."""

from __future__ import annotations

import json
from dataclasses import replace

import torch

from tokenwatt_kernels import interpreter, mutation
from tokenwatt_kernels.families import FAMILIES, part

if __name__ == "__main__":
    interpreter.enable()
    unchanged = {}
    for family in FAMILIES:
        # One whose line stands in the kernel, and one whose line stands in a module that it imports.
        firsts = {mutant.module: mutant for mutant in part(family, "mutants").MUTANTS}.values()
        unchanged[family] = [
            objection
            for mutant in firsts
            for objection in mutation.objections_to(replace(mutant, wrong=mutant.line), family, torch.device("cpu"))
        ]
    print(json.dumps(unchanged))
