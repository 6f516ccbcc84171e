"""Which spellings name the same model: without organisation, case and separators, and less the marks of a release."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from tokenwatt.errors import UserError

MAKERS = frozenset({"meta", "nvidia", "neuralmagic"})
"""First words that name who released a model."""

_TUNING = ("base", "chat", "hf", "instruct", "it", "thinking", "finetuned", "edge")
_NUMBERS = ("bf16", "fp16", "fp8", "fp4", "nvfp4", "mxfp4", "mxfp8", "int8", "int4", "w8a8", "w4a16")
_QUANTIZERS = ("awq", "gptq", "quantized", "static", "dynamic", "dyn", "pre", "block", "pertensor", "quark", "trtllm")
_MLPERF_ACCURACY = ("99", "99.9")
RELEASE_WORDS = frozenset(_TUNING + _NUMBERS + _QUANTIZERS + _MLPERF_ACCURACY)
"""Last words that leave the shape as it is. A date of four digits (2507, 0528) is another."""


def spellings(model: str) -> list[str]:
    """A name as it is, then with one mark of a release after another taken off its end.

    >>> spellings("meta-llama/Llama-2-70b-chat-hf")
    ['llama270bchathf', 'llama270bchat', 'llama270b']
    """
    words = re.split(r"[-_\s]+", model.rsplit("/", 1)[-1].casefold())
    if words[0] in MAKERS:
        words = words[1:]
    found = []
    while words:
        found.append("".join(words))
        if words[-1] not in RELEASE_WORDS and not re.fullmatch(r"\d{4}", words[-1]):
            break
        words = words[:-1]
    return found


def by_spelling(aliases: Mapping[str, Iterable[str]]) -> dict[str, str]:
    """Name of the library for each spelling of it and of its aliases.

    Raises:
        UserError: one spelling for two models.
    """
    names: dict[str, str] = {}
    for name, others in aliases.items():
        for alias in (name, *others):
            spelling = spellings(alias)[0]
            if names.setdefault(spelling, name) != name:
                raise UserError(f"shape library: {alias!r} names both {names[spelling]} and {name}")
    return names
