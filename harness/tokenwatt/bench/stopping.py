"""When a point has windows enough: its interval is narrow, or its budget is spent."""

from __future__ import annotations

from dataclasses import dataclass, field

from tokenwatt.analysis.statistics import has_converged
from tokenwatt.rows import Recording, work_tokens
from tokenwatt.spec import BenchSpec


@dataclass(slots=True)
class Stopping:
    """The windows of one point so far, and whether another one follows.

    It hears of a window while the engine serves the next one, so it takes only what the decision needs: a search among
    the tokens, and the energy, some 10 ms a board. `results` says the same of the rows in `has_converged`.
    """

    spec: BenchSpec
    window_s: float
    joules_per_token: list[float] = field(default_factory=list)
    """Of the windows whose energy can be trusted; for prefill, of prompt tokens."""
    open_joules_per_token: list[float] = field(default_factory=list)
    """Half of the 95 % interval that the meters leave around each of these."""
    tokens_per_s: list[float] = field(default_factory=list)
    """Of every window."""

    @property
    def most(self) -> int:
        """Windows at most: one where no interval is asked for, or where the budget ends first."""
        if self.spec.interval_width == 0:
            return 1
        return max(1, min(self.spec.max_windows, int(self.spec.budget_s / self.window_s)))

    @property
    def is_over(self) -> bool:
        """Whether no further window is needed, or none may follow."""
        # A meter that is lost leaves a few joules, which would never become enough.
        has_energy = 2 * len(self.joules_per_token) > len(self.tokens_per_s)
        deciding, open_halves = self.tokens_per_s, list[float]()
        if has_energy:
            deciding, open_halves = self.joules_per_token, self.open_joules_per_token
        return len(self.tokens_per_s) >= self.most or has_converged(deciding, self.spec.interval_width, open_halves)

    def note(self, recording: Recording, start_s: float, end_s: float) -> None:
        """Take in a full window."""
        tokens = work_tokens(recording.timeline, start_s, end_s)
        self.tokens_per_s.append(tokens / (end_s - start_s))
        energy = recording.energy(start_s, end_s)
        if energy.gpu_energy_j is not None and tokens:
            self.joules_per_token.append(energy.gpu_energy_j / tokens)
            if energy.half_width_j is not None:
                self.open_joules_per_token.append(energy.half_width_j / tokens)
