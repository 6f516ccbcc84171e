"""A tiny model that has learnt the shipped text byte by byte, so that its probabilities are far from even."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel, PreTrainedTokenizerFast

from tokenwatt.workloads import library_folder

TEXT = library_folder() / "texts" / "clocks.txt"
# Widths that int4 takes: groups of 128.
SHAPE: dict[str, Any] = {
    "vocab_size": 256,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
STEPS = 100
"""Some four seconds of one core."""
LEARNT = 640
"""Bytes of the text that it learns, almost by heart: what it knows less well it also answers more alike."""


def tokenizer() -> PreTrainedTokenizerFast:
    """One token for each byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    plain = Tokenizer(models.BPE(vocab={letter: place for place, letter in enumerate(alphabet)}, merges=[]))
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=plain)


def train(folder: Path, seed: int = 0, steps: int = STEPS) -> PreTrainedModel:
    """Train on the shipped text and save to `folder`, with the tokenizer."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(LlamaConfig(**SHAPE), dtype=torch.float32, attn_implementation="sdpa")
    ids = torch.tensor(tokenizer()(TEXT.read_text(encoding="utf-8"))["input_ids"])[:LEARNT]
    optimiser = torch.optim.AdamW(model.parameters(), lr=4e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.05, total_iters=steps)
    for _ in range(steps):
        starts = torch.randint(0, len(ids) - 65, (8, 1))
        batch = ids[starts + torch.arange(64)]
        model(batch, labels=batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        schedule.step()
    model.eval().save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return model
