"""The steps of the pass: none is too long, none asks for what is not there, together they cover what they must."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tokenwatt.errors import UserError
from tokenwatt.silicon import kernel_flags, suites, table
from tokenwatt.silicon.step import LIMIT_S, chosen, with_needs
from tokenwatt.spec import BenchSpec
from tokenwatt_kernels.families import FAMILIES, part, select

STEPS = table.steps_of(Path("/results"), has_workers=True)
BY_NAME = {step.name: step for step in STEPS}
SUITES = [step for step in STEPS if step.suite is not None]


def test_names_are_apart_and_no_step_takes_more_than_eight_minutes():
    assert len(BY_NAME) == len(STEPS)
    assert LIMIT_S == 480
    assert {step.name for step in STEPS if step.limit_s > 480} == set()


def test_what_a_step_needs_comes_before_it():
    for place, step in enumerate(STEPS):
        assert set(step.needs) <= {earlier.name for earlier in STEPS[:place]}, step.name


def test_steps_go_from_right_to_fast_to_tuned_to_tokens():
    groups = list(dict.fromkeys(step.group for step in STEPS if step.group != "tuned"))
    assert groups == ["look", "test", "gate", "bench", "tune", "engine", "energy", "transformers"]


def test_gates_and_timings_cover_every_family_that_the_gpu_takes():
    assert select(table.GATE_GROUPS) == tuple(FAMILIES)
    timed = {step.command[4] for step in STEPS if step.group == "bench"}
    # An FP4 product needs the tensor cores of the generation after this GPU's.
    assert set(FAMILIES) - timed == {"matmul.nvfp4"}


def test_only_tests_of_kernels_and_engines_share_the_gpu():
    assert [step.name for step in STEPS if "-n" in step.command] == ["test-kernels"]
    assert [step for step in table.steps_of(Path("/results"), has_workers=False) if "-n" in step.command] == []


def test_the_folders_of_the_test_steps_are_all_that_have_gpu_tests():
    root = Path(__file__).parents[2]
    shared, alone, timed = (BY_NAME[f"test-{name}"].command for name in ("kernels", "meter", "timings"))
    # What one step leaves out is what another takes.
    left_out = {word.removeprefix("--ignore=") for word in (*shared, *alone) if word.startswith("--ignore=")}
    assert "tests" in alone
    assert left_out == {word for word in (*shared, *timed) if word.startswith("tests/")}
    assert all((root / path).exists() for path in left_out)


@pytest.mark.parametrize(("family", "dtype", "names"), table.TUNED)
def test_tuned_problems_exist(family, dtype, names):
    problems = part(family, "problems")
    known = {one.name for one in problems.BENCH_PROBLEMS if problems.takes(one, dtype, table.CAPABILITY)}
    assert set(names) <= known


def test_timings_after_tuning_bring_the_tuning_with_them():
    named = chosen(STEPS, ["tuned-matmul.dense-bfloat16"])
    assert [step.name for step in with_needs(STEPS, named)] == [
        "tune-matmul.dense-bfloat16",
        "tuned-matmul.dense-bfloat16",
    ]


def test_a_group_stands_for_its_steps_and_a_wrong_name_is_told_the_right_one():
    assert {step.group for step in chosen(STEPS, ["gate", "doctor"])} == {"gate", "look"}
    with pytest.raises(UserError, match=r"unknown step 'gates' \(did you mean 'gate'\?\)"):
        chosen(STEPS, ["gates"])


def test_kernels_are_told_to_end_before_their_step_is_ended():
    # 0.875 * 480 = 420
    ours = ("--energy", "ours", "--budget-s", "420")
    assert kernel_flags.of_bench(("a", "b"), 480.0) == ("--problem", "a", "--problem", "b", *ours)
    assert kernel_flags.of_tune(("a",), 480.0) == ("--problem", "a", "--budget-s", "420", "--resume")


def test_a_large_family_is_timed_in_parts_that_hold_each_problem_once():
    steps = [s for s in table.steps_of(Path("/r")) if s.name.startswith("bench-moe.grouped-bfloat16")]
    asked = [[s.command[i + 1] for i, word in enumerate(s.command) if word == "--problem"] for s in steps]
    problems = part("moe.grouped", "problems").BENCH_PROBLEMS
    assert [name for names in asked for name in names] == [one.name for one in problems]
    assert max(map(len, asked)) == 16


@pytest.mark.parametrize("step", SUITES, ids=lambda step: step.name)
def test_every_suite_fits_the_gpu_and_its_step(step):
    plan = suites.check(step)
    assert plan.measuring_s <= 0.75 * step.limit_s
    assert 0 < plan.memory_bytes < 141e9


@pytest.mark.parametrize("step", SUITES, ids=lambda step: step.name)
def test_windows_of_every_suite_leave_time_for_ramps_whatever_its_engine(step):
    assert sum(map(suites.measuring_s, suites.load_suite(step.suite).bench)) <= 0.75 * step.limit_s


def test_the_measuring_of_a_bench_is_its_windows_closure_and_rest():
    bench = BenchSpec(
        engine="native", workloads=("chat",), concurrency=(1, 8), window_s=6.0, budget_s=36.0, idle_s=3.0,
        phases=True, closure=True,
    )  # fmt: skip
    # 2 points * (3 phases * 6 windows * 6 s + 30 s) + 3 * 3 s + 2 * 3 s of settling = 2 * 138 + 15
    assert suites.measuring_s(bench) == 291.0


def test_a_suite_that_measures_too_long_is_refused_with_both_lengths():
    # Twelve points of 18 s and 15 s of rest are 231 s; three quarters of 300 s are 225 s.
    with pytest.raises(UserError, match=r"may measure for 231 s, allowed in a step of 300 s: 225 s"):
        suites.check(replace(BY_NAME["engine-qwen3-8b-bf16"], limit_s=300.0))


def suite_step(folder, text):
    path = folder / "suite.toml"
    path.write_text('name = "x"\n[[bench]]\nengine = "native"\nworkloads = ["chat"]\nconcurrency = [1]\n' + text)
    return replace(BY_NAME["engine-qwen3-8b-bf16"], suite=str(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('model = "DeepSeek-V3"\nbudget_s = 60', r"DeepSeek-V3 needs weights .* a H200 SXM has 141 GB"),
        ('model = "Qwen3-8B"\nwindows = 3', "unknown key 'bench.0.windows'|unknown key"),
        ('model = "Qwen3-9B"', "Qwen3-9B"),
        ('model = "Qwen3-8B"\noptions = { quantisation = "fp8" }', "unknown key 'quantisation'"),
        ('model = "Qwen3-30B-A3B"\noptions = { quantization = "int4" }', "experts have no int4 kernel"),
    ],
)
def test_what_cannot_run_on_the_gpu_is_known_without_one(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        suites.check(suite_step(tmp_path, text))
