"""`tokenwatt data publish` from a bench to a page, and what it answers to people who get it wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.end_to_end.test_bench import suite
from tests.factories import timing_row

from tokenwatt import invocation, store
from tokenwatt.record import KernelTiming


def test_a_bench_is_published_checked_and_written_anew(tmp_path, tokenwatt, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert tokenwatt("bench", suite(tmp_path)).code == 0
    (run,) = (tmp_path / "results" / "raw").iterdir()
    ended = invocation.read(run)
    assert ended is not None
    assert ended.command == f"tokenwatt bench {tmp_path / 'suite.toml'}"
    assert tokenwatt("data", "publish", "mine", "--from", str(run)).code == 0
    page = tmp_path / "results" / "published" / "mine" / "README.md"
    assert "| `tokenwatt bench suite.toml` |" in page.read_text()
    assert tokenwatt("data", "publish", "mine", "--check").code == 0
    (page.parent / "notes.md").write_text("A note.\n")
    stale = tokenwatt("data", "publish", "mine", "--check")
    assert (stale.code, len(stale.err.splitlines())) == (1, 2)
    assert tokenwatt("data", "publish", "mine").code == 0
    assert "## Notes\n\nA note.\n" in page.read_text()
    assert tokenwatt("data", "publish", "mine", "--check").code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("absent",), "no study 'absent' under results/published; known: none; `--from RUN` makes one"),
        (("absent", "--check"), "no study 'absent' under results/published"),
        (("../x", "--from", "raw"), "a study's name needs small letters"),
        (("s", "--from", "nowhere"), "no such run: nowhere; --from needs the folder of a run"),
        (("s", "--from", "empty"), "empty holds no run"),
        (("s", "--from", "raw", "--from", "raw/r"), "run r is named 2 times"),
        (("s", "--from", "raw", "--tiles", "t.json"), "no such table of tiles: t.json"),
        (("s", "--from", "raw", "--check"), "--from, --check and --markdown are three commands"),
        (("s", "--by", "us"), "say how runs are collected; add --from RUN"),
        (("s", "--markdown", "page.md"), "--markdown must name a file, found none at page.md"),
    ],
)
def test_what_people_get_wrong_is_one_line_and_writes_nothing(
    tmp_path: Path, tokenwatt, monkeypatch, arguments, message
) -> None:
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "raw" / "r"
    store.write([timing_row()], KernelTiming, run)
    invocation.write(run, ["kernels", "bench"])
    (tmp_path / "empty").mkdir()
    outcome = tokenwatt("data", "publish", *arguments)
    assert outcome.code == 2
    assert message in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert not (tmp_path / "results").exists()
