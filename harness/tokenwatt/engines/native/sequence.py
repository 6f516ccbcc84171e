"""A request under way: its tokens, and where it stands."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from tokenwatt.workloads import Request

NO_ROW = -1


@dataclass(slots=True, eq=False)
class Sequence:
    """A request and what came of it. What changes with every step stands in the scheduler's `Table`, at `row`.

    Tokens exist in two places for a while: a step that has been launched will give one, which its sequence counts as
    `promised`, and which is in `output` once it is on the host.
    """

    request: Request
    row: int = NO_ROW
    output: list[int] = field(default_factory=list)
    promised: int = 0
    """Output tokens of all steps launched before the sequence last left its row."""
    pages: list[int] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    """Of its whole pages, with prefix caching."""
    published: int = 0
    """Pages of them that others may share."""
    preemptions: int = 0
    is_over: bool = False
    """Whether its last token is on the host."""

    @property
    def prompt_len(self) -> int:
        """Tokens of the prompt."""
        return len(self.request.prompt)

    @property
    def known_len(self) -> int:
        """Tokens that are on the host."""
        return len(self.request.prompt) + len(self.output)

    @property
    def end(self) -> int:
        """Tokens when its budget is spent."""
        return len(self.request.prompt) + self.request.max_tokens

    def tokens(self, start: int, stop: int) -> np.ndarray:
        """Its tokens at positions start to stop - 1, int32; all of them must be on the host."""
        prompt = self.request.prompt
        if stop <= len(prompt):
            return prompt[start:stop]
        output = np.array(self.output[max(0, start - len(prompt)) : stop - len(prompt)], dtype=np.int32)
        return np.concatenate([prompt[start:], output])
