"""What imported rows say of speed, for rows that must have it."""

from __future__ import annotations

from tokenwatt.record import Measurement


def output_tokens_per_s(row: Measurement) -> float:
    """Of a row with a window."""
    assert row.output_tokens is not None
    assert row.window_s is not None
    return row.output_tokens / row.window_s


def input_tokens_per_s(row: Measurement) -> float:
    """Of a row with a window and prompts."""
    assert row.input_tokens is not None
    assert row.window_s is not None
    return row.input_tokens / row.window_s
