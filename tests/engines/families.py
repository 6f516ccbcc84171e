"""A tiny model of every family, as transformers makes it, with what each one is there for switched on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoModelForCausalLM,
    DeepseekV3Config,
    Gemma3TextConfig,
    GptOssConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)
from transformers.masking_utils import eager_mask
from transformers.models.gemma3.modeling_gemma3 import eager_attention_forward

VOCABULARY = 512
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.1,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "original_max_position_embeddings": 64,
}
EXPERTS: dict[str, Any] = {"num_experts_per_tok": 2, "router_aux_loss_coef": 0.0}


def _config(kind: Any, **changes: Any) -> PretrainedConfig:
    return kind(**{**SHAPE, **changes})


CONFIGS: dict[str, PretrainedConfig] = {
    "llama": _config(LlamaConfig, head_dim=16, tie_word_embeddings=False),
    "llama-tied-scaled-rope": _config(LlamaConfig, head_dim=16, tie_word_embeddings=True, rope_parameters=LLAMA3_ROPE),
    "qwen2": _config(Qwen2Config, tie_word_embeddings=True),
    "qwen3": _config(Qwen3Config, head_dim=32, tie_word_embeddings=True),
    "mistral": _config(MistralConfig, head_dim=16, sliding_window=24),
    "gemma3": _config(
        Gemma3TextConfig,
        head_dim=32,
        sliding_window=16,
        query_pre_attn_scalar=24,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        attn_logit_softcapping=20.0,
        final_logit_softcapping=15.0,
    ),
    "mixtral": _config(MixtralConfig, **EXPERTS, head_dim=16, num_local_experts=4),
    "qwen3-moe": _config(
        Qwen3MoeConfig,
        **EXPERTS,
        head_dim=16,
        num_experts=8,
        moe_intermediate_size=48,
        mlp_only_layers=[1],
        norm_topk_prob=True,
    ),
    "gpt-oss": _config(
        GptOssConfig,
        **EXPERTS,
        head_dim=32,
        num_local_experts=4,
        sliding_window=16,
        rope_parameters={**YARN, "truncate": False},
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    ),
    "deepseek-v3": _config(
        DeepseekV3Config,
        num_key_value_heads=6,
        num_experts_per_tok=3,
        first_k_dense_replace=1,
        n_routed_experts=16,
        n_shared_experts=2,
        n_group=4,
        topk_group=2,
        moe_intermediate_size=32,
        q_lora_rank=48,
        kv_lora_rank=32,
        qk_nope_head_dim=32,
        qk_rope_head_dim=16,
        v_head_dim=24,
        rope_parameters={**YARN, "mscale": 1.0, "mscale_all_dim": 0.8},
    ),
}


def with_softcap(module, *args, **kwargs):
    """Gemma 3's attention with the softcap of its config, which transformers 5.23 reads and does not hand over."""
    return eager_attention_forward(module, *args, softcap=module.attn_logit_softcapping, **kwargs)


AttentionInterface.register("with_softcap", with_softcap)
AttentionMaskInterface.register("with_softcap", eager_mask)


def make(family: str, folder: Path) -> PreTrainedModel:
    """A random model whose norms, biases and sinks say something, saved to `folder`."""
    torch.manual_seed(0)
    attention = "with_softcap" if family == "gemma3" else "eager"
    model = AutoModelForCausalLM.from_config(CONFIGS[family], dtype=torch.float32, attn_implementation=attention).eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if "norm" in name:
                tensor.uniform_(-0.3, 0.3) if family == "gemma3" else tensor.uniform_(0.5, 1.5)
            elif name.endswith(("bias", "sinks")):
                tensor.normal_(0.0, 0.3)
    model.save_pretrained(folder, max_shard_size="200KB" if family == "qwen3" else "5GB")
    return model
