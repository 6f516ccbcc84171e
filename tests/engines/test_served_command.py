"""A server started by a command: real processes, well-behaved and not."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
import urllib.request
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tokenwatt.engines import served_command
from tokenwatt.engines.served_command import ServedCommand
from tokenwatt.errors import EngineError, UserError

SERVER = """
import http.server, os, signal, subprocess, sys

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(STATUS)
        self.end_headers()

print("serving", flush=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def served(folder: Path, port: int, script: str, timeout_s: float = 30.0, grace_s: float = 10.0) -> ServedCommand:
    """A server that runs `script`, which finds its port in its arguments."""
    (folder / "server.py").write_text(textwrap.dedent(script))
    command = [sys.executable, str(folder / "server.py"), str(port)]
    return ServedCommand(command, f"http://127.0.0.1:{port}/health", timeout_s, folder / "server.log", grace_s)


def good(begin: str = "", status: int = 200) -> str:
    """A server that does `begin` first, and then answers every GET with `status`."""
    return SERVER.replace("STATUS", str(status)).replace('print("serving"', f'{begin}\nprint("serving"')


def is_alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def pid_in(path: Path) -> int:
    """The number that a child writes into a file."""
    end_s = time.monotonic() + 30.0
    while not (path.exists() and path.read_text().endswith("\n")):
        assert time.monotonic() < end_s, f"nobody has written {path}"
        time.sleep(0.01)
    return int(path.read_text())


def test_it_serves_between_start_and_stop(tmp_path, port):
    server = served(tmp_path, port, good())
    server.start()
    with urllib.request.urlopen(server.health_url) as answer:
        assert answer.status == 200
    server.check()
    server.stop()
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(server.health_url)
    assert "serving" in server.log.read_text()
    assert not server.is_log_named


def test_it_may_be_stopped_twice_and_started_again(tmp_path, port):
    server = served(tmp_path, port, good())
    for _ in range(2):
        server.start()
        server.stop()
        server.stop()
    with pytest.raises(EngineError, match=r"does not run; call start\(\) first"):
        server.check()


def test_a_server_that_dies_while_it_starts_is_named_with_its_last_lines(tmp_path, port):
    server = served(tmp_path, port, "import sys\nprint('no weights here')\nsys.exit(3)")
    with pytest.raises(
        EngineError, match=r"has ended \(exit code 3\); its log .*server.log ends with: no weights here"
    ):
        server.start()


def test_a_server_that_dies_later_is_seen_by_check(tmp_path, port):
    with served(tmp_path, port, good(begin="open('pid', 'w').write(f'{os.getpid()}\\n')")) as server:
        pid = pid_in(Path("pid"))
        os.kill(pid, signal.SIGKILL)
        while is_alive(pid):
            time.sleep(0.01)
        with pytest.raises(EngineError, match=r"has ended \(SIGKILL\)"):
            server.check()


@pytest.mark.parametrize(
    ("script", "why"),
    [(good(status=503), "HTTP 503"), ("import time\ntime.sleep(60)", "ConnectionRefusedError: .* refused")],
    ids=["503", "no port"],
)
def test_a_server_that_is_never_healthy_is_stopped_when_its_time_is_up(tmp_path, port, script, why):
    server = served(tmp_path, port, "import os\nopen('pid', 'w').write(f'{os.getpid()}\\n')\n" + script, timeout_s=3.0)
    with pytest.raises(
        EngineError, match=rf"is not healthy after 3 s: http://127.0.0.1:\d+/health does not answer 200 \({why}\); its"
    ):
        server.start()
    assert server.is_log_named
    assert not is_alive(pid_in(Path("pid")))


def test_a_server_that_ignores_sigterm_is_killed(tmp_path, port):
    script = good(begin="open('pid', 'w').write(f'{os.getpid()}\\n'); signal.signal(signal.SIGTERM, signal.SIG_IGN)")
    server = served(tmp_path, port, script, grace_s=0.5)
    server.start()
    server.stop()
    assert not is_alive(pid_in(Path("pid")))


def test_a_signal_as_it_begins_to_stop_leaves_nobody_behind(tmp_path, port, monkeypatch):
    server = served(tmp_path, port, good(begin="open('pid', 'w').write(f'{os.getpid()}\\n')"))
    server.start()

    def interrupted() -> NoReturn:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(served_command, "undisturbed", interrupted)
        with pytest.raises(KeyboardInterrupt):
            server.stop()
    server.stop()  # as at the interpreter's exit
    assert not is_alive(pid_in(Path("pid")))


def test_a_signal_as_it_is_started_leaves_nobody_behind(tmp_path, port, monkeypatch):
    server = served(tmp_path, port, good())
    begun = []
    popen = subprocess.Popen

    def interrupted(*arguments: Any, **settings: Any) -> Any:
        begun.append(popen(*arguments, **settings))
        signal.raise_signal(signal.SIGINT)
        return begun[0]

    monkeypatch.setattr(subprocess, "Popen", interrupted)
    with pytest.raises(KeyboardInterrupt):
        server.start()
    assert not is_alive(begun[0].pid)


CHILD = """
child = subprocess.Popen(["sleep", "60"])
open("child", "w").write(str(child.pid) + chr(10))
"""


def test_children_are_stopped_too(tmp_path, port):
    server = served(tmp_path, port, good(begin=CHILD))
    server.start()
    child = pid_in(Path("child"))
    server.stop()
    assert not is_alive(child)


def test_children_of_a_server_that_died_are_stopped_too(tmp_path, port):
    server = served(tmp_path, port, f"import subprocess, sys\n{CHILD}\nsys.exit(1)")
    with pytest.raises(EngineError, match="exit code 1"):
        server.start()
    assert not is_alive(pid_in(Path("child")))


def test_a_port_that_is_taken_is_refused_before_anything_is_started(tmp_path, port):
    with served(tmp_path, port, good()):
        other = ServedCommand(["sleep", "60"], f"http://127.0.0.1:{port}/", 1.0, tmp_path / "other.log")
        with pytest.raises(EngineError, match="answers before server 'sleep 60' was started"):
            other.start()
        assert not other.log.exists()


def test_an_unknown_program_is_wrong_input(tmp_path, port):
    with pytest.raises(UserError, match="no program 'no-such-server'"):
        ServedCommand(["no-such-server"], f"http://127.0.0.1:{port}/", 1.0, tmp_path / "log").start()


OWNER = """
import sys
from pathlib import Path
from tokenwatt.engines.served_command import ServedCommand
from tokenwatt.orderly_end import ends_orderly
server = ServedCommand(sys.argv[2:], f"http://127.0.0.1:{sys.argv[1]}/", 30.0, Path("server.log"))
END
"""
AT_EXIT = "server.start()"
AT_A_SIGNAL = "import time\nwith ends_orderly(), server:\n    print('up', flush=True)\n    time.sleep(60)"


@pytest.mark.parametrize(("end", "number"), [(AT_EXIT, None), (AT_A_SIGNAL, signal.SIGTERM)], ids=["exit", "SIGTERM"])
def test_it_ends_with_its_owner(tmp_path, port, end, number):
    server = served(tmp_path, port, good(begin="open('pid', 'w').write(f'{os.getpid()}\\n')"))
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER.replace("END", end), str(port), *server.command], stdout=subprocess.PIPE
    )
    with owner:
        if number is not None:
            assert owner.stdout is not None
            assert owner.stdout.readline() == b"up\n"
            owner.send_signal(number)
    assert not is_alive(pid_in(Path("pid")))
