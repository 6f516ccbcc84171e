"""What engine `vllm` does where there is no vLLM: it says so. And its parts that need none."""

from __future__ import annotations

import doctest
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tokenwatt.engines import open_engine, served_command
from tokenwatt.engines.vllm_engine import log, options
from tokenwatt.errors import UserError
from tokenwatt.spec import BenchSpec


@pytest.mark.parametrize("module", [log, options, served_command])
def test_doctests(module):
    found = doctest.testmod(module)
    assert found.attempted > 0
    assert found.failed == 0


def test_without_vllm_the_engine_says_what_to_install(monkeypatch):
    monkeypatch.setattr("tokenwatt.engines.find_spec", lambda name: None)
    spec = BenchSpec(engine="vllm", workloads=("chat",), concurrency=(1,))
    with pytest.raises(UserError, match=r"engine 'vllm' needs vllm; install it with: pip install 'tokenwatt\[vllm\]'"):
        open_engine(spec)


PREFIX = "(Worker pid=12485) ERROR 11-27 00:41:09 [multiproc_executor.py:1063] "


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (f"{PREFIX}Traceback (most recent):\n{PREFIX}    raise KeyError\n{PREFIX}IndexError: far", "IndexError: far"),
        (f"{PREFIX}torch.OutOfMemoryError: no room\n{PREFIX}RuntimeError: see above", "OutOfMemoryError: no room"),
        ("(Worker pid=1) INFO 11-27 00:41:09 [a.py:3] Loading took 3 s", None),
        ("ValueError: bad\n", "ValueError: bad"),
        ("", None),
    ],
)  # fmt: skip
def test_the_first_exception_is_the_cause(text, cause):
    assert log.first_exception(text) == cause


PARENT = """
import subprocess, sys
from tokenwatt.engines.vllm_engine.log import vllm_log
print("before", flush=True)
with vllm_log().takes_processes():
    print("meanwhile", flush=True)
    print("meanwhile", file=sys.stderr, flush=True)
    subprocess.run(["sh", "-c", "echo out of a child; echo err of a child >&2"], check=True)
print("after", flush=True)
text = vllm_log().path.read_text()
assert text == "out of a child\\nerr of a child\\n", text
NAMED
print(vllm_log().path)
"""


@pytest.mark.parametrize("named", [False, True])
def test_processes_write_to_the_log_and_this_one_where_it_did(named):
    code = PARENT.replace("NAMED", "vllm_log().cause()" if named else "")
    ran = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    *said, path = ran.stdout.splitlines()
    assert (said, ran.stderr) == (["before", "meanwhile", "after"], "meanwhile\n")
    # A log that an error has named is left for people.
    assert Path(path).exists() == named
    Path(path).unlink(missing_ok=True)
