"""`tokenwatt meter -- COMMAND` around real commands, on virtual boards of known power."""

from __future__ import annotations

import math
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.end_to_end.meter_process import Row, meter, row_in, start, undisturbed

from tokenwatt import store
from tokenwatt.metering import session
from tokenwatt.power import Energy
from tokenwatt.record import MeteredRun, PowerRecord


def test_joules_of_a_command_on_the_two_boards_that_it_sees(tmp_path, virtual_nvml):
    boards = replace(virtual_nvml, gpus=3, base_w=300.0, amplitude_w=100.0, period_s=0.25)
    chosen = {"CUDA_VISIBLE_DEVICES": "0,1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}

    def take() -> Row:
        nonlocal err
        code, out, err, row = meter(tmp_path, "--idle", "1.2", "--", "sleep", "2.2", machine=boards, **chosen)
        assert (code, out) == (0, ""), err
        return row

    err = ""
    row = undisturbed(take)
    # Board 0 draws 300 W and board 1 twice that; the sine leaves at most 300 W * 0.25 s / pi = 24 J of 2000.
    seconds = row["window_s"]
    assert seconds == pytest.approx(2.2, abs=0.2)
    assert row["gpu_energy_j"] == pytest.approx(900 * seconds, rel=0.02)
    assert row["gpu_energy_by_gpu_j"] == pytest.approx([300 * seconds, 600 * seconds], rel=0.03)
    assert row["gpu_power_w"] == pytest.approx(900, rel=0.02)
    assert row["gpu_power_peak_w"] == pytest.approx(1200, rel=0.02)  # 3 x (300 + 100)
    assert row["gpu_idle_power_w"] == pytest.approx(900, rel=0.05)
    assert (row["energy_status"], row["power_scope"]) == ("valid", "engine_gpus")
    assert row["gpu_uuids"] == [boards.uuid(0), boards.uuid(1)]
    assert (row["status"], row["exit_code"], row["subject"]) == ("ok", 0, "sleep 2.2")
    assert "exit code 0; energy valid" in err
    assert boards.uuid(1) in err
    table = store.read(tmp_path / "raw", MeteredRun).to_dict("records")[-1]
    assert table["measurement_id"] == row["measurement_id"]
    assert table["gpu_energy_j"] == row["gpu_energy_j"]
    assert set(store.read(tmp_path / "raw", PowerRecord)["source"]) >= set(row["gpu_uuids"])


def test_a_command_keeps_its_streams_and_its_exit_code(tmp_path):
    script = "cat; echo told >&2; exit 7"
    code, out, err, row = meter(tmp_path, "--idle", "0", "--", "sh", "-c", script, stdin="from stdin\n")
    assert (code, out) == (7, "from stdin\n")
    assert err.startswith("told\n")
    assert "exit code 7; energy no_meter" in err
    assert (row["status"], row["exit_code"], row["energy_status"]) == ("ok", 7, "no_meter")


def test_options_behind_the_command_are_its_own(tmp_path, tokenwatt):
    outcome = tokenwatt("meter", "--idle", "0", "--results", str(tmp_path), "echo", "--json", "-x")
    assert (outcome.code, outcome.out) == (0, "--json -x\n")
    assert store.read(tmp_path, MeteredRun)["subject"].tolist() == ["echo --json -x"]


def test_signals_go_to_the_command_and_all_that_it_started(tmp_path):
    codes = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGHUP: 129}
    processes = {}
    for number in codes:
        (tmp_path / number.name).mkdir()
        # It is the child that says ready: dash loses a SIGINT that comes while it starts one.
        script = "(echo ready; exec sleep 60); true"
        processes[number] = start(tmp_path / number.name, "--idle", "0", "--", "sh", "-c", script)
    for number, process in processes.items():
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
    for number, process in processes.items():
        process.communicate(timeout=20)  # until stdout is closed: by the shell, and by its child
        assert process.returncode == codes[number]
        assert row_in(tmp_path / number.name)["exit_code"] == -number


def test_an_argument_that_is_no_utf_8_is_kept_as_an_escape(tmp_path, tokenwatt):
    outcome = tokenwatt("meter", "--idle", "0", "--results", str(tmp_path), "--", "sh", "-c", "true é \udcff")
    assert outcome.code == 0, outcome.err
    assert store.read(tmp_path, MeteredRun)["subject"].tolist() == ["sh -c 'true é \\xff'"]


def test_an_exit_code_of_130_that_is_the_commands_own_is_passed_on_unsaid(tmp_path, tokenwatt):
    outcome = tokenwatt("meter", "--idle", "0", "--results", str(tmp_path), "--", "sh", "-c", "exit 130")
    assert outcome.code == 130
    assert "interrupted" not in outcome.err


def test_sigterm_before_the_command_is_said(tmp_path, tokenwatt, monkeypatch):
    monkeypatch.setattr(session, "_lead_in", lambda *_: signal.raise_signal(signal.SIGTERM))
    outcome = tokenwatt("meter", "--results", str(tmp_path), "--", "echo", "on")
    assert (outcome.code, outcome.out) == (143, "")
    assert "ended by SIGTERM; nothing was metered" in outcome.err


def test_a_second_ctrl_c_after_the_command_cuts_the_margin_and_not_the_row(tmp_path, tokenwatt, monkeypatch):
    waits = iter([lambda: None, lambda: signal.raise_signal(signal.SIGINT)])
    monkeypatch.setattr(session._Boards, "wait_out", lambda *_: next(waits)())
    outcome = tokenwatt("meter", "--results", str(tmp_path), "--", "sh", "-c", "exit 3")
    assert outcome.code == 3
    assert store.read(tmp_path, MeteredRun)["exit_code"].tolist() == [3]


def test_a_signal_while_the_row_is_made_waits_until_it_is_written(tmp_path, tokenwatt, monkeypatch):
    compute = session.energy_columns

    def interrupted(energy: Energy) -> dict[str, Any]:
        signal.raise_signal(signal.SIGTERM)
        return compute(energy)

    monkeypatch.setattr(session, "energy_columns", interrupted)
    outcome = tokenwatt("meter", "--idle", "0", "--results", str(tmp_path), "--", "sh", "-c", "exit 3")
    assert outcome.code == 3
    assert "written to" in outcome.err
    (row,) = store.read(tmp_path, MeteredRun).to_dict("records")
    assert (row["status"], row["exit_code"]) == ("ok", 3)


def test_a_command_may_end_in_its_own_way_when_interrupted(tmp_path, tokenwatt):
    # The command itself interrupts the meter, its parent.
    script = 'trap "echo bye; exit 5" INT; kill -INT $PPID; while :; do sleep 0.05; done'
    outcome = tokenwatt("meter", "--idle", "0", "--results", str(tmp_path), "--", "sh", "-c", script)
    assert (outcome.code, outcome.out) == (5, "bye\n")


SHELL = """
import fcntl, os, signal, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGTTOU, signal.SIG_IGN)

ready, go = os.pipe()
job = os.fork()
if job == 0:
    os.setpgid(0, 0)
    os.close(go)
    os.read(ready, 1)
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    if sys.argv[2] == "null":
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.execv(sys.executable, [sys.executable, "-m", "tokenwatt", "meter", "--idle", "0", "--", "sh", "-c", sys.argv[1]])
os.setpgid(job, job)
os.tcsetpgrp(0, job)
os.close(go)
while True:
    _, status = os.waitpid(job, os.WUNTRACED)
    if not os.WIFSTOPPED(status):
        sys.exit(os.waitstatus_to_exitcode(status))
    print("stopped" if os.tcgetpgrp(0) == job else "without its terminal", flush=True)
    os.tcsetpgrp(0, os.getpgrp())
    os.tcsetpgrp(0, job)
    os.killpg(job, signal.SIGCONT)
"""
"""A shell's job control: a session with a terminal, and one job in a process group of its own, in the foreground."""


class Terminal:
    """`meter -- sh -c SCRIPT` as the foreground job of a shell, and the person at its terminal."""

    def __init__(self, folder: Path, script: str, stdin: str = "terminal") -> None:
        self._keyboard, screen = pty.openpty()
        command = [sys.executable, "-c", SHELL, script, stdin]
        self._shell = subprocess.Popen(
            command, cwd=folder, stdin=screen, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        os.close(screen)

    def type(self, keys: bytes) -> None:
        os.write(self._keyboard, keys)

    def line(self) -> str:
        """The next line of the command, or of the shell."""
        assert self._shell.stdout is not None
        return self._shell.stdout.readline()

    def end(self) -> int:
        """Wait for it; exit code."""
        self._shell.communicate(timeout=20)
        os.close(self._keyboard)
        return self._shell.returncode


def test_a_command_reads_from_the_terminal_and_hears_ctrl_c_whatever_its_stdin_is(tmp_path):
    terminal = Terminal(tmp_path, "exec 3</dev/tty; read word <&3; echo got $word; read word <&3", stdin="null")
    terminal.type(b"hello\n")
    assert terminal.line() == "got hello\n"
    terminal.type(b"\x03")  # the terminal sends SIGINT to the foreground group, which is the command's
    assert terminal.end() == 130


def test_ctrl_z_gives_the_shell_its_terminal_and_fg_gives_it_back(tmp_path):
    terminal = Terminal(tmp_path, "echo ready; read word; echo got $word; read word")
    assert terminal.line() == "ready\n"
    terminal.type(b"\x1a")
    assert terminal.line() == "stopped\n"
    terminal.type(b"hello\n")
    assert terminal.line() == "got hello\n"
    terminal.type(b"\x03")
    assert terminal.end() == 130


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "needs either a command, as in `tokenwatt meter -- sleep 5`, or --attach URL"),
        (("--", "no-such-program"), "no program 'no-such-program' that can be run"),
        (("--seconds", "5", "--", "true"), "--seconds goes with --attach"),
        (("--attach", "http://localhost:1", "--idle", "2"), "--idle goes with a command; around a running server no"),
        (("--idle", "-1", "--", "true"), "--idle must be 0 to 3600 seconds, got -1"),
        (("--node-meter", "ipmy", "--", "true"), "unknown node meter 'ipmy' (did you mean 'ipmi'?)"),
        (("--node-meter", "", "--", "true"), "unknown node meter ''"),
        (("--json", ".", "--", "true"), "--json needs a file, and . is a folder"),
        (("--json", "/proc/version/row.json", "--", "true"), "/proc/version is no folder in which files can be made"),
        (("--gpu-meter", "ipmi", "--", "true"), "it reads a machine, not its GPUs; known: dcgm"),
        (("--gpu", "GPU-7", "--", "true"), "--gpu names GPU-7, and there is no NVML here"),
        (("--attach", "localhost:8000"), "--attach needs an address like http://localhost:8000, got 'localhost:8000'"),
        (("--attach", "http://127.0.0.1:9"), "no server to meter: http://127.0.0.1:9/metrics does not answer"),
        (("--attach", "http://127.0.0.1:9", "--seconds", "0"), "--seconds must be > 0"),
    ],
)
def test_wrong_input_is_one_line(tokenwatt, tmp_path, arguments, message):
    outcome = tokenwatt("meter", "--results", str(tmp_path / "raw"), *arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
    assert not (tmp_path / "raw").exists()


def test_a_broken_executable_is_one_line(tokenwatt, tmp_path):
    (tmp_path / "broken").write_bytes(b"\x00\x01")
    (tmp_path / "broken").chmod(0o755)
    outcome = tokenwatt("meter", "--idle", "0", "--results", str(tmp_path / "raw"), "--", str(tmp_path / "broken"))
    assert outcome.code == 2
    assert "cannot be started (Exec format error)" in outcome.err


def test_the_node_by_a_meter_that_writes_a_file(tmp_path):
    # A logger of its own, as a rack has it: 400 W, ten rows a second, by its own UTC clock.
    path, over = tmp_path / "rack.csv", threading.Event()

    def write() -> None:
        with path.open("w") as file:
            file.write("timestamp,power_w\n")
            while not over.wait(0.1):
                file.write(f"{datetime.now(UTC).isoformat()},400\n")
                file.flush()

    logger = threading.Thread(target=write)
    logger.start()
    time.sleep(0.5)
    code, _, err, row = meter(tmp_path, "--idle", "0", "--node-meter", "csv:rack.csv", "--", "sleep", "1.2")
    over.set()
    logger.join()
    assert code == 0, err
    assert (row["node_meter"], row["node_energy_status"]) == ("csv:rack.csv", "valid")
    assert row["node_energy_j"] == pytest.approx(400 * row["window_s"], rel=1e-3)
    assert "node, csv:rack.csv" in err


def test_a_file_in_the_wrong_zone_gives_no_node_energy_but_the_request_that_would(tmp_path, tokenwatt):
    moment = datetime.now(UTC) + timedelta(hours=1)
    rows = [f"{(moment + timedelta(seconds=s)).isoformat()},400" for s in range(-60, 60)]
    (tmp_path / "rack.csv").write_text("\n".join(["timestamp,power_w", *rows]) + "\n")
    outcome = tokenwatt(
        *("meter", "--idle", "0", "--results", str(tmp_path), "--node-meter", f"csv:{tmp_path}/rack.csv", "--", "true")
    )
    assert outcome.code == 0, outcome.err
    (row,) = store.read(tmp_path, MeteredRun).to_dict("records")
    assert row["node_energy_status"] == "invalid"
    assert math.isnan(row["node_energy_j"])
    assert list(row["node_energy_reasons"]) == ["clocks_apart"]
