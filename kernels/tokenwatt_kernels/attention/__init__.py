"""Attention for a packed batch of prompts (`prefill`) and for one new token per sequence (`decode`)."""
