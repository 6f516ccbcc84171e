"""Every model of the library counts to what its makers count, and is found by the names that people give it."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwatt.architecture import DenseMlp, GroupedAttention, LatentAttention, MixtureOfExperts
from tokenwatt.errors import UserError
from tokenwatt.model_config import load_architecture
from tokenwatt.perf_model.shape import Block, LinearAttention, ModelShape, PlainExperts, SparseIndex, StateSpace
from tokenwatt.perf_model.shape_library import library_names, model_family, model_shape, native_weight_dtype
from tokenwatt.perf_model.shape_library.facts import load_models, load_refused, read_model
from tokenwatt.perf_model.shape_library.names import by_spelling
from tokenwatt.reference.facts import Grade

NATIVE = ("DeepSeek-V3", "Gemma-3-1B", "Llama-3.1-8B", "Mistral-7B-v0.1", "Mixtral-8x7B", "Qwen3-0.6B", "gpt-oss-20b")


@pytest.mark.parametrize("name", library_names())
def test_a_shape_counts_to_what_its_makers_count(name: str) -> None:
    facts, shape = load_models()[name], model_shape(name)
    assert shape.name == name
    assert shape.parameters == pytest.approx(facts.parameters, rel=0.01)
    assert shape.matmul_parameters < shape.parameters
    if facts.active_parameters is None:
        return
    # Makers leave out the embedding or not, and some the output head too.
    least = shape.active_parameters - 2 * shape.vocab_size * shape.hidden_size
    assert least * 0.96 < facts.active_parameters < shape.active_parameters * 1.04


def test_llama_3_1_8b_by_hand() -> None:
    shape = model_shape("Llama-3.1-8B")
    # Attention 2 x 4096 x 4096 (q, o) + 2 x 4096 x 1024 (k, v) = 41,943,040; MLP 3 x 4096 x 14336 = 176,160,768;
    # 32 layers of 218,103,808 = 6,979,321,856; head 128256 x 4096 = 525,336,576.
    assert shape.matmul_parameters == 7_504_658_432
    # The embedding is as large as the head; 65 norms of 4096 = 266,240.
    assert shape.parameters == shape.active_parameters == 8_030_261_248


def test_qwen3_30b_a3b_by_hand() -> None:
    shape = model_shape("Qwen3-30B-A3B")
    # Attention 2048 x (2 x 4096 + 2 x 512) = 18,874,368; router 2048 x 128 = 262,144; an expert 3 x 2048 x 768 =
    # 4,718,592, all 128 of them 603,979,776, eight 37,748,736; head 151936 x 2048 = 311,164,928.
    assert shape.matmul_parameters == 48 * (18_874_368 + 262_144 + 603_979_776) + 311_164_928 == 30_220_746_752
    assert shape.active_matmul_parameters == 48 * (18_874_368 + 262_144 + 37_748_736) + 311_164_928 == 3_041_656_832
    # Embedding 311,164,928; 97 norms of 2048 = 198,656; norms of query and key heads 48 x 2 x 128 = 12,288.
    assert shape.parameters == 30_220_746_752 + 311_375_872 == 30_532_122_624
    assert shape.active_parameters == 3_353_032_704


@pytest.mark.parametrize("name", ["Gemma-3-1B", "Gemma-3-4B", "Gemma-3-12B", "Gemma-3-27B"])
def test_gemma_counts_to_the_last_weight(name: str) -> None:
    assert model_shape(name).parameters == load_models()[name].parameters


@pytest.mark.parametrize("name", NATIVE)
def test_a_native_family_counts_as_the_engine_does(name: str) -> None:
    shape, architecture = model_shape(name), load_architecture(name)
    assert shape.parameters == architecture.parameters
    assert shape.active_matmul_parameters == architecture.active_matmul_parameters


def test_a_gated_delta_rule_by_hand() -> None:
    # Two key heads of 4, four value heads of 8: queries and keys 8 each, values, gate and answer 32 each, and two
    # numbers a head; the convolution has 8 + 8 + 32 channels.
    linear = LinearAttention(num_key_heads=2, num_value_heads=4, key_head_dim=4, value_head_dim=8, conv_kernel=3)
    assert linear.matmul_parameters(10) == 10 * (8 + 8 + 32 + 32 + 2 * 4) + 32 * 10
    assert linear.other_parameters(10) == 48 * 3 + 4 + 4 + 8
    assert linear.state_size == 4 * 4 * 8


def test_a_mamba_layer_by_hand() -> None:
    # Three heads of 4: 12 wide, as is the gate; two groups write and read a state of 5: 20 more channels.
    mamba = StateSpace(num_heads=3, head_dim=4, state_size=5, num_groups=2, conv_kernel=4)
    assert mamba.matmul_parameters(10) == 10 * (12 + 12 + 20 + 3) + 12 * 10
    assert mamba.other_parameters(10) == 32 * 4 + 32 + 3 + 3 + 3 + 12


def test_experts_in_a_latent_by_hand() -> None:
    experts = PlainExperts(num_experts=6, top_k=2, intermediate_size=7, shared_intermediate_size=9, latent_size=4)
    assert experts.expert_parameters(10) == 2 * 4 * 7
    assert experts.always_parameters(10) == 10 * 6 + 2 * 10 * 9 + 10 * 4 + 4 * 10
    # Two tokens miss an expert with (4 / 6)^2.
    assert experts.touched(2) == pytest.approx(6 * (1 - 4 / 9))


def test_an_index_by_hand() -> None:
    index = SparseIndex(num_heads=3, head_dim=4, top_k=16)
    latent = LatentAttention(2, 6, 8, 4, 2, 4, scale=1.0)
    # From the latent of the queries 6 x 12, and from the hidden state one key and a weight for each head.
    assert index.matmul_parameters(10, latent) == 6 * 12 + 10 * 4 + 10 * 3
    assert index.matmul_parameters(10, GroupedAttention(2, 1, 4, scale=1.0)) == 10 * (12 + 4)
    assert SparseIndex(3, 4, 16, is_shared=True).matmul_parameters(10, latent) == 0


def test_a_gate_is_as_wide_as_the_queries() -> None:
    attention = GroupedAttention(num_attention_heads=4, num_key_value_heads=1, head_dim=8, scale=1.0)
    plain, gated = Block(attention, None), Block(attention, None, has_output_gate=True)
    assert gated.mixer_parameters(10) - plain.mixer_parameters(10) == 10 * 32


def test_norms_follow_the_parts() -> None:
    attention, mlp = GroupedAttention(1, 1, 4, scale=1.0), DenseMlp(8)

    def norms(*blocks: Block, **options: bool) -> int:
        shape = ModelShape("tiny", 4, 10, blocks, tie_word_embeddings=True, **options)
        return (shape.parameters - shape.matmul_parameters) // 4

    # One before the output head, and one before each part.
    assert norms(Block(attention, mlp)) == 3
    assert norms(Block(attention, None), Block(None, mlp)) == 3
    assert norms(Block(attention, mlp), has_sandwich_norms=True) == 5
    assert norms(Block(attention, mlp), has_parallel_mlp=True) == 2


def test_layers_of_a_kind_are_counted() -> None:
    def kinds(model: str) -> Counter[tuple[str, str]]:
        blocks = model_shape(model).blocks
        return Counter((type(block.mixer).__name__, type(block.mlp).__name__) for block in blocks)

    # M-M-...: 28 of Mamba, 28 of MLP, 6 of attention.
    assert kinds("Nemotron-Nano-12B-v2") == {
        ("StateSpace", "NoneType"): 28,
        ("NoneType", "PlainMlp"): 28,
        ("GroupedAttention", "NoneType"): 6,
    }
    # Every fourth of 60 sees all keys.
    assert kinds("Qwen3.5-397B-A17B") == {
        ("LinearAttention", "MixtureOfExperts"): 45,
        ("GroupedAttention", "MixtureOfExperts"): 15,
    }
    assert kinds("Llama-4-Maverick") == {
        ("GroupedAttention", "MixtureOfExperts"): 24,
        ("GroupedAttention", "DenseMlp"): 24,
    }
    assert kinds("GLM-5") == {("LatentAttention", "DenseMlp"): 3, ("LatentAttention", "MixtureOfExperts"): 75}


def test_windows_and_picks_of_layers() -> None:
    assert Counter(block.window for block in model_shape("Llama-4-Scout").blocks) == {8192: 36, None: 12}
    # Five of six layers have a window, and 62 = 10 x 6 + 2.
    assert Counter(block.window for block in model_shape("Gemma-3-27B").blocks) == {1024: 52, None: 10}
    picks = [block.index for block in model_shape("GLM-5.2").blocks]
    # Layers 0, 1 and 2, then 6, 10 and every fourth up to 74.
    assert [layer for layer, pick in enumerate(picks) if pick and not pick.is_shared] == [0, 1, 2, *range(6, 78, 4)]
    assert None not in picks
    minimax = [block.index for block in model_shape("MiniMax-M3").blocks]
    assert Counter(minimax) == {None: 3, SparseIndex(4, 128, top_k=16 * 128, block_size=128): 57}


# Names as published measurements spell them.
@pytest.mark.parametrize(
    ("model", "family"),
    [
        ("DeepSeek-R1-0528", "DeepSeek-V3"),
        ("deepseek-ai/DeepSeek-V3.1", "DeepSeek-V3"),
        ("nvidia/DeepSeek-R1-NVFP4", "DeepSeek-V3"),
        ("nvidia/DeepSeek-R1-0528-NVFP4-v2", "DeepSeek-V3"),
        ("nvidia/DeepSeek-V3.1-NVFP4", "DeepSeek-V3"),
        ("deepseek-ai/DeepSeek-V3.2-Exp", "DeepSeek-V3.2"),
        ("Llama-3.3-70B", "Llama-3.1-70B"),
        ("meta-llama/Meta-Llama-3.1-70B-Instruct", "Llama-3.1-70B"),
        ("meta-llama/Llama-3.1-405B-Instruct-FP8", "Llama-3.1-405B"),
        ("nvidia/Llama-3.1-8B-Instruct-FP8", "Llama-3.1-8B"),
        ("meta-llama/Llama-4-Maverick-17B-128E-Instruct-FP8", "Llama-4-Maverick"),
        ("meta-llama/Llama-4-Scout-17B-16E-Instruct", "Llama-4-Scout"),
        ("MiniMaxAI/MiniMax-M2.5", "MiniMax-M2"),
        ("Qwen/Qwen3-14B", "Qwen3-14B"),
        ("Qwen/Qwen3-235B-A22B-FP8", "Qwen3-235B-A22B"),
        ("Qwen/Qwen3-235B-A22B-Thinking-2507-FP8", "Qwen3-235B-A22B"),
        ("Qwen/Qwen3-VL-235B-A22B-Instruct", "Qwen3-235B-A22B"),
        ("Qwen/Qwen3-30B-A3B-Instruct-2507", "Qwen3-30B-A3B"),
        ("Qwen/Qwen3-32B", "Qwen3-32B"),
        ("Qwen/Qwen3-8B", "Qwen3-8B"),
        ("Qwen/Qwen3-Coder-480B-A35B-Instruct", "Qwen3-Coder-480B-A35B"),
        ("Qwen/Qwen3.5-397B-A17B", "Qwen3.5-397B-A17B"),
        ("google/gemma-3-12b-it", "Gemma-3-12B"),
        ("google/gemma-3-27b-it", "Gemma-3-27B"),
        ("moonshotai/Kimi-K2-Instruct-0905", "Kimi-K2"),
        ("moonshotai/Kimi-K2.6", "Kimi-K2.5"),
        ("nvidia/NVIDIA-Nemotron-Nano-9B-v2", "Nemotron-Nano-9B-v2"),
        ("nvidia/NVIDIA-Nemotron-Nano-12B-v2", "Nemotron-Nano-12B-v2"),
        ("nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-NVFP4", "Nemotron-3-Super-120B-A12B"),
        ("openai/gpt-oss-120b", "gpt-oss-120b"),
        ("zhipuai/GLM-5", "GLM-5"),
        ("zai-org/GLM-5-FP8", "GLM-5"),
        ("deepseek-r1", "DeepSeek-V3"),
        ("gptj-99.9", "GPT-J-6B"),
        ("llama2-70b-99.9", "Llama-2-70B"),
        ("llama2-70b-fp8_quark", "Llama-2-70B"),
        ("llama3.1-405b", "Llama-3.1-405B"),
        ("llama3.1-70b-fp8_dyn", "Llama-3.1-70B"),
        ("llama3.1-8b-edge", "Llama-3.1-8B"),
        ("mixtral-8x7b", "Mixtral-8x7B"),
        ("neuralmagic_llama-2-7b-chat-hf-fp8", "Llama-2-7B"),
    ],
)
def test_a_model_is_found_as_it_is_spelled(model: str, family: str) -> None:
    assert model_family(model) == family
    assert model_shape(model) is model_shape(family)


@given(st.sampled_from(library_names()), st.lists(st.sampled_from(["FP8", "Instruct", "2507", "nvfp4"]), max_size=3))
def test_marks_of_a_release_change_nothing(name: str, marks: list[str]) -> None:
    assert model_family("-".join([f"somebody/{name.upper()}", *marks])) == name


@pytest.mark.parametrize(
    ("model", "error"),
    [
        ("Qwen3-9B", r"unknown model 'Qwen3-9B' \(did you mean 'Qwen3-8B'\?\); known: DeepSeek-V3, "),
        ("llama3.1-405b_pruned", "unknown model"),
        ("Mistral-7B-v0.2", "unknown model"),
        ("/nowhere/at/all/Qwen3-8B", "unknown model"),
        ("", "unknown model"),
        ("x" * 300, "unknown model"),
        ("nvidia", "unknown model"),
        ("deepseek-ai/DeepSeek-V4-Pro", "'deepseek-ai/DeepSeek-V4-Pro' cannot be predicted: its attention sees compr"),
        ("stable-diffusion-xl", "cannot be predicted: only decoder-only language models"),
        ("bert-99.9", "cannot be predicted: only decoder-only language models"),
    ],
)
def test_a_model_without_a_shape_is_refused_by_name(model: str, error: str) -> None:
    for ask in (model_family, model_shape, native_weight_dtype):
        with pytest.raises(UserError, match=error):
            ask(model)


def test_no_spelling_names_two_models() -> None:
    spelled = by_spelling({name: facts.aliases for name, facts in load_models().items()})
    assert set(spelled.values()) == set(library_names())
    assert not spelled.keys() & by_spelling(dict.fromkeys(load_refused(), ())).keys()
    with pytest.raises(UserError, match="'a-b' names both Ab and C"):
        by_spelling({"Ab": (), "C": ("a-b",)})


def test_what_was_remembered_says_so() -> None:
    for facts in load_models().values():
        assert (facts.grade is Grade.MEMORY) == ("from memory" in facts.source)
        assert facts.grade in (Grade.MEMORY, Grade.SECONDARY)


@pytest.mark.parametrize(
    ("model", "dtype"),
    [
        ("gpt-oss-20b", "mxfp4_experts"),
        ("deepseek-ai/DeepSeek-R1", "fp8_block"),
        ("moonshotai/Kimi-K2.5", "int4_experts"),
        ("MiniMaxAI/MiniMax-M2.5", "fp8_block"),
        ("Qwen/Qwen3-32B", "bf16"),
    ],
)
def test_weights_as_they_were_published(model: str, dtype: str) -> None:
    assert native_weight_dtype(model) == dtype


def _folder(path: Path, config: dict[str, Any]) -> str:
    folder = path / "mine"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return str(folder)


def test_a_folder_is_read_with_its_nested_language_model(tmp_path: Path) -> None:
    text = dict(load_models()["Qwen3.5-27B"].config or {})
    config = {"model_type": "qwen3_5", "text_config": text, "vision_config": {"hidden_size": 1152}}
    folder = _folder(tmp_path, config)
    assert model_family(folder) == "mine"
    assert native_weight_dtype(folder) == "bf16"
    assert model_shape(folder).blocks == model_shape("Qwen3.5-27B").blocks


def test_a_quantised_folder_has_the_shape_of_its_release(tmp_path: Path) -> None:
    facts = dict(load_models()["Qwen3-14B"].config or {})
    quantization = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    folder = _folder(tmp_path, {**facts, "quantization_config": quantization, "rope_scaling": {"type": "mrope"}})
    assert native_weight_dtype(folder) == "fp8_block"
    assert model_shape(folder).parameters == model_shape("Qwen3-14B").parameters


@pytest.mark.parametrize(
    ("model", "change", "error"),
    [
        ("Qwen3-14B", {"model_type": "rwkv"}, "model_type 'rwkv' is not supported; allowed: llama, qwen2"),
        ("Qwen3-14B", {"hidden_size": 0}, "hidden_size must be a positive integer, got 0"),
        ("Nemotron-H-8B", {"hybrid_override_pattern": "M-X"}, r"layer 'X' is not supported; allowed: M \(mamba\)"),
        ("Nemotron-H-8B", {"hybrid_override_pattern": None}, "needs layers_block_type or hybrid_override_pattern"),
        ("Qwen3.5-27B", {"layer_types": ["full_attention"]}, "layer_types must be a list of 64"),
        ("GLM-5.2", {"indexer_types": ["full"] * 77 + ["none"]}, "indexer_types 'none' is not supported"),
        ("MiniMax-M3", {"attention_output_gate": True}, "attention_output_gate true is not supported"),
    ],
)
def test_a_wrong_config_is_named(tmp_path: Path, model: str, change: dict[str, Any], error: str) -> None:
    folder = _folder(tmp_path, {**(load_models()[model].config or {}), **change})
    with pytest.raises(UserError, match=error):
        model_shape(folder)


def test_weights_without_a_name_are_refused(tmp_path: Path) -> None:
    folder = _folder(tmp_path, {"model_type": "llama", "quantization_config": {"quant_method": "bitnet"}})
    with pytest.raises(UserError, match=r"quant_method 'bitnet' are not known; allowed: none, mxfp4, fp8 with"):
        native_weight_dtype(folder)


def test_facts_with_a_wrong_key_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text('{"source": "a page", "grade": "memory", "parameters": 1, "params": 2}', encoding="utf-8")
    with pytest.raises(UserError, match=r"mine\.json: parameters_source: Field required"):
        read_model(path)


def test_experts_of_a_block() -> None:
    experts = MixtureOfExperts(num_experts=4, top_k=1, intermediate_size=8)
    assert Block(None, experts).experts is experts
    assert Block(None, DenseMlp(8)).experts is None
