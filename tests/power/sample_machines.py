"""Program that samples virtual machines one after the other: a JSON list of requests in, a list of sample lists out.

A request is {"settings": environment, "uuids": list or null, "seconds": number}; 0 seconds reads the meters once.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from tokenwatt.power import Sampler, open_meters


def sample(request: dict[str, Any]) -> dict[str, Any]:
    os.environ.update(request["settings"])
    uuids = request["uuids"]
    with open_meters(None if uuids is None else tuple(uuids), rapl_root=Path("/nonexistent")) as found:
        if request["seconds"] == 0:
            samples = [sample for meter in found.meters for sample in meter.read(time.monotonic)]
        else:
            with Sampler(found.meters, time.monotonic) as sampler:
                time.sleep(request["seconds"])
            samples = sampler.samples
    return {"scope": found.scope, "samples": [sample.model_dump(mode="json") for sample in samples]}


if __name__ == "__main__":
    json.dump([sample(request) for request in json.load(sys.stdin)], sys.stdout)
