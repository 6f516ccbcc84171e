"""A published study as it lies in its folder: everything that its page is made from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pandas as pd

from tokenwatt import metrics, store
from tokenwatt.analysis.points import with_point
from tokenwatt.errors import UserError
from tokenwatt.publish import manifest as manifests
from tokenwatt.publish import predictions, tile_table
from tokenwatt.publish.environments import environments
from tokenwatt.publish.manifest import Manifest
from tokenwatt.publish.predictions import Prediction
from tokenwatt.publish.tile_table import TileTable
from tokenwatt.record import ClosureTerm, KernelTiming, Measurement, Record, Result

PAGE = "README.md"
NOTES = "notes.md"
BY_HAND = (NOTES, predictions.FILE)
"""Files that people write; they are kept when the study is written anew."""


@dataclass(frozen=True, slots=True)
class Study:
    """Tables as `store` reads them, metrics computed anew; empty where the study has none."""

    manifest: Manifest
    measurements: pd.DataFrame
    results: pd.DataFrame
    """With the columns of the point and `measured_at`, that of its first row."""
    closure: pd.DataFrame
    kernels: pd.DataFrame
    tiles: TileTable | None
    notes: str | None
    """What people wrote about it."""
    predictions: tuple[Prediction, ...]

    @classmethod
    def read(cls, folder: Path, manifest: Manifest | None = None) -> Self:
        """The study in `folder`; `manifest` stands in for the file while there is none yet.

        Raises:
            UserError: no study there, or a damaged file.
        """
        measurements = _read(folder, Measurement)
        results = _with_time(with_point(_read(folder, Result), measurements), measurements)
        tiles, notes = folder / tile_table.FILE, folder / NOTES
        return cls(
            manifests.read(folder) if manifest is None else manifest,
            measurements,
            results,
            _read(folder, ClosureTerm),
            _read(folder, KernelTiming),
            tile_table.read(tiles) if tiles.is_file() else None,
            _read_text(notes) if notes.is_file() else None,
            predictions.read(folder),
        )

    @property
    def environments(self) -> list[dict[str, Any]]:
        """Each machine behind the rows, once."""
        return environments(self.measurements, self.kernels)

    @property
    def gpu_names(self) -> list[str]:
        """Boards behind the rows, each once; empty for a study without a GPU."""
        return list(dict.fromkeys(found["gpu_name"] for found in self.environments if found["gpu_name"]))

    @property
    def tables(self) -> Mapping[str, pd.DataFrame]:
        """What predictions are decided by."""
        windows = self.measurements.drop_duplicates(["run_id", "measurement_id"])
        terms = self.closure.merge(windows, on=["run_id", "measurement_id"], how="inner", suffixes=("", "_of_window"))
        total_j = terms.groupby(["run_id", "measurement_id"])["energy_j"].transform("sum")
        return {
            "measurements": self.measurements,
            "results": self.results,
            "kernels": self.kernels,
            "closure": terms.assign(share=terms["energy_j"] / total_j.where(total_j > 0)),
        }


def check_name(study: str) -> str:
    """The name of a study, which is that of its folder.

    Raises:
        UserError: it would not make a plain folder name.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", study):
        raise UserError(
            f"a study's name needs small letters, digits, '-', '.' and '_', such as h200-2026-10, got {study!r}"
        )
    return study


def _read(folder: Path, kind: type[Record]) -> pd.DataFrame:
    path = folder / f"{kind.grain}.parquet"
    if path.is_file():
        return store.read(path, kind)
    return metrics.derive(store.to_table([], kind).to_pandas(), metrics.METRICS_OF.get(kind.grain, ()))


def _with_time(results: pd.DataFrame, measurements: pd.DataFrame) -> pd.DataFrame:
    first = measurements.groupby(["run_id", "point_id"], as_index=False, sort=False)["measured_at"].min()
    return results.merge(first, on=["run_id", "point_id"], how="left")


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as text ({error})") from None
