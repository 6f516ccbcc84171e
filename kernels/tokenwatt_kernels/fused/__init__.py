"""Kernels between the matmuls of a layer, each bound by memory: norms, rotary embedding, choice of tokens."""
