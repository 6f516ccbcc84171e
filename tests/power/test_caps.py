"""Power caps are lifted however a sweep ends: real processes, ended in the middle, on virtual boards."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwatt import orderly_end
from tokenwatt.errors import UserError
from tokenwatt.orderly_end import Ended, ends_orderly, undisturbed
from tokenwatt.power import boards
from tokenwatt.power.caps import MAX_CAPS, PowerCaps, parse_power_caps
from tokenwatt.power.virtual import Board, Fault, FaultKind, Script, temporary

HARNESS = Path(__file__).parents[2] / "harness"
SWEEP = """
import sys, time
from tokenwatt.errors import TokenwattError
from tokenwatt.power.caps import PowerCaps

try:
    with PowerCaps.open(None) as caps:
        caps.set(500)
        caps.set(400)
        print("capped", flush=True)
        {then}
except TokenwattError as error:
    sys.exit(str(error))
except KeyboardInterrupt as error:
    print("unwound", type(error).__name__, flush=True)
    sys.exit(130)
"""
WAIT = "time.sleep(60)"


@dataclass(frozen=True)
class Boards:
    """Virtual boards whose limits several processes share. The one place here that knows how they are set up."""

    folder: Path
    """Of the file in which the limits are kept."""
    boards: tuple[Board, ...]

    def environment(self, **changes: Any) -> dict[str, str]:
        """For a process that finds these boards; `changes` replace settings of each."""
        boards = tuple(replace(board, **changes) for board in self.boards)
        script = Script(boards=boards, clock="monotonic", limit_file=self.folder / "limits")
        return {**temporary().environment(script), "PYTHONPATH": str(HARNESS)}

    def run(self, program: str, **changes: Any) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", program]
        return subprocess.run(command, env=self.environment(**changes), capture_output=True, text=True, check=False)

    def limits_w(self) -> list[float]:
        """Limits that a process finds which starts now."""
        program = (
            "from pynvml import *; nvmlInit(); print(*(nvmlDeviceGetPowerManagementLimit(nvmlDeviceGetHandleByIndex(i))"
            " / 1000 for i in range(nvmlDeviceGetCount())))"
        )
        return [float(word) for word in self.run(program).stdout.split()]

    def set_w(self, watts: float) -> None:
        """Somebody else sets the first board."""
        self.run(
            "from pynvml import *; nvmlInit();"
            f"nvmlDeviceSetPowerManagementLimit(nvmlDeviceGetHandleByIndex(0), int({watts} * 1000))"
        )


@pytest.fixture
def board(tmp_path: Path) -> Boards:
    """One board at 650 W of the 200 to 700 W that it allows: a limit that somebody chose."""
    return Boards(tmp_path, (Board(limit_w=650.0, may_set_limit=True),))


@pytest.fixture
def two_boards(tmp_path: Path) -> Boards:
    """Two boards at their default: the first takes 200 to 700 W, the second 200 to 650 W."""
    first = Board(may_set_limit=True)
    return Boards(tmp_path, (first, replace(first, limit_w=650.0, default_limit_w=650.0, max_limit_w=650.0)))


def under_way(boards: Boards, then: str = WAIT) -> subprocess.Popen[str]:
    """A sweep that has set its second cap."""
    process = subprocess.Popen(
        [sys.executable, "-c", SWEEP.format(then=then)],
        env=boards.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "capped\n", process.communicate()[1]
    assert boards.limits_w()[0] == 400.0
    return process


def test_a_sweep_that_ends_well_leaves_the_boards_as_they_were(two_boards: Boards) -> None:
    done = two_boards.run(SWEEP.format(then="caps.restore(); caps.set(300)"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "capped\n", "")
    assert two_boards.limits_w() == [700.0, 650.0]


def test_an_error_in_the_middle_lifts_the_cap(board: Boards) -> None:
    done = board.run(SWEEP.format(then="raise ArithmeticError('in the middle')"))
    assert done.returncode == 1
    assert "in the middle" in done.stderr
    assert board.limits_w() == [650.0]


@pytest.mark.parametrize(
    ("number", "unwound"),
    [(signal.SIGINT, "KeyboardInterrupt"), (signal.SIGTERM, "Ended"), (signal.SIGHUP, "Ended")],
    ids=lambda value: getattr(value, "name", value),
)
def test_a_signal_unwinds_the_sweep_and_lifts_the_cap(board: Boards, number: signal.Signals, unwound: str) -> None:
    process = under_way(board)
    process.send_signal(number)
    out, _ = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, f"unwound {unwound}\n")
    assert board.limits_w() == [650.0]


@pytest.mark.parametrize(
    "then",
    [WAIT, "import ctypes; ctypes.string_at(0)", "import os; os._exit(3)"],
    ids=["SIGKILL", "segmentation fault", "exit at once"],
)
def test_the_guard_lifts_the_cap_of_a_sweep_that_is_killed_or_crashes(board: Boards, then: str) -> None:
    process = under_way(board, "time.sleep(0.5); " + then)
    if then == WAIT:
        process.kill()
    # The guard holds stderr open, so that this waits for its end too.
    _, err = process.communicate(timeout=30)
    assert process.returncode not in (0, 130)
    assert "its power caps are lifted" in err
    assert board.limits_w() == [650.0]


def test_the_guard_sees_the_end_of_its_parent_while_a_child_holds_the_pipe_open(board: Boards) -> None:
    child = "import os; os.fork() == 0 and (os.close(1), os.close(2)); time.sleep(3)"
    process = under_way(board, child)
    time.sleep(0.2)
    process.kill()
    _, err = process.communicate(timeout=2.5)
    assert "its power caps are lifted" in err
    assert board.limits_w() == [650.0]


def test_a_second_signal_waits_until_the_limits_are_back() -> None:
    steps = []

    def restore() -> None:
        with ends_orderly(), undisturbed():
            signal.raise_signal(signal.SIGTERM)
            steps.append("restored")

    with pytest.raises(Ended):
        restore()
    assert steps == ["restored"]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


EARLY_SIGNAL = """
        import signal
        from tokenwatt.power import caps as module

        arm = module.undisturbed
        module.undisturbed = lambda: (signal.raise_signal(signal.SIGTERM), arm())[1]
"""
FAILURE = """
        from tokenwatt.power.board_limits import LimitedBoards, RestoreError

        def put_back(*_):
            raise RestoreError("NVML hiccups")

        LimitedBoards.put_back = put_back
"""


@pytest.mark.parametrize(
    ("then", "code", "said"),
    [(EARLY_SIGNAL, 130, ""), (FAILURE, 1, "NVML hiccups")],
    ids=["a signal just before signals are held back", "an error while limits are put back"],
)
def test_the_guard_lifts_the_cap_of_a_sweep_that_cannot_do_it_itself(
    board: Boards, then: str, code: int, said: str
) -> None:
    done = board.run(SWEEP.format(then=then.strip()))
    assert (done.returncode, board.limits_w()) == (code, [650.0])
    assert "its power caps are lifted" in done.stderr
    assert said in done.stderr


def test_a_signal_while_signals_are_being_held_back_leaves_none_of_them_held(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    hold = signal.signal

    def interrupted(number: int, handler: Any) -> Any:
        if number == signal.SIGTERM and handler is not before[signal.SIGTERM]:
            raise Ended(signal.SIGTERM)
        return hold(number, handler)

    monkeypatch.setattr(signal, "signal", interrupted)
    monkeypatch.setattr(orderly_end, "ENDING", (signal.SIGHUP, signal.SIGTERM))
    with pytest.raises(Ended), ends_orderly():
        pass
    assert {number: signal.getsignal(number) for number in before} == before


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ends_orderly():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_no_right_to_set_is_said_before_anything_is_measured(board: Boards) -> None:
    done = board.run(SWEEP.format(then=WAIT), may_set_limit=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("no right to set the power limit of GPU-")
    assert "sudo nvidia-smi -i GPU-00000000-0000-0000-0000-000000000000 -pl 650" in done.stderr
    assert done.stderr.count("\n") == 1
    assert board.limits_w() == [650.0]


def test_a_cap_that_one_of_two_boards_refuses_changes_neither(two_boards: Boards) -> None:
    done = two_boards.run(SWEEP.format(then="caps.set(675)"))
    # 675 W is inside the first board's 200 to 700 W; the second allows 50 W less.
    assert done.stderr == (
        "a power cap of 675 W is outside what the boards allow"
        " (GPU-00000000-0000-0000-0000-000000000001: 200 to 650 W)\n"
    )
    assert two_boards.limits_w() == [700.0, 650.0]


def test_a_cap_below_the_range_is_refused(board: Boards) -> None:
    done = board.run(SWEEP.format(then="caps.set(100)"))
    assert "a power cap of 100 W is outside what the boards allow" in done.stderr
    assert "200 to 700 W" in done.stderr
    assert board.limits_w() == [650.0]


def test_a_limit_that_somebody_else_set_meanwhile_is_left_and_said(board: Boards) -> None:
    process = under_way(board)
    board.set_w(333)
    process.terminate()
    _, err = process.communicate(timeout=30)
    assert "has a power limit of 333 W, which is neither ours nor its former 650 W" in err
    assert "-pl 650" in err
    assert board.limits_w() == [333.0]


def test_a_limit_that_does_not_come_back_is_said_with_the_command_that_repairs_it(board: Boards) -> None:
    # Without its folder, the file that keeps the limits cannot be written to.
    done = board.run(SWEEP.format(then=f"import shutil; shutil.rmtree({str(board.folder)!r})"))
    assert done.returncode == 1
    repair = "sudo nvidia-smi -i GPU-00000000-0000-0000-0000-000000000000 -pl 650"
    # Before it, a line of the guard, which tries once more.
    assert done.stderr.splitlines()[-1].startswith(f"POWER LIMIT NOT RESTORED; repair it with: {repair}")
    assert done.stderr.count("\n") == 2


def test_a_cap_that_is_not_the_limit_in_force_ends_the_sweep(board: Boards) -> None:
    done = board.run(SWEEP.format(then=WAIT), faults=(Fault(FaultKind.CAP, value=300.0),))
    assert "is capped at 500 W and enforces 300 W" in done.stderr
    assert board.limits_w() == [650.0]


def test_slices_share_a_limit_and_are_refused(board: Boards) -> None:
    done = board.run(SWEEP.format(then=WAIT), mig=True)
    assert "is cut in MIG slices, which share one power limit; run without power caps" in done.stderr


@pytest.mark.skipif(bool(boards()), reason="this machine has boards of its own, which no test may cap")
def test_no_nvml_is_said() -> None:
    with pytest.raises(UserError, match="^power caps need NVML, found none here"):
        PowerCaps.open(None)


@pytest.mark.parametrize(
    ("text", "watts"),
    [
        ("700,600,500", (700.0, 600.0, 500.0)),
        ("500, 700", (700.0, 500.0)),
        ("700:300:-100", (700.0, 600.0, 500.0, 400.0, 300.0)),
        ("300:700:100", (700.0, 600.0, 500.0, 400.0, 300.0)),
        ("300:650:100", (600.0, 500.0, 400.0, 300.0)),
        ("0.1:0.3:0.1", (0.1 + 2 * 0.1, 0.2, 0.1)),
        ("450", (450.0,)),
    ],
)
def test_caps_are_read_highest_first(text: str, watts: tuple[float, ...]) -> None:
    assert parse_power_caps(text) == watts


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("", "numbers only"),
        ("700;600", "numbers only"),
        ("700:600", "numbers only"),
        ("1:nan:1", "numbers only"),
        ("700,,500", "numbers only"),
        ("700,-5", "every cap is above 0 W"),
        ("inf", "every cap is above 0 W"),
        ("700,700", "each cap once"),
        ("700:300:100", "a step that leads from 700 to 300"),
        ("700:300:0", "a step that leads from 700 to 300"),
        ("300:700:0.1", f"at most {MAX_CAPS} caps"),
    ],
)
def test_nonsense_is_refused_with_what_is_allowed(text: str, allowed: str) -> None:
    with pytest.raises(UserError, match=allowed) as refusal:
        parse_power_caps(text)
    assert "700:300:-100" in str(refusal.value)


@given(st.integers(1, 1000), st.integers(0, MAX_CAPS - 1), st.integers(1, 50))
def test_a_range_holds_both_ends_in_either_direction(first: int, steps: int, step: int) -> None:
    last = first + steps * step
    upwards = parse_power_caps(f"{first}:{last}:{step}")
    assert upwards == parse_power_caps(f"{last}:{first}:-{step}")
    assert (upwards[0], upwards[-1], len(upwards)) == (last, first, steps + 1)
