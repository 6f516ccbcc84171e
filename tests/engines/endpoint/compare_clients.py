"""Our client beside others, each on one processor, against a timetable and as fast as the socket allows; prints tables.

    python -m tests.engines.endpoint.compare_clients --vllm PYTHON --aiperf PROGRAM --guidellm PROGRAM

vllm: a Python that has vLLM (its `bench serve` is run). Whoever is not named is left out. Every process of a client is
bound to one processor and the server to another. Figures are those that each tool reports of itself; the truth is what
the server really sent, from the arrival of a request's bytes on.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tests.engines.endpoint.driving import engine, requests
from tests.engines.endpoint.timed_server import MODEL, Script, serving

from tokenwatt.clock import RunClock
from tokenwatt.load import Arrivals, Listed, Load, Sent

ISL = 8
MS_PER_S = 1e3
EVEN = "1000000"
"""Burstiness of gaps that are as good as constant."""
VLLM = """
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = FlexibleArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""


@dataclass(frozen=True)
class Case:
    """What every client is asked to do."""

    streams: int
    """Requests in flight: of a closed loop, or on average."""
    requests: int
    tokens: int
    client_cpu: int
    rate_per_s: float = 0.0
    """Requests that come a second, evenly; 0 is a closed loop."""


@dataclass(frozen=True)
class Seen:
    """What a client reports."""

    tokens_per_s: float
    ttft_median_s: float
    ttft_p99_s: float
    itl_median_s: float
    stamps_s: dict[str, list[float]] = field(default_factory=dict)
    """Of ours: each event of each request, on the clock that all processes share."""


Client = Callable[[Case, str, Path], Seen]
"""Runs against the server at an address; may leave files in a folder."""


def ours(case: Case, url: str) -> Seen:
    """Run our client here; until every token is parsed and every event made."""
    subject = engine(url)
    subject.load(case.streams, ISL + case.tokens)
    clock, sent = RunClock(), dict[int, Sent]()
    source = Listed(requests(case.requests, case.tokens))
    load = Load.closed(source, case.streams)
    if case.rate_per_s:
        load = Load.open(source, Arrivals(case.rate_per_s, burstiness=math.inf))
    load.on_sent = lambda one: sent.__setitem__(one.request_index, one)
    at_s: dict[int, list[float]] = {index: [] for index in range(case.requests)}
    tokens = 0
    for event in subject.serve(load, clock):
        assert event.failure is None, event.failure
        tokens += event.tokens
        if event.tokens:
            at_s[event.request_index].append(event.at_s)
    end_s = clock()
    assert tokens == case.requests * case.tokens
    ttft_s = [times[0] - sent[index].due_s for index, times in at_s.items()]
    gaps_s = np.concatenate([np.diff(times) for times in at_s.values()])
    rate = tokens / (end_s - min(one.sent_s for one in sent.values()))
    stamps_s = {f"{index}": [clock._origin_s + one for one in times] for index, times in at_s.items()}
    return Seen(rate, float(np.median(ttft_s)), float(np.percentile(ttft_s, 99)), float(np.median(gaps_s)), stamps_s)


def ours_apart(case: Case, url: str, folder: Path) -> Seen:
    """Run our client in a process of its own, as the others run."""
    words = [f"{case.streams}", f"{case.requests}", f"{case.tokens}", f"{case.rate_per_s}", url]
    module = "tests.engines.endpoint.compare_clients"
    return Seen(**json.loads(_output(case, [sys.executable, "-m", module, "--ours", *words]).splitlines()[-1]))


def vllm(python: str, case: Case, url: str, folder: Path) -> Seen:
    """`vllm bench serve`."""
    _output(case, [
        python, "-c", VLLM, "--backend", "openai", "--base-url", url, "--endpoint", "/v1/completions", "--model", MODEL,
        "--tokenizer", f"{folder}", "--dataset-name", "random", "--random-input-len", f"{ISL}", "--random-output-len",
        f"{case.tokens}", "--num-prompts", f"{case.requests}", "--ignore-eos", "--save-result", "--result-filename",
        f"{folder}/vllm.json", "--percentile-metrics", "ttft,itl",
        *(["--request-rate", f"{case.rate_per_s}", "--burstiness", EVEN] if case.rate_per_s else
          ["--max-concurrency", f"{case.streams}"]),
    ])  # fmt: skip
    found = json.loads((folder / "vllm.json").read_text())
    times = (found[name] / MS_PER_S for name in ("median_ttft_ms", "p99_ttft_ms", "median_itl_ms"))
    return Seen(found["output_throughput"], *times)


def aiperf(program: str, case: Case, url: str, folder: Path) -> Seen:
    """AIPerf, its tokens counted by the server's usage."""
    _output(case, [
        program, "profile", "--model", MODEL, "--url", url, "--endpoint-type", "completions", "--streaming",
        "--tokenizer", f"{folder}", "--request-count", f"{case.requests}",
        *(["--request-rate", f"{case.rate_per_s}", "--arrival-pattern", "constant"] if case.rate_per_s else
          ["--concurrency", f"{case.streams}"]),
        "--prompt-input-tokens-mean", f"{ISL}", "--prompt-output-tokens-mean", f"{case.tokens}",
        "--use-server-token-count", "--use-legacy-max-tokens", "--no-gpu-telemetry", "--no-server-metrics",
        "--ui-type", "none", "--output-artifact-dir", f"{folder}/aiperf",
    ])  # fmt: skip
    (path,) = (folder / "aiperf").rglob("profile_export_aiperf.json")
    found = json.loads(path.read_text())
    ttft, itl = found["time_to_first_token"], found["inter_token_latency"]
    rate = found["output_token_throughput"]["avg"]
    return Seen(rate, ttft["p50"] / MS_PER_S, ttft["p99"] / MS_PER_S, itl["p50"] / MS_PER_S)


def guidellm(program: str, case: Case, url: str, folder: Path) -> Seen:
    """GuideLLM."""
    _output(case, [
        program, "run", "--backend", f"kind=openai_http,target={url},model={MODEL},request_format=/v1/completions",
        "--profile", f"kind=constant,rate={case.rate_per_s}" if case.rate_per_s else
        f"kind=concurrent,streams={case.streams}", "--constraint",
        f"kind=max_requests,count={case.requests}", "--data",
        f"kind=synthetic_text,prompt_tokens={ISL},output_tokens={case.tokens}", "--tokenizer",
        f"kind=hf_auto,model={folder}", "--output", f"kind=json,path={folder}/guidellm.json", "--disable-console",
    ])  # fmt: skip
    found = json.loads((folder / "guidellm.json").read_text())["benchmarks"][0]["metrics"]
    ttft, itl = (found[name]["successful"] for name in ("time_to_first_token_ms", "inter_token_latency_ms"))
    rate = found["output_tokens_per_second"]["successful"]["mean"]
    p99 = ttft["percentiles"]["p99"]
    return Seen(rate, ttft["median"] / MS_PER_S, p99 / MS_PER_S, itl["median"] / MS_PER_S)


def truth(answers: list[dict[str, Any]]) -> tuple[float, float, float]:
    """Median and p99 of the time to the first token, and median gap, as the server sent them."""
    ttft_s = [answer["sent_s"][0] - answer["came_s"] for answer in answers if len(answer["sent_s"]) > 2]
    gaps_s = np.concatenate([np.diff(answer["sent_s"]) for answer in answers])
    return float(np.median(ttft_s)), float(np.percentile(ttft_s, 99)), float(np.median(gaps_s))


def lateness(stamps_s: dict[str, list[float]], answers: list[dict[str, Any]]) -> str:
    """How long after an event was sent it was stamped, which is all that a client can add to what a server does."""
    sent_s = {f"{answer['prompt'][0]}": answer["sent_s"] for answer in answers if len(answer["sent_s"]) > 2}
    first_s = [times[0] - sent_s[index][0] for index, times in stamps_s.items()]
    all_s = np.concatenate([np.subtract(times, sent_s[index]) for index, times in stamps_s.items()])
    words = [f"{np.percentile(times, part) * MS_PER_S:.2f}" for times in (first_s, all_s) for part in (50, 99)]
    return "{} ms after the send (p99 {}), all events {} (p99 {})".format(*words)


def _output(case: Case, command: list[str]) -> str:
    """Run a client on its processor."""
    bound = ["taskset", "-c", f"{case.client_cpu}", *command]
    done = subprocess.run(bound, capture_output=True, text=True, timeout=600)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)[:200]} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def write_tokenizer(folder: Path) -> None:
    """A tokenizer whose tokens are letters, which the others want in order to make prompts."""
    letters = [*(chr(code) for code in range(32, 127)), "\n", "<end>"]
    vocabulary = {letter: number for number, letter in enumerate(letters)}
    model = {"type": "BPE", "vocab": vocabulary, "merges": [], "unk_token": "?"}
    empty = dict.fromkeys(("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor"))
    whole = {"version": "1.0", **empty, "added_tokens": [], "decoder": {"type": "Fuse"}, "model": model}
    (folder / "tokenizer.json").write_text(json.dumps(whole))
    names = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 100000}
    special = dict.fromkeys(("pad_token", "eos_token", "bos_token"), "<end>")
    (folder / "tokenizer_config.json").write_text(json.dumps(names | special))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": len(letters)}))


def main() -> None:
    """Run every client in turn, and print what each saw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("vllm", "aiperf", "guidellm"):
        parser.add_argument(f"--{name}")
    words = ("STREAMS", "REQUESTS", "TOKENS", "RATE", "URL")
    parser.add_argument("--ours", nargs=5, metavar=words, help="run ours alone")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--client-cpu", type=int, default=1)
    parser.add_argument("--server-cpu", type=int, default=0)
    options = parser.parse_args()
    if options.ours:
        streams, count, tokens = map(int, options.ours[:3])
        print(json.dumps(vars(ours(Case(streams, count, tokens, 0, float(options.ours[3])), options.ours[4]))))
        return
    clients: dict[str, Client] = {"tokenwatt": ours_apart}
    for name, client in (("vllm", vllm), ("aiperf", aiperf), ("guidellm", guidellm)):
        program = getattr(options, name)
        if program:
            clients[name] = partial(client, program)
    timed(clients, options)
    fastest(clients, options)


def timed(clients: dict[str, Client], options: Any) -> None:
    """Against the timetable: first token after 50 ms, then one every 5 ms.

    Requests come evenly: those of a burst would wait in the server, which nobody can tell from the client's delay.
    """
    print(f"{'ms (truth)':10} {'streams':>7} {'TTFT median':>22} {'TTFT p99':>18} {'ITL median':>20}")
    for streams in (64, 200):
        script, tokens = Script(), 200
        rate_per_s = streams / (script.ttft_s + (tokens - 1) * script.gap_s)
        case = Case(streams, 4 * streams, tokens, options.client_cpu, round(rate_per_s, 1))
        for name, client in clients.items():
            for _ in range(options.repeats):
                with tempfile.TemporaryDirectory() as folder, serving(script, options.server_cpu) as served:
                    write_tokenizer(Path(folder))
                    seen, answers = client(case, served.url, Path(folder)), served.truth()
                pairs = zip((seen.ttft_median_s, seen.ttft_p99_s, seen.itl_median_s), truth(answers), strict=True)
                cells = [f"{own * MS_PER_S:9.2f} ({one * MS_PER_S:.2f})" for own, one in pairs]
                print(f"{name:10} {streams:7} {cells[0]:>22} {cells[1]:>18} {cells[2]:>20}", flush=True)
                if seen.stamps_s:
                    print(f"{'':18} first tokens stamped {lateness(seen.stamps_s, answers)}", flush=True)


def fastest(clients: dict[str, Client], options: Any) -> None:
    """Against answers in one piece: tokens a second, the best of the repeats."""
    best: dict[str, float] = {}
    case = Case(64, 2000, 512, options.client_cpu)
    for name, client in clients.items():
        rates = []
        for _ in range(options.repeats):
            script = Script(at_once=True)
            with tempfile.TemporaryDirectory() as folder, serving(script, options.server_cpu) as served:
                write_tokenizer(Path(folder))
                rates.append(client(case, served.url, Path(folder)).tokens_per_s)
        best[name] = max(rates)
        words = ", ".join(f"{rate:,.0f}" for rate in rates)
        ratio = best["tokenwatt"] / best[name]
        print(f"{name:10} {best[name]:12,.0f} tokens/s ({words})  ours / this {ratio:.2f}", flush=True)


if __name__ == "__main__":
    main()
