"""Wrong prefill kernels, each with the problem on which the gate must notice."""

from __future__ import annotations

from tokenwatt_kernels.mutation import Mutant

SOFTMAX = "tokenwatt_kernels.attention.online_softmax"
CAUSAL = "is_visible = is_visible & (columns[None, :] <= positions[:, None])"
WINDOW = "is_visible = is_visible & (columns[None, :] > positions[:, None] - window)"
OUTPUT_DOT = 'acc = tl.dot(weights.to(v.dtype), v, acc, input_precision="ieee")'

MUTANTS = (
    Mutant("sees the future", "odd_lengths", CAUSAL, "is_visible = is_visible", SOFTMAX),
    Mutant("does not see itself", "odd_lengths", CAUSAL, CAUSAL.replace("<=", "<"), SOFTMAX),
    Mutant("has a window one key too wide", "window_7", WINDOW, WINDOW.replace(">", ">="), SOFTMAX),
    Mutant(
        "weighs keys behind the context",
        "not_causal",
        "is_visible = is_live[None, :]",
        "is_visible = is_live[None, :] | True",
        SOFTMAX,
    ),
    Mutant("does not rescale the answer", "group_3", "acc = acc * rescale[:, None]", "acc = acc", SOFTMAX),
    Mutant(
        "does not rescale the sum",
        "group_3",
        "row_sum = row_sum * rescale + tl.sum(weights, 1)",
        "row_sum = row_sum + tl.sum(weights, 1)",
        SOFTMAX,
    ),
    Mutant(
        "accumulates in bfloat16",
        "long_context",
        OUTPUT_DOT,
        f"{OUTPUT_DOT}.to(tl.bfloat16).to(tl.float32)",
        SOFTMAX,
        "bfloat16",
    ),
    Mutant(
        "forgets the softcap",
        "softcap",
        "scores = cap - 2.0 * cap / (1.0 + tl.exp2(scores * factor))",
        "scores = scores * factor",
        SOFTMAX,
    ),
    Mutant(
        "forgets the tail of the keys",
        "head_dim_96",
        'tl.dot(q_tail, tl.trans(k_tail.to(q.dtype)), scores, input_precision="ieee")',
        "scores",
        SOFTMAX,
    ),
    Mutant("gives the log-sum-exp in log2", "one_token", "log_sum * LN_2", "log_sum", SOFTMAX),
    Mutant(
        "leaves the float8 shift in the log-sum-exp",
        "odd_lengths_wide",
        "tl.log2(divisor * 2.0**-WEIGHT_SHIFT)",
        "tl.log2(divisor)",
        SOFTMAX,
        "float8_e4m3fn",
    ),
    Mutant(
        "takes sinks for natural logarithms",
        "window_40_sinks",
        "tl.load(sinks_ptr + heads) * LOG2_E",
        "tl.load(sinks_ptr + heads)",
        SOFTMAX,
    ),
    Mutant(
        "reads the next page",
        "pages_of_64",
        "tl.load(table_ptr + first // PAGE_SIZE).to(tl.int64)",
        "tl.load(table_ptr + first // PAGE_SIZE + 1).to(tl.int64)",
        SOFTMAX,
    ),
    Mutant(
        "has no guard where nothing is seen",
        "nothing_seen",
        'shift = tl.where(new_max == float("-inf"), 0.0, new_max) if MASKED else new_max',
        "shift = new_max",
        SOFTMAX,
    ),
    Mutant(
        "skips the last step",
        "group_3",
        "end = tl.maximum(tl.minimum(last_position + 1, context), 0)",
        "end = tl.maximum(tl.minimum(last_position + 1, context), 0) - BLOCK_N",
    ),
    Mutant(
        "puts a chunk at the start",
        "chunks",
        "positions = context - queries + rows // GROUP",
        "positions = rows // GROUP",
    ),
    Mutant(
        "mixes up the heads of a group",
        "group_3",
        "heads = kv_head * GROUP + rows % GROUP",
        "heads = kv_head * GROUP + rows // GROUP % GROUP",
    ),
    Mutant(
        "takes the first factor for all heads",
        "group_8_head_scales",
        "softmax.head_scale(k_scale_ptr, kv_head, k_scale_stride)",
        "softmax.head_scale(k_scale_ptr, 0, k_scale_stride)",
        dtype_name="float8_e4m3fn",
    ),
    Mutant("leaves the queries scaled", "float8_pages", "factor *= restore", "factor *= 1.0", dtype_name="bfloat16"),
    Mutant(
        "does not mask the edge of the window",
        "window_40_sinks",
        "whole_start = tl.cdiv(tl.maximum(last_position - window + 1, 0), BLOCK_N) * BLOCK_N",
        "whole_start = tl.maximum(last_position - window + 1, 0) // BLOCK_N * BLOCK_N",
    ),
)
