"""What faster operations are worth, against arithmetic by hand."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwatt.errors import UserError
from tokenwatt.perf_model.cases import check_cases
from tokenwatt.perf_model.engine_model import priors
from tokenwatt.perf_model.fit import shipped_fit
from tokenwatt.perf_model.operation_kinds import DECODE
from tokenwatt.perf_model.predict import predict_cases
from tokenwatt.perf_model.what_if import (
    Change,
    Known,
    check_names,
    compared,
    operation_names,
    parse_change,
    parse_changes,
    ratios,
    under,
    worth,
)

DENSE = {"model": "Qwen3-8B", "gpu": "H200", "engine": "vllm", "weight_dtype": "bf16", "concurrency": "32"}
MIXTURE = {"model": "DeepSeek-V3", "gpu": "B200", "engine": "sglang", "num_gpus": "8", "tp": "8", "concurrency": "64"}
SPEED = "output_tokens_per_s_per_gpu"


def cases(*rows: dict[str, str]) -> pd.DataFrame:
    return check_cases(pd.DataFrame(list(rows), dtype="object")).valid


def known(*rows: dict[str, str]) -> Known:
    found = Known.of(cases(*rows), shipped_fit())
    assert found is not None
    return found


def bound_by_the_gpu(share: float) -> Known:
    """Nothing but decode steps: `attention.decode` takes that share of them, the other matmuls the rest."""
    logs = {prior.name: math.log(prior.median) for prior in priors()}
    logs |= {name: -60.0 for name in logs if name.startswith(("launch_s", "host_s", "per_sequence_s", "eager_s"))}
    fit = replace(shipped_fit(), log_parameters=logs, cells=())
    found = Known.of(cases(DENSE | {"concurrency": "", "scenario": "offline"}), fit)
    assert found is not None
    base = found.cases.base
    is_step = base.phase == DECODE
    is_attention = np.array([name == "attention.decode" for name in base.names])
    others = is_step & ~is_attention
    seconds = np.where(is_step & is_attention, share / (is_step & is_attention).sum(), 0.0)
    seconds = np.where(others, (1 - share) / others.sum(), seconds)
    # `host` of a step that long is nothing, and the GPU's multipliers are 1.
    return replace(found, cases=replace(found.cases, base=replace(base, seconds=seconds)))


def ratio(found: Known, *changes: Change) -> dict[str, float]:
    return {str(name): float(value) for name, value in ratios(found, changes).iloc[0].items()}


def test_an_operation_of_a_fifth_that_is_twice_as_fast() -> None:
    # 0.8 + 0.2 / 2 = 0.9 of the time.
    found = ratio(bound_by_the_gpu(0.2), Change("attention.decode", 2.0))
    assert found["tpot_s"] == pytest.approx(0.9)
    assert found[SPEED] == pytest.approx(1 / 0.9)
    assert found["joules_per_output_token"] == pytest.approx(found["gpu_power_w"] / found[SPEED])


@given(st.floats(0.01, 0.99), st.floats(0.1, 100.0))
def test_any_share_and_factor(share: float, factor: float) -> None:
    found = ratio(bound_by_the_gpu(share), Change("attention.decode", factor))
    assert found["tpot_s"] == pytest.approx(1 - share + share / factor)


def test_changes_of_one_operation_multiply() -> None:
    found = bound_by_the_gpu(0.5)
    both = ratio(found, Change("attention.decode", 2.0), Change("attention.decode", 1.5))
    assert both["tpot_s"] == pytest.approx(0.5 + 0.5 / 3)


def test_everything_at_once_by_the_first_part_of_names() -> None:
    found = known(MIXTURE)
    names = operation_names([found])
    roots = sorted({name.split(".")[0] for name in names})
    changed = ratio(found, *(Change(root, 2.0) for root in roots))
    # Every part of a step, the host's too, is half as long; a prompt as well.
    assert changed["tpot_s"] == pytest.approx(0.5)
    one = ratio(found, Change("moe", 2.0))
    each = [Change(name, 2.0) for name in names if name.startswith("moe.")]
    assert len(each) > 2
    assert one == pytest.approx(ratio(found, *each))


def test_overheads() -> None:
    found = known(DENSE | {"concurrency": "1", "engine": "sglang"})
    assert ratio(found, Change("host", 2.0))["tpot_s"] < 1
    assert ratio(found, Change("launches", 2.0))["tpot_s"] < 1
    assert ratio(found, Change("host", 0.5))["tpot_s"] > 1
    assert ratio(found, Change("moe", 2.0)) == pytest.approx(dict.fromkeys(ratio(found), 1.0))


def test_worth_is_each_change_by_itself() -> None:
    found = known(DENSE, MIXTURE)
    table = worth(found, 1.01)
    assert set(table["case"]) == {0, 1}
    for line in table.to_dict("records"):
        alone = ratios(found, [Change(line["operation"], 1.01)]).loc[line["case"]]
        assert line[SPEED] == pytest.approx(alone[SPEED], rel=1e-12)
        assert line["joules_per_output_token"] == pytest.approx(alone["joules_per_output_token"], rel=1e-12)
    operations = table.groupby("case")["operation"].agg(set)
    assert "moe.experts" in operations[1]
    assert not {name for name in operations[0] if name.startswith(("moe", "comm"))}
    assert {"host", "launches"} <= operations[0]
    # 1 % of everything is worth 1 % of the time, to first order.
    total = (1 / table.loc[table["case"] == 1, SPEED] - 1).sum()
    assert total == pytest.approx(-0.01, rel=0.05)


def test_names_that_these_cases_do_not_have() -> None:
    names = operation_names([known(DENSE)])
    check_names([Change("attention", 2.0), Change("mlp.up", 2.0), Change("host", 2.0), Change("all", 2.0)], names)
    with pytest.raises(UserError, match=r"unknown operation 'attentio.decode' \(did you mean 'attention.decode'\?\)"):
        check_names([Change("attentio.decode", 2.0)], names)
    for name in ("moe", "att", "attention.", "comm.all_reduce"):
        with pytest.raises(UserError, match="unknown operation"):
            check_names([Change(name, 2.0)], names)


def test_changes_are_read() -> None:
    assert parse_change("attention.decode=1.1x") == Change("attention.decode", 1.1)
    assert parse_change(" moe = 2 ") == Change("moe", 2.0)
    assert str(parse_change("moe=2X")) == "moe=2x"
    for text, words in (
        ("moe", "needs NAME=FACTORx"),
        ("=2x", "needs NAME=FACTORx"),
        ("moe=2x=3x", "needs NAME=FACTORx"),
        ("moe=x", "must be a number"),
        ("moe=fast", "must be a number"),
        ("moe=0x", "must be a finite number > 0, got 0"),
        ("moe=-1x", "must be a finite number > 0"),
        ("moe=inf", "must be a finite number > 0"),
        ("moe=nanx", "must be a finite number > 0"),
    ):
        with pytest.raises(UserError, match=words):
            parse_change(text)
    with pytest.raises(UserError, match="give it alone"):
        parse_changes(["all=1.01x", "moe=2x"])


def test_answers_keep_the_width_of_their_intervals() -> None:
    rows = cases(DENSE, MIXTURE)
    fit = shipped_fit()
    answers = predict_cases(rows, fit)
    found = Known.of(rows, fit)
    assert found is not None
    changed = under(answers, rows, ratios(found, [Change("attention", 1.5)]))
    table = compared(answers, changed)
    assert list(table[f"{SPEED}_before"]) == list(answers[f"predicted_{SPEED}"])
    np.testing.assert_allclose(
        table[f"{SPEED}_ratio"], found.predicted([Change("attention", 1.5)])[SPEED] / found.predicted()[SPEED]
    )
    for end in ("_low", "_high"):
        old, new = (frame[f"predicted_tpot_s{end}"] / frame["predicted_tpot_s"] for frame in (answers, changed))
        np.testing.assert_allclose(old, new)
    # A board of 700 W draws no more.
    assert changed["predicted_gpu_power_w_high"][0] <= 700
    assert (changed["predicted_gpu_power_w"] <= changed["predicted_gpu_power_w_high"]).all()


def test_no_case_that_fits() -> None:
    assert Known.of(cases({"model": "DeepSeek-V3", "gpu": "H100", "num_gpus": "1"}), shipped_fit()) is None
