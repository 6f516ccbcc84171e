"""Cases to be predicted: a table in, a row of clean values for each case that can be asked, a reason for each other."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tokenwatt import store
from tokenwatt.errors import UserError, unknown_name
from tokenwatt.perf_model.gpu_names import system_of_gpu
from tokenwatt.perf_model.own_rows import MARK, rows_of_measurements
from tokenwatt.perf_model.parallelism import Given, is_label, resolve_parallelism
from tokenwatt.perf_model.shape_library import model_family, model_shape
from tokenwatt.perf_model.weight_dtypes import weight_dtype_of
from tokenwatt.record import Measurement
from tokenwatt.reference.facts import FactBook
from tokenwatt.reference.mlperf import load_mlperf
from tokenwatt.reference.trtllm_bench import SOURCE_SET, load_trtllm_bench

MEASURED: tuple[str, ...] = (
    "output_tokens_per_s_per_gpu",
    "ttft_s",
    "tpot_s",
    "gpu_power_w",
    "joules_per_output_token",
    "mean_batch",
)
"""Columns that hold answers: no predictor sees them."""
REQUIRED = ("model", "gpu")
SCENARIOS = ("closed_loop", "offline", "server", "interactive")
"""A fixed number of requests in flight; all at once and as many in flight as fit; or, as MLPerf has it, as many as the
limit on the time of a token allows."""
LIMITED = ("server", "interactive")
POOLS = ("prefill_workers", "prefill_gpus_each", "decode_workers", "decode_gpus_each")
_COUNTS = ("num_gpus", "num_requests", "tp", "ep", "dp", "pp", *POOLS)
_AMOUNTS = ("isl", "osl", "concurrency", "tpot_limit_s", "ttft_limit_s", "draft_tokens", "accepted_length")
_MAY_BE_ZERO = ("draft_tokens",)
_AT_LEAST_ONE = ("isl", "osl")
LARGEST = 1e9
"""Of any number: more tokens, requests or GPUs than anybody has at once."""
NUMERIC = (*_COUNTS, *_AMOUNTS)
"""Columns of numbers; a count is a whole one."""
TEXTS = ("engine", "engine_version", "task", "source_set")
"""Columns of text that may be empty."""
_FLAGS = {"true": True, "1": True, "1.0": True, "yes": True, "false": False, "0": False, "0.0": False, "no": False}

ASSUMED_LENGTH = 1024.0
"""isl and osl of a case that does not say, tokens: the shape that most publishers measure first."""
ASSUMED_PROMPT = {"lm-arena-chat": 200.0, "gpqa": 300.0}
"""isl of ML.ENERGY's natural prompts, whose length is not published, tokens: the middle of 100-300 and 200-400."""


@dataclass(frozen=True, slots=True)
class Cases:
    """A table of cases after its check. The three parts share one index."""

    given: pd.DataFrame
    """As it was read, without `MEASURED`."""
    valid: pd.DataFrame
    """One row of clean values for each case that can be asked; see `check_cases`."""
    refused: dict[Any, str]
    """Why each of the others is refused."""

    def only(self, keep: pd.Series) -> Cases:
        """Those of the given index that `keep` is true of."""
        refused = {index: reason for index, reason in self.refused.items() if keep[index]}
        return Cases(self.given[keep], self.valid[keep[self.valid.index]], refused)


def read_table(path: Path) -> pd.DataFrame:
    """A CSV or parquet table with at least the `REQUIRED` columns. Cells of CSV stay text, empty ones become None.

    A `measurements` table of ours is one too (`own_rows`).

    Raises:
        UserError: no such file, another format, a damaged file, a missing or repeated column, or no rows.
    """
    readers = {".csv": _read_csv, ".parquet": _read_parquet}
    if path.suffix.lower() not in readers:
        raise UserError(f"{path}: a table of cases ends in .csv or .parquet, got {path.suffix or 'no suffix'!r}")
    if not path.is_file():
        raise UserError(f"no such file: {path}")
    table = readers[path.suffix.lower()](path)
    missing = [name for name in REQUIRED if name not in table.columns]
    if missing:
        raise UserError(f"{path}: lacks the column {missing[0]!r}; needed: {', '.join(REQUIRED)}")
    if table.empty:
        raise UserError(f"{path}: holds no rows")
    return table


def _read_csv(path: Path) -> pd.DataFrame:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file, strict=True)
            names = next(lines, [])
            rows = []
            for cells in lines:
                if cells and len(cells) != len(names):
                    raise UserError(f"{path}:{lines.line_num}: needs {len(names)} cells, got {len(cells)}")
                if cells:
                    rows.append([cell if cell.strip() else None for cell in cells])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as CSV ({error})") from None
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise UserError(f"{path}:1: the column {repeated[0]!r} stands there twice")
    return pd.DataFrame(rows, columns=names, dtype="object")


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        if MARK in pq.read_schema(path).names:
            return rows_of_measurements(store.read(path, Measurement))
        return pd.read_parquet(path).reset_index(drop=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{path}: not a complete parquet file ({str(error).splitlines()[0]})") from None


def check_cases(table: pd.DataFrame, facts: FactBook | None = None) -> Cases:
    """Check every row by itself; `MEASURED` columns are dropped unread.

    A row of `valid` has the columns of the table, with clean values, and these in any case:

    - `family`: name of the model's shape; `system`: name of the GPU's system; `weight_dtype`: its canonical name
    - `num_gpus` of all instances; `attention_tp`, `attention_dp`, `moe_tp`, `moe_ep`, `pp` of one instance, which is a
      decode worker where `disaggregated`
    - `scenario`: where it is not said, closed_loop if `concurrency` is, else offline
    - `isl`, `osl`: tokens; `concurrency`: requests in flight, NaN for as many as fit
    - `num_requests` of an offline run, after which it ends; NaN for a run without end
    - `tpot_limit_s`, `ttft_limit_s`: what a token and the first one may take; NaN where nothing limits it
    - `disaggregated`: False where it is not said; `engine`, `engine_version`, `task`, `source_set`: "" where not
    - `assumed`: which of `isl`, `osl`, `weight_dtype`, `num_gpus`, `scenario` and `accepted_length` were taken without
      the row saying them, joined by spaces; `tp` where nothing says how an instance shares the model and the best way
      may be chosen
    """
    given = table.drop(columns=[name for name in MEASURED if name in table.columns])
    clean: dict[Any, dict[str, Any]] = {}
    refused: dict[Any, str] = {}
    for index, row in zip(given.index, given.to_dict("records"), strict=True):
        try:
            clean[index] = _clean(row, facts)
        except UserError as error:
            refused[index] = str(error)
    valid = pd.DataFrame(list(clean.values()), index=pd.Index(list(clean), dtype=given.index.dtype))
    return Cases(given, valid, refused)


def measured_columns(table: pd.DataFrame) -> pd.DataFrame:
    """The `MEASURED` columns of a table as numbers: NaN where a cell holds no positive number, or is not there."""
    return pd.DataFrame(
        {
            name: [_number_or_nan(cell) for cell in table[name]] if name in table.columns else math.nan
            for name in MEASURED
        },
        index=table.index,
        dtype="float64",
    )


def is_excluded(table: pd.DataFrame) -> pd.Series:
    """Which rows say in a column `exclude` why no fair score counts them, nor any fit is made of them. A flag that is
    false is no reason."""
    reasons = table["exclude"] if "exclude" in table.columns else pd.Series(None, index=table.index, dtype="object")
    return reasons.map(lambda cell: _FLAGS.get((_text(cell) or "no").casefold(), True)).astype("bool")


def _clean(row: Mapping[Any, Any], facts: FactBook | None) -> dict[str, Any]:
    """Clean values of one row.

    Raises:
        UserError: the reason why it is refused.
    """
    model, gpu = (_required(row, name) for name in REQUIRED)
    counts = {name: _count(row, name) for name in _COUNTS}
    amounts = {name: _amount(row, name) for name in _AMOUNTS}
    texts = {name: _text(row.get(name)) or "" for name in TEXTS}
    system = system_of_gpu(gpu, facts)
    family = model_family(model)
    label = _text(row.get("weight_dtype"))
    disaggregated = _flag(row, "disaggregated")
    num_gpus, of_instance = _gpus(counts, disaggregated)
    said = {name: counts[name] for name in ("tp", "ep", "dp", "pp")}
    parallelism = resolve_parallelism(Given(of_instance, **said, task=texts["task"]))
    scenario = _scenario(_text(row.get("scenario")), amounts["concurrency"])
    is_open = scenario != "closed_loop" and _is_split_open(said, texts["task"], disaggregated)
    if not is_open:
        parallelism.check(model_shape(model))
    shares = asdict(parallelism)
    instance_gpus = shares.pop("gpus")
    absent = [name for name in ("isl", "osl") if amounts[name] is None]
    absent += ["weight_dtype"] if label is None else []
    absent += ["num_gpus"] if num_gpus is None and instance_gpus == 1 else []
    absent += ["tp"] if is_open else []
    absent += ["scenario"] if _text(row.get("scenario")) is None and amounts["concurrency"] is None else []
    if amounts["draft_tokens"] and amounts["accepted_length"] is None:
        amounts["accepted_length"] = 1.0
        absent.append("accepted_length")
    isl, osl, tpot_limit_s, ttft_limit_s = _asked(family, scenario, amounts, texts)
    return {
        **row,
        **{name: math.nan if value is None else value for name, value in amounts.items() if name in row},
        **{name: math.nan if value is None else value for name, value in counts.items() if name in row},
        **texts,
        "source_set": texts["source_set"].casefold(),
        "model": model,
        "family": family,
        "gpu": gpu,
        "system": system,
        "weight_dtype": weight_dtype_of(model, label, system, facts),
        "num_gpus": num_gpus or instance_gpus,
        **shares,
        "disaggregated": disaggregated,
        "scenario": scenario,
        "tpot_limit_s": tpot_limit_s,
        "ttft_limit_s": ttft_limit_s,
        "num_requests": _requests(scenario, counts["num_requests"], isl, osl, texts["source_set"]),
        "concurrency": math.nan if amounts["concurrency"] is None else amounts["concurrency"],
        "isl": isl,
        "osl": osl,
        "accepted_length": math.nan if amounts["accepted_length"] is None else amounts["accepted_length"],
        "assumed": " ".join(absent),
    }


def _is_split_open(said: Mapping[str, int | None], task: str, disaggregated: bool) -> bool:
    """Whether nothing says how an instance shares the model."""
    return not disaggregated and all(value is None for value in said.values()) and not is_label(task)


def _asked(
    family: str, scenario: str, amounts: Mapping[str, float | None], texts: Mapping[str, str]
) -> tuple[float, float, float, float]:
    """isl, osl and the limits on TPOT and TTFT (NaN for none): as said, as MLPerf has them where a case is of it, or
    assumed."""
    is_mlperf = scenario in LIMITED or "mlperf" in texts["source_set"].casefold()
    task = load_mlperf().get(family) if is_mlperf else None
    isl = amounts["isl"] or (task.isl if task else ASSUMED_PROMPT.get(texts["task"], ASSUMED_LENGTH))
    osl = amounts["osl"] or (task.osl if task else ASSUMED_LENGTH)
    task = task if scenario in LIMITED else None
    of_token = amounts["tpot_limit_s"] or (task.tpot_limit_s(scenario) if task else None)
    of_first = amounts["ttft_limit_s"] or (task.ttft_limit_s(scenario) if task else None)
    if scenario in LIMITED and of_token is None and of_first is None and amounts["concurrency"] is None:
        needed = "tpot_limit_s, ttft_limit_s or concurrency"
        raise UserError(f"scenario {scenario} of {family} needs {needed} (MLPerf: none)")
    return isl, osl, of_token or math.nan, of_first or math.nan


def _requests(scenario: str, said: int | None, isl: float, osl: float, source_set: str) -> float:
    """Requests of an offline run: as said, or as TensorRT-LLM's published tables have them; NaN where it has no end."""
    if scenario != "offline":
        return math.nan
    known = load_trtllm_bench().get((isl, osl)) if source_set.casefold() == SOURCE_SET else None
    return float(said or known or math.nan)


def _gpus(counts: Mapping[str, int | None], disaggregated: bool) -> tuple[int | None, int | None]:
    """GPUs of all, and of one instance: the same unless prefill and decode have workers of their own."""
    total = counts["num_gpus"]
    if not disaggregated:
        found = [name for name in POOLS if counts[name] is not None]
        if found:
            raise UserError(f"{found[0]} is given, but disaggregated is not true")
        return total, total
    prefill_each, decode_each = counts["prefill_gpus_each"], counts["decode_gpus_each"]
    if prefill_each is None or decode_each is None:
        raise UserError("disaggregated needs prefill_gpus_each and decode_gpus_each")
    prefill = (counts["prefill_workers"] or 1) * prefill_each
    decode = (counts["decode_workers"] or 1) * decode_each
    if total is not None and total != prefill + decode:
        raise UserError(f"prefill has {prefill} GPUs and decode {decode}, but num_gpus is {total}")
    return prefill + decode, decode_each


def _scenario(found: str | None, concurrency: float | None) -> str:
    if found is None:
        return "offline" if concurrency is None else "closed_loop"
    found = found.casefold()
    if found not in SCENARIOS:
        raise unknown_name("scenario", found, SCENARIOS)
    if found == "closed_loop" and concurrency is None:
        raise UserError("scenario closed_loop needs concurrency, the requests in flight")
    return found


def _required(row: Mapping[Any, Any], name: str) -> str:
    text = _text(row[name])
    if text is None:
        raise UserError(f"{name} is empty")
    return text


def _text(cell: Any) -> str | None:
    """A cell's text; None for an empty one."""
    if cell is None or cell is pd.NA or (isinstance(cell, float) and math.isnan(cell)):
        return None
    text = str(cell).strip()
    return None if text.casefold() in ("", "nan", "none", "null") else text


def _flag(row: Mapping[Any, Any], name: str) -> bool:
    text = _text(row.get(name)) or "false"
    if text.casefold() not in _FLAGS:
        raise UserError(f"{name} must be true or false, got {text!r}")
    return _FLAGS[text.casefold()]


def _amount(row: Mapping[Any, Any], name: str) -> float | None:
    text = _text(row.get(name))
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        raise UserError(f"{name} must be a number, got {text!r}") from None
    if name in _MAY_BE_ZERO and value == 0:
        return value
    if not 0 < value < math.inf:
        raise UserError(f"{name} must be > 0, got {text}")
    if name in _AT_LEAST_ONE and value < 1:
        raise UserError(f"{name} must be at least 1, got {text}")
    if name in NUMERIC and value > LARGEST:
        raise UserError(f"{name} must be at most {LARGEST:g}, got {text}")
    return value


def _count(row: Mapping[Any, Any], name: str) -> int | None:
    value = _amount(row, name)
    if value is None:
        return None
    if value != int(value):
        raise UserError(f"{name} must be a whole number, got {value:g}")
    return int(value)


def _number_or_nan(cell: Any) -> float:
    try:
        return _amount({"cell": cell}, "cell") or math.nan
    except UserError:
        return math.nan
