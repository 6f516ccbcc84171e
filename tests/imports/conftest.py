"""Files of other tools, whole or with a part replaced."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

FILES = Path(__file__).parent / "files"


@pytest.fixture
def files() -> Path:
    """The folder of the files."""
    return FILES


@pytest.fixture
def changed(tmp_path: Path) -> Callable[[str, Callable[[Any], object]], Path]:
    """`changed("vllm_bench_rate.json", lambda document: document.pop("date"))` -> a copy with that done to it."""

    def change(name: str, do: Callable[[Any], object]) -> Path:
        source = FILES / name
        copy = tmp_path / source.name
        document = json.loads(source.read_text(encoding="utf-8"))
        do(document)
        copy.write_text(json.dumps(document), encoding="utf-8")
        records = source.with_name("profile_export.jsonl")
        if records.is_file():
            shutil.copy(records, copy.with_name(records.name))
        return copy

    return change
