"""`tokenwatt meter --attach URL` around servers that publish what real ones do, and GPUs of another machine."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from threading import Thread

import pytest
from tests.end_to_end.meter_process import Row, meter, row_in, start, undisturbed
from tests.web import Web, serving

from tokenwatt.power import virtual
from tokenwatt.this_machine import is_this_machine


def dcgm(at_s: float) -> str:
    """One remote board that draws 500 W."""
    labels = '{gpu="0",UUID="GPU-remote",modelName="NVIDIA H200",Hostname="far"}'
    return (
        f"# TYPE DCGM_FI_DEV_POWER_USAGE gauge\nDCGM_FI_DEV_POWER_USAGE{labels} 500\n"
        "# TYPE DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION counter\n"
        f"DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{labels} {1e6 + 500e3 * at_s:.0f}\n"
    )


def vllm(at_s: float) -> str:
    """Two replicas that generate 1000 and 500 tokens a second."""
    lines = []
    for name, rates in (("generation", (1000, 500)), ("prompt", (3000, 3000))):
        lines.append(f"# TYPE vllm:{name}_tokens_total counter")
        lines += [f'vllm:{name}_tokens_total{{engine="{n}"}} {int(rate * at_s)}' for n, rate in enumerate(rates)]
    return "\n".join(lines) + "\n"


@pytest.mark.slow
def test_a_gpu_that_is_lost_spoils_the_energy_and_not_the_command(tmp_path, virtual_nvml):
    # The exporter answers the first seconds, and then no more.
    pages = iter([dcgm(0.0)] * 4)
    with serving({"/metrics": lambda: next(pages, "up 0\n")}) as web:
        meter_text = f"dcgm:{web.address}/metrics"
        code, out, err, row = meter(
            tmp_path, "--idle", "0", "--gpu-meter", meter_text, "--", "sh", "-c", "sleep 5; echo on"
        )
    assert (code, out) == (0, "on\n")
    assert (row["status"], row["energy_status"], row["energy_reasons"]) == ("ok", "invalid", ["meter_error"])
    assert row["gpu_energy_j"] is None
    assert "no longer tells power or energy of GPU-remote" in err


def test_sigterm_ends_the_window_around_a_server_early_and_keeps_its_numbers(tmp_path, virtual_nvml):
    # The server's process is on the board; that it is no descendant of the meter's is no doubt.
    board = virtual.Board(processes=(os.getpid(),))
    script = virtual.Script((board,), clock="monotonic", epoch_s=0.0)

    def take() -> Row:
        nonlocal err
        with serving({"/metrics": lambda: vllm(time.monotonic())}) as web:
            process = start(
                tmp_path, "--attach", web.address, "--seconds", "3600", **virtual_nvml.library.environment(script)
            )
            wait_for_the_window(web)
            time.sleep(2.2)
            process.terminate()
            _, err = process.communicate(timeout=20)
            assert process.returncode == 143, err
            assert row_in(tmp_path)["subject"] == web.address
        return row_in(tmp_path)

    err = ""
    row = undisturbed(take)
    # 300 W over 1500 tokens/s. Tokens and joules are between the same two looks, whose distance is known less well.
    assert row["joules_per_output_token"] == pytest.approx(0.2, rel=0.02)
    assert row["input_tokens"] / row["output_tokens"] == pytest.approx(4.0, rel=0.001)
    assert row["output_tokens"] / row["window_s"] == pytest.approx(1500, rel=0.05)
    assert (row["status"], row["exit_code"]) == ("ok", None)
    assert (row["energy_status"], row["energy_reasons"]) == ("valid", [])
    assert re.match(r"ended early by SIGTERM, 2\.\d of 3600 s", row["detail"])
    assert re.search(r"0\.(2|20\d|19\d) J per output token", err)


def wait_for_the_window(web: Web) -> None:
    """Until the page was found, and looked at when the window begins."""
    deadline_s = time.monotonic() + 30
    while len(web.authorizations) < 2:
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


@pytest.mark.slow
def test_a_remote_servers_gpus_are_read_through_dcgm(tmp_path):
    clock = time.monotonic
    with serving({"/metrics": lambda: vllm(clock()), "/dcgm": lambda: dcgm(clock())}) as web:
        arguments = ("--gpu-meter", f"dcgm:{web.address}/dcgm", "--seconds", "6")
        code, _, err, row = meter(tmp_path, "--attach", web.address, *arguments)
    assert code == 0, err
    assert row["gpu_energy_j"] == pytest.approx(500 * row["window_s"], rel=0.02)
    assert (row["gpu_name"], row["gpu_uuids"]) == ("NVIDIA H200", ["GPU-remote"])
    # The exporter's power is an average, and six readings are few.
    assert row["energy_status"] == "suspect"
    assert {"trailing_average", "window_too_short"} <= set(row["energy_reasons"])


Attach = Callable[..., tuple[int, str, Row]]


@pytest.fixture
def attach(tokenwatt, tmp_path) -> Attach:
    """`attach(web, seconds)`: exit code, what was said, and the row."""

    def run(web: Web, seconds: float) -> tuple[int, str, Row]:
        arguments = ("--seconds", str(seconds), "--json", str(tmp_path / "row.json"), "--results", str(tmp_path))
        outcome = tokenwatt("meter", "--attach", web.address, *arguments)
        return outcome.code, outcome.err, row_in(tmp_path)

    return run


@pytest.mark.parametrize(
    ("pages", "columns", "words"),
    [
        ({"/": "hello"}, {"status": "ok", "output_tokens": None}, "no token counters that are"),
        ({"/metrics": "up 1\n"}, {"status": "ok", "output_tokens": None}, "energy only"),
        (
            {"/metrics": "vllm:generation_tokens_total 5\n"},
            {"output_tokens": 0, "reasons": ["too_few_tokens"]},
            "vLLM gen",
        ),
        (
            {"/metrics": "[]", "/prometheus/metrics": "trtllm_generation_tokens_total 5\n"},
            {"output_tokens": 0, "input_tokens": None},
            "TensorRT-LLM generated nothing",
        ),
    ],
    ids=["no page", "no counters", "idle server", "second page"],
)
def test_a_server_without_tokens_gives_energy_only(attach, pages, columns, words):
    with serving(pages) as web:
        code, err, row = attach(web, 0.1)
    assert code == 0, err
    assert {name: row[name] for name in columns} == columns
    assert row["joules_per_output_token"] is None
    assert row["window_s"] == pytest.approx(0.1, abs=0.2)
    assert words in err


def test_a_server_that_starts_anew_in_the_window_gives_a_failed_row(attach):
    pages = iter([vllm(100), vllm(100)])
    with serving({"/metrics": lambda: next(pages, vllm(1))}) as web:
        code, err, row = attach(web, 0.1)
    assert code == 1
    assert (row["status"], row["reasons"], row["output_tokens"]) == ("failed", ["counter_reset"], None)
    assert "the server was started anew" in err


def test_ctrl_c_ends_the_wait_early(attach):
    with serving({"/metrics": lambda: vllm(time.monotonic())}) as web:
        person = Thread(target=lambda: (wait_for_the_window(web), time.sleep(0.2), os.kill(os.getpid(), signal.SIGINT)))
        person.start()
        code, err, row = attach(web, 60.0)
        person.join()
    assert code == 130
    assert (row["status"], row["reasons"]) == ("ok", [])
    assert re.match(r"ended early by SIGINT, 0\.\d of 60 s", row["detail"])
    assert "finished measurements are kept" not in err
    # 6000 prompt tokens for 1500 generated ones; a page is read within the millisecond in which it counts.
    assert row["input_tokens"] / row["output_tokens"] == pytest.approx(4.0, rel=0.02)


def test_a_second_ctrl_c_while_the_server_is_looked_at_gives_a_row_without_numbers(attach):
    pages = iter([vllm(100), vllm(100)])

    def page() -> str:
        if (text := next(pages, None)) is not None:
            return text
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.3)
        return vllm(101)

    with serving({"/metrics": page}) as web:
        code, _, row = attach(web, 0.1)
    assert code == 130
    assert (row["status"], row["reasons"], row["window_s"]) == ("interrupted", ["interrupted"], None)


def test_a_server_that_goes_away_gives_a_failed_row(attach):
    with ExitStack() as stack:
        web = stack.enter_context(serving({"/metrics": lambda: vllm(time.monotonic())}))
        end = Thread(target=lambda: (wait_for_the_window(web), stack.close()))
        end.start()
        code, _, row = attach(web, 1.0)
        end.join()
    assert code == 1
    assert (row["status"], row["reasons"], row["gpu_energy_j"]) == ("failed", ["engine_error"], None)


def test_another_machines_address_is_told_from_our_own():
    assert is_this_machine("http://localhost:8000")
    assert is_this_machine("http://127.0.0.1:8000/metrics")
    assert not is_this_machine("http://192.0.2.7:8000")  # TEST-NET-1, RFC 5737: nobody's
