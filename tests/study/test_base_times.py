"""What times of operations are asked of curves: which curve, and of which problem."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from tokenwatt.perf_model.base_times import BaseTimes, base_times
from tokenwatt.perf_model.cases import check_cases
from tokenwatt.perf_model.operation_kinds import DECODE, PREFILL
from tokenwatt.perf_model.plan import plan_case
from tokenwatt.reference.systems import load_system

SPARSE = {"model": "DeepSeek-V3.2", "gpu": "B200", "num_gpus": 8, "tp": 8, "engine": "sglang", "concurrency": 4}


def times(**case: Any) -> BaseTimes:
    cases = check_cases(pd.DataFrame([case], dtype="object"))
    assert not cases.refused, cases.refused
    return base_times([plan_case(cases.valid.iloc[0].to_dict())])


def of(base: BaseTimes, name: str, phase: int, column: str = "seconds") -> float:
    places = [place for place, each in enumerate(base.names) if each == name and base.phase[place] == phase]
    assert places
    return float(getattr(base, column)[places].sum())


def test_a_collective_is_as_sure_as_its_number_of_gpus_was_measured():
    base = times(model="Llama-3.1-70B", gpu="GB200", num_gpus=8, tp=8, engine="trtllm", concurrency=8)
    reduce = [place for place, name in enumerate(base.names) if name == "comm.all_reduce"]
    assert base.from_specs[reduce].all()  # measured among 2 and 4 there
    pair = times(model="Llama-3.1-70B", gpu="GB200", num_gpus=2, tp=2, engine="trtllm", concurrency=8)
    reduce = [place for place, name in enumerate(pair.names) if name == "comm.all_reduce"]
    assert not pair.from_specs[reduce].any()


def test_prompts_of_sparse_attention_see_what_is_chosen_for_them():
    # 2048 of 65536 keys: a sixteenth of the pairs, as each half of all is seen without the choice.
    sparse = times(**SPARSE, isl=65536, osl=100)
    whole = times(**SPARSE | {"model": "DeepSeek-V3"}, isl=65536, osl=100)
    assert of(sparse, "attention.prefill", PREFILL) < 0.15 * of(whole, "attention.prefill", PREFILL)
    short = [
        of(times(**SPARSE | {"model": name}, isl=1024, osl=100), "attention.prefill", PREFILL)
        for name in ("DeepSeek-V3.2", "DeepSeek-V3")
    ]
    assert short[0] == pytest.approx(short[1])


def test_scores_of_an_index_are_computed():
    base = times(**SPARSE, isl=65536, osl=100)
    peak = load_system("B200 SXM").flop_per_s("fp8").value
    assert of(base, "index.scores", PREFILL) > of(base, "index.scores", PREFILL, "flop") / peak


def test_drafted_tokens_are_more_rows_over_the_same_keys():
    case = {**SPARSE, "model": "DeepSeek-V3", "concurrency": 256, "isl": 8192, "osl": 1024}
    plain, drafted = times(**case), times(**case, draft_tokens=3, accepted_length=2)
    ratio = of(drafted, "attention.decode", DECODE) / of(plain, "attention.decode", DECODE)
    assert 1 < ratio < 4
    np.testing.assert_allclose(
        of(drafted, "attention.decode", DECODE, "flop") / of(plain, "attention.decode", DECODE, "flop"), 4
    )
