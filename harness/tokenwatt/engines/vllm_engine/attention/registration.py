"""What vLLM calls in each of its processes, perhaps several times: makes the backend known by its name."""

from __future__ import annotations

import copyreg
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm.v1.attention.backends.registry import AttentionBackendEnum

NAME = "TOKENWATT"
"""For `--attention-backend`."""
CLASS = "tokenwatt.engines.vllm_engine.attention.backend.TokenwattBackend"
"""Imported by vLLM when the backend is chosen, not before."""


def register() -> None:
    """Make the backend known in this process."""
    member()


def member() -> AttentionBackendEnum:
    """The backend's entry in vLLM's list, made if it is not there yet.

    A config that names the backend travels to processes that are spawned, and is unpickled there before plug-ins are
    called. An entry is pickled as its value, which such a process would not know; so ours is pickled as this function.
    """
    from vllm.v1.attention.backends.registry import AttentionBackendEnum

    if NAME not in AttentionBackendEnum.__members__:
        AttentionBackendEnum.register(NAME, CLASS)
        copyreg.pickle(AttentionBackendEnum, _reduced)
    return AttentionBackendEnum[NAME]


def _reduced(entry: AttentionBackendEnum) -> tuple[Callable[..., AttentionBackendEnum], tuple[object, ...]]:
    return (member, ()) if entry.name == NAME else (type(entry), (entry.value,))
