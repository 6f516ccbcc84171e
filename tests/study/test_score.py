"""Scores of a table of twelve rows, worked out by hand."""

import json
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tokenwatt.perf_model.cases import check_cases
from tokenwatt.perf_model.predictions import REFUSED, UNSUPPORTED, empty_answers
from tokenwatt.perf_model.score import labels_of, score, scores_as_json

# Family, system, group, measured TPOT, predicted with its interval; no prediction: refused.
ROWS: list[tuple[str, str, str, float, tuple[float, float, float] | None]] = [
    ("A", "G1", "c1", 1.0, (0.99, 1.1, 1.21)),
    ("A", "G1", "c2", 1.0, (0.8, 0.9, 1.0)),
    ("A", "G1", "c3", 1.0, (1.1, 1.2, 1.4)),
    ("A", "G1", "c4", 1.0, (0.9, 1.0, 1.1)),
    ("A", "G1", "c5", 1.0, None),
    ("A", "G2", "c1", 2.0, (1.0, 1.0, 4.0)),
    ("A", "G2", "c2", 2.0, (1.0, 2.0, 4.0)),
    ("A", "G2", "c3", 2.0, (1.0, 3.0, 4.0)),
    ("A", "G2", "c4", 2.0, (1.0, 2.0, 4.0)),
    ("A", "G2", "c5", 2.0, (1.0, 2.0, 4.0)),
    ("B", "G1", "c1", 3.0, (1.0, 9.0, 9.0)),
    ("B", "G1", "c2", 3.0, (1.0, 9.0, 9.0)),
]


def labels() -> pd.DataFrame:
    names = ["family", "system", "group"]
    frame = pd.DataFrame([row[:3] for row in ROWS], columns=names).assign(source_set="s", case_id="", model="")
    return frame[["case_id", "source_set", "model", *names]]


def measured() -> pd.DataFrame:
    columns = ("output_tokens_per_s_per_gpu", "ttft_s", "gpu_power_w", "joules_per_output_token")
    return pd.DataFrame({"tpot_s": [row[3] for row in ROWS], **dict.fromkeys(columns, math.nan)})


def answers() -> pd.DataFrame:
    found = empty_answers(pd.RangeIndex(len(ROWS)))
    for index, row in enumerate(ROWS):
        if row[4] is None:
            found.loc[index, ["status", "reason"]] = [REFUSED, "why"]
        else:
            found.loc[index, ["predicted_tpot_s_low", "predicted_tpot_s", "predicted_tpot_s_high"]] = row[4]
    return found


def test_cells() -> None:
    cells = score(labels(), measured(), answers()).cells.set_index(["family", "system"])
    # A on G1: errors 0.1, 0.1, 0.2, 0, and 1 of the refused row. Ratios 0.9, 1, 1.1, 1.2: half way from 1 to 1.1 in
    # logarithms. Three of four intervals hold 1. Widths 1.2222, 1.25, 1.2727, 1.2222.
    one: Any = cells.loc[("A", "G1")]
    assert (one["rows"], one["refused"], one["is_scored"]) == (5, 1, True)
    assert one["error"] == pytest.approx(0.1)
    assert one["bias"] == pytest.approx(math.sqrt(1.1) - 1)
    assert one["coverage"] == 0.75
    assert one["width"] == pytest.approx((1.1 / 0.9 + 1.25) / 2)
    # A on G2: errors 0.5, 0, 0.5, 0, 0.
    two: Any = cells.loc[("A", "G2")]
    assert (two["error"], two["bias"], two["coverage"], two["width"]) == (0, 0, 1, 4)
    # B on G1 has two rows only.
    assert not cells.loc[("B", "G1"), "is_scored"]


def test_means_over_cells() -> None:
    sets = score(labels(), measured(), answers()).sets
    assert len(sets) == 1
    line = sets.iloc[0]
    assert (line["rows"], line["cells"], line["refused"], line["unsupported"]) == (10, 2, 1, 0)
    assert line["error"] == pytest.approx(0.05)
    assert line["bias"] == pytest.approx(1.1**0.25 - 1)
    assert line["coverage"] == pytest.approx(0.875)
    assert line["width"] == pytest.approx(((1.1 / 0.9 + 1.25) / 2 + 4) / 2)
    # G2 is slower in all of c1 to c4; predicted so in three of them, the other way round in c1. c5 has one system left.
    assert (line["rank"], line["rank_groups"]) == (pytest.approx(0.5), 4)


def test_a_baseline_is_not_scored_where_it_has_no_number() -> None:
    found = answers()
    found.loc[0, ["status", "reason"]] = [UNSUPPORTED, "cannot"]
    found.loc[1, "predicted_tpot_s"] = np.nan
    cell = score(labels(), measured(), found, is_baseline=True).cells.iloc[0]
    # Errors 0.2, 0 and 1 are left.
    assert (cell["rows"], cell["unsupported"], cell["error"]) == (3, 2, pytest.approx(0.2))
    # Of a predictor the missing number is 100 % wrong: 1, 0.2, 0, 1.
    assert score(labels(), measured(), found).cells.iloc[0]["error"] == pytest.approx(0.6)


def test_equal_predictions_have_no_order() -> None:
    found = answers()
    found["predicted_tpot_s"] = 1.5
    assert score(labels(), measured(), found).sets.iloc[0]["rank"] == 0


def test_the_order_of_rows_does_not_matter() -> None:
    order = np.random.default_rng(0).permutation(len(ROWS))
    one = score(labels(), measured(), answers()).sets
    other = score(labels().iloc[order], measured().iloc[order], answers().iloc[order]).sets
    pd.testing.assert_frame_equal(one, other)


def test_plain_values() -> None:
    found = json.loads(json.dumps(scores_as_json(score(labels(), measured(), answers())), allow_nan=False))
    assert found["sets"][0]["error"] == pytest.approx(0.05)
    assert [(cell["family"], cell["system"]) for cell in found["cells"]] == [("A", "G1"), ("A", "G2"), ("B", "G1")]


def test_a_refused_row_is_counted_under_its_family_and_system() -> None:
    table = pd.DataFrame(
        {
            "model": ["deepseek-ai/DeepSeek-R1", "deepseek-ai/DeepSeek-V3.1", "nobody/unknown"],
            "gpu": ["H200", "NVIDIA H200", "H200"],
            "isl": ["1024", "-1", "1"],
            "source_set": ["trtllm", "trtllm", None],
        }
    )
    found = labels_of(check_cases(table))
    assert list(found["family"]) == ["DeepSeek-V3", "DeepSeek-V3", "nobody/unknown"]
    assert list(found["system"]) == ["H200 SXM"] * 3
    assert list(found["source_set"]) == ["trtllm", "trtllm", "rows"]
