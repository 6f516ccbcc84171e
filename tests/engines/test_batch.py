"""Tensors of a step, by hand, and the buffer that they lie in."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenwatt.engines.native.batch import Layout, Stage, decode_batch, decode_parts, prepare
from tokenwatt.engines.native.scheduler import Step
from tokenwatt.engines.native.sequence import Sequence
from tokenwatt.engines.native.table import Table
from tokenwatt.workloads import Request

CPU = torch.device("cpu")


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int32)


def seated(table: Table, prompt: list[int], pages: list[int]) -> Sequence:
    sequence = Sequence(Request(0, ints(*prompt), 9), pages=pages)
    table.seat(sequence, 0)
    return sequence


def decoding(table: Table, starts: list[int]) -> Step:
    """A step in which the first rows of the table decode."""
    count = len(starts)
    each = np.arange(count, dtype=np.int32)
    sequences = [Sequence(Request(index, ints(1), 9)) for index in range(count)]
    return Step(each, ints(*starts), np.ones(count, dtype=np.int32), count, [], each, sequences)


@pytest.fixture
def table() -> Table:
    """Four rows, of which the first two hold 17 tokens on pages 5 and 2, and 3 tokens on page 7."""
    table = Table(rows=4, max_pages=4)
    seated(table, [1] * 17, [5, 2])
    seated(table, [1] * 3, [7])
    return table


def test_a_step_that_decodes(table):
    batch = prepare(decoding(table, [18, 3]), table, 16, Stage(4, 64, 4, CPU))
    assert batch.rows.tolist() == [0, 1]
    assert batch.positions.tolist() == [18, 3]
    assert batch.slots.tolist() == [2 * 16 + 2, 7 * 16 + 3]  # page 2, place 18 - 16; page 7, place 3
    assert batch.context_lens.tolist() == [19, 4]
    assert batch.block_table.tolist() == [[5, 2, 0, 0], [7, 0, 0, 0]]
    assert batch.cu_seqlens.tolist() == [0, 1, 2]
    assert batch.prompt_tokens.tolist() == []
    assert (batch.last.tolist(), batch.sampled.tolist()) == ([0, 1], [0, 1])
    assert (batch.decodes, batch.longest_chunk, batch.context_slots) == (2, 0, None)


def mixed(table: Table) -> Step:
    """Row 1 decodes at position 3; row 2 gets tokens 2 to 4 of a prompt of 9, row 3 both tokens of its prompt."""
    chunks = [seated(table, [*range(10, 19)], [1, 6, 3]), seated(table, [20, 21], [4])]
    decode = Sequence(Request(1, ints(1), 9))
    return Step(
        rows=ints(1, 2, 3), starts=ints(3, 2, 0), counts=ints(1, 3, 2), decodes=1, chunks=chunks, sampled=ints(0, 2),
        sequences=[decode, chunks[1]],
    )  # fmt: skip


def test_a_step_that_decodes_and_computes_prompts(table):
    batch = prepare(mixed(table), table, 4, Stage(4, 64, 4, CPU))
    assert batch.rows.tolist() == [1, 2, 3]
    assert batch.cu_seqlens.tolist() == [0, 1, 4, 6]
    assert batch.positions.tolist() == [3, 2, 3, 4, 0, 1]
    # Page 7 place 3; pages 1, 1, 6 at places 2, 3, 0; page 4 at places 0 and 1.
    assert batch.slots.tolist() == [31, 6, 7, 24, 16, 17]
    assert batch.prompt_tokens.tolist() == [12, 13, 14, 20, 21]
    assert batch.context_lens.tolist() == [4, 5, 2]
    assert batch.block_table.tolist() == [[7, 0, 0, 0], [1, 6, 3, 0], [4, 0, 0, 0]]
    # The last tokens of the one that decodes and of the prompt that ends, not of the chunk between them.
    assert (batch.last.tolist(), batch.sampled.tolist()) == ([0, 5], [0, 2])
    assert (batch.decodes, batch.longest_chunk, batch.context_slots) == (1, 3, None)


def test_where_the_contexts_of_chunks_lie(table):
    batch = prepare(mixed(table), table, 4, Stage(4, 64, 4, CPU), wants_contexts=True)
    assert batch.context_bounds is not None
    assert batch.context_slots is not None
    assert batch.context_bounds.tolist() == [0, 5, 7]
    # Positions 0 to 4 on pages 1 and 6, then 0 and 1 on page 4.
    assert batch.context_slots.tolist() == [4, 5, 6, 7, 24, 16, 17]


def test_a_resumed_sequence_reads_its_own_output(table):
    step = mixed(table)
    step.chunks[0].output.extend([77, 78])
    # Prompt 10 to 18, then 77 and 78: positions 7 to 10.
    step = Step(ints(2), ints(7), ints(4), 0, step.chunks[:1], ints(0), step.chunks[:1])
    batch = prepare(step, table, 4, Stage(4, 64, 4, CPU))
    assert batch.prompt_tokens.tolist() == [17, 18, 77, 78]
    assert batch.slots.tolist() == [27, 12, 13, 14]  # page 6 place 3, page 3 places 0 to 2


@pytest.mark.parametrize("count", [0, 2])
def test_room_beside_the_sequences_is_nobodys(table, count):
    step = decoding(table, [18, 3]) if count else None
    batch = decode_batch([torch.from_numpy(part) for part in decode_parts(step, table, 16, 4)])
    # Row 4 is behind the table's rows 0 to 3, slot -1 is no slot, and a context of 0 has no keys.
    assert batch.rows.tolist() == [0, 1, 2, 3][:count] + [4] * (4 - count)
    assert batch.slots.tolist() == [34, 115][:count] + [-1] * (4 - count)
    assert batch.context_lens.tolist() == [19, 4][:count] + [0] * (4 - count)
    assert batch.positions.tolist() == [18, 3][:count] + [0] * (4 - count)
    assert batch.block_table.tolist() == [[5, 2, 0, 0], [7, 0, 0, 0]][:count] + [[0] * 4] * (4 - count)
    assert batch.cu_seqlens.tolist() == [0, 1, 2, 3, 4]
    assert (batch.decodes, batch.longest_chunk) == (4, 0)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=10), st.integers(1, 5))
def test_every_part_begins_at_a_multiple_of_16_bytes(lengths, columns):
    parts = [np.full(length, place, dtype=np.int32) for place, length in enumerate(lengths)]
    parts.append(np.full((3, columns), 99, dtype=np.int32))
    host, layout = Stage(64, 64, 64, CPU).fill(*parts)
    views = layout.views(host)
    for part, view in zip(parts, views, strict=True):
        assert torch.equal(view, torch.from_numpy(part))
        assert view.storage_offset() * 4 % 16 == 0
    # The next part begins where this one and less than 16 bytes end.
    assert layout == Layout.of(parts)
    assert layout.words == sum(-(-part.size // 4) * 4 for part in parts)


@st.composite
def fullest_steps(draw) -> tuple[Table, Step]:
    """A step that takes all of its token budget and of its rows, which may be a few more."""
    used = draw(st.integers(1, 128))
    decodes = draw(st.sampled_from([0, used // 2, used]))
    lengths = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    counts = [1] * decodes + [lengths[place % len(lengths)] for place in range(used - decodes)]
    each = np.arange(used, dtype=np.int32)
    sequences = [Sequence(Request(0, np.zeros(count, dtype=np.int32), 1)) for count in counts]
    table = Table(used + draw(st.sampled_from([0, 0, 1, 7])), 4 * draw(st.integers(1, 3)))
    step = Step(each, 0 * each, ints(*counts), decodes, sequences[decodes:], each, sequences)
    return table, step


@settings(max_examples=200, deadline=None)
@given(fullest_steps())
def test_a_stage_holds_any_step(made):
    table, step = made
    budget, max_pages = max(step.tokens, table.rows), table.pages.shape[1]
    stage = Stage(table.rows, budget, max_pages, CPU)
    batch = prepare(step, table, 16, stage)
    assert batch.cu_seqlens[-1] == step.tokens
    stage.fill(*decode_parts(None, table, 16, table.rows))


def test_a_stage_holds_as_many_prompts_as_there_are_rows():
    # The most that 64 rows and 128 tokens can want: all rows have chunks, and all prompts end.
    table, each = Table(64, 4), np.arange(64, dtype=np.int32)
    chunks = [Sequence(Request(index, np.full(2, index, dtype=np.int32), 9)) for index in range(64)]
    step = Step(each, np.zeros(64, dtype=np.int32), np.full(64, 2, dtype=np.int32), 0, chunks, each, chunks)
    batch = prepare(step, table, 16, Stage(64, 128, 4, CPU))
    assert batch.prompt_tokens.tolist() == [index for index in range(64) for _ in range(2)]
    assert batch.last.tolist() == [*range(1, 128, 2)]
