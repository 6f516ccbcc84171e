"""Gated activations: by hand, and as the kernels compute them."""

from __future__ import annotations

import math

import pytest
import torch

from tokenwatt_kernels.matmul.activations import (
    ACTIVATIONS,
    activate_reference,
    check_activation,
    interleave,
    is_gated,
    out_columns,
)


def test_interleaved_rows_take_turns():
    gate, up = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[5.0, 6.0], [7.0, 8.0]])
    assert interleave(gate, up).tolist() == [[1, 2], [5, 6], [3, 4], [7, 8]]


def test_interleaved_experts_keep_apart():
    gate, up = torch.zeros(2, 3, 4), torch.ones(2, 3, 4)
    assert interleave(gate, up)[:, :, 0].tolist() == [[0, 1, 0, 1, 0, 1]] * 2


def test_interleaving_wants_equal_shapes():
    with pytest.raises(ValueError, match=r"up must have the shape of gate, \[2, 3\], got \[3, 3\]"):
        interleave(torch.zeros(2, 3), torch.zeros(3, 3))


@pytest.mark.parametrize(
    ("activation", "gate", "up", "wanted"),
    [
        # 2 / (1 + e^-2) * 3
        ("swiglu", 2.0, 3.0, 6 / (1 + math.exp(-2))),
        # 0.5 * 1 * (1 + tanh(sqrt(2 / pi) * 1.044715)) * 2
        ("geglu", 1.0, 2.0, 1 + math.tanh(math.sqrt(2 / math.pi) * 1.044715)),
        # 7 / (1 + e^(-1.702 * 7)) * (-7 + 1): both are clamped
        ("swiglu_clamped", 9.0, -8.0, -42 / (1 + math.exp(-1.702 * 7))),
        # gate has no lower clamp: -8 / (1 + e^(1.702 * 8)) * 3
        ("swiglu_clamped", -8.0, 2.0, -24 / (1 + math.exp(1.702 * 8))),
    ],
)
def test_by_hand(activation, gate, up, wanted):
    out = activate_reference(torch.tensor([[gate, up]], dtype=torch.float64), activation)
    assert out.tolist() == [[pytest.approx(wanted, rel=1e-12)]]


def test_none_changes_nothing():
    product = torch.arange(6.0).reshape(2, 3)
    assert activate_reference(product, "none") is product
    assert (out_columns("none", 6), out_columns("swiglu", 6)) == (6, 3)


@pytest.mark.parametrize(
    ("activation", "columns", "message"),
    [
        ("relu", 4, "activation must be one of none, swiglu, geglu, swiglu_clamped, got relu"),
        ("geglu", 5, "weight must have an even N for geglu, gate and up in turns, got 5"),
    ],
)
def test_wrong_activations_are_refused(activation, columns, message):
    with pytest.raises(ValueError, match=message):
        check_activation(activation, columns)


def test_kernels_agree_with_the_reference(run_interpreted):
    errors = run_interpreted("activations.py")
    assert set(errors) == {f"{name} {place}" for name in ACTIVATIONS if is_gated(name) for place in ("columns", "rows")}
    assert max(errors.values()) < 1e-6
