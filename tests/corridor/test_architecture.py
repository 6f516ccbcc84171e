"""Architectures: the shipped facts, hand-computed sizes, and what a bad config.json is told."""

import json

import pytest

from tokenwatt.architecture import load_architecture
from tokenwatt.errors import UserError

# Published parameter counts of the checkpoints (embedding counted once where it is tied).
PARAMETERS = {
    "SmolLM2-135M": 134_515_008,
    "Qwen3-0.6B": 596_049_920,
    "Qwen3-8B": 8_190_735_360,
    "Llama-3.1-8B": 8_030_261_248,
}

TINY = {
    "model_type": "llama",
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 10,
    "max_position_embeddings": 32,
    "tie_word_embeddings": True,
}


def load(tmp_path, **changes):
    config = {key: value for key, value in {**TINY, **changes}.items() if value is not None}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return load_architecture(str(tmp_path))


@pytest.mark.parametrize("name", PARAMETERS)
def test_shipped_models_have_the_published_number_of_parameters(name):
    assert load_architecture(name).parameters == PARAMETERS[name]


def test_sizes_by_hand(tmp_path):
    architecture = load(tmp_path)
    # head_dim 8/4 = 2; q 8, kv 4. Layer: 8x8 + 2x(8x4) + 8x8 = 192, MLP 3x8x16 = 384. Two layers 1152, head 8x10 = 80.
    assert architecture.matmul_parameters == 1232
    # Norms: 2 layers x 2 x 8 + 8 = 40; the tied embedding is the head.
    assert architecture.parameters == 1272
    # K and V, 2 layers, 4 wide, 4 bytes.
    assert architecture.kv_bytes_per_token("float32") == 64
    assert architecture.matmul_bytes("bfloat16") == 2464


def test_both_spellings_of_rope_settings_mean_the_same(tmp_path):
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    older = load(tmp_path, rope_theta=500000.0, rope_scaling=scaling)
    newer = load(tmp_path, rope_parameters={**scaling, "rope_theta": 500000.0})
    assert older == newer
    assert older.rope_theta == 500000.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mamba"}, "model_type 'mamba' is not supported; allowed: llama, qwen3"),
        ({"hidden_size": None}, "hidden_size must be a positive integer, got None"),
        ({"vocab_size": -1}, "vocab_size must be a positive integer, got -1"),
        ({"num_key_value_heads": 3}, "num_attention_heads 4 is not a multiple of num_key_value_heads 3"),
        ({"attention_bias": True}, "attention_bias = true is not supported yet"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu' is not supported; allowed: silu"),
        ({"rms_norm_eps": "x"}, "rms_norm_eps must be a positive number, got 'x'"),
        ({"rope_theta": [1]}, "rope_theta must be a positive number, got [1]"),
        ({"rope_scaling": 7}, "rope settings must be a JSON object, got 7"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "rope_type 'yarn' is not supported"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8}}, "needs a number for low_freq_factor"),
    ],
)
def test_shapes_that_we_do_not_run_are_refused(tmp_path, changes, message):
    with pytest.raises(UserError) as error:
        load(tmp_path, **changes)
    assert message in str(error.value)


def test_missing_models_are_answered(tmp_path):
    with pytest.raises(UserError, match=r"unknown model 'qwen3-8b' \(did you mean 'Qwen3-8B'\?\)"):
        load_architecture("qwen3-8b")
    with pytest.raises(UserError, match="no such model folder: absent/model"):
        load_architecture("absent/model")
    with pytest.raises(UserError, match="has no config.json"):
        load_architecture(str(tmp_path))
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match="cannot be read as JSON"):
        load_architecture(str(tmp_path))
    (tmp_path / "config.json").write_text("[1]", encoding="utf-8")
    with pytest.raises(UserError, match="must hold a JSON object, got list"):
        load_architecture(str(tmp_path))
