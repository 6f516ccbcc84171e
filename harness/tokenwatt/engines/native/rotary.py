"""Rotary tables: cosine and sine of every position, with the frequency scaling of long-context models."""

from __future__ import annotations

import math

import torch

from tokenwatt.architecture import LinearScaling, Llama3Scaling, Rotary, YarnScaling


def rotary_tables(rotary: Rotary, positions: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin, fp32 [positions, dim / 2] each."""
    half = rotary.dim // 2
    # As transformers takes them, digit by digit: angles of long contexts have few left in fp32.
    exponents = torch.arange(half, dtype=torch.float32, device=device) / half
    frequencies = 1.0 / rotary.theta**exponents
    factor = 1.0
    match rotary.scaling:
        case LinearScaling():
            frequencies = frequencies / rotary.scaling.factor
        case Llama3Scaling():
            frequencies = _llama3(frequencies, rotary.scaling)
        case YarnScaling():
            frequencies = _yarn(frequencies, rotary, rotary.scaling)
            factor = rotary.scaling.attention_factor
    angles = torch.arange(positions, dtype=torch.float32, device=device)[:, None] * frequencies
    return angles.cos() * factor, angles.sin() * factor


def _llama3(frequencies: torch.Tensor, scaling: Llama3Scaling) -> torch.Tensor:
    turns = scaling.original_max_position_embeddings * frequencies / (2 * math.pi)
    band = scaling.high_freq_factor - scaling.low_freq_factor
    keep = ((turns - scaling.low_freq_factor) / band).clamp(0, 1)
    return frequencies * (keep + (1 - keep) / scaling.factor)


def _yarn(frequencies: torch.Tensor, rotary: Rotary, scaling: YarnScaling) -> torch.Tensor:
    def dimension(turns: float) -> float:
        """The pair, as a real number, that turns so many times over the original context."""
        length = scaling.original_max_position_embeddings / (turns * 2 * math.pi)
        return rotary.dim * math.log(length) / (2 * math.log(rotary.theta))

    low, high = dimension(scaling.beta_fast), dimension(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rotary.dim - 1)
    width = high - low or 0.001  # as in the published code
    pairs = torch.arange(len(frequencies), dtype=torch.float32, device=frequencies.device)
    slowed = ((pairs - low) / width).clamp(0, 1)
    return frequencies * (1 - slowed) + frequencies / scaling.factor * slowed
