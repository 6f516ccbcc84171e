"""Wrong norms, each with the problem on which the gate must notice."""

from __future__ import annotations

from tokenwatt_kernels.mutation import Mutant

MUTANTS = (
    Mutant("divides by the padded width", "odd", "/ WIDTH + eps)", "/ BLOCK_WIDTH + eps)"),
    Mutant("forgets eps", "residual", "/ WIDTH + eps)", "/ WIDTH)"),
    Mutant("norms x alone", "residual", "x = stored.to(tl.float32)", "x -= tl.load(residual_ptrs, is_real, 0.0)"),
    Mutant("does not store the sum", "residual", "tl.store(residual_ptrs, stored, mask=is_real)", "pass"),
    Mutant("multiplies by the weight alone", "unit_offset", "weight += 1.0", "weight += 0.0"),
    Mutant("takes the first head for all", "heads", "row % HEADS", "row % 1"),
    Mutant(
        "writes rows that are not there",
        "odd",
        "tl.store(out_ptrs, y.to(out_ptr.dtype.element_ty), mask=is_real)",
        "tl.store(out_ptrs, y.to(out_ptr.dtype.element_ty), mask=(columns < WIDTH)[None, :])",
    ),
    Mutant(
        "does not divide by the given scale", "tensor_scale", "y = y / tl.load(scale_ptr)", "y = y * tl.load(scale_ptr)"
    ),
    Mutant("leaves the scale of zeros at zero", "token_scales", "largest < LEAST_LARGEST", "largest < -1.0"),
    Mutant(
        "takes the largest number for the largest size",
        "token_scales",
        "scale = _scale_of(tl.max(tl.abs(y), 1))",
        "scale = _scale_of(tl.max(y, 1))",
    ),
    Mutant(
        "norms what has no weight",
        "quantised_tokens",
        "    y = x\n",
        "    y = x * tl.rsqrt(tl.sum(x * x, 1) / WIDTH + eps)[:, None]\n",
    ),
    Mutant(
        "stores one block's scale for the next",
        "block_scales",
        "[:, None] + block[None, :]",
        "[:, None] + (block + 1)[None, :] % (WIDTH // SCALE_WIDTH)",
    ),
)
