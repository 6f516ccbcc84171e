"""The roofline by hand."""

from collections.abc import Callable
from dataclasses import replace

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwatt.architecture import Architecture, LatentAttention, MixtureOfExperts
from tokenwatt.errors import UserError
from tokenwatt.perf_model.limits import add_limits
from tokenwatt.perf_model.roofline import closed_loop_limit, system_limit, throughput_ratio
from tokenwatt.record import EnergyStatus, Measurement, Reason, Status
from tokenwatt.reference.systems import load_system


def _windowed(architecture: Architecture, window: int) -> Architecture:
    return replace(architecture, layers=tuple(replace(layer, window=window) for layer in architecture.layers))


def _mixture(architecture: Architecture) -> Architecture:
    experts = MixtureOfExperts(num_experts=4, top_k=2, intermediate_size=4)
    return replace(architecture, layers=tuple(replace(layer, mlp=experts) for layer in architecture.layers))


def test_tiny_model_by_hand(tiny: Architecture) -> None:
    # Weights: attention 8 * (8 + 2*4) + 8*8 = 192, MLP 3*8*16 = 384, two layers 1152, head 8*10 = 80: 1232 in all.
    # KV: 2 * 2 layers * 4 wide * 2 byte = 32 byte per token.
    # isl 3, osl 4, C 2. Passes: 4 * 1232 * 2 byte = 9856.
    # Read back per request: the steps for tokens 2, 3, 4 read 3, 4, 5 tokens = 12; written 3 + 3 = 6.
    # Two requests: 2 * 18 * 32 byte = 1152.
    # FLOP per request: 6 tokens * 2 * 1152 = 13824; head 4 * 2 * 80 = 640;
    # attention 4 * 2 layers * 8 wide * (1+2+3+4+5+6 = 21) = 1344. Two requests: 2 * 15808 = 31616.
    limit = closed_loop_limit(tiny, "bfloat16", 3, 4, 2, memory_bytes_per_s=11008.0, flop_per_s=31616.0 * 2)
    assert limit.bytes == 9856 + 1152
    assert limit.flop == 31616
    # Memory takes 11008 / 11008 = 1 s, arithmetic 0.5 s; 2 * 4 tokens in 1 s.
    assert limit.bound == "memory"
    assert limit.output_tokens_per_s == pytest.approx(8.0)


def test_the_slower_of_the_two_is_the_bound(tiny: Architecture) -> None:
    # Same cycle; memory 0.5 s, arithmetic 2 s: 8 tokens in 2 s.
    limit = closed_loop_limit(tiny, "bfloat16", 3, 4, 2, memory_bytes_per_s=22016.0, flop_per_s=15808.0)
    assert limit.bound == "compute"
    assert limit.output_tokens_per_s == pytest.approx(4.0)


def test_a_single_output_token_has_no_decode_step(tiny: Architecture) -> None:
    # isl 3, osl 1, C 1: weights once 2464 byte, KV of 3 prompt tokens written 96. FLOP 3*2*1152 + 160 + 4*2*8*6 = 7456.
    limit = closed_loop_limit(tiny, "bfloat16", 3, 1, 1, 1.0, 1.0)
    assert limit.bytes == 2464 + 96
    assert limit.flop == 6912 + 160 + 384


def test_a_windowed_layer_reads_and_multiplies_no_more_than_its_window(tiny: Architecture) -> None:
    # The second layer sees 4 keys. A layer keeps 2 * 4 wide * 2 byte = 16 byte of a token.
    # isl 3, osl 4, C 2. Full: reads 3 + 4 + 5 = 12, writes 6. Window: reads 3 + 3 + 3 = 9, writes 3 + 3 = 6.
    # 9856 byte of weights as above, KV 2 * 16 * (18 + 15) = 1056.
    # Pairs: full 21; window 1 + 2 + 3 + 4 + 4 + 4 = 18; 4 * 8 wide * 39 = 1248. FLOP: 2 * (13824 + 640 + 1248).
    full, windowed = tiny.layers[0], replace(tiny.layers[1], window=4)
    limit = closed_loop_limit(replace(tiny, layers=(full, windowed)), "bfloat16", 3, 4, 2, 1.0, 1.0)
    assert limit.bytes == 9856 + 1056
    assert limit.flop == 31424


def test_a_prompt_longer_than_the_window_is_kept_in_part(tiny: Architecture) -> None:
    # Both layers see 3 keys. isl 5, osl 3, C 1: two steps read 2 tokens each, 2 of the prompt and 2 more are written.
    # Weights 3 * 2464 byte, KV 2 layers * 16 byte * 8 = 256. Pairs of 7 tokens: 1 + 2 + 5 * 3 = 18.
    # FLOP: 7 * 2 * 1152 + 3 * 2 * 80 + 4 * 2 layers * 8 * 18.
    limit = closed_loop_limit(_windowed(tiny, 3), "bfloat16", 5, 3, 1, 1.0, 1.0)
    assert limit.bytes == 7392 + 256
    assert limit.flop == 16128 + 480 + 1152


@given(isl=st.integers(1, 40), osl=st.integers(1, 40), window=st.integers(1, 50))
def test_windowed_sums_are_exact_for_whole_lengths(tiny: Architecture, isl: int, osl: int, window: int) -> None:
    windowed = _windowed(tiny, window)
    # Two layers of 16 byte a token and of 32 FLOP a pair, term by term.
    read = sum(min(isl + token - 2, window - 1) for token in range(2, osl + 1))
    written = min(isl, window - 1) + osl - 1
    pairs = sum(min(query, window) for query in range(1, isl + osl))
    limit = closed_loop_limit(windowed, "bfloat16", isl, osl, 1, 1.0, 1.0)
    assert limit.bytes == osl * 2464 + 32 * (read + written)
    assert limit.flop == 2 * 1152 * (isl + osl - 1) + 160 * osl + 64 * pairs


def test_a_mixture_streams_the_experts_that_the_batch_touches(tiny: Architecture) -> None:
    # Of 4 experts each token takes 2: two tokens touch 4 * (1 - (1/2)^2) = 3. An expert has 3 * 8 * 4 = 96 weights.
    # Always: two layers * (attention 192 + router 8 * 4) + head 80 = 528. A pass: 528 + 2 * 3 * 96 = 1104.
    # isl 3, osl 4, C 2: 4 * 1104 * 2 byte = 8832, KV 1152 as above.
    # FLOP per request: 6 * 2 * (2 * 224 + 2 * 2 * 96 = 832) = 9984, head 640, attention 1344: 2 * 11968.
    mixture = _mixture(tiny)
    limit = closed_loop_limit(mixture, "bfloat16", 3, 4, 2, 1.0, 1.0)
    assert limit.bytes == 8832 + 1152
    assert limit.flop == 23936
    # One token touches its own 2 experts: 528 + 2 * 2 * 96 = 912 weights a pass; KV 18 * 32 = 576.
    assert closed_loop_limit(mixture, "bfloat16", 3, 4, 1, 1.0, 1.0).bytes == 4 * 912 * 2 + 576


def test_a_latent_is_read_once_for_all_heads(tiny: Architecture) -> None:
    # Queries 8 * 2 * (4 + 2) = 96, latent and rotary key 8 * (6 + 2) = 64, expansion 6 * 2 * (4 + 3) = 84,
    # output 2 * 3 * 8 = 48: 292; MLP 384; two layers 1352, head 80: 1432. KV: 2 layers * 8 wide * 2 byte = 32.
    # isl 3, osl 4, C 1: 4 * 1432 * 2 = 11456, KV 18 * 32 = 576.
    # FLOP: 6 * 2 * 1352 = 16224, head 640, a pair 2 * 2 heads * (6 + 3) = 36: 36 * 2 layers * 21 = 1512.
    attention = LatentAttention(
        num_attention_heads=2,
        q_lora_rank=None,
        kv_lora_rank=6,
        qk_nope_head_dim=4,
        qk_rope_head_dim=2,
        v_head_dim=3,
        scale=6**-0.5,
    )
    limit = closed_loop_limit(replace(tiny, attention=attention), "bfloat16", 3, 4, 1, 1.0, 1.0)
    assert limit.bytes == 11456 + 576
    assert limit.flop == 16224 + 640 + 1512


def test_llama_8b_at_batch_one_is_the_weight_stream(llama_8b: Architecture) -> None:
    # Weights that multiply: 32 layers * (4096 * (4096 + 2*1024) + 4096*4096 + 3 * 4096*14336) + 4096*128256
    #   = 32 * 218 103 808 + 525 336 576 = 7 504 658 432; 2 byte each: 15.009 GB a pass.
    # KV: 2 * 32 * 1024 * 2 = 131 072 byte per token; isl 1, osl 2: one token read, two written.
    limit = closed_loop_limit(llama_8b, "bfloat16", 1, 2, 1, 3.35e12, 9.89e14)
    assert limit.bytes == 2 * 15_009_316_864 + 3 * 131_072
    assert limit.bound == "memory"
    # 3.35e12 / 15.009e9 = 223.2 tokens/s.
    assert limit.output_tokens_per_s == pytest.approx(223.19, rel=1e-3)


def test_published_rows_stay_below_the_limit(llama_8b: Architecture) -> None:
    # ML.ENERGY, H100, 8 in flight: 1069.57 token/s; 256 in flight: 9009.61 token/s.
    h100 = load_system("H100 SXM")
    assert system_limit(llama_8b, "bfloat16", 200, 388.7, 8, h100).central > 1069.57
    assert system_limit(llama_8b, "bfloat16", 200, 404.2, 256, h100).central > 9009.61


@given(
    isl=st.floats(1, 1e5),
    osl=st.floats(1, 1e5),
    concurrency=st.integers(1, 4096),
    bandwidth=st.floats(1e9, 1e14),
    rate=st.floats(1e9, 1e17),
)
def test_never_faster_than_its_parts(
    llama_8b: Architecture, isl: float, osl: float, concurrency: int, bandwidth: float, rate: float
) -> None:
    limit = closed_loop_limit(llama_8b, "bfloat16", isl, osl, concurrency, bandwidth, rate)
    # One pass per token, at best shared by all; and 2 FLOP per weight for each token that comes out.
    assert limit.output_tokens_per_s <= concurrency * bandwidth / (2 * llama_8b.matmul_parameters) * (1 + 1e-9)
    assert limit.output_tokens_per_s <= rate / (2 * llama_8b.matmul_parameters) * (1 + 1e-9)
    faster = closed_loop_limit(llama_8b, "bfloat16", isl, osl, concurrency, 2 * bandwidth, 2 * rate)
    assert faster.output_tokens_per_s == pytest.approx(2 * limit.output_tokens_per_s)


@pytest.mark.parametrize("field", ["isl", "osl", "concurrency", "memory_bytes_per_s", "flop_per_s"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_nothing_runs_on_nothing(tiny: Architecture, field: str, value: float) -> None:
    good = {"isl": 1.0, "osl": 1.0, "concurrency": 1.0, "memory_bytes_per_s": 1.0, "flop_per_s": 1.0}
    with pytest.raises(UserError, match=f"{field} must be > 0"):
        closed_loop_limit(tiny, "bfloat16", **(good | {field: value}))


def test_unknown_precision_is_refused(tiny: Architecture) -> None:
    with pytest.raises(UserError, match="no roofline for dtype 'fp4'"):
        closed_loop_limit(tiny, "fp4", 1, 1, 1, 1.0, 1.0)


def test_ratio_of_a_memory_bound_point_is_the_bandwidth_ratio(llama_8b: Architecture) -> None:
    ratio = throughput_ratio(llama_8b, "bfloat16", 200, 400, 8, load_system("H100 SXM"), load_system("H200 SXM"))
    assert ratio.central == pytest.approx(4.8 / 3.35)


def test_ratio_of_a_compute_bound_point_is_the_peak_ratio(llama_8b: Architecture) -> None:
    # Long prompts and few answers: arithmetic decides. B200 2250 over H100 989.
    ratio = throughput_ratio(llama_8b, "bfloat16", 8000, 10, 256, load_system("H100 SXM"), load_system("B200 SXM"))
    assert ratio.central == pytest.approx(2250 / 989)


def test_a_system_is_as_fast_as_itself(llama_8b: Architecture) -> None:
    rubin = load_system("VR NVL72")
    ratio = throughput_ratio(llama_8b, "bfloat16", 200, 400, 8, rubin, rubin)
    assert (ratio.low, ratio.central, ratio.high) == (1.0, 1.0, 1.0)


def test_limit_beside_a_measured_row(
    measurement: Callable[..., Measurement], table: Callable[..., pd.DataFrame], llama_8b: Architecture
) -> None:
    limited = add_limits(table(measurement(gpu_count=2, gpu_uuids=("a", "b"))))
    expected = closed_loop_limit(llama_8b, "bfloat16", 200, 400, 128, 2 * 4.2e12, 2 * 7.0e14)
    row = limited.iloc[0]
    assert row["limit_output_tokens_per_s"] == pytest.approx(expected.output_tokens_per_s)
    assert row["limit_bound"] == expected.bound
    # 300 000 tokens in 30 s are 10 000 token/s.
    assert row["share_of_limit"] == pytest.approx(10_000 / expected.output_tokens_per_s)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"ceiling_flop_per_s": None}, id="ceiling not measured"),
        pytest.param({"model": None, "dtype": None}, id="engine without a model"),
        pytest.param({"model": "a-model-of-nobody"}, id="shape not in the library"),
        pytest.param(
            {
                "status": Status.FAILED,
                "reasons": (Reason.ENGINE_ERROR,),
                "output_tokens": None,
                "window_s": None,
                "isl": None,
                "energy_status": EnergyStatus.NO_METER,
                "gpu_energy_j": None,
            },
            id="failed",
        ),
    ],
)
def test_no_limit_where_there_is_nothing_to_compare(
    measurement: Callable[..., Measurement], table: Callable[..., pd.DataFrame], changes: dict[str, object]
) -> None:
    limited = add_limits(table(measurement(**changes)))
    assert limited[["limit_output_tokens_per_s", "limit_bound", "share_of_limit"]].isna().all(axis=None)


def test_limits_of_no_rows(table: Callable[..., pd.DataFrame]) -> None:
    assert add_limits(table()).empty
