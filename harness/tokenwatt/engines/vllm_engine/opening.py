"""Opens the engine; vLLM's logger, which takes its stream when the first config is made, writes to the log."""

from __future__ import annotations

import os
from contextlib import redirect_stderr, redirect_stdout

from tokenwatt.engines.protocol import Engine
from tokenwatt.engines.vllm_engine.log import vllm_log
from tokenwatt.spec import BenchSpec


def open_vllm(spec: BenchSpec) -> Engine:
    """The engine that `spec` names; nothing heavy is loaded yet.

    Raises:
        UserError: settings that vLLM, or this machine, does not have.
    """
    # A forked process would have the locks and signal handlers of this one, whose threads it does not have.
    os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"
    # vLLM tells its vendor how it is used: a measurement has neither that thread nor that network traffic beside it.
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    with redirect_stdout(vllm_log().stream), redirect_stderr(vllm_log().stream):
        from tokenwatt.engines.vllm_engine.engine import VllmEngine

        return VllmEngine(spec)
