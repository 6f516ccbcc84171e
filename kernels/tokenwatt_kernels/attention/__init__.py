"""Attention for prompts (`prefill`), for one or a few new tokens per sequence (`decode`), and for both at once."""
