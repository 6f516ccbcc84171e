"""The same server of vLLM driven by `vllm bench serve` and by tokenwatt in turns, and a table of what each reports.

.venv-vllm/bin/python tests/vllm/agreement.py --model FOLDER --url http://127.0.0.1:8000 --rounds 3
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tokenwatt.bench import run_suite
from tokenwatt.bench.observer import Unwatched
from tokenwatt.record import Measurement, RequestRecord
from tokenwatt.spec import SuiteSpec, validate
from tokenwatt.store import read

ISL, OSL, CONCURRENCY = 64, 32, 8
AT_ONCE_S = 1e-3
"""A ramp so short begins all slots with whole requests at once, as `vllm bench serve` does. Requests of one length
then march in step: prompts come eight at a time, and wait for each other. Begun in mid-life, as is our habit, they come
one by one, and TTFT is a fifth of that."""
BENCH_SERVE = (
    "from vllm.benchmarks.serve import add_cli_args, main; "
    "from vllm.utils.argparse_utils import FlexibleArgumentParser; "
    "parser = FlexibleArgumentParser(); add_cli_args(parser); main(parser.parse_args())"
)
"""`vllm bench serve`, whose command wants a distribution named vllm, which the CPU build is not."""


@dataclass(frozen=True, slots=True)
class Medians:
    """What a client says of a server."""

    ttft_s: float
    itl_s: float
    output_tokens_per_s: float


def by_vllm(url: str, model: str, requests: int) -> Medians:
    """Medians of `vllm bench serve`, in a closed loop."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-c", BENCH_SERVE, "--backend", "openai", "--base-url", url, "--endpoint",
            "/v1/completions", "--model", model, "--dataset-name", "random", "--random-input-len", str(ISL),
            "--random-output-len", str(OSL), "--num-prompts", str(requests), "--max-concurrency", str(CONCURRENCY),
            "--ignore-eos", "--save-result", "--save-detailed", "--result-dir", folder, "--result-filename", "r.json",
            "--percentile-metrics", "ttft,tpot,itl,e2el", "--seed", str(requests),
        ]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True)
        found = json.loads((Path(folder) / "r.json").read_text())
    assert found["completed"] == requests
    gaps = [gap for itls in found["itls"] for gap in itls]
    return Medians(median(found["ttfts"]), median(gaps), found["output_throughput"])


def by_tokenwatt(url: str, model: str, seconds: float) -> Medians:
    """Medians of a window of ours, in a closed loop of the same lengths."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lengths = f'[input]\nkind = "fixed"\ntokens = {ISL}\n[output]\nkind = "fixed"\ntokens = {OSL}\n'
        (folder / "w.toml").write_text(f'name = "w"\ndescription = "by hand"\nvocabulary = 500\n{lengths}')
        bench = {
            "engine": "openai_endpoint",
            "workloads": [str(folder / "w.toml")],
            "concurrency": [CONCURRENCY],
            "ramp_s": AT_ONCE_S,
            "window_s": seconds,
            "min_window_s": seconds / 2,
            "interval_width": 0.0,
            "idle_s": 0.0,
            "options": {"base_url": url, "served_model": model},
        }
        run = run_suite(validate({"name": "s", "bench": [bench]}, SuiteSpec, "here"), folder / "raw", Unwatched())
        (row,) = read(run.folder, Measurement).to_dict("records")
        assert set(read(run.folder, RequestRecord)["status"]) <= {"complete", "cut"}, row["detail"]
    return Medians(row["ttft_median_s"], row["itl_median_s"], row["output_tokens_per_s"])


def main() -> None:
    """Print a line for each round, then the medians of the rounds and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--seconds", type=float, default=10.0)
    asked = parser.parse_args()
    pairs = [
        (by_vllm(asked.url, asked.model, asked.requests + place), by_tokenwatt(asked.url, asked.model, asked.seconds))
        for place in range(asked.rounds)
    ]
    for place, (theirs, ours) in enumerate(pairs):
        print(f"round {place}: vllm bench serve {theirs}, tokenwatt {ours}")
    print(f"{'':22} vllm bench serve   tokenwatt   ratio")
    for name in ("ttft_s", "itl_s", "output_tokens_per_s"):
        theirs, ours = (median(getattr(pair[side], name) for pair in pairs) for side in (0, 1))
        print(f"{name:22} {theirs:16.5g} {ours:11.5g} {ours / theirs:7.3f}")


if __name__ == "__main__":
    main()
