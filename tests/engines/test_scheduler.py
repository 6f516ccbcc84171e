"""Pages and slots: nothing is lost, nothing is held twice, requests start in order."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenwatt.architecture import Architecture
from tokenwatt.engines.native import scheduler as module
from tokenwatt.engines.native.batch import prepare
from tokenwatt.engines.native.kv_cache import PAGE_SIZE, KvCache, pages_for
from tokenwatt.engines.native.scheduler import Scheduler, Sequence, Step
from tokenwatt.workloads import Request

CPU = torch.device("cpu")
TINY = Architecture(
    name="tiny",
    model_type="llama",
    hidden_size=16,
    intermediate_size=16,
    num_hidden_layers=1,
    num_attention_heads=1,
    num_key_value_heads=1,
    head_dim=16,
    vocab_size=8,
    max_position_embeddings=4096,
    rms_norm_eps=1e-6,
    rope_theta=1e4,
    rope_scaling=None,
    tie_word_embeddings=True,
    has_qk_norm=False,
)


def cache(pages: int) -> KvCache:
    return KvCache(TINY, pages, torch.float32, CPU)


def request(index: int, isl: int, osl: int) -> Request:
    return Request(index, np.zeros(isl, dtype=np.int32), osl)


def table(*pages: int) -> np.ndarray:
    return np.array([*pages, *[0] * (4 - len(pages))], dtype=np.int32)


def pages_of(sequence: Sequence) -> int:
    return pages_for(len(sequence.request.prompt) + sequence.request.max_tokens)


def play(step: Step) -> None:
    for sequence in step.sequences:
        sequence.generated += 1


def test_pages_for():
    assert [pages_for(tokens) for tokens in (1, 16, 17, 32)] == [1, 1, 2, 2]


def test_allocation_is_all_or_nothing():
    pool = cache(3)
    first = pool.allocate(2 * PAGE_SIZE)
    assert first is not None
    assert len(set(first)) == 2
    assert pool.allocate(PAGE_SIZE + 1) is None
    assert pool.free_pages == 1
    pool.release(first)
    assert pool.free_pages == 3


def test_prefill_comes_first_then_everyone_decodes():
    scheduler = Scheduler(iter([request(0, 5, 2), request(1, 7, 2), request(2, 3, 1)]), 2, cache(8), 4)
    step = scheduler.schedule()
    assert step is not None
    assert step.is_prefill
    assert [sequence.request.index for sequence in step.sequences] == [0, 1]
    play(step)
    scheduler.retire()
    step = scheduler.schedule()
    assert step is not None
    assert not step.is_prefill
    play(step)
    scheduler.retire()  # both are done: two tokens each
    step = scheduler.schedule()
    assert step is not None
    assert step.is_prefill
    assert [sequence.request.index for sequence in step.sequences] == [2]
    play(step)
    scheduler.retire()
    assert scheduler.schedule() is None


def test_a_request_waits_for_memory_without_being_overtaken():
    # 4 pages; the first takes 3, the second needs 2 and waits, the third would fit but stays behind it.
    requests = [request(0, 40, 8), request(1, 20, 8), request(2, 1, 8)]
    scheduler = Scheduler(iter(requests), 3, cache(4), 4)
    step = scheduler.schedule()
    assert step is not None
    assert [sequence.request.index for sequence in step.sequences] == [0]
    assert scheduler.num_running == 1


def test_the_prefill_budget_splits_long_batches_but_never_starves(monkeypatch):
    monkeypatch.setattr(module, "MAX_PREFILL_TOKENS", 10)
    scheduler = Scheduler(iter([request(0, 6, 4), request(1, 6, 4), request(2, 30, 4)]), 3, cache(16), 4)
    sizes = []
    for _ in range(3):
        step = scheduler.schedule()
        assert step is not None
        assert step.is_prefill
        sizes.append([len(sequence.request.prompt) for sequence in step.sequences])
    assert sizes == [[6], [6], [30]]


@settings(max_examples=60)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 60), st.integers(1, 12)), min_size=1, max_size=12),
    concurrency=st.integers(1, 5),
    pages=st.integers(5, 20),
)
def test_every_request_gets_its_tokens_and_every_page_comes_back(lengths, concurrency, pages):
    requests = [request(index, isl, osl) for index, (isl, osl) in enumerate(lengths)]
    pool = cache(pages)
    scheduler = Scheduler(iter(requests), concurrency, pool, 5)
    produced = dict.fromkeys(range(len(requests)), 0)
    while (step := scheduler.schedule()) is not None:
        held = [page for sequence in step.sequences for page in sequence.pages[: pages_of(sequence)]]
        assert len(held) == len(set(held))
        assert scheduler.num_running <= concurrency
        for sequence in step.sequences:
            produced[sequence.request.index] += 1
        play(step)
        scheduler.retire()
    assert produced == {index: osl for index, (_, osl) in enumerate(lengths)}
    assert pool.free_pages == pages


def test_decode_tensors_by_hand():
    # Prompt of 17 tokens, pages [5, 2]; two tokens generated: the second one is stored at position 18.
    sequence = Sequence(request(0, 17, 9), pages=table(5, 2), generated=2, last_token=7)
    batch = prepare(Step(False, [sequence]), CPU)
    assert batch.token_ids.tolist() == [7]
    assert batch.positions.tolist() == [18]
    assert batch.slots.tolist() == [2 * 16 + 2]  # page 2, offset 18 - 16
    assert batch.block_table is not None
    assert batch.block_table.tolist() == [[5, 2, 0, 0]]
    assert batch.context_lens is not None
    assert batch.context_lens.tolist() == [19]


def test_prefill_tensors_by_hand():
    sequences = [Sequence(request(0, 2, 1), pages=table(3)), Sequence(request(1, 17, 1), pages=table(0, 4))]
    batch = prepare(Step(True, sequences), CPU)
    assert batch.cu_seqlens is not None
    assert batch.cu_seqlens.tolist() == [0, 2, 19]
    assert batch.max_seqlen == 17
    assert batch.last_rows.tolist() == [1, 18]
    assert batch.positions.tolist() == [0, 1, *range(17)]
    assert batch.slots.tolist() == [48, 49, *range(16), 64]
