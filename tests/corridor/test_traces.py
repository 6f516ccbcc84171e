"""Traces: small files of our own with the headers of the published ones."""

from __future__ import annotations

import json
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwatt.errors import UserError
from tokenwatt.load import Load
from tokenwatt.workloads import SALT_TOKENS, Selection, Trace, Workload, load_workload

AZURE_2023 = """\
TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
2023-11-16 18:15:50.9951690,20,0
2023-11-16 18:16:46.6805900,3000,500
"""
AZURE_2024 = """\
TIMESTAMP,ContextTokens,GeneratedTokens
2024-05-12 00:00:00+00:00,1452,3
2024-05-12 00:00:00.041683+00:00,584,3
2024-05-12 00:01:00+00:00,862,38
"""
BURSTGPT_1 = """\
Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
45,ChatGPT,1087,230,1317,Conversation log
118,GPT-4,417,0,417,Conversation log
120,GPT-4,300,7,307,API log
"""
BURSTGPT_3 = """\
Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type
19440110.0,1722ac82,43,GPT-4,906,446,1352,Conversation log
19440161.5,,2,ChatGPT,36,29,65,API log
"""
MOONCAKE = [
    {"timestamp": 27482, "input_length": 1200, "output_length": 52, "hash_ids": [46, 47, 48]},
    {"timestamp": 30535, "input_length": 1500, "output_length": 26, "hash_ids": [46, 47, 99]},
    {"timestamp": 30535, "input_length": 500, "output_length": 9, "hash_ids": [7]},
]


def jsonl(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def replayed(tmp_path):
    """Makes the workload of a trace with this text."""

    def make(format: str, text: str, vocabulary: int = 1000, **settings) -> Workload:
        path = tmp_path / "trace"
        path.write_text(text)
        trace = Trace.model_validate({"format": format, "path": str(path), **settings})
        return Workload(name="w", description="d", vocabulary=vocabulary, trace=trace)

    return make


def lengths(of: Workload) -> list[tuple[int, int]]:
    return [(len(request.prompt), request.max_tokens) for request in of.requests()]


def selection_of(workload: Workload) -> Selection:
    assert workload.selection is not None
    return workload.selection


def test_azure_of_2023_is_read_to_the_microsecond(replayed):
    workload = replayed("azure", AZURE_2023)
    assert lengths(workload) == [(374, 44), (396, 109), (3000, 500)]
    # 50.995169 - 46.680590 and a minute.
    assert workload.timetable() == pytest.approx([0.0, 4.314579, 60.0], abs=1e-6)
    assert str(workload.selection) == "3 of 4 rows (1 left out: no output)"
    assert workload.longest() == 3500


def test_azure_of_2024_has_a_zone_and_sometimes_no_fraction(replayed):
    workload = replayed("azure", AZURE_2024)
    assert lengths(workload) == [(1452, 3), (584, 3), (862, 38)]
    assert workload.timetable() == pytest.approx([0.0, 0.041683, 60.0], abs=1e-6)


def test_burstgpt_is_read_by_its_headers_and_failed_requests_are_counted(replayed):
    workload = replayed("burstgpt", BURSTGPT_1)
    assert lengths(workload) == [(472, 18), (1087, 230), (300, 7)]
    assert workload.timetable() == [0.0, 40.0, 115.0]
    assert workload.selection.left_out == {"no output": 1}
    later = replayed("burstgpt", BURSTGPT_3)
    assert lengths(later) == [(906, 446), (36, 29)]
    assert later.timetable() == [0.0, 51.5]


def test_mooncake_blocks_of_one_number_hold_the_same_tokens(replayed):
    workload = replayed("mooncake", jsonl(MOONCAKE))
    first, second, third = workload.requests()
    assert lengths(workload) == [(1200, 52), (1500, 26), (500, 9)]
    assert workload.timetable() == [0.0, pytest.approx(3.053), pytest.approx(3.053)]
    assert first.prompt[:1024].tobytes() == second.prompt[:1024].tobytes()
    assert not np.array_equal(first.prompt[1024:1200], second.prompt[1024:1200])
    assert not np.array_equal(third.prompt, first.prompt[:500])
    assert [request.shared_tokens for request in (first, second, third)] == [0, 1024, 0]
    # 1024 of 3200 prompt tokens were in an earlier prompt.
    assert workload.unique_share() == pytest.approx(1 - 1024 / 3200)


def test_a_salt_leaves_blocks_shared_within_a_run(replayed):
    workload = replayed("mooncake", jsonl(MOONCAKE)).model_copy(update={"salt": True})
    plain, (first, second, third) = workload.request(0), list(workload.salted(4).requests())
    assert first.prompt[:1024].tobytes() == second.prompt[:1024].tobytes()
    assert first.prompt[:SALT_TOKENS].tobytes() != plain.prompt[:SALT_TOKENS].tobytes()
    assert first.prompt[SALT_TOKENS:].tobytes() == plain.prompt[SALT_TOKENS:].tobytes()
    assert third.prompt[:SALT_TOKENS].tobytes() != first.prompt[:SALT_TOKENS].tobytes()


def test_blocks_may_have_another_size(replayed):
    rows = [{"timestamp": 0, "input_length": 20, "output_length": 1, "hash_ids": [1, 2]}]
    assert lengths(replayed("mooncake", jsonl(rows), block_tokens=16)) == [(20, 1)]
    with pytest.raises(UserError, match="line 1: hash_ids: 2 for 20 tokens, which are 1 blocks of 512; if its blocks"):
        replayed("mooncake", jsonl(rows)).longest()


def test_a_part_of_a_trace_counts_its_time_from_its_start(replayed):
    workload = replayed("burstgpt", BURSTGPT_1, start_s=30.0, duration_s=85.5)
    assert lengths(workload) == [(1087, 230), (300, 7)]
    assert workload.timetable() == [10.0, 85.0]
    assert workload.selection.left_out == {"before start_s": 1, "no output": 1}
    # The end itself is outside.
    assert lengths(replayed("burstgpt", BURSTGPT_1, duration_s=40.0)) == [(472, 18)]


def test_a_limit_takes_the_first_ones(replayed):
    workload = replayed("burstgpt", BURSTGPT_1, limit=2)
    assert lengths(workload) == [(472, 18), (1087, 230)]
    assert str(workload.selection) == "2 of 2 rows"


def test_rows_that_are_too_long_are_dropped_or_clipped_and_counted(replayed):
    dropped = replayed("azure", AZURE_2023, max_input=1000, max_output=100)
    assert lengths(dropped) == [(374, 44)]
    assert dropped.selection.left_out == {"over max_output": 1, "no output": 1, "over max_input": 1}
    clipped = replayed("azure", AZURE_2023, max_input=1000, max_output=100, too_long="clip")
    assert lengths(clipped) == [(374, 44), (396, 100), (1000, 100)]
    assert str(clipped.selection) == "3 of 4 rows (1 left out: no output; 2 clipped)"


def test_a_clipped_prompt_keeps_its_first_blocks(replayed):
    workload = replayed("mooncake", jsonl(MOONCAKE), max_input=600, too_long="clip")
    assert lengths(workload) == [(600, 52), (600, 26), (500, 9)]
    whole = replayed("mooncake", jsonl(MOONCAKE))
    assert workload.request(0).prompt.tobytes() == whole.request(0).prompt[:600].tobytes()
    assert workload.request(1).shared_tokens == 600


def test_no_filter_moves_the_tokens_of_a_row(replayed):
    whole, part = replayed("burstgpt", BURSTGPT_1), replayed("burstgpt", BURSTGPT_1, start_s=30.0)
    assert part.request(0).prompt.tobytes() == whole.request(1).prompt.tobytes()
    assert 0 <= whole.request(0).prompt.min() <= whole.request(0).prompt.max() < 1000


def test_a_trace_ends_and_is_the_same_after_a_pickle(replayed):
    workload = pickle.loads(pickle.dumps(replayed("mooncake", jsonl(MOONCAKE))))
    load = Load.replay(workload, workload.timetable())
    assert [request.index for request in load.take(0.0)] == [0]
    assert [request.index for request in load.take(3.1)] == [1, 2]
    load.ended(0, 4.0)
    assert load.next_s is None
    assert workload.opening(3) is None
    with pytest.raises(IndexError, match="has 3 conversations, not one 3"):
        workload.request(3)


def test_a_loaded_trace_does_not_need_its_file_again(replayed, tmp_path):
    workload = replayed("burstgpt", BURSTGPT_1)
    assert workload.longest() == 1317
    (tmp_path / "trace").unlink()
    assert len(lengths(pickle.loads(pickle.dumps(workload)))) == 3


def test_times_and_lengths_and_blocks_are_in_the_hash(replayed):
    later = BURSTGPT_1.replace("120,GPT-4", "121,GPT-4")
    longer = BURSTGPT_1.replace("300,7", "300,8")
    other_block = jsonl([*MOONCAKE[:2], {**MOONCAKE[2], "hash_ids": [8]}])
    hashes = {replayed("burstgpt", text).sha256() for text in (BURSTGPT_1, later, longer)}
    hashes |= {replayed("mooncake", text).sha256() for text in (jsonl(MOONCAKE), other_block)}
    assert len(hashes) == 5
    # Not what was left out.
    failed = BURSTGPT_1.replace("417,0,417", "418,0,418")
    assert replayed("burstgpt", failed).sha256() == replayed("burstgpt", BURSTGPT_1).sha256()
    # Frozen: a change here means that published rows can no longer be compared by workload_sha256.
    assert replayed("burstgpt", BURSTGPT_1).sha256()[:16] == "566ea5887e20970a"


def test_the_path_counts_from_the_folder_of_the_workload(tmp_path, monkeypatch):
    (tmp_path / "t.csv").write_text(BURSTGPT_1)
    text = 'name = "w"\ndescription = "d"\n[trace]\nformat = "burstgpt"\npath = "t.csv"\nlimit = 1\n'
    (tmp_path / "w.toml").write_text(text)
    monkeypatch.chdir("/")
    assert lengths(load_workload(str(tmp_path / "w.toml"))) == [(472, 18)]


def azure(*rows: str) -> str:
    return "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "".join(row + "\n" for row in rows)


GOOD = "2023-11-16 18:15:46.6805900,374,44"


@pytest.mark.parametrize(
    ("format", "text", "message"),
    [
        (
            "azure",
            "TIMESTAMP,Context,GeneratedTokens\n",
            "line 1: no column 'ContextTokens'; found: TIMESTAMP, Context",
        ),
        ("azure", "", "line 1: no column 'TIMESTAMP'; found: nothing"),
        ("azure", azure(), "no row is left to ask: 0 of 0 rows"),
        ("azure", azure(GOOD.replace("44", "0")), "no row is left to ask: 0 of 1 rows (1 left out: no output)"),
        ("azure", azure(GOOD, "yesterday,1,1"), "line 3: TIMESTAMP: not a date with time, found 'yesterday'"),
        ("azure", azure(GOOD, GOOD.replace("374", "3.5")), "line 3: ContextTokens: not a whole number, found '3.5'"),
        ("azure", azure(GOOD, GOOD.replace("374", "")), "line 3: ContextTokens: not a whole number, found ''"),
        ("azure", azure(GOOD, GOOD.replace("44", "-2")), "line 3: GeneratedTokens: is negative, found '-2'"),
        ("azure", azure(GOOD, GOOD.replace("44", "9999999999")), "line 3: GeneratedTokens: is beyond 2147483647"),
        ("azure", azure(GOOD, GOOD + ",7"), "line 3: 4 columns where the header has 3"),
        ("azure", azure(GOOD, GOOD.replace(":46.", ":45.")), "line 3: time goes back by 1 s; sort the rows by time"),
        ("burstgpt", BURSTGPT_1.replace("45,Chat", "nan,Chat"), "line 3: Timestamp: not a finite number, found 'nan'"),
        ("burstgpt", BURSTGPT_1.replace("45,Chat", "-1,Chat"), "line 3: Timestamp: is negative, found '-1'"),
        ("burstgpt", BURSTGPT_1.replace("45,Chat", "x,Chat"), "line 3: Timestamp: not a number, found 'x'"),
        ("mooncake", jsonl(MOONCAKE[:1]) + "{\n", "line 2: not valid JSON"),
        ("mooncake", "[1]\n", "line 1: not a JSON object, found '[1]'"),
        ("mooncake", jsonl([{"timestamp": 1}]), "line 1: no 'input_length'; found: timestamp"),
        ("mooncake", jsonl([{**MOONCAKE[0], "timestamp": "1"}]), "line 1: timestamp: not a number, found '1'"),
        (
            "mooncake",
            jsonl([{**MOONCAKE[0], "input_length": 1.5}]),
            "line 1: input_length: not a whole number, found 1.5",
        ),
        ("mooncake", jsonl([{**MOONCAKE[0], "output_length": True}]), "line 1: output_length: not a whole number"),
        (
            "mooncake",
            jsonl([{**MOONCAKE[0], "hash_ids": [1, -2, 3]}]),
            "line 1: hash_ids: not an array of whole numbers",
        ),
        ("mooncake", jsonl([{**MOONCAKE[2], "hash_ids": [True]}]), "hash_ids: not an array of whole numbers from 0"),
        ("mooncake", jsonl([{**MOONCAKE[0], "timestamp": 10**400}]), "line 1: timestamp: is beyond 1.79769e+308"),
        ("mooncake", '{"timestamp": ' + "1" * 5000 + "}\n", "line 1: not valid JSON (a number is too long or"),
        ("mooncake", "[" * 100_000 + "\n", "line 1: not valid JSON (a number is too long or its lists too deep)"),
        ("mooncake", jsonl([MOONCAKE[1], MOONCAKE[0]]), "line 2: time goes back by 3.053 s"),
    ],
)
def test_a_bad_row_is_named_by_its_line(replayed, format, text, message):
    with pytest.raises(UserError) as error:
        replayed(format, text).longest()
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_trace_that_is_not_there_or_no_text_is_said(replayed, tmp_path):
    workload = Workload(name="w", description="d", trace=Trace(format="azure", path=str(tmp_path / "absent.csv")))
    with pytest.raises(UserError, match="no such trace file: .*absent.csv"):
        workload.opening(0)
    (tmp_path / "absent.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read"):
        workload.opening(0)


rows = st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=30)


@given(rows=rows, max_input=st.one_of(st.none(), st.integers(1, 50)), limit=st.one_of(st.none(), st.integers(1, 9)))
def test_every_row_that_was_read_is_kept_or_counted(tmp_path_factory, rows, max_input, limit):
    path = tmp_path_factory.mktemp("trace") / "t.csv"
    ordered = sorted(rows, key=lambda row: row[0])
    path.write_text(
        "Timestamp,Request tokens,Response tokens\n" + "".join(f"{at},{isl},{osl}\n" for at, isl, osl in ordered)
    )
    trace = Trace(format="burstgpt", path=str(path), max_input=max_input, limit=limit)
    workload = Workload(name="w", description="d", trace=trace)
    wanted = [(isl, osl) for _, isl, osl in ordered if isl and osl and isl <= (max_input or isl)]
    if not wanted:
        with pytest.raises(UserError, match="no row is left"):
            workload.longest()
        return
    assert lengths(workload) == wanted[:limit]
    assert workload.timetable() == sorted(workload.timetable())
    if limit is None:
        assert selection_of(workload).kept + sum(selection_of(workload).left_out.values()) == len(rows)
