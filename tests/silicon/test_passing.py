"""The pass with real processes: what fails, hangs, is interrupted and taken up again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tokenwatt.errors import UserError
from tokenwatt.silicon.passing import Pass
from tokenwatt.silicon.place import tree_hash
from tokenwatt.silicon.state import Place, State, StepStatus
from tokenwatt.silicon.step import Step

PLACE = Place(tree="a", git_commit="1", torch="2.11.0", triton="3.6.0", gpu="NVIDIA H200")


@dataclass
class Ears:
    """Keeps what a pass says."""

    events: list[tuple[str, ...]] = field(default_factory=list)
    heard: bytes = b""

    def begin(self, step, command):
        self.events.append(("begin", step.name, *command))

    def output(self, chunk):
        self.heard += chunk

    def end(self, step, record, *, is_old):
        self.events.append(("old" if is_old else "end", step.name, str(record.status)))


def ears(one) -> Ears:
    """Those of a pass of these tests."""
    return one.watcher


def step(name, code, limit_s=30.0, **more):
    return Step(name, "group", "?", ("-c", textwrap.dedent(code)), ("-c", "print('small')"), limit_s, **more)


def a_pass(folder, place=PLACE, **more):
    return Pass(folder, place, State(folder / "silicon"), folder / "raw", Ears(), grace_s=1.0, **more)


def on_disk(folder):
    return json.loads((folder / "silicon" / "steps.json").read_text())


def test_a_step_is_written_down_with_its_output_and_where_it_ran(tmp_path):
    one = a_pass(tmp_path)
    assert one.run([step("good", "import sys; print('3 passed'); print(sys.argv, file=sys.stderr)")])
    record = on_disk(tmp_path)["good"]
    assert (record["status"], record["exit_code"], record["found"]) == ("done", 0, "['-c']")
    assert record["place"] == PLACE.model_dump()
    assert record["seconds"] > 0
    assert (tmp_path / "silicon" / "good.log").read_bytes() == ears(one).heard == b"3 passed\n['-c']\n"


def test_a_pass_goes_on_after_a_failure_but_not_with_what_needs_it(tmp_path):
    steps = [
        step("bad", "print('no such thing'); raise SystemExit(3)"),
        step("needy", "print('ran')", needs=("bad",)),
        step("other", "print('ran')"),
    ]
    assert not a_pass(tmp_path).run(steps)
    records = on_disk(tmp_path)
    assert {name: record["status"] for name, record in records.items()} == {
        "bad": "failed",
        "needy": "blocked",
        "other": "done",
    }
    assert (records["bad"]["exit_code"], records["bad"]["found"]) == (3, "no such thing")
    assert records["needy"]["found"] == "needs bad, not done"


def test_a_step_over_its_limit_may_write_what_it_has_and_its_files_stay(tmp_path):
    code = """
        import pathlib, time
        pathlib.Path("rows").write_text("1")
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            pathlib.Path("rows").write_text("2")
            raise SystemExit(130)
    """
    began_s = time.monotonic()
    assert not a_pass(tmp_path).run([step("slow", code, limit_s=1.5)])
    assert time.monotonic() - began_s < 15
    assert (tmp_path / "rows").read_text() == "2"
    record = on_disk(tmp_path)["slow"]
    assert (record["status"], record["exit_code"]) == ("timed_out", 130)
    assert record["seconds"] >= 1.5


def test_a_step_that_hears_no_interrupt_is_killed_with_its_children(tmp_path):
    code = """
        import pathlib, signal, subprocess, sys, time
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        pathlib.Path("child").write_text(str(child.pid))
        time.sleep(60)
    """
    assert not a_pass(tmp_path).run([step("deaf", code, limit_s=2.0)])
    assert (on_disk(tmp_path)["deaf"]["status"], on_disk(tmp_path)["deaf"]["exit_code"]) == ("timed_out", -9)
    assert not is_alive(int((tmp_path / "child").read_text()))


def is_alive(pid):
    """Whether a process runs; one that has ended and was not waited for yet does not."""
    status = Path(f"/proc/{pid}/stat")
    for _ in range(50):
        if not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z":
            return False
        time.sleep(0.1)
    return True


DRIVER = """
from pathlib import Path
from tests.silicon.test_passing import a_pass, step
steps = [step("first", "print(1)"), step("long", "import time; print('there', flush=True); time.sleep(60)", 90.0)]
one = a_pass(Path({folder!r}))
one.watcher.output = lambda chunk: print(chunk.decode(), flush=True)
one.run(steps)
"""


def test_an_interrupt_leaves_the_state_right_and_the_next_pass_takes_up_there(tmp_path):
    root = Path(__file__).parents[2]
    roots = os.pathsep.join(map(str, (root, root / "harness", root / "kernels")))
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER.format(folder=str(tmp_path))], cwd=root, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": roots},
    )  # fmt: skip
    assert driver.stdout is not None
    while "there" not in (line := driver.stdout.readline()):
        assert line, driver.communicate()
    assert on_disk(tmp_path)["long"]["status"] == "running"
    driver.send_signal(signal.SIGINT)
    _, err = driver.communicate(timeout=30)
    assert "KeyboardInterrupt" in err
    records = on_disk(tmp_path)
    assert {name: record["status"] for name, record in records.items()} == {"first": "done", "long": "interrupted"}

    again = a_pass(tmp_path)
    assert again.run([step("first", "raise SystemExit(1)"), step("long", "print(2)")])
    assert [event[:2] for event in ears(again).events] == [("old", "first"), ("begin", "long"), ("end", "long")]


@pytest.mark.parametrize("change", [{"tree": "b"}, {"torch": "2.13.0"}, {"triton": None}, {"gpu": "NVIDIA H100"}])
def test_another_tree_package_or_gpu_takes_a_step_again(tmp_path, change):
    steps = [step("one", "print(1)")]
    a_pass(tmp_path).run(steps)
    again = a_pass(tmp_path, PLACE.model_copy(update=change))
    again.run(steps)
    assert ears(again).events[-1] == ("end", "one", "done")


def test_another_commit_of_the_same_tree_does_not(tmp_path):
    steps = [step("one", "print(1)")]
    a_pass(tmp_path).run(steps)
    again = a_pass(tmp_path, PLACE.model_copy(update={"git_commit": "2"}))
    again.run(steps)
    assert ears(again).events == [("old", "one", "done")]


def test_a_step_is_taken_again_after_what_it_needs_was(tmp_path):
    steps = [step("tune", "print(1)"), step("tuned", "print(2)", needs=("tune",))]
    a_pass(tmp_path).run(steps)
    again = a_pass(tmp_path)
    again.run(steps, redo={"tune"})
    assert [event[:2] for event in ears(again).events if event[0] != "begin"] == [("end", "tune"), ("end", "tuned")]


def test_runs_that_a_step_wrote_are_named_with_it(tmp_path):
    (tmp_path / "raw" / "earlier").mkdir(parents=True)
    a_pass(tmp_path).run([step("one", "import pathlib; pathlib.Path('raw/later').mkdir()")])
    assert on_disk(tmp_path)["one"]["runs"] == ["later"]


def test_a_rehearsal_checks_the_real_command_and_runs_the_small_one_once(tmp_path):
    def check(one):
        if one.name == "wrong":
            raise UserError("unknown suite 'x'")
        return "12 points"

    steps = [step(name, "raise SystemExit(1)") for name in ("a", "wrong", "b")]
    one = a_pass(tmp_path, check=check)
    assert not one.run(steps)
    assert ears(one).heard == b"small\n"
    records = on_disk(tmp_path)
    assert [(records[name]["status"], records[name]["found"]) for name in ("a", "wrong", "b")] == [
        ("done", "12 points"),
        ("failed", "unknown suite 'x'"),
        ("done", "12 points"),
    ]


def test_a_damaged_state_is_said_in_one_line_and_left_as_it_is(tmp_path):
    (tmp_path / "silicon").mkdir()
    path = tmp_path / "silicon" / "steps.json"
    path.write_text('{"one": {"status": "don')
    with pytest.raises(UserError, match=r"steps.json: not a state of steps"):
        a_pass(tmp_path)
    assert path.read_text() == '{"one": {"status": "don'


def test_a_step_whose_pass_was_killed_is_not_done(tmp_path):
    one = a_pass(tmp_path)
    one.run([step("one", "print(1)")])
    running = one.state.records["one"].model_copy(update={"status": StepStatus.RUNNING})
    one.state.note(step("one", ""), running)
    assert not State(tmp_path / "silicon").is_done(step("one", ""), PLACE)


def test_the_hash_of_a_tree_follows_its_sources_and_not_the_tables_that_steps_write(tmp_path):
    for name in ("harness/a.py", "kernels/gpu_tables/h200.json", "tests/t.py", "workloads/w.toml", "pyproject.toml"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("1")
    first = tree_hash(tmp_path)
    (tmp_path / "kernels/gpu_tables/h200.json").write_text("2")
    (tmp_path / "results").mkdir()
    assert tree_hash(tmp_path) == first
    (tmp_path / "tests/t.py").write_text("2")
    assert tree_hash(tmp_path) != first
