"""Model configs: the shipped facts, every family as transformers writes it, and what a bad config.json is told."""

import json
import math
from dataclasses import replace

import pytest

from tokenwatt.architecture import (
    DenseMlp,
    GroupedAttention,
    LatentAttention,
    Layer,
    LinearScaling,
    Llama3Scaling,
    MixtureOfExperts,
    Rotary,
    YarnScaling,
)
from tokenwatt.errors import UserError
from tokenwatt.model_config import SUPPORTED_MODEL_TYPES, load_architecture
from tokenwatt.workloads import library_folder

# Published parameter counts of the checkpoints (embedding counted once where it is tied).
PARAMETERS = {
    "SmolLM2-135M": 134_515_008,
    "Qwen3-0.6B": 596_049_920,
    "Qwen3-8B": 8_190_735_360,
    "Llama-3.1-8B": 8_030_261_248,
    "Llama-2-7B": 6_738_415_616,
    "Qwen2.5-7B": 7_615_616_512,
    "Mistral-7B-v0.1": 7_241_732_096,
    "Gemma-3-1B": 999_885_952,
    "Mixtral-8x7B": 46_702_792_704,
    "Qwen3-30B-A3B": 30_532_122_624,
    "gpt-oss-20b": 20_914_757_184,
    # Without the module that predicts further tokens; with 256 correction biases in each of 58 layers.
    "DeepSeek-V3": 671_026_404_352 + 58 * 256,
}

TINY = {
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 10,
    "max_position_embeddings": 32,
}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 4}
LATENT = {
    "q_lora_rank": None,
    "kv_lora_rank": 6,
    "qk_nope_head_dim": 4,
    "qk_rope_head_dim": 2,
    "v_head_dim": 3,
    "n_routed_experts": 16,
    "n_shared_experts": 2,
    "first_k_dense_replace": 1,
}
# What each family's config must say; everything else has a default.
LEAST = {
    "llama": TINY,
    "qwen2": TINY,
    "qwen3": TINY | {"head_dim": 4},
    "mistral": TINY,
    "gemma3_text": TINY | {"head_dim": 4},
    "mixtral": TINY | {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": TINY | EXPERTS | {"num_experts": 4},
    "gpt_oss": TINY | {"head_dim": 4, "num_local_experts": 4, "num_experts_per_tok": 2},
    "deepseek_v3": TINY | EXPERTS | LATENT,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
YARN = {"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096}
# What YaRN multiplies cos and sin with where contexts grow 32-fold: 1.3466.
GROWN_32 = 1 + 0.1 * math.log(32)
FULL, SLIDING = "full_attention", "sliding_attention"


def write(tmp_path, config):
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return load_architecture(str(tmp_path))


def load(tmp_path, model_type="llama", /, without=(), **changes):
    config = {"model_type": model_type, **LEAST[model_type], **changes}
    return write(tmp_path, {key: value for key, value in config.items() if key not in without})


def saved(tmp_path, name, **values):
    """What we read of the config.json that transformers writes."""
    transformers = pytest.importorskip("transformers")
    getattr(transformers, name)(**values).save_pretrained(tmp_path)
    return load_architecture(str(tmp_path))


def windows(architecture):
    return [layer.window for layer in architecture.layers]


def rotary(architecture):
    """The one of all layers."""
    (found,) = {layer.rotary for layer in architecture.layers}
    return found


@pytest.mark.parametrize("name", PARAMETERS)
def test_shipped_models_have_the_published_number_of_parameters(name):
    assert load_architecture(name).parameters == PARAMETERS[name]


def test_every_shipped_model_has_its_number_checked_and_every_family_a_model():
    shipped = {path.parent.name for path in (library_folder() / "models").glob("*/config.json")}
    assert shipped == set(PARAMETERS)
    assert {load_architecture(name).model_type for name in shipped} == set(SUPPORTED_MODEL_TYPES)


@pytest.mark.parametrize("name", PARAMETERS)
def test_shipped_models_have_as_many_parameters_as_in_transformers(name):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    config = transformers.AutoConfig.from_pretrained(library_folder() / "models" / name)
    # The shape before quantisation.
    vars(config).pop("quantization_config", None)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    # A correction bias is a buffer there; it is loaded with the weights.
    biases = [buffer for key, buffer in model.named_buffers() if key.endswith("e_score_correction_bias")]
    assert load_architecture(name).parameters == sum(x.numel() for x in (*model.parameters(), *biases))


@pytest.mark.parametrize("name", ["Llama-3.1-8B", "gpt-oss-20b", "DeepSeek-V3", "Gemma-3-1B", "Qwen3-30B-A3B"])
def test_shipped_models_score_and_rotate_as_in_transformers(name):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    config = transformers.AutoConfig.from_pretrained(library_folder() / "models" / name)
    vars(config).pop("quantization_config", None)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config).model
    ours = load_architecture(name)
    assert ours.attention.scale == pytest.approx(model.layers[0].self_attn.scaling, rel=1e-12)
    assert windows(ours) == [getattr(layer.self_attn, "sliding_window", None) for layer in model.layers]
    scaling = rotary(ours).scaling if name != "Gemma-3-1B" else None
    if isinstance(scaling, YarnScaling):
        assert scaling.attention_factor == pytest.approx(model.rotary_emb.attention_scaling, rel=1e-12)


@pytest.mark.parametrize("model_type", SUPPORTED_MODEL_TYPES)
def test_the_least_that_a_config_must_say(tmp_path, model_type):
    assert load(tmp_path, model_type).model_type == model_type


@pytest.mark.parametrize(
    ("model_type", "key"), [(model_type, key) for model_type, config in LEAST.items() for key in config]
)
def test_a_shape_is_never_guessed(tmp_path, model_type, key):
    # Not shapes of their families: heads of Llama are their own keys' and values' by default, a latent has no KV heads,
    # and without a dense layer nothing is intermediate_size wide.
    if (model_type, key) in {
        ("llama", "num_key_value_heads"),
        ("deepseek_v3", "num_key_value_heads"),
        ("qwen3_moe", "intermediate_size"),
    }:
        load(tmp_path, model_type, without=[key])
        return
    spelled = "num_local_experts" if key == "num_experts" else key
    with pytest.raises(UserError, match=f"{spelled} must be "):
        load(tmp_path, model_type, without=[key])


def test_llama(tmp_path):
    shape = TINY | {"attention_bias": True, "head_dim": 6, "rope_parameters": LLAMA3 | {"rope_theta": 5e5}}
    architecture = saved(tmp_path, "LlamaConfig", **shape)
    assert architecture.attention == GroupedAttention(4, 2, 6, scale=6**-0.5, has_qkv_bias=True, has_o_bias=True)
    layer = Layer(DenseMlp(16), Rotary(dim=6, theta=5e5, scaling=Llama3Scaling(8.0, 1.0, 4.0, 8192)))
    assert architecture.layers == (layer, layer)
    assert (architecture.activation, architecture.embedding_scale, architecture.rms_norm_eps) == ("swiglu", 1.0, 1e-6)


def test_qwen2_has_windows_from_a_layer_on(tmp_path):
    shape = TINY | {"num_hidden_layers": 3, "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}
    architecture = saved(tmp_path, "Qwen2Config", **shape)
    # Width of a head 8 / 4.
    assert architecture.attention == GroupedAttention(4, 2, 2, scale=2**-0.5, has_qkv_bias=True)
    assert windows(architecture) == [None, 5, 5]
    assert windows(load(tmp_path, "qwen2", **shape)) == [None, 5, 5]
    assert windows(load(tmp_path, "qwen2", **shape | {"use_sliding_window": False})) == [None, None, None]
    # transformers' own: 28 layers without one.
    assert windows(load(tmp_path, "qwen2", use_sliding_window=True, num_hidden_layers=29)) == [None] * 28 + [4096]


def test_qwen3(tmp_path):
    architecture = saved(tmp_path, "Qwen3Config", **TINY, head_dim=4, tie_word_embeddings=True)
    plain = GroupedAttention(4, 2, 4, scale=0.5, has_qk_norm=True)
    assert architecture.attention == plain
    assert architecture.tie_word_embeddings
    biased = load(tmp_path, "qwen3", attention_bias=True, layer_types=[FULL, FULL]).attention
    assert biased == replace(plain, has_qkv_bias=True, has_o_bias=True)


def test_mistral_has_one_window_or_none(tmp_path):
    assert windows(saved(tmp_path, "MistralConfig", **TINY, sliding_window=6)) == [6, 6]
    assert windows(load(tmp_path, "mistral")) == [4096, 4096]
    assert windows(load(tmp_path, "mistral", sliding_window=None)) == [None, None]


def test_gemma3(tmp_path):
    shape = TINY | {
        "num_hidden_layers": 7,
        "head_dim": 4,
        "query_pre_attn_scalar": 16,
        "sliding_window": 5,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "rope_parameters": {
            FULL: {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            SLIDING: {"rope_type": "default", "rope_theta": 1e4},
        },
    }
    architecture = saved(tmp_path, "Gemma3TextConfig", **shape)
    # 16^-0.5 = 0.25.
    assert architecture.attention == GroupedAttention(4, 2, 4, scale=0.25, softcap=50.0, has_qk_norm=True)
    sliding = Layer(DenseMlp(16), Rotary(dim=4, theta=1e4), window=5)
    full = Layer(DenseMlp(16), Rotary(dim=4, theta=1e6, scaling=LinearScaling(8.0)))
    assert architecture.layers == (*[sliding] * 5, full, sliding)
    assert architecture.activation == "geglu"
    assert architecture.norm_unit_offset
    assert architecture.has_sandwich_norms
    assert architecture.tie_word_embeddings
    assert architecture.embedding_scale == math.sqrt(8)
    assert architecture.logit_softcap == 30.0


def test_gemma3_in_the_older_spelling(tmp_path):
    older = {"rope_theta": 2e6, "rope_local_base_freq": 3e4, "rope_scaling": {"rope_type": "linear", "factor": 8.0}}
    sliding, full = load(tmp_path, "gemma3_text", sliding_window_pattern=2, **older).layers
    assert sliding == Layer(DenseMlp(16), Rotary(dim=4, theta=3e4), window=4096)
    assert full == Layer(DenseMlp(16), Rotary(dim=4, theta=2e6, scaling=LinearScaling(8.0)))
    newer = {FULL: {"rope_theta": 2e6, **older["rope_scaling"]}, SLIDING: {"rope_theta": 3e4}}
    assert load(tmp_path, "gemma3_text", sliding_window_pattern=2, rope_parameters=newer).layers == (sliding, full)


def test_the_language_model_of_a_gemma3_that_sees(tmp_path):
    # text_config of gemma-3-4b-it; the language model has 3 880 263 168 parameters: the 3 880 099 328 of its text-only
    # edition (KerasHub), whose vocabulary is 64 tokens of 2560 shorter.
    text = {
        "model_type": "gemma3_text",
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    }
    architecture = write(tmp_path, {"model_type": "gemma3", "text_config": text, "vision_config": {}})
    assert architecture.model_type == "gemma3_text"
    assert architecture.parameters == 3_880_099_328 + 64 * 2560
    with pytest.raises(UserError, match="model_type 'gemma3' is not supported"):
        write(tmp_path, {"model_type": "gemma3"})


def test_mixtral(tmp_path):
    shape = TINY | {"num_local_experts": 4, "num_experts_per_tok": 3}
    architecture = saved(tmp_path, "MixtralConfig", **shape)
    layer = Layer(MixtureOfExperts(num_experts=4, top_k=3, intermediate_size=16), Rotary(dim=2, theta=1e6))
    assert architecture.layers == (layer, layer)
    assert architecture.rms_norm_eps == 1e-5
    assert windows(load(tmp_path, "mixtral", sliding_window=7)) == [7, 7]


def test_qwen3_moe_mixes_dense_layers_in(tmp_path):
    shape = TINY | EXPERTS | {"num_hidden_layers": 6, "num_experts": 4, "head_dim": 4, "norm_topk_prob": True}
    sparse = {"decoder_sparse_step": 2, "mlp_only_layers": [3]}
    architecture = saved(tmp_path, "Qwen3MoeConfig", **shape, **sparse)
    assert architecture.attention == GroupedAttention(4, 2, 4, scale=0.5, has_qk_norm=True)
    dense, experts = DenseMlp(16), MixtureOfExperts(num_experts=4, top_k=2, intermediate_size=4)
    # Every second layer, but not layer 3.
    assert [layer.mlp for layer in architecture.layers] == [dense, experts, dense, dense, dense, experts]
    assert load(tmp_path, "qwen3_moe").layers[0].mlp == replace(experts, renormalize=False)
    assert windows(load(tmp_path, "qwen3_moe", use_sliding_window=True, sliding_window=9)) == [9, 9]
    assert windows(load(tmp_path, "qwen3_moe", sliding_window=9)) == [None, None]


def test_gpt_oss(tmp_path):
    shape = LEAST["gpt_oss"] | {"num_hidden_layers": 3, "sliding_window": 5, "max_position_embeddings": 131072}
    architecture = saved(tmp_path, "GptOssConfig", **shape)
    expected = GroupedAttention(4, 2, 4, scale=0.5, has_qkv_bias=True, has_o_bias=True, has_sinks=True)
    assert architecture.attention == expected
    yarn = YarnScaling(32.0, 4096, 32.0, 1.0, GROWN_32, truncate=False)
    assert rotary(architecture) == Rotary(dim=4, theta=1.5e5, scaling=yarn)
    experts = MixtureOfExperts(num_experts=4, top_k=2, intermediate_size=16, has_bias=True)
    assert {layer.mlp for layer in architecture.layers} == {experts}
    assert windows(architecture) == [5, None, 5]
    assert windows(load(tmp_path, "gpt_oss", layer_types=[FULL, SLIDING])) == [None, 128]
    assert architecture.activation == "swiglu_clamped"
    assert architecture.checkpoint_format == "plain"
    packed = load(tmp_path, "gpt_oss", quantization_config={"quant_method": "mxfp4"})
    assert packed.checkpoint_format == "mxfp4_experts"
    # Without a word on the rotary embedding, the same as transformers.
    assert rotary(packed) == rotary(architecture)


def test_deepseek_v3(tmp_path):
    yarn = {**YARN, "factor": 40.0, "mscale": 1.0, "mscale_all_dim": 0.5}
    shape = TINY | EXPERTS | LATENT | {"q_lora_rank": 5, "n_group": 4, "topk_group": 2, "routed_scaling_factor": 1.5}
    architecture = saved(tmp_path, "DeepseekV3Config", **shape, rope_parameters=yarn)
    # 0.1 ln 40 = 0.3689: half of it on the scores, for queries and for keys; cos and sin get the rest.
    whole, half = 1 + 0.1 * math.log(40), 1 + 0.05 * math.log(40)
    assert architecture.attention == LatentAttention(4, 5, 6, 4, 2, 3, scale=6**-0.5 * half**2)
    scaling = YarnScaling(40.0, 4096, 32.0, 1.0, whole / half, truncate=True)
    assert rotary(architecture) == Rotary(dim=2, theta=1e4, scaling=scaling, interleaved=True)
    experts = MixtureOfExperts(
        num_experts=16,
        top_k=2,
        intermediate_size=4,
        score="sigmoid",
        groups=4,
        top_groups=2,
        scale=1.5,
        has_correction_bias=True,
        shared_intermediate_size=8,
    )
    assert [layer.mlp for layer in architecture.layers] == [DenseMlp(16), experts]


def test_deepseek_v3_by_default(tmp_path):
    architecture = load(tmp_path, "deepseek_v3", rope_interleave=False, norm_topk_prob=False)
    assert architecture.attention == LatentAttention(4, None, 6, 4, 2, 3, scale=6**-0.5)
    assert rotary(architecture) == Rotary(dim=2, theta=1e4)
    experts = architecture.layers[1].mlp
    assert isinstance(experts, MixtureOfExperts)
    assert (experts.groups, experts.top_groups, experts.scale, experts.renormalize) == (8, 4, 2.5, False)


@pytest.mark.parametrize(
    "scaling",
    [LLAMA3, YARN, {"rope_type": "linear", "factor": 2.0}, {"rope_type": "default"}],
    ids=lambda x: x["rope_type"],
)
def test_spellings_of_rope_settings_mean_the_same(tmp_path, scaling):
    older = load(tmp_path, rope_theta=500000.0, rope_scaling=scaling)
    assert older == load(tmp_path, rope_parameters={**scaling, "rope_theta": 500000.0})
    oldest = {("type" if key == "rope_type" else key): value for key, value in scaling.items()}
    assert older == load(tmp_path, rope_theta=500000.0, rope_scaling=oldest)
    assert rotary(older).theta == 500000.0


def test_yarn_options(tmp_path):
    default = rotary(load(tmp_path, rope_scaling=YARN)).scaling
    assert default == YarnScaling(32.0, 4096, 32.0, 1.0, GROWN_32, truncate=True)
    given = {**YARN, "beta_fast": 16, "beta_slow": 2, "attention_factor": 1.25, "truncate": False}
    assert rotary(load(tmp_path, rope_scaling=given)).scaling == YarnScaling(
        32.0, 4096, 16.0, 2.0, 1.25, truncate=False
    )
    # Contexts that do not grow have no temperature.
    as_long = rotary(load(tmp_path, rope_scaling={**YARN, "factor": 1})).scaling
    assert as_long == YarnScaling(1.0, 4096, 32.0, 1.0, 1.0, truncate=True)


KNOWN = "llama, qwen2, qwen3, mistral, gemma3_text, mixtral, qwen3_moe, gpt_oss, deepseek_v3"


@pytest.mark.parametrize(
    ("model_type", "changes", "message"),
    [
        ("llama", {"model_type": "mamba"}, f"model_type 'mamba' is not supported; allowed: {KNOWN}"),
        ("llama", {"model_type": ["llama"]}, f"model_type ['llama'] is not supported; allowed: {KNOWN}"),
        ("llama", {"vocab_size": -1}, "vocab_size must be a positive integer, got -1"),
        ("llama", {"vocab_size": True}, "vocab_size must be a positive integer, got True"),
        ("llama", {"num_key_value_heads": 3}, "num_attention_heads 4 is not a multiple of num_key_value_heads 3"),
        ("llama", {"hidden_size": 10}, "hidden_size 10 is not a multiple of num_attention_heads 4"),
        ("llama", {"mlp_bias": True}, "mlp_bias true is not supported; allowed: false"),
        ("llama", {"attention_bias": "yes"}, "attention_bias must be true or false, got 'yes'"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act 'gelu' is not supported; allowed: silu"),
        ("llama", {"rms_norm_eps": "x"}, "rms_norm_eps must be a positive number, got 'x'"),
        ("llama", {"rope_theta": [1]}, "rope_theta must be a positive number, got [1]"),
        ("llama", {"rope_scaling": 7}, "rope settings must be a JSON object, got 7"),
        (
            "llama",
            {"rope_scaling": {"type": "dynamic"}},
            "rope_type 'dynamic' is not supported; allowed: default, linear,",
        ),
        ("llama", {"rope_scaling": {"type": "linear"}}, "rope scaling linear needs a number for factor"),
        ("llama", {"rope_scaling": {"type": ["yarn"]}}, "rope_type ['yarn'] is not supported"),
        ("llama", {"rope_scaling": {"type": "linear", "factor": -1}}, "factor must be a positive number, got -1"),
        (
            "llama",
            {"rope_scaling": {"rope_type": "llama3", "factor": 8}},
            "needs a number for low_freq_factor, high_freq",
        ),
        (
            "llama",
            {"rope_scaling": {"rope_type": "yarn"}},
            "needs a number for factor, original_max_position_embeddings",
        ),
        ("llama", {"rope_parameters": {FULL: {}}}, "rope settings by layer type are not supported"),
        ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5 is not supported; allowed: 1"),
        ("llama", {"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor 0.5 is not supported"),
        ("llama", {"head_dim": 3}, "a rotary embedding needs an even number of elements, got 3"),
        ("llama", {"quantization_config": {"quant_method": "mxfp4"}}, "quant_method 'mxfp4' is not supported"),
        ("llama", {"quantization_config": "fp8"}, "quantization_config must be a JSON object, got 'fp8'"),
        ("deepseek_v3", {"quantization_config": {"quant_method": "fp8"}}, "'fp8' is not supported; allowed: mxfp4 (of"),
        ("qwen2", {"layer_types": [FULL]}, "layer_types must be a list of 2, one a layer, got ['full_attention']"),
        (
            "qwen2",
            {"layer_types": [FULL, "conv"]},
            "layer_types 'conv' is not supported; allowed: full_attention, sliding_",
        ),
        ("qwen2", {"layer_types": [FULL, SLIDING]}, "sliding_attention, which needs a sliding_window, got None"),
        ("qwen2", {"use_sliding_window": True, "max_window_layers": -1}, "must be an integer >= 0, got -1"),
        ("mistral", {"sliding_window": 0}, "sliding_window must be a positive integer, got 0"),
        (
            "gemma3_text",
            {"hidden_activation": "silu"},
            "hidden_activation 'silu' is not supported; allowed: gelu_pytorch",
        ),
        ("gemma3_text", {"use_bidirectional_attention": True}, "use_bidirectional_attention true is not supported"),
        ("gemma3_text", {"rope_parameters": {"rope_theta": 1e6}}, "rope_parameters key 'rope_theta' is not supported"),
        ("gemma3_text", {"rope_parameters": {SLIDING: 5}}, "rope settings must be a JSON object, got 5"),
        ("gemma3_text", {"rope_local_base_freq": 0}, "rope_local_base_freq must be a positive number, got 0"),
        ("mixtral", {"num_experts_per_tok": 5}, "num_experts_per_tok 5 is more than num_local_experts 4"),
        ("qwen3_moe", {"mlp_only_layers": 3}, "mlp_only_layers must be a list of layers, got 3"),
        ("gpt_oss", {"swiglu_limit": 5.0}, "swiglu_limit 5.0 is not supported; allowed: 7.0"),
        (
            "gpt_oss",
            {"quantization_config": {"quant_method": "awq"}},
            "quant_method 'awq' is not supported; allowed: mxfp4",
        ),
        ("deepseek_v3", {"attention_bias": True}, "attention_bias true is not supported; allowed: false"),
        ("deepseek_v3", {"scoring_func": "softmax"}, "scoring_func 'softmax' is not supported; allowed: sigmoid"),
        ("deepseek_v3", {"n_group": 3}, "n_group must divide n_routed_experts 16 and be at least topk_group 4, got 3"),
        ("deepseek_v3", {"n_group": 2}, "n_group must divide n_routed_experts 16 and be at least topk_group 4, got 2"),
    ],
)
def test_shapes_that_we_do_not_run_are_refused(tmp_path, model_type, changes, message):
    with pytest.raises(UserError) as error:
        load(tmp_path, model_type, **changes)
    assert message in str(error.value)
    assert str(error.value).startswith(str(tmp_path / "config.json: "))
    assert "\n" not in str(error.value)


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
