"""Small, total formulas between power, speed and money. Every quantity may be a range."""

from __future__ import annotations

from tokenwatt.reference.ranges import Range
from tokenwatt.units import SECONDS_PER_HOUR, TOKENS_PER_MTOK, WATTS_PER_MW


def gpus_in_budget(power_budget_w: float, all_in_power_w_per_gpu: Range) -> Range:
    """GPUs that a power budget feeds; not rounded to whole racks.

    >>> gpus_in_budget(1e9, Range(1250.0, 2000.0, 2500.0))
    Range(low=400000.0, central=500000.0, high=800000.0)
    """
    return Range.exact(power_budget_w) / all_in_power_w_per_gpu


def usd_per_mtok(usd_per_gpu_h: Range, tokens_per_s_per_gpu: Range) -> Range:
    """Cost of a million tokens, USD/Mtoken: $/GPU-h over the million tokens that a GPU makes in an hour.

    >>> usd_per_mtok(Range.exact(3.6), Range.exact(1000.0))
    Range(low=1.0, central=1.0, high=1.0)
    """
    return usd_per_gpu_h / (tokens_per_s_per_gpu * Range.exact(SECONDS_PER_HOUR / TOKENS_PER_MTOK))


def tokens_per_s_per_mw(tokens_per_s_per_gpu: Range, all_in_power_w_per_gpu: Range) -> Range:
    """Tokens per second and all-in megawatt.

    >>> tokens_per_s_per_mw(Range.exact(5000.0), Range.exact(2000.0)).central
    2500000.0
    """
    return tokens_per_s_per_gpu * Range.exact(WATTS_PER_MW) / all_in_power_w_per_gpu


def joules_per_token(power_w: Range, tokens_per_s: Range) -> Range:
    """Energy of one token, J/token.

    >>> joules_per_token(Range.exact(700.0), Range.exact(3500.0)).central
    0.2
    """
    return power_w / tokens_per_s
