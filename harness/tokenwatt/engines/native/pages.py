"""Who holds which page of the KV cache. A page with known content may be held by several (prefix caching)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from hashlib import blake2b

import numpy as np

DIGEST_BYTES = 16


def pages_for(tokens: int, page_size: int) -> int:
    """Pages that hold `tokens` tokens."""
    return -(-tokens // page_size)


def page_digests(tokens: np.ndarray, page_size: int, before: bytes = b"") -> list[bytes]:
    """A digest of each whole page of int32 tokens, and of all tokens before it; `before` is that of the page before.

    Two pages with one digest hold the same keys and values: 128 bits make another meaning of it practically impossible.
    """
    digests = []
    for start in range(0, len(tokens) - page_size + 1, page_size):
        before = blake2b(before + tokens[start : start + page_size].tobytes(), digest_size=DIGEST_BYTES).digest()
        digests.append(before)
    return digests


class PagePool:
    """Page ids 0 to num_pages - 1. A page that nobody holds keeps its content until it is taken for another.

    Without `publish`, which prefix caching alone calls, it is a plain stack of free pages.
    """

    def __init__(self, num_pages: int) -> None:
        self.num_pages = num_pages
        self._holders = [0] * num_pages
        self._blank = list(range(num_pages - 1, -1, -1))
        self._kept: OrderedDict[int, None] = OrderedDict()
        self._digests: dict[int, bytes] = {}
        self._pages: dict[bytes, int] = {}

    @property
    def free_pages(self) -> int:
        """Pages that nobody holds."""
        return len(self._blank) + len(self._kept)

    def take(self, count: int) -> list[int] | None:
        """`count` pages for new content, the longest unused ones first to lose theirs; None while too few are free."""
        if count > self.free_pages:
            return None
        taken = [self._blank.pop() if self._blank else self._forget_oldest() for _ in range(count)]
        for page in taken:
            self._holders[page] = 1
        return taken

    def share(self, digests: Iterable[bytes]) -> list[int]:
        """The pages that hold the contents of `digests`, up to the first that none has; the caller holds them now."""
        shared = []
        for digest in digests:
            page = self._pages.get(digest)
            if page is None:
                break
            self._kept.pop(page, None)
            self._holders[page] += 1
            shared.append(page)
        return shared

    def publish(self, page: int, digest: bytes) -> None:
        """Say what a held page holds; of two pages with one content the first is shared."""
        if digest not in self._pages:
            self._pages[digest] = page
            self._digests[page] = digest

    def release(self, pages: Sequence[int]) -> None:
        """Hold pages no longer; those at the end of a sequence are the first to lose their content."""
        for page in reversed(pages):
            self._holders[page] -= 1
            if self._holders[page]:
                continue
            if page in self._digests:
                self._kept[page] = None
            else:
                self._blank.append(page)

    def holders(self, page: int) -> int:
        """How many hold a page."""
        return self._holders[page]

    def _forget_oldest(self) -> int:
        page, _ = self._kept.popitem(last=False)
        del self._pages[self._digests.pop(page)]
        return page
