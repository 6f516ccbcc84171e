"""What MLPerf Inference asks of a language model: mean lengths, and the times of tokens that it allows."""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files
from pathlib import Path

from pydantic import PositiveFloat

from tokenwatt.reference.facts import Grade, Text
from tokenwatt.reference.tables import Row, read_rows


class MlperfTask(Row):
    """One model of MLPerf Inference."""

    family: Text
    """The model's shape, as the predictor's library names it."""
    isl: PositiveFloat
    """Mean tokens of a prompt."""
    osl: PositiveFloat
    """Mean tokens of an answer."""
    server_tpot_s: PositiveFloat
    """Limit of TPOT in the Server scenario, at the 99th percentile, s."""
    server_ttft_s: PositiveFloat
    """Limit of TTFT, likewise."""
    interactive_tpot_s: PositiveFloat | None = None
    """The same of Interactive; empty where there is no such scenario."""
    interactive_ttft_s: PositiveFloat | None = None
    source: Text
    """Where the numbers were read."""
    grade: Grade
    """How they came to us."""

    def tpot_limit_s(self, scenario: str) -> float | None:
        """The limit in `server` or `interactive`."""
        return self.server_tpot_s if scenario == "server" else self.interactive_tpot_s

    def ttft_limit_s(self, scenario: str) -> float | None:
        """The limit of TTFT in `server` or `interactive`."""
        return self.server_ttft_s if scenario == "server" else self.interactive_ttft_s


@lru_cache(maxsize=1)
def load_mlperf() -> dict[str, MlperfTask]:
    """The shipped tasks, by family."""
    path = Path(str(files("tokenwatt.reference"))) / "mlperf.csv"
    return {row.family: row for row in read_rows(path, MlperfTask, ("family",))}
