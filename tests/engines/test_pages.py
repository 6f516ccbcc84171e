"""Pages are handed out and come back by hand-made rules, and as a naive model of them says."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tokenwatt.engines.native.pages import PagePool, page_digests, pages_for

A, B, C, D = (bytes([byte]) * 16 for byte in range(4))
"""Digests of four contents."""


def taken(pool: PagePool, count: int) -> list[int]:
    pages = pool.take(count)
    assert pages is not None
    return pages


@pytest.mark.parametrize(("tokens", "pages"), [(0, 0), (1, 1), (15, 1), (16, 1), (17, 2), (32, 2), (33, 3)])
def test_pages_of_16_tokens_that_hold_so_many(tokens, pages):
    assert pages_for(tokens, 16) == pages


def test_digests_are_chained_over_whole_pages_alone():
    tokens = np.array([1, 2, 3, 4, 5], dtype=np.int32)
    # Two whole pages of two tokens, little-endian words; token 5 has no page of its own yet.
    first = blake2b(bytes([1, 0, 0, 0, 2, 0, 0, 0]), digest_size=16).digest()
    second = blake2b(first + bytes([3, 0, 0, 0, 4, 0, 0, 0]), digest_size=16).digest()
    assert page_digests(tokens, 2) == [first, second]
    assert page_digests(tokens[2:], 2, first) == [second]
    assert page_digests(tokens[:1], 2) == []


def test_a_page_with_another_beginning_has_another_digest():
    one = page_digests(np.array([1, 2, 7, 8], dtype=np.int32), 2)
    other = page_digests(np.array([1, 3, 7, 8], dtype=np.int32), 2)
    assert one[1] != other[1]


def test_pages_are_taken_all_or_none():
    pool = PagePool(3)
    assert taken(pool, 2) == [0, 1]
    assert pool.take(2) is None
    assert pool.free_pages == 1
    assert taken(pool, 1) == [2]
    assert pool.take(1) is None
    assert pool.take(0) == []


def test_a_page_comes_back_with_its_last_holder():
    pool = PagePool(2)
    (page,) = taken(pool, 1)
    pool.publish(page, A)
    assert pool.share([A]) == [page]
    assert pool.holders(page) == 2
    pool.release([page])
    assert (pool.holders(page), pool.free_pages) == (1, 1)
    pool.release([page])
    assert (pool.holders(page), pool.free_pages) == (0, 2)


def test_a_page_that_nobody_holds_is_found_again_and_held():
    pool = PagePool(2)
    pages = taken(pool, 2)
    pool.publish(pages[0], A)
    pool.release(pages)
    assert pool.share([A]) == [pages[0]]
    assert pool.free_pages == 1
    assert taken(pool, 1) == [pages[1]]  # the shared one is not handed out
    assert pool.take(1) is None


def test_sharing_ends_at_the_first_page_that_is_missing():
    pool = PagePool(3)
    pages = taken(pool, 3)
    pool.publish(pages[0], A)
    pool.publish(pages[2], C)
    assert pool.share([A, B, C]) == [pages[0]]
    assert [pool.holders(page) for page in pages] == [2, 1, 1]


def test_blank_pages_go_first_then_the_longest_unused():
    pool = PagePool(4)
    pages = taken(pool, 4)
    for page, digest in zip(pages[:3], (A, B, C), strict=True):
        pool.publish(page, digest)
    pool.release([pages[1]])
    pool.release([pages[0]])
    pool.release([pages[2], pages[3]])
    assert pool.share([B]) == [pages[1]]  # used again: it is the newest now
    pool.release([pages[1]])
    # Page 3 was never published; then 0, 2, 1 in the order in which they were last held.
    assert taken(pool, 4) == [pages[3], pages[0], pages[2], pages[1]]


def test_the_end_of_a_sequence_is_lost_before_its_beginning():
    pool = PagePool(3)
    pages = taken(pool, 3)
    for page, digest in zip(pages, (A, B, C), strict=True):
        pool.publish(page, digest)
    pool.release(pages)
    assert taken(pool, 1) == [pages[2]]
    assert pool.share([A, B, C]) == pages[:2]


def test_content_is_lost_when_a_page_is_taken_for_another():
    pool = PagePool(1)
    (page,) = taken(pool, 1)
    pool.publish(page, A)
    pool.release([page])
    taken(pool, 1)
    assert pool.share([A]) == []
    pool.publish(page, B)
    assert pool.share([B]) == [page]


def test_of_two_pages_with_one_content_the_first_is_shared():
    pool = PagePool(2)
    first, second = taken(pool, 2)
    pool.publish(first, A)
    pool.publish(second, A)
    assert pool.share([A]) == [first]
    pool.release([second])
    # The second was never known: it is blank, and its loss takes nothing from the first.
    assert taken(pool, 1) == [second]
    assert pool.share([A]) == [first]


class NaivePool:
    """The same rules, as slow as they read: `last_use` orders the pages that have content."""

    def __init__(self, num_pages: int) -> None:
        self.holders = [0] * num_pages
        self.content: dict[int, bytes] = {}
        self.last_use: dict[int, int] = {}
        self.clock = 0

    def free(self) -> list[int]:
        return [page for page, count in enumerate(self.holders) if not count]

    def taken(self, pages: list[int]) -> None:
        blank = [page for page in self.free() if page not in self.content]
        kept = sorted((page for page in self.free() if page in self.content), key=self.last_use.__getitem__)
        # Which of the blank pages come is left open; of those with content the longest unused ones must go.
        lost = max(0, len(pages) - len(blank))
        assert set(pages[: len(pages) - lost]) <= set(blank)
        assert pages[len(pages) - lost :] == kept[:lost]
        for page in pages:
            self.holders[page] = 1
            self.content.pop(page, None)

    def shared(self, digests: list[bytes]) -> list[int]:
        where = {digest: page for page, digest in self.content.items()}
        pages = []
        for digest in digests:
            if digest not in where:
                break
            pages.append(where[digest])
            self.holders[where[digest]] += 1
        return pages

    def publish(self, page: int, digest: bytes) -> None:
        if digest not in self.content.values():
            self.content[page] = digest

    def release(self, pages: list[int]) -> None:
        for page in reversed(pages):
            self.holders[page] -= 1
            self.clock += 1
            self.last_use[page] = self.clock


class PoolAgainstModel(RuleBasedStateMachine):
    """Holders take, share, publish and release in any order."""

    PAGES = 6

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.model = PagePool(self.PAGES), NaivePool(self.PAGES)
        self.held: list[list[int]] = []

    @rule(count=st.integers(0, 4))
    def take(self, count):
        pages = self.pool.take(count)
        assert (pages is None) == (count > len(self.model.free()))
        if pages is not None:
            assert len(set(pages)) == count
            self.model.taken(pages)
            self.held.append(pages)

    @rule(digests=st.lists(st.sampled_from([A, B, C, D]), unique=True, max_size=4))
    def share(self, digests):
        pages = self.pool.share(digests)
        assert pages == self.model.shared(digests)
        self.held.append(pages)

    @rule(data=st.data(), digest=st.sampled_from([A, B, C, D]))
    def publish(self, data, digest):
        # A page holds one content for as long as it is held.
        pages = [page for pages in self.held for page in pages if page not in self.model.content]
        if pages:
            page = data.draw(st.sampled_from(pages))
            self.pool.publish(page, digest)
            self.model.publish(page, digest)

    @rule(data=st.data())
    def release(self, data):
        if self.held:
            pages = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
            self.pool.release(pages)
            self.model.release(pages)

    @invariant()
    def they_agree(self):
        assert self.pool.free_pages == len(self.model.free())
        assert [self.pool.holders(page) for page in range(self.PAGES)] == self.model.holders


TestPoolAgainstModel = PoolAgainstModel.TestCase
