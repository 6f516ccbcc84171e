"""InferenceX aggregates as rows: files written by hand after its sources."""

from __future__ import annotations

import pytest
from tests.imports.speeds import input_tokens_per_s, output_tokens_per_s

from tokenwatt import imports
from tokenwatt.errors import UserError
from tokenwatt.record import EnergyStatus, Reason

POWER, DISAGGREGATED = "inferencex_power.json", "inferencex_disaggregated.json"


def test_joules_watts_and_joules_per_token_give_window_and_tokens(files):
    row = imports.read(files / POWER).measurements[0]
    # 100 kJ at 1 kW are 100 s; 100,000 / 0.3125 = 320,000 tokens; / 0.357143 = 280,000; / 312.5 = 320 requests.
    assert row.window_s == 100.0
    assert (row.output_tokens, row.input_tokens, row.requests_completed) == (320_000, 280_000, 320)
    # The same rate as the file's: 1,600 tokens/s and GPU on two GPUs.
    assert output_tokens_per_s(row) == pytest.approx(2 * 1600.0)
    assert (row.isl, row.osl) == (875.0, 1000.0)
    assert (row.gpu_name, row.gpu_count, row.tp, row.engine, row.quantization) == ("h200", 2, 2, "vllm", "fp4")
    assert (row.load, row.concurrency) == ("closed", 64)


def test_its_energy_is_doubted_because_its_readings_are_elsewhere(files):
    valid, invalid = imports.read(files / POWER).measurements
    assert (valid.energy_status, valid.energy_reasons) == (EnergyStatus.SUSPECT, (Reason.IMPORTED,))
    assert (valid.gpu_energy_j, valid.power_scope) == (100_000.0, "engine_gpus")
    assert (invalid.energy_status, invalid.gpu_energy_j) == (EnergyStatus.INVALID, None)


def test_latencies_are_in_seconds_already(files):
    row = imports.read(files / POWER).measurements[0]
    assert (row.ttft_median_s, row.ttft_p99_s, row.tpot_median_s, row.e2el_mean_s) == (0.2, 0.6, 0.0192, 18.4)
    assert row.ttft_p90_s is None


def test_rates_alone_stand_on_a_nominal_window(files):
    row = imports.read(files / POWER).measurements[1]
    # 250 tokens/s and GPU on two GPUs, of 500 in all: 500 of either kind a second for the nominal 1,000 s.
    assert (row.window_s, row.output_tokens, row.input_tokens) == (1000.0, 500_000, 500_000)
    assert row.requests_completed is None
    assert any("window_s, input_tokens and output_tokens are nominal" in loss for loss in row.import_losses)


def test_output_of_separate_decoding_gpus_is_counted_per_decoding_gpu(files):
    (row,) = imports.read(files / DISAGGREGATED).measurements
    # 8 x 1,500 = 12,000 generated of 28 x 4,000 = 112,000 tokens/s; the rest, 100,000, is 20 x 5,000.
    assert output_tokens_per_s(row) == 12_000
    assert input_tokens_per_s(row) == 100_000
    assert (row.gpu_count, row.tp) == (28, None)
    assert any("speculative decoding 'mtp' has no column" in loss for loss in row.import_losses)


def test_all_tokens_may_be_generated_ones(changed):
    row = imports.read(changed(POWER, lambda d: d[1].update(output_tput_per_gpu=500.0))).measurements[1]
    assert (row.output_tokens, row.input_tokens) == (1_000_000, 0)


def test_a_plain_mean_of_watts_is_no_energy(changed):
    def make_old(document):
        for key in ("power_valid", "avg_total_gpu_power_w", "total_gpu_energy_j"):
            document[0].pop(key)

    row = imports.read(changed(POWER, make_old)).measurements[0]
    assert (row.energy_status, row.gpu_energy_j) == (EnergyStatus.NO_METER, None)
    assert any("500 W per GPU is a plain mean" in loss for loss in row.import_losses)


@pytest.mark.parametrize(
    ("do", "message"),
    [
        (lambda d: d[1].pop("framework"), r"\$\[1\]\.framework: is missing"),
        (lambda d: d[0].update(median_ttft="0.2"), r"\$\[0\]\.median_ttft: found '0.2', expected a valid number"),
        (lambda d: d[0].update(median_ttft=-1.0), r"\$\[0\]\.median_ttft: found -1\.0, expected greater than or equal"),
        (
            lambda d: d[1].update(output_tput_per_gpu=501.0),
            r"\$\[1\]\.output_tput_per_gpu: found 501, which are 1002 tokens/s in all, expected at most 1000, those of",
        ),
        (lambda d: d[0].update(conc=0), r"\$\[0\]\.conc: found 0, expected greater than 0"),
        (lambda d: d[1].pop("tp"), r"\$\[1\]\.tp: is missing, and so are num_prefill_gpu and num_decode_gpu"),
    ],
)
def test_what_is_wrong_is_one_line_with_its_place(changed, do, message):
    with pytest.raises(UserError, match=message):
        imports.read(changed(POWER, do))
