"""Rows and shapes that the study's tests share. No torch, no GPU, no library of models."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pandas as pd
import pytest

from tokenwatt import metrics
from tokenwatt.architecture import Architecture, DenseMlp, GroupedAttention, Layer, Rotary
from tokenwatt.economics.reference_row import ReferenceRow
from tokenwatt.record import EnergyStatus, Measurement, Status
from tokenwatt.reference.ranges import Range

MakeMeasurement = Callable[..., Measurement]


@pytest.fixture(scope="session")
def tiny() -> Architecture:
    """Two layers, four query heads on two key-value heads of width 2, vocabulary 10."""
    return Architecture(
        name="tiny",
        model_type="llama",
        hidden_size=8,
        vocab_size=10,
        max_position_embeddings=64,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        attention=GroupedAttention(num_attention_heads=4, num_key_value_heads=2, head_dim=2, scale=2**-0.5),
        layers=(Layer(DenseMlp(intermediate_size=16), Rotary(dim=2, theta=10000.0)),) * 2,
    )


@pytest.fixture(scope="session")
def llama_8b() -> Architecture:
    """Llama-3.1-8B without its rope scaling, which costs nothing."""
    return Architecture(
        name="Llama-3.1-8B",
        model_type="llama",
        hidden_size=4096,
        vocab_size=128256,
        max_position_embeddings=131072,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        attention=GroupedAttention(num_attention_heads=32, num_key_value_heads=8, head_dim=128, scale=128**-0.5),
        layers=(Layer(DenseMlp(intermediate_size=14336), Rotary(dim=128, theta=500000.0)),) * 32,
    )


@pytest.fixture(scope="session")
def h100_row() -> ReferenceRow:
    """Llama-3.1-8B on one H100, with round numbers."""
    return ReferenceRow(
        row_id="test-h100",
        system="H100 SXM",
        model="Llama-3.1-8B",
        dtype="bfloat16",
        isl=Range(100.0, 200.0, 300.0),
        osl=400.0,
        concurrency=128,
        gpus=1,
        output_tokens_per_s_per_gpu=7000.0,
        tpot_s=0.016,
        gpu_power_w=660.0,
        source="a test",
    )


@pytest.fixture
def measurement() -> MakeMeasurement:
    """Maker of a good H200 row: 300 000 tokens and 20 000 J in 30 s; name what differs."""

    def make(**changes: Any) -> Measurement:
        values: dict[str, Any] = {
            "device": "cuda",
            "gpu_name": "NVIDIA H200",
            "gpu_count": 1,
            "gpu_uuids": ("GPU-1",),
            "gpu_driver_version": "580.1",
            "cpu_name": "a processor",
            "cpu_count": 16,
            "memory_bytes": 2**37,
            "os_name": "Linux",
            "python_version": "3.11.9",
            "torch_version": "2.13.0",
            "triton_version": "3.9.0",
            "tokenwatt_version": "0.1.0",
            "git_commit": "abc",
            "ceiling_memory_bytes_per_s": 4.2e12,
            "ceiling_flop_per_s": 7.0e14,
            "run_id": "run-a",
            "measurement_id": "run-a/0",
            "point_id": "run-a/p0",
            "measured_at": datetime(2026, 11, 1, tzinfo=UTC),
            "run_began_at": datetime(2026, 11, 1, tzinfo=UTC),
            "status": Status.OK,
            "suite": "gpu",
            "workload": "chat",
            "workload_sha256": "0" * 64,
            "engine": "native",
            "engine_version": "0.1.0",
            "model": "Llama-3.1-8B",
            "weights_source": "random",
            "dtype": "bfloat16",
            "seed": 0,
            "concurrency": 128,
            "isl": 200.0,
            "osl": 400.0,
            "window_start_s": 10.0,
            "window_s": 30.0,
            "is_stable": True,
            "running": 128.0,
            "requests_completed": 700,
            "input_tokens": 140000,
            "output_tokens": 300000,
            "ttft_median_s": 0.1,
            "ttft_p99_s": 0.2,
            "tpot_median_s": 0.0125,
            "tpot_p99_s": 0.02,
            "e2el_median_s": 5.0,
            "energy_status": EnergyStatus.VALID,
            "power_scope": "engine_gpus",
            "gpu_energy_j": 20000.0,
        }
        return Measurement(**(values | changes))

    return make


@pytest.fixture
def table() -> Callable[..., pd.DataFrame]:
    """Measurements as the table that `store.read` returns."""

    def make(*rows: Measurement) -> pd.DataFrame:
        return metrics.derive(pd.DataFrame([row.model_dump() for row in rows], columns=list(Measurement.model_fields)))

    return make
