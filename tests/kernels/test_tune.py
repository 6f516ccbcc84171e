"""The search for tiles with scripted times, and the trials with stand-ins for what only a GPU has."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from types import SimpleNamespace

import pytest
import torch
from tests.kernels import worker_tasks

from tokenwatt_kernels import __main__, commands, device, tables, tune
from tokenwatt_kernels.budget import Budget
from tokenwatt_kernels.families import FAMILIES, part
from tokenwatt_kernels.fused.norm.problems import NormProblem
from tokenwatt_kernels.fused.norm.tiles import NormTile
from tokenwatt_kernels.matmul.dense.tiles import candidates, default, key_of
from tokenwatt_kernels.matmul.key import MatmulKey
from tokenwatt_kernels.matmul.problem import MatmulProblem
from tokenwatt_kernels.tables import Row, Table
from tokenwatt_kernels.tune import Choice, Job
from tokenwatt_kernels.workers import Crew

GPU = "NVIDIA H200"
SOURCE = {"date": "2026-11-23", "triton": "3.9.0", "torch": "2.13.0"}


# --- the search


@dataclass
class Script:
    """Times and rejections of tiles that are letters, and what was asked for; a glance sees what a short look sees."""

    short: dict[str, float]
    long: dict[str, float] = field(default_factory=dict)
    rejected: tuple[str, ...] = ()
    timed: list[tuple[str, str]] = field(default_factory=list)
    told: list[tuple[str, str]] = field(default_factory=list)

    def check(self, tiles):
        return ["spills" if tile in self.rejected else None for tile in tiles]

    def time(self, tiles, effort):
        self.timed.append((effort, "".join(tiles)))
        return [self.long.get(tile, self.short[tile]) if effort == "long" else self.short[tile] for tile in tiles]

    def search(self):
        return tune.search(
            "".join(self.short), self.check, self.time, lambda tile, text: self.told.append((tile, text))
        )


def test_the_fastest_wins():
    assert Script({"d": 100e-6, "a": 80e-6, "b": 90e-6}).search() == Choice("a", 80e-6, 100e-6)


@pytest.mark.parametrize(
    ("fastest_s", "chosen"),
    [(100.0, "d"), (99.5, "d"), (99.0, "d"), (98.9, "a")],  # the default stays unless more than 1 of 100 s is saved
)
def test_the_default_stays_within_one_percent(fastest_s, chosen):
    found = Script({"d": 100.0, "a": fastest_s, "b": 101.0}).search()
    assert found is not None
    assert (found.tile, found.default_s) == (chosen, 100.0)
    assert found.seconds == (100.0 if chosen == "d" else fastest_s)


def test_a_rejected_tile_is_never_timed_however_fast():
    script = Script({"d": 100.0, "a": 1.0, "b": 50.0}, rejected=("a",))
    assert script.search() == Choice("b", 50.0, 100.0)
    # The default takes more than 1.3 times as long as b, and is timed at length for comparison.
    assert script.timed == [("glance", "db"), ("short", "b"), ("long", "db")]
    assert script.told == [("a", "rejected: spills"), ("d", "left: 100000000.0 us"), ("b", "kept: 50000000.0 us")]


def test_the_best_four_and_the_default_are_timed_at_length():
    # By short times: e 10, c 11, b 11.5, a 12, f 12.5, g 13; the default is the last.
    script = Script({"d": 90.0, "a": 12.0, "b": 11.5, "c": 11.0, "e": 10.0, "f": 12.5, "g": 13.0})
    assert script.search() == Choice("e", 10.0, 90.0)
    assert script.timed == [("glance", "dabcefg"), ("short", "abcefg"), ("long", "decba")]


def test_what_is_slow_at_a_glance_is_not_timed_again():
    # 1.3 times the best time of 10 is 13.
    script = Script({"d": 12.0, "a": 10.0, "b": 13.0, "c": 13.1})
    assert script.search() == Choice("a", 10.0, 12.0)
    assert script.timed == [("glance", "dabc"), ("short", "dab"), ("long", "dab")]
    assert script.told[-1] == ("c", "left: 13100000.0 us")


def test_the_long_times_decide():
    script = Script({"d": 10.0, "a": 5.0, "b": 6.0}, long={"d": 8.0, "a": 7.0, "b": 6.5})
    assert script.search() == Choice("b", 6.5, 8.0)


def test_a_rejected_default_is_not_compared_with():
    script = Script({"d": 1.0, "a": 5.0, "b": 6.0}, rejected=("d",))
    assert script.search() == Choice("a", 5.0, None)
    assert script.timed == [("glance", "ab"), ("short", "ab"), ("long", "ab")]


def test_where_all_are_rejected_nothing_is_timed():
    script = Script({"d": 1.0, "a": 5.0}, rejected=("d", "a"))
    assert script.search() is None
    assert script.timed == []


# --- jobs


def test_every_bench_problem_is_in_one_job_of_its_key():
    jobs = tune.jobs(tuple(FAMILIES), ("bfloat16", "float32"))
    for family in FAMILIES:
        problems, tiles = part(family, "problems"), part(family, "tiles")
        found = [entry for job in jobs if job.family == family for entry in job.problems]
        taken = [
            (problem, dtype_name)
            for problem in problems.BENCH_PROBLEMS
            for dtype_name in ("bfloat16", "float32")
            if dtype_name in problems.DTYPE_NAMES and problems.takes(problem, dtype_name, None)
        ]
        assert len(found) == len(taken) > 0
        assert set(found) == set(taken)
        for job in jobs:
            if job.family == family:
                assert {tiles.key_of(problem, dtype_name) for problem, dtype_name in job.problems} == {job.key}
    assert len({(job.family, job.key) for job in jobs}) == len(jobs)


def test_problems_of_one_key_are_tuned_together():
    job = next(job for job in tune.jobs(("attention.decode",), ("bfloat16",)) if job.key.copied_keys == 64)
    # Rows of 16 hold one token of a group of 4 or 8 as well as four tokens of a group of 4; pages of 64 keys are whole.
    assert [problem.name for problem, _ in job.problems] == [
        "llama3.1-8b_b32_ctx4096_page64", "group8_b1_ctx32768", "group8_b1_ctx131072",
    ]  # fmt: skip
    assert job.name == (
        "attention.decode rows=16 head_dim=128 value_dim=128 element_bytes=2 values_are_keys=False copied_keys=64"
    )


def test_a_dtype_that_a_family_does_not_take_gives_no_job():
    assert tune.jobs(("attention.decode",), ("float8_e4m3fn",)) == []


def test_a_problem_of_another_dtype_gives_no_job():
    names = {name for job in tune.jobs(("matmul.dense",), ("float8_e4m3fn",)) for name in job.problem_names}
    assert "square_8192_tensor float8_e4m3fn" in names
    assert "square_8192 float8_e4m3fn" not in names


# --- tuning


@dataclass
class ScriptedTrials:
    """All tiles take 2 s, those in `times` what it says; `interrupted` is the job at which Ctrl-C comes."""

    times: dict[object, float] = field(default_factory=dict)
    rejected: tuple[object, ...] = ()
    interrupted: Job | None = None

    def check(self, job, tiles):
        return ["it must compile" if tile in self.rejected else None for tile in tiles]

    def time(self, job, tiles, effort):
        if job is self.interrupted:
            raise KeyboardInterrupt
        return [self.times.get(tile, 2.0) for tile in tiles]


def make_key(m: int, dtype_name: str = "bfloat16") -> MatmulKey:
    return key_of(MatmulProblem("key", m, 64, 64), dtype_name)


# Of two dtypes, so that no candidate of one is a candidate of the other.
FEW, MANY = (
    Job("matmul.dense", make_key(m, dtype_name), ((MatmulProblem(f"m{m}", m, 64, 64), dtype_name),))
    for m, dtype_name in ((128, "bfloat16"), (4096, "float32"))
)
FASTER = candidates(FEW.key, 90)[3]
OLD = Row(make_key(512), default(make_key(512), 90), 1.0, 1.0, ("old",), "2025-01-01", "3.6.0", "2.11.0")


def run(jobs, trials, table):
    saved, told = [], []
    failed = tune.tune(jobs, table, trials, SOURCE, saved.append, told.append)
    return failed, saved, told


def test_each_key_leaves_a_row_and_the_table_is_saved_after_it():
    failed, saved, told = run((FEW, MANY), ScriptedTrials({FASTER: 1.0}), Table(GPU, 90))
    assert failed == []
    first = Row(FEW.key, FASTER, 1.0, 2.0, ("m128 bfloat16",), **SOURCE)
    second = Row(MANY.key, default(MANY.key, 90), 2.0, 2.0, ("m4096 float32",), **SOURCE)
    assert saved == [
        Table(GPU, 90, {"matmul.dense": {FEW.key: first}}),
        Table(GPU, 90, {"matmul.dense": {FEW.key: first, MANY.key: second}}),
    ]
    assert told[0] == (
        "matmul.dense rows=128 columns=1024 terms=1024 element_bytes=2 is_gated=False is_blocked=False is_fast=True"
        " can_copy=True: m128 bfloat16"
    )
    assert told[len(candidates(FEW.key, 90)) + 1] == (
        f"  {FASTER.name:32} chosen: 1000000.0 us, 0.500 of the default's 2000000.0 us"
    )
    assert told[-1] == f"  {default(MANY.key, 90).name:32} chosen: 2000000.0 us, the default"


def test_rows_of_other_keys_stay_and_those_of_the_same_key_go():
    table = Table(GPU, 90).with_row("matmul.dense", OLD).with_row("matmul.dense", replace(OLD, key=FEW.key))
    _, saved, _ = run((FEW,), ScriptedTrials(), table)
    assert [saved[0].rows["matmul.dense"][key].date for key in (OLD.key, FEW.key)] == ["2025-01-01", SOURCE["date"]]


def test_an_interrupted_run_keeps_what_it_has(tmp_path):
    path = tmp_path / "table.json"
    table = Table(GPU, 90).with_row("matmul.dense", OLD)
    trials = ScriptedTrials({FASTER: 1.0}, interrupted=MANY)
    with pytest.raises(KeyboardInterrupt):
        tune.tune((FEW, MANY), table, trials, SOURCE, lambda found: tables.write(found, path), lambda _: None)
    rows = tables.read(path).rows["matmul.dense"]
    assert {key: row.tile for key, row in rows.items()} == {OLD.key: OLD.tile, FEW.key: FASTER}


def test_a_rejected_default_fails_its_job_but_gives_way_to_a_better_tile():
    trials = ScriptedTrials({FASTER: 1.0}, rejected=(default(FEW.key, 90),))
    failed, saved, told = run((FEW,), trials, Table(GPU, 90))
    assert failed == [FEW.name]
    assert saved[0].rows["matmul.dense"][FEW.key].default_median_s is None
    assert told[-1].endswith("chosen: 1000000.0 us; the default was rejected")


def test_where_no_tile_can_be_used_the_old_row_stays():
    trials = ScriptedTrials(rejected=candidates(FEW.key, 90))
    failed, saved, told = run((FEW,), trials, Table(GPU, 90))
    assert (failed, saved, told[-1]) == ([FEW.name], [], "  no tile can be used")


def test_a_key_that_the_gpu_does_not_take_is_skipped():
    # A float8 cache: it begins with sm_89.
    job = next(job for job in tune.jobs(("attention.decode",), ("bfloat16",)) if job.key.element_bytes == 1)
    failed, saved, told = run((job,), ScriptedTrials(), Table("NVIDIA A100", 80))
    assert (failed, saved) == ([], [])
    assert told[1].startswith("  skipped: no decode tile of sm_80 holds")


# --- the trials


@pytest.fixture
def trials():
    """The module; it imports triton."""
    return pytest.importorskip("tokenwatt_kernels.trials", reason="needs triton")


def test_candidates_pass_the_gate_in_the_interpreter(run_interpreted):
    pytest.importorskip("triton")
    found = run_interpreted("candidates.py")
    across_pages = {name: reason for name, reason in found.items() if "across pages" in name}
    assert {name for name, reason in found.items() if reason} == set(across_pages)
    assert set(across_pages.values()) == {"it must take one of c float32, got none"}


def make_kernel(*spills):
    forms = {f"key {number}": SimpleNamespace(n_spills=count) for number, count in enumerate(spills)}
    return SimpleNamespace(device_caches={0: (forms, {}, "target", "backend", "binder")})


def test_spills_of_every_compiled_form_count(trials):
    kernels = (make_kernel(0, 0), make_kernel(0, 12, 4))
    assert trials.spilled_registers(kernels) == 12
    trials.forget(kernels)
    assert trials.spilled_registers(kernels) == 0


def test_real_kernels_have_the_caches_that_are_looked_into(trials):
    for family in FAMILIES:
        for kernel in part(family, "tuning").KERNELS:
            assert hasattr(kernel, "device_caches")
            trials.forget((kernel,))


@pytest.mark.parametrize(
    ("spills", "reasons", "found"),
    [
        ((0,), (), None),
        ((8,), (), "registers spilled per thread must be 0, got 8"),
        ((8,), ("rms_error must be <= 1, got 2", "writes"), "rms_error must be <= 1, got 2; writes"),
    ],
)
def test_a_tile_must_pass_the_gate_without_spills(trials, monkeypatch, spills, reasons, found):
    kernel = make_kernel(99)  # of an earlier candidate

    def gate(*_):
        assert kernel.device_caches == {}
        kernel.device_caches |= make_kernel(*spills).device_caches
        return reasons

    monkeypatch.setattr(part("matmul.dense", "tuning"), "KERNELS", (kernel,))
    monkeypatch.setattr(trials, "gate", gate)
    assert trials.reason_against((FEW, FASTER, "cpu")) == found


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (lambda m: m.OutOfResources(300_000, 232_448, "shared memory"), "Required: 300000, Hardware limit: 232448"),
        (lambda m: m.PTXASError("\nptxas fatal\n"), "it must compile and fit, got PTXASError: ptxas fatal"),
        (
            lambda m: m.CompilationError("x = 1\ny = 2", SimpleNamespace(lineno=2, col_offset=0), "no"),
            "CompilationError: no",
        ),
        (
            lambda m: RuntimeError("PassManager::run failed"),
            "it must compile, got RuntimeError: PassManager::run failed",
        ),
    ],
)
def test_a_tile_that_does_not_compile_is_rejected_with_the_reason(trials, monkeypatch, error, reason):
    def gate(*_):
        raise error(trials)

    monkeypatch.setattr(trials, "gate", gate)
    assert reason in trials.reason_against((FEW, FASTER, "cpu"))


def test_any_other_error_is_left_to_the_worker(trials, monkeypatch):
    def gate(*_):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(trials, "gate", gate)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        trials.reason_against((FEW, FASTER, "cpu"))


@dataclass
class ScriptedGpu:
    """Tensors and launches on a GPU that is not here: what was launched, and which problem finds no memory."""

    launched: list[tuple[str, object]] = field(default_factory=list)
    too_large: str = ""

    def launcher(self, problem, dtype_name, on):
        if problem.name == self.too_large:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return lambda tile: self.launched.append((problem.name, tile))


@pytest.mark.parametrize(
    ("reasons", "too_large", "launched"),
    [((), "", ["p", "q"]), ((), "p", ["q"]), (("rms_error must be <= 1, got 2",), "", [])],
)
def test_on_a_gpu_a_tile_that_passes_the_gate_is_launched_on_the_real_problems(
    trials, monkeypatch, reasons, too_large, launched
):
    gpu = ScriptedGpu(too_large=too_large)
    monkeypatch.setattr(trials, "gate", lambda *_: reasons)
    monkeypatch.setattr(part("matmul.dense", "tuning"), "launcher", gpu.launcher)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    job = replace(FEW, problems=tuple((MatmulProblem(name, 1, 1, 1), "bfloat16") for name in "pq"))
    assert trials.reason_against((job, FASTER, "cuda")) == ("; ".join(reasons) or None)
    assert gpu.launched == [(name, FASTER) for name in launched]


def test_workers_gate_candidates_and_outlive_the_ones_that_kill_them(trials):
    # Real processes and the real gate, in the interpreter.
    tiles = [NormTile(2, 8), worker_tasks.DEADLY, NormTile(1, 4)]
    problem = NormProblem("n", 4096, 40, has_residual=True, scales="token")
    job = Job("fused.norm", None, ((problem, "float32"),))
    with Crew(worker_tasks.gate_or_die, commands._prepare_interpreter, 1, limit_s=200.0) as crew:
        found = trials.Trials(torch.device("cpu"), crew).check(job, tiles)
    assert found == [None, "its process died: ended by SIGSEGV", None]


@pytest.mark.parametrize("effort", ["glance", "short", "long"])
def test_the_time_of_a_tile_is_its_geometric_mean_over_the_problems(trials, monkeypatch, effort):
    # Tile a: 1 s and 4 s, sqrt(1 * 4) = 2 s. Tile b: 9 s and 4 s, sqrt(9 * 4) = 6 s.
    seconds = {("p", "a"): 1.0, ("q", "a"): 4.0, ("p", "b"): 9.0, ("q", "b"): 4.0}
    calls = []

    def launcher(problem, dtype_name, on):
        def launch(tile):
            calls.append((problem.name, tile))
            return seconds[problem.name, tile]

        return launch

    monkeypatch.setattr(part("matmul.dense", "tuning"), "launcher", launcher)
    rounds, _ = trials.EFFORTS[effort]
    monkeypatch.setitem(trials.EFFORTS, effort, (rounds, lambda function: [function(), function()]))
    job = replace(FEW, problems=tuple((MatmulProblem(name, 1, 1, 1), "bfloat16") for name in "pq"))
    with trials.crew(1) as idle:
        assert trials.Trials(torch.device("cpu"), idle).time(job, ("a", "b"), effort) == pytest.approx([2.0, 6.0])
    # Problem by problem, the tiles in turns, two samples each, forwards then backwards.
    turns = ["a", "a", "b", "b"] if effort == "glance" else ["a", "a", "b", "b", "b", "b", "a", "a"]
    assert calls[: len(turns)] == [("p", tile) for tile in turns]
    assert len(calls) == 2 * 2 * 2 * rounds


def without_sizes(key):
    """A key of a matmul but for the sizes, which a sibling has smaller; any other key as it is."""
    sizes = {"rows", "columns", "terms"}
    return replace(key, **dict.fromkeys(sizes, 0)) if sizes <= {known.name for known in fields(key)} else key


@pytest.mark.parametrize("family", FAMILIES)
def test_siblings_are_small_and_of_the_same_key(family):
    tuning = pytest.importorskip(f"{FAMILIES[family]}.tuning", reason="needs triton")
    tiles = part(family, "tiles")
    for problem in part(family, "problems").BENCH_PROBLEMS:
        sibling = tuning.sibling(problem)
        assert without_sizes(tiles.key_of(sibling, "bfloat16")) == without_sizes(tiles.key_of(problem, "bfloat16"))
        assert sibling.terms <= 1328


# --- the command


@pytest.fixture
def scripted_gpu(trials, monkeypatch):
    """A GPU of which only name, capability and times are asked."""
    monkeypatch.setattr(__main__, "_device", lambda _: torch.device("cuda"))
    monkeypatch.setattr(device, "name", lambda _: GPU)
    monkeypatch.setattr(device, "capability", lambda _: 90)
    scripted = ScriptedTrials()
    monkeypatch.setattr(trials, "Trials", lambda *_: scripted)
    return scripted


def test_the_command_writes_the_table(scripted_gpu, tmp_path, capsys):
    path = tmp_path / "table.json"
    assert __main__.main(["tune", "matmul.dense", "--output", str(path)]) == 0
    keys = {job.key for job in tune.jobs(("matmul.dense",), ("bfloat16",))}
    assert set(tables.read(path).rows["matmul.dense"]) == keys
    assert capsys.readouterr().out.splitlines()[-1] == f"{len(keys)} of {len(keys)} passed -> {path}"


def test_a_rejected_default_is_exit_code_1(scripted_gpu, tmp_path, capsys):
    jobs = tune.jobs(("matmul.dense",), ("bfloat16",))
    rejected = default(jobs[0].key, 90)
    scripted_gpu.rejected = (rejected,)
    failed = [job.name for job in jobs if default(job.key, 90) == rejected]
    assert __main__.main(["tune", "matmul.dense", "--output", str(tmp_path / "table.json")]) == 1
    assert f"{len(failed)} of {len(jobs)} FAILED: {failed[0]}" in capsys.readouterr().out


def test_a_resumed_command_tunes_what_has_no_row_of_today(scripted_gpu, trials, tmp_path, capsys):
    path = tmp_path / "table.json"
    arguments = ["tune", "matmul.dense", "--output", str(path)]
    assert __main__.main(arguments) == 0
    table, jobs = tables.read(path), tune.jobs(("matmul.dense",), ("bfloat16",))
    old, unjudged = (table.rows["matmul.dense"][job.key] for job in jobs[1:3])
    table = table.with_row("matmul.dense", replace(old, date="2025-01-01"))
    tables.write(table.with_row("matmul.dense", replace(unjudged, default_median_s=None)), path)
    capsys.readouterr()
    assert __main__.main([*arguments, "--resume"]) == 0
    lines = capsys.readouterr().out.splitlines()
    # A day has passed since one of them, and another had to do without its default.
    assert [line.partition(":")[0] for line in lines if not line.startswith(" ")][:-1] == [jobs[1].name, jobs[2].name]
    assert lines[-1] == f"2 of 2 passed -> {path}"
    assert tables.read(path).rows["matmul.dense"][old.key].date == trials.source()["date"]


def test_a_command_out_of_time_says_what_it_has_left(scripted_gpu, tmp_path, monkeypatch, capsys):
    path, jobs = tmp_path / "table.json", tune.jobs(("matmul.dense",), ("bfloat16",))
    seconds = iter([0.0, 1.0, 59.0, *[60.0] * len(jobs)])  # made, then asked before each key
    monkeypatch.setattr(__main__, "Budget", lambda limit_s: Budget(limit_s, clock=lambda: next(seconds)))
    assert __main__.main(["tune", "matmul.dense", "--budget-s", "60", "--output", str(path)]) == 0
    assert set(tables.read(path).rows["matmul.dense"]) == {job.key for job in jobs[:2]}
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("left")] == [
        f"left, the time was up: {job.name}" for job in jobs[2:]
    ]
    assert lines[-1] == f"2 of 2 passed -> {path}"


def test_named_problems_choose_the_keys(scripted_gpu, tmp_path, capsys):
    path = tmp_path / "table.json"
    assert __main__.main(["tune", "matmul", "--problem", "square_8192", "--output", str(path)]) == 0
    (row,) = tables.read(path).rows["matmul.dense"].values()
    assert set(tables.read(path).rows) == {"matmul.dense"}
    assert "square_8192 bfloat16" in row.problems
    # All problems of the key are timed, as they are without a choice.
    assert row.problems in [job.problem_names for job in tune.jobs(("matmul.dense",), ("bfloat16",))]


def test_an_unknown_problem_is_exit_code_2(scripted_gpu, capsys):
    assert __main__.main(["tune", "matmul.dense", "--problem", "square_8193"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("problem must be one of ")
    assert "square_4096, square_8192 in" in line
    assert line.endswith(" in bfloat16, got square_8193")


def test_an_interrupted_command_says_where_the_rows_are(scripted_gpu, tmp_path, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(scripted_gpu, "time", interrupted)
    path = tmp_path / "table.json"
    assert __main__.main(["tune", "matmul.dense", "--output", str(path)]) == 130
    assert capsys.readouterr().err == f"interrupted; the rows of finished keys are in {path}\n"


def test_a_table_that_cannot_be_extended_is_exit_code_2(scripted_gpu, tmp_path, capsys):
    path = tmp_path / "table.json"
    path.write_text("{}")
    assert __main__.main(["tune", "matmul.dense", "--output", str(path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"{path}: must have the field gpu")
    assert captured.err.count("\n") == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA GPU is here")
@pytest.mark.parametrize("module", [("tokenwatt_kernels",), ("tokenwatt", "kernels")])
def test_tune_without_a_gpu_is_one_line_and_exit_code_2(run_python, module):
    finished = run_python("-m", *module, "tune")
    assert (finished.returncode, finished.stdout) == (2, "")
    assert finished.stderr == "tune needs a CUDA GPU, found none; `check` and `compile` work without one\n"
