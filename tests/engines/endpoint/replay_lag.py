"""How late a replay's requests go out, on a server with a timetable: percentiles, in milliseconds.

python -m tests.engines.endpoint.replay_lag --requests 2000 --rate 50
"""

from __future__ import annotations

import argparse

import numpy as np
from tests.engines.endpoint.driving import engine, requests
from tests.engines.endpoint.timed_server import Script, serving

from tokenwatt.clock import RunClock
from tokenwatt.load import Arrivals, Listed, Load, Sent


def main() -> None:
    """Replay arrivals by chance, and print how late they went out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--rate", type=float, default=50.0)
    asked = parser.parse_args()
    arrivals = Arrivals(asked.rate, seed=1)
    timetable = [next(arrivals) for _ in range(asked.requests)]
    sent = list[Sent]()
    with serving(Script(ttft_s=0.05, gap_s=0.005)) as served:
        client = engine(served.url)
        client.load(asked.requests, 1024)
        load = Load.replay(Listed(tuple(requests(asked.requests, osl=32))), timetable)
        load.on_sent = sent.append
        failures = [event.failure for event in client.serve(load, RunClock()) if event.failure is not None]
        client.close()
    lags_ms = [1e3 * (each.sent_s - each.due_s) for each in sent]
    percentiles = ", ".join(f"p{share:g} {np.percentile(lags_ms, share):.3f}" for share in (50, 90, 99, 99.9, 100))
    print(f"{len(sent)} requests at {asked.rate:g} a second, {len(failures)} failed: {percentiles} ms late")


if __name__ == "__main__":
    main()
