"""The estimates of `aiconfigurator-core` 0.12.0 as they are, as a baseline. It runs in a process of its own.

The process may be of another interpreter, which needs nothing but that package: it runs `aiconfigurator_child.py`.
A case becomes one call of the package's aggregated estimate at the given requests in flight per attention group, prompt
and output, on the newest tables it lists for the GPU and engine, with its own checkpoint of the model where it has one
(the name without owner, precision and tuning) and the case's precision. What it cannot do is not supported, with its
own words as the reason: an offline maximum (it has no batch), a model, GPU or engine that it does not have.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tokenwatt.errors import UserError
from tokenwatt.perf_model.predictions import OK, UNSUPPORTED, empty_answers

METHOD = "aiconfigurator-core"
_CHILD = Path(__file__).with_name("aiconfigurator_child.py")
_SYSTEMS = {
    "H100 SXM": "h100_sxm",
    "H200 SXM": "h200_sxm",
    "B200 SXM": "b200_sxm",
    "B300 SXM": "b300_sxm",
    "GB200 NVL72": "gb200",
    "GB300 NVL72": "gb300",
}
_ASKED = ("weight_dtype", "engine", "num_gpus", "attention_tp", "attention_dp", "moe_tp", "moe_ep", "pp")
_ASKED_NUMBERS = ("isl", "osl", "concurrency")
LIMIT_S = 900.0
"""The most seconds that all cases of one call may take: a thousand take about one minute."""


def is_installed(python: Path | None = None) -> bool:
    """Whether an interpreter has the package; default: this one."""
    command = [str(python or sys.executable), "-c", "import aiconfigurator_core"]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0  # noqa: S603
    except OSError:
        return False


def aiconfigurator_baseline(cases: pd.DataFrame, python: Path | None = None) -> pd.DataFrame:
    """Answers for valid cases.

    python: the interpreter that has the package; default: this one.

    Raises:
        UserError: the interpreter lacks the package, or its process failed.
    """
    if not is_installed(python):
        raise UserError(
            f"{python or sys.executable} has no aiconfigurator-core; install tokenwatt[silicon], "
            "or name an interpreter that has it"
        )
    found = _ask([question(case) for case in cases.to_dict("records")], python)
    answers = empty_answers(cases.index, UNSUPPORTED, METHOD)
    for name in ("output_tokens_per_s_per_gpu", "tpot_s", "ttft_s", "gpu_power_w"):
        answers[f"predicted_{name}"] = [line.get(name, np.nan) for line in found]
    speed = answers["predicted_output_tokens_per_s_per_gpu"]
    answers["predicted_joules_per_output_token"] = answers["predicted_gpu_power_w"] / speed
    answers["reason"] = [line.get("reason", "") for line in found]
    return answers.assign(status=np.where(answers["reason"] == "", OK, UNSUPPORTED))


def question(case: dict[Any, Any]) -> dict[str, Any]:
    """What the package is asked of one valid case, as values of JSON."""
    asked = {name: case[name] for name in _ASKED}
    numbers = {name: None if pd.isna(case[name]) else float(case[name]) for name in _ASKED_NUMBERS}
    plain = {name: value.item() if isinstance(value, np.generic) else value for name, value in asked.items()}
    return {"model": case["model"], "system": _SYSTEMS.get(case["system"], case["system"]), **plain, **numbers}


def _ask(questions: list[dict[str, Any]], python: Path | None) -> list[dict[str, Any]]:
    """One line of JSON for each case in, one out."""
    lines = "".join(f"{json.dumps(question)}\n" for question in questions)
    command = [str(python or sys.executable), "-I", str(_CHILD)]
    try:
        done = subprocess.run(  # noqa: S603
            command, input=lines, capture_output=True, text=True, check=False, timeout=LIMIT_S
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"aiconfigurator-core took over {LIMIT_S:.0f} s for {len(questions)} cases") from None
    answers = done.stdout.splitlines()
    if done.returncode or len(answers) != len(questions):
        last = (done.stderr.strip().splitlines() or ["nothing said"])[-1]
        raise UserError(f"aiconfigurator-core ended with {done.returncode} after {len(answers)} cases: {last}")
    return [json.loads(answer) for answer in answers]
