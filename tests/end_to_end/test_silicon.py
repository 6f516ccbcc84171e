"""`tokenwatt silicon`: its list, its words for mistakes, and that a rehearsal reads real command lines."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer

from tokenwatt.cli import app
from tokenwatt.cli.silicon import checked_command
from tokenwatt.errors import UserError
from tokenwatt.silicon import table

STEPS = table.steps_of(Path("/results"))


@pytest.fixture
def checked():
    group = typer.main.get_command(app)
    context: Any = group.make_context("tokenwatt", ["silicon"], resilient_parsing=True)
    return lambda step: checked_command(context, step)


@pytest.mark.parametrize("step", [step for step in STEPS if step.suite is None], ids=lambda step: step.name)
def test_every_real_command_line_is_one_that_its_program_takes(checked, step):
    assert checked(step) == ""


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("-m", "tokenwatt", "kernels", "bench", "moe.route", "--dtyp", "bfloat16"), "No such option: --dtyp"),
        (("-m", "tokenwatt", "doctor", "--ceiling", "cuda"), "No such option: --ceiling"),
        (("-m", "tokenwatt", "docter"), "no command 'docter'"),
        (("-m", "tokenwatt_kernels", "check", "--device", "gpu"), "does not take: check --device gpu"),
        (("-m", "tokenwatt_kernels", "check", "matmul.dens"), "unknown family 'matmul.dens'"),
        (("-m", "tokenwatt", "kernels", "bench", "matmul.dens"), "unknown family 'matmul.dens'"),
        (("-m", "tokenwatt", "kernels", "bench", "moe.route", "--problem", "x"), "problem must be one of .* got x"),
        (("-m", "tokenwatt", "kernels", "bench", "moe.route", "--energy", "our"), "unknown energy 'our'"),
        (("-m", "tokenwatt_kernels", "tune", "moe.route", "--problem", "x"), "problem must be one of .* got x"),
    ],
)
def test_a_typo_in_a_command_line_is_found_without_running_it(checked, command, message):
    with pytest.raises(UserError, match=message):
        checked(replace(STEPS[0], command=command))


def test_the_list_names_every_step_and_runs_none(tokenwatt, tmp_path):
    outcome = tokenwatt("silicon", "--list", "--output", str(tmp_path))
    assert outcome.code == 0
    assert [line.split()[0] for line in outcome.out.splitlines()[2:]] == [step.name for step in STEPS]
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_step_is_wrong_input(tokenwatt, tmp_path):
    outcome = tokenwatt("silicon", "--only", "bensh", "--output", str(tmp_path))
    assert (outcome.code, outcome.out) == (2, "")
    assert "unknown step 'bensh' (did you mean 'bench'?)" in outcome.err


def test_a_rehearsal_of_the_doctor_keeps_state_and_log_apart_from_the_real_ones(tokenwatt, tmp_path):
    outcome = tokenwatt("silicon", "--dry", "--only", "doctor", "--output", str(tmp_path))
    assert outcome.code == 0, outcome.err
    assert "on a GPU, 60 s at most: python -m tokenwatt doctor" in outcome.out
    folder = tmp_path / "silicon" / "dry"
    assert json.loads((folder / "steps.json").read_text())["doctor"]["status"] == "done"
    assert "tokenwatt" in (folder / "doctor.log").read_text()
    assert not (tmp_path / "silicon" / "steps.json").exists()


def test_ceilings_of_a_missing_gpu_are_refused(tokenwatt):
    outcome = tokenwatt("doctor", "--ceilings", "tpu")
    assert (outcome.code, outcome.out) == (2, "")
    assert "ceilings are those of cuda or cpu, got 'tpu'" in outcome.err
