"""Wrong decode kernels, each with the problem on which the gate must notice."""

from __future__ import annotations

from tokenwatt_kernels.mutation import Mutant

SOFTMAX = "tokenwatt_kernels.attention.online_softmax"
LIVE = "is_live = columns < context"

MUTANTS = (
    Mutant("reads one token too many", "page_boundaries", LIVE, "is_live = columns <= context", SOFTMAX),
    Mutant("misses the newest token", "page_boundaries", LIVE, "is_live = columns < context - 1", SOFTMAX),
    Mutant("does not rescale the answer", "group_3_with_empty", "acc = acc * rescale[:, None]", "acc = acc", SOFTMAX),
    Mutant(
        "looks up the wrong page",
        "group_4_page_24",
        "tl.load(table_ptr + columns // PAGE_SIZE,",
        "tl.load(table_ptr + columns // PAGE_SIZE * 0,",
        SOFTMAX,
    ),
    Mutant(
        "weighs all parts alike",
        "group_8",
        "weights = tl.exp2(log_sums - shift[None, :])",
        'weights = tl.where(log_sums > float("-inf"), 1.0, 0.0)',
    ),
    Mutant(
        "loses the last part",
        "group_8",
        "parts = (segment_begin + steps - 1) // share - program + 1",
        "parts = (segment_begin + steps - 1) // share - program",
    ),
    Mutant(
        "joins a part too early",
        "page_256",
        "parts = (segment_begin + steps - 1) // share - first + 1",
        "parts = (segment_begin + steps - 1) // share - first",
    ),
    Mutant(
        "does not rescale parts", "group_3_with_empty", "acc = acc * rescale[:, None] + tl.sum", "acc = acc + tl.sum"
    ),
    Mutant(
        "has no guard where no part has a key",
        "verify_20_of_18",
        'shift = tl.where(new_max == float("-inf"), 0.0, new_max)',
        "shift = new_max",
    ),
    Mutant("adds the sink in every part", "window_40_sinks", "has_sink = is_real & (step == 0)", "has_sink = is_real"),
    Mutant(
        "leaves out the first step",
        "group_8",
        "start = (first_step + step) * BLOCK_N",
        "start = (first_step + step + (step == 0)) * BLOCK_N",
    ),
    Mutant(
        "shows every query every key",
        "verify_4",
        "positions = context - QUERIES + rows // GROUP",
        "positions = context + rows",
    ),
    Mutant(
        "forgets the factor of the keys",
        "float8",
        "factor * restore * softmax.head_scale(k_scale_ptr, kv_head, k_scale_stride)",
        "factor * restore",
    ),
    Mutant("leaves the queries scaled", "float8", "factor * restore", "factor", dtype_name="bfloat16"),
    Mutant(
        "takes the first factor for all heads",
        "float8_head_scales",
        "softmax.head_scale(v_scale_ptr, kv_head, v_scale_stride)",
        "softmax.head_scale(v_scale_ptr, 0, v_scale_stride)",
    ),
)
