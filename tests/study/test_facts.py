"""Every shipped number is a range with a source, and a bad row is refused by file and line."""

from pathlib import Path

import pytest

from tokenwatt.errors import UserError
from tokenwatt.reference.facts import FACT_FILES, Fact, Grade, load_facts, read_facts, reference_folder
from tokenwatt.reference.published import PublishedRow, load_published
from tokenwatt.reference.tables import read_rows

HEADER = "subject,name,value,low,high,unit,year,source,grade,note"
GOOD = "H9,tdp_w,700,700,700,W,2026,somewhere,secondary,"

FACTS = load_facts().facts


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: f"{fact.subject} {fact.name}")
def test_shipped_fact_is_a_range_with_a_source(fact: Fact) -> None:
    assert 0 < fact.low <= fact.value <= fact.high
    assert fact.unit
    assert len(fact.source) > 10
    assert fact.range.central == fact.value
    assert fact.source in fact.cite()


def test_a_guess_is_never_a_point() -> None:
    guesses = [fact for fact in FACTS if fact.grade not in (Grade.MEASURED, Grade.DATASHEET, Grade.SECONDARY)]
    assert guesses
    assert all(fact.low < fact.value < fact.high for fact in guesses)


def test_rubin_fp4_is_the_dense_figure() -> None:
    # 50 PFLOP/s is quoted for NVFP4 inference with adaptive compression; dense is 35.
    assert load_facts().get("VR NVL72", "fp4_flop_per_s", "flop/s").value == 3.5e16


def test_every_grade_says_what_it_means() -> None:
    assert [grade.value for grade in Grade] == [
        "measured",
        "datasheet",
        "secondary",
        "analyst",
        "press",
        "memory",
        "assumption",
    ]
    assert all(len(grade.meaning) > 20 for grade in Grade)


def test_the_readme_explains_every_grade_and_column() -> None:
    page = (reference_folder() / "README.md").read_text(encoding="utf-8")
    assert [name for name in (*Fact.model_fields, *Grade) if f"`{name}`" not in page] == []


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        pytest.param("H9,tdp_w,700,701,710,W,2026,somewhere,secondary,", "low <= value <= high", id="low above value"),
        pytest.param("H9,tdp_w,700,600,690,W,2026,somewhere,secondary,", "low <= value <= high", id="high below value"),
        pytest.param("H9,tdp_w,many,1,1,W,2026,somewhere,secondary,", "value", id="not a number"),
        pytest.param("H9,tdp_w,nan,1,1,W,2026,somewhere,secondary,", "value", id="not finite"),
        pytest.param("H9,tdp_w,-1,-1,-1,W,2026,somewhere,secondary,", "value", id="negative"),
        pytest.param("H9,tdp_w,700,700,700,,2026,somewhere,secondary,", "unit", id="no unit"),
        pytest.param("H9,tdp_w,700,700,700,W,2026, ,secondary,", "source", id="blank source"),
        pytest.param("H9,tdp_w,700,700,700,W,26,somewhere,secondary,", "year", id="two-digit year"),
        pytest.param("H9,tdp_w,700,700,700,W,2026,somewhere,rumour,", "grade", id="unknown grade"),
        pytest.param("H9,tdp_w,700,700,700,W,2026,somewhere,press,", "at least 15%", id="press without a range"),
        pytest.param("H9,tdp_w,700,600,800,W,2026,somewhere,memory,", "at least 30%", id="memory too narrow"),
        pytest.param("H9,tdp_w,700,700,700,W,2026,somewhere,secondary,dense,extra", "10 cells", id="a cell too many"),
        pytest.param("H9,tdp_w,700,700,700,W,2026,somewhere", "10 cells", id="a cell too few"),
        pytest.param(GOOD, "stands in line 2 already", id="twice"),
    ],
)
def test_a_bad_row_is_refused_by_file_and_line(tmp_path: Path, line: str, complaint: str) -> None:
    path = tmp_path / "made_up.csv"
    path.write_text(f"{HEADER}\n{GOOD}\n{line}\n", encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read_facts([path])
    assert str(caught.value).startswith("made_up.csv:3: ")
    assert complaint in str(caught.value)


def test_other_columns_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "made_up.csv"
    path.write_text("name,value\ntdp_w,1\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"made_up\.csv:1: columns must be subject,name"):
        read_facts([path])


def test_one_number_in_two_files_is_refused(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text(f"{HEADER}\n{GOOD}\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"b\.csv: H9 tdp_w stands in another file"):
        read_facts([tmp_path / "a.csv", tmp_path / "b.csv"])


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such file: .*gone\.csv"):
        read_facts([tmp_path / "gone.csv"])


def test_missing_fact_is_asked_for_by_name() -> None:
    with pytest.raises(UserError, match=r"no Fact 'fp4_flop_per_s' for 'H200 SXM'; add a row.*hardware\.csv"):
        load_facts().get("H200 SXM", "fp4_flop_per_s", "flop/s")


def test_a_fact_in_another_unit_is_refused() -> None:
    with pytest.raises(UserError, match="must be in 'kW', got 'W'"):
        load_facts().get("H200 SXM", "tdp_w", "kW")


def test_published_rows_are_hopper_with_speed_and_power() -> None:
    rows = load_published().values()
    assert len(rows) == 10
    for row in rows:
        assert row.system in ("H100 SXM", "H200 SXM")
        assert row.output_tokens_per_s_per_gpu
        assert row.gpu_power_w
        assert row.tpot_s
        # A closed loop of C cannot run faster than C / TPOT. TPOT is a median and speed a mean, hence 10 %.
        assert row.output_tokens_per_s_per_gpu * row.gpus < 1.10 * row.concurrency / row.tpot_s


def test_published_prompt_length_must_be_a_range(tmp_path: Path) -> None:
    shipped = (reference_folder() / "published.csv").read_text(encoding="utf-8").splitlines()
    path = tmp_path / "published.csv"
    path.write_text("\n".join([shipped[0], shipped[1].replace(",200,100,300,", ",200,250,300,")]), encoding="utf-8")
    with pytest.raises(UserError, match=r"published\.csv:2: .*isl_low <= isl <= isl_high"):
        read_rows(path, PublishedRow, key=("row_id",))


def test_fact_files_hold_nothing_else() -> None:
    shipped = {path.name for path in reference_folder().glob("*.csv")}
    assert shipped == {
        *FACT_FILES,
        "published.csv",
        "operators.csv",
        "operator_power.csv",
        "mlperf.csv",
        "trtllm_bench.csv",
        "published_ratios.csv",
    }
