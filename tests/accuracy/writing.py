"""What a model writes, by transformers."""

from __future__ import annotations

from pathlib import Path

import torch
from tests.accuracy.trained import tokenizer
from transformers import AutoModelForCausalLM


def by_transformers(folder: Path, text: str, count: int) -> str:
    """What the likeliest tokens after a text are, each by a whole forward pass."""
    model, ids = AutoModelForCausalLM.from_pretrained(folder), tokenizer().encode(text)
    for _ in range(count):
        ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return str(tokenizer().decode(ids[-count:]))
