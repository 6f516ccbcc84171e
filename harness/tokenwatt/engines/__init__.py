"""Engines: loaded models that serve requests and emit token events. They never report a rate."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

from tokenwatt.engines.protocol import Engine
from tokenwatt.errors import UserError, unknown_name
from tokenwatt.spec import BenchSpec

ENGINES: dict[str, str] = {
    "native": "tokenwatt.engines.native.engine:NativeEngine",
    "hf_transformers": "tokenwatt.engines.hf_transformers.engine:HfEngine",
    "openai_endpoint": "tokenwatt.engines.openai_endpoint.engine:EndpointEngine",
    "vllm": "tokenwatt.engines.vllm_engine.opening:open_vllm",
    "fake": "tokenwatt.engines.fake:FakeEngine",
}
"""Engine name -> where its class, or what makes it, lives; imported only when it is asked for."""

NEEDS: dict[str, tuple[str, str]] = {
    "native": ("torch", "bench"),
    "hf_transformers": ("transformers", "transformers"),
    "vllm": ("vllm", "vllm"),
}
"""Engine name -> the package that it cannot do without, and the extra that brings it."""


def open_engine(spec: BenchSpec) -> Engine:
    """Make the engine that `spec` names; nothing heavy is loaded yet.

    Raises:
        UserError: unknown engine, missing package, or settings that the engine refuses.
    """
    if spec.engine not in ENGINES:
        raise unknown_name("engine", spec.engine, ENGINES)
    package, extra = NEEDS.get(spec.engine, ("", ""))
    if package and find_spec(package) is None:
        raise UserError(f"engine {spec.engine!r} needs {package}; install it with: pip install 'tokenwatt[{extra}]'")
    module, _, name = ENGINES[spec.engine].partition(":")
    return getattr(import_module(module), name)(spec)
