"""`tokenwatt meter --attach URL` around servers that publish what real ones do, and GPUs of another machine."""

from __future__ import annotations

import re
import signal
import time

import pytest
from tests.end_to_end.meter_process import meter, row_in, start
from tests.web import serving

from tokenwatt.metering.server import is_this_machine


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


def test_joules_per_token_of_a_running_server(tmp_path, virtual_nvml):
    with serving({"/metrics": lambda: vllm(time.monotonic())}) as web:
        code, out, err, row = meter(tmp_path, "--attach", web.address, "--seconds", "3", machine=virtual_nvml)
    assert (code, out) == (0, ""), err
    # 300 W over 1500 tokens/s; tokens and joules between the same two looks.
    assert row["output_tokens"] / row["window_s"] == pytest.approx(1500, rel=0.005)
    assert row["input_tokens"] / row["window_s"] == pytest.approx(6000, rel=0.005)
    assert row["joules_per_output_token"] == pytest.approx(0.2, rel=0.02)
    assert (row["subject"], row["exit_code"], row["energy_status"]) == (web.address, None, "valid")
    assert re.search(r"0\.(2|20\d|19\d) J per output token", err)


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


@pytest.mark.parametrize(
    ("pages", "columns", "words"),
    [
        (
            {"/": "hello"},
            {"status": "ok", "output_tokens": None, "energy_status": "valid"},
            "no token counters that are",
        ),
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
def test_a_server_without_tokens_gives_energy_only(tmp_path, virtual_nvml, pages, columns, words):
    with serving(pages) as web:
        arguments = ("--attach", web.address, "--seconds", "2.1")
        code, _, err, row = meter(tmp_path, *arguments, machine=virtual_nvml)
    assert code == 0, err
    assert {name: row[name] for name in columns} == columns
    assert row["gpu_energy_j"] == pytest.approx(300 * row["window_s"], rel=0.03)
    assert row["joules_per_output_token"] is None
    assert words in err


def test_a_server_that_starts_anew_in_the_window_gives_a_failed_row(tmp_path):
    pages = iter([vllm(100), vllm(100)])
    with serving({"/metrics": lambda: next(pages, vllm(1))}) as web:
        code, _, err, row = meter(tmp_path, "--attach", web.address, "--seconds", "1")
    assert code == 1
    assert (row["status"], row["reasons"], row["output_tokens"]) == ("failed", ["counter_reset"], None)
    assert "the server was started anew" in err


def test_ctrl_c_ends_the_wait_with_a_row_without_numbers(tmp_path):
    with serving({"/metrics": lambda: vllm(time.monotonic())}) as web:
        process = start(tmp_path, "--attach", web.address, "--seconds", "60")
        while len(web.authorizations) < 2:  # found, and looked at when the window begins
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
    assert process.returncode == 130
    row = row_in(tmp_path)
    assert (row["status"], row["reasons"], row["window_s"]) == ("interrupted", ["interrupted"], None)


def test_a_server_that_goes_away_gives_a_failed_row(tmp_path):
    with serving({"/metrics": lambda: vllm(time.monotonic())}) as web:
        process = start(tmp_path, "--attach", web.address, "--seconds", "2")
        while len(web.authorizations) < 2:
            time.sleep(0.05)
    process.communicate(timeout=20)
    assert process.returncode == 1
    row = row_in(tmp_path)
    assert (row["status"], row["reasons"], row["gpu_energy_j"]) == ("failed", ["engine_error"], None)


def test_another_machines_address_is_told_from_our_own():
    assert is_this_machine("http://localhost:8000")
    assert is_this_machine("http://127.0.0.1:8000/metrics")
    assert not is_this_machine("http://192.0.2.7:8000")  # TEST-NET-1, RFC 5737: nobody's
