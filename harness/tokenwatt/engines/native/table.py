"""One row for each running sequence, as arrays: so a step with hundreds of sequences costs no loop over them."""

from __future__ import annotations

import numpy as np

from tokenwatt.engines.native.sequence import NO_ROW, Sequence


class Table:
    """What changes with every step, for up to `rows` running sequences of at most max_pages pages."""

    def __init__(self, rows: int, max_pages: int) -> None:
        self.rows = rows
        self.pages = np.zeros((rows, max_pages), dtype=np.int32)
        """[rows, max_pages]: page ids of each sequence; what is behind its last page means nothing."""
        self.num_pages = np.zeros(rows, dtype=np.int32)
        """[rows]: pages of each."""
        self.computed = np.zeros(rows, dtype=np.int32)
        """[rows]: tokens whose keys and values the cache holds once all launched steps are done."""
        self.end = np.zeros(rows, dtype=np.int32)
        """[rows]: tokens of the sequence when its budget is spent."""
        self._free = list(range(rows - 1, -1, -1))

    @property
    def has_room(self) -> bool:
        """Whether a row is free."""
        return bool(self._free)

    def slots(self, rows: np.ndarray, positions: np.ndarray, page_size: int) -> np.ndarray:
        """int32 [T], where the cache keeps a token at each position of the sequence in each row."""
        pages, places = np.divmod(positions, page_size)
        return self.pages.ravel().take(rows * self.pages.shape[1] + pages) * page_size + places

    def seat(self, sequence: Sequence, computed: int) -> None:
        """Give a sequence, which has pages, a row."""
        row = sequence.row = self._free.pop()
        self.num_pages[row] = 0
        self.append(sequence, sequence.pages)
        self.computed[row] = computed
        self.end[row] = sequence.end

    def append(self, sequence: Sequence, pages: list[int]) -> None:
        """Note further pages of a sequence."""
        row = sequence.row
        held = self.num_pages[row]
        self.pages[row, held : held + len(pages)] = pages
        self.num_pages[row] = held + len(pages)

    def free(self, sequence: Sequence) -> None:
        """Take the row back. Its content stays until another sequence gets it."""
        self._free.append(sequence.row)
        sequence.row = NO_ROW
