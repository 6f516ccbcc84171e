"""Sizes that follow from parts, by hand."""

from dataclasses import replace

import pytest

from tokenwatt.architecture import Architecture, DenseMlp, GroupedAttention, LatentAttention, Layer, Rotary
from tokenwatt.architecture import MixtureOfExperts as Experts

ROTARY = Rotary(dim=2, theta=10000.0)
DENSE = Layer(DenseMlp(intermediate_size=16), ROTARY)
GROUPED = GroupedAttention(num_attention_heads=4, num_key_value_heads=2, head_dim=2, scale=2**-0.5)
TINY = Architecture(
    name="tiny",
    model_type="llama",
    hidden_size=8,
    vocab_size=10,
    max_position_embeddings=32,
    rms_norm_eps=1e-6,
    tie_word_embeddings=True,
    attention=GROUPED,
    layers=(DENSE, DENSE),
)


def with_experts(**options):
    """Two layers of 4 experts, 2 for a token, each 4 wide."""
    layer = Layer(Experts(num_experts=4, top_k=2, intermediate_size=4, **options), ROTARY)
    return replace(TINY, layers=(layer, layer))


def test_dense_sizes():
    # q 8, kv 4. Layer: 8x8 + 2x(8x4) + 8x8 = 192, MLP 3x8x16 = 384. Two layers 1152, head 8x10 = 80.
    assert TINY.matmul_parameters == TINY.active_matmul_parameters == 1232
    assert TINY.touched_matmul_parameters(7) == 1232
    # Norms: 2 layers x 2 x 8 + 8 = 40; the tied embedding is the head.
    assert TINY.parameters == 1272
    # K and V, 2 layers, 4 wide, 4 bytes.
    assert TINY.kv_bytes_per_token("float32") == 64
    # One pair: 4 heads x 2 wide, two products, two operations each.
    assert GROUPED.pair_flop == 32


@pytest.mark.parametrize(
    ("options", "more"),
    [
        pytest.param({"has_qkv_bias": True}, 16, id="q 8, k 4, v 4"),
        pytest.param({"has_o_bias": True}, 8, id="hidden 8"),
        pytest.param({"has_qk_norm": True}, 4, id="one norm of 2 for all queries, one for all keys"),
        pytest.param({"has_sinks": True}, 4, id="one for each of 4 heads"),
    ],
)
def test_what_grouped_attention_may_have_beside_its_projections(options, more):
    options_on = replace(TINY, attention=replace(GROUPED, **options))
    # Two layers.
    assert options_on.parameters == 1272 + 2 * more
    assert options_on.matmul_parameters == 1232


def test_an_own_head_and_sandwich_norms():
    # The embedding, 8x10, is counted beside the head; two more norms of 8 in each of two layers.
    assert replace(TINY, tie_word_embeddings=False).parameters == 1272 + 80
    assert replace(TINY, has_sandwich_norms=True).parameters == 1272 + 32


def test_latent_sizes():
    latent = LatentAttention(
        num_attention_heads=2,
        q_lora_rank=5,
        kv_lora_rank=6,
        qk_nope_head_dim=4,
        qk_rope_head_dim=2,
        v_head_dim=3,
        scale=6**-0.5,
    )
    # Queries 8x5 + 5x(2x6) = 100; latent and rotary key 8x(6+2) = 64; expansion 6x2x(4+3) = 84; output 2x3x8 = 48.
    assert latent.matmul_parameters(8) == 296
    # Without the queries' own latent: 8x(2x6) = 96 instead of 100, and its norm of 5 is gone too.
    direct = replace(latent, q_lora_rank=None)
    assert direct.matmul_parameters(8) == 292
    assert (latent.other_parameters(8), direct.other_parameters(8)) == (11, 6)
    # Cache: 6 + 2 elements, 2 layers, 2 bytes. A pair: 2 heads x (6 + 3) x 2.
    assert replace(TINY, attention=latent).kv_bytes_per_token("bfloat16") == 32
    assert latent.pair_flop == 36


def test_expert_sizes():
    mixture = with_experts()
    # Attention 192 and router 8x4 = 32 in two layers, head 80: 528. An expert 3x8x4 = 96; 4 of them in two layers: 768.
    assert mixture.matmul_parameters == 528 + 768
    # Two of four.
    assert mixture.active_matmul_parameters == 528 + 384
    # One token touches its 2; two tokens 4 x (1 - 1/4) = 3; many touch all.
    assert mixture.touched_matmul_parameters(1) == 528 + 384
    assert mixture.touched_matmul_parameters(2) == 528 + 2 * 3 * 96
    assert mixture.touched_matmul_parameters(1000) == pytest.approx(528 + 768)
    # Norms 40.
    assert mixture.parameters == 528 + 768 + 40


def test_what_experts_may_have_beside_their_projections():
    plain = with_experts().parameters
    # In each of two layers: a bias for each of 4 experts' scores.
    assert with_experts(has_correction_bias=True).parameters == plain + 8
    # Router 4; for each expert gate and up 2x4, down 8: 4 + 4 x 16 = 68.
    assert with_experts(has_bias=True).parameters == plain + 136
    # A shared MLP 3x8x5 = 120, which every token goes through.
    shared = with_experts(shared_intermediate_size=5)
    assert shared.parameters == plain + 240
    assert shared.active_matmul_parameters == 528 + 384 + 240


def test_layers_of_two_kinds_are_counted_each_for_itself():
    mixed = replace(TINY, layers=(DENSE, *with_experts().layers[:1]))
    # Attention 2x192, MLP 384, router 32, experts 4x96, head 80.
    assert mixed.matmul_parameters == 384 + 384 + 32 + 384 + 80
