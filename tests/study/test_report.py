"""The report opens offline, shows every row and trusts no text."""

import re
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from tokenwatt.economics.scenario import FleetStudy, load_scenario, run_scenario
from tokenwatt.errors import UserError
from tokenwatt.record import EnergyStatus, Measurement, Reason, Status
from tokenwatt.report import html
from tokenwatt.report.run_tables import RunTables

HOSTILE = '<script>alert("x")</script>'
Make = Callable[..., Measurement]
Table = Callable[..., pd.DataFrame]


class Page(HTMLParser):
    """Tags with their attributes, visible text, and the bodies of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.visible: list[str] = []
        self.raw: list[tuple[str, str]] = []
        self.stack: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.stack and self.stack[-1] in ("script", "style"):
            self.raw.append((self.stack[-1], data))
        else:
            self.visible.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.visible).split())


@pytest.fixture(scope="module")
def study() -> FleetStudy:
    return run_scenario(load_scenario())


@pytest.fixture
def failed(measurement: Make) -> Measurement:
    return measurement(
        measurement_id="run-a/1",
        status=Status.FAILED,
        reasons=(Reason.ENGINE_ERROR,),
        detail="CUDA out of memory",
        output_tokens=None,
        window_s=None,
        is_stable=None,
        isl=None,
        osl=None,
        tpot_median_s=None,
        ttft_median_s=None,
        energy_status=EnergyStatus.NO_METER,
        gpu_energy_j=None,
    )


@pytest.fixture
def page(measurement: Make, failed: Measurement, table: Table, study: FleetStudy) -> Page:
    no_meter = measurement(
        measurement_id="run-b/0",
        run_id="run-b",
        workload="summarise",
        energy_status=EnergyStatus.NO_METER,
        gpu_energy_j=None,
    )
    return Page(html.page_text(RunTables(table(measurement(), failed, no_meter)), study))


def test_loads_nothing(page: Page) -> None:
    for tag, attributes in page.tags:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base"), tag
        assert not {"src", "href", "srcset", "action", "data"} & attributes.keys(), (tag, attributes)
    styles = " ".join(body for tag, body in page.raw if tag == "style")
    assert not re.search(r"url\(|@import|https?:", styles)
    policy = next(a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy


def test_plotly_is_inlined_once(page: Page) -> None:
    assert len([body for tag, body in page.raw if tag == "script" and len(body) > 1_000_000]) == 1


def test_every_row_is_there(page: Page) -> None:
    assert {"run-a/0", "run-a/1", "run-b/0"} <= {attributes.get("id") for _, attributes in page.tags}
    # 300 000 tokens in 30 s; 20 000 J / 300 000 tokens = 66.7 mJ; 1 / 12.5 ms = 80 token/s per user.
    for text in ("10,000", "66.7 mJ", "80", "CUDA out of memory", "engine error", "no meter", "no window"):
        assert text in page.text
    assert "run-a" in page.text
    assert "run-b" in page.text


def test_fleet_and_sources_are_there(page: Page, study: FleetStudy) -> None:
    for system in study.scenario.systems:
        assert system in page.text
    for text in ("730 k", "578 k to 811 k", "$0.043", "from memory", "analyst", study.reference.row_id):
        assert text in page.text
    for fact in study.facts:
        assert fact.source in page.text


def test_the_limit_is_drawn_beside(measurement: Make, table: Table) -> None:
    from tokenwatt.perf_model.limits import add_limits
    from tokenwatt.report.chart import throughput_figure

    figure = throughput_figure(add_limits(table(measurement(concurrency=8), measurement(measurement_id="run-a/1"))))
    assert figure is not None
    speed, limit, energy = figure["data"]
    assert speed["y"] == [10000.0, 10000.0]
    assert limit["line"]["dash"] == "dot"
    assert limit["y"][0] < limit["y"][1]
    assert energy["y"] == pytest.approx([20000 / 300000] * 2)


def test_hostile_text_is_only_text(measurement: Make, table: Table) -> None:
    row = measurement(engine=HOSTILE, workload=HOSTILE, model=HOSTILE, run_id=HOSTILE, gpu_name=HOSTILE)
    # Two workloads, so that the hostile names become names of lines in the chart too.
    text = html.page_text(RunTables(table(row, measurement(measurement_id="run-a/1"))), None)
    assert HOSTILE not in text
    page = Page(text)
    assert HOSTILE in page.text
    # The figure's data, plotly and our own few lines: no fourth script.
    assert len([tag for tag, _ in page.tags if tag == "script"]) == 3


def test_a_run_without_a_good_row_still_renders(failed: Measurement, table: Table, study: FleetStudy) -> None:
    page = Page(html.page_text(RunTables(table(failed)), study))
    assert "No row ended well" in page.text
    assert not [tag for tag, _ in page.tags if tag == "script"]


def test_no_rows_and_no_fleet_still_render(table: Table) -> None:
    assert "No measurements were given" in Page(html.page_text(RunTables(table()), None)).text


def test_written_whole_or_not_at_all(measurement: Make, table: Table, tmp_path: Path) -> None:
    path = html.render(RunTables(table(measurement())), None, tmp_path / "deep" / "report.html")
    assert path.read_text(encoding="utf-8").rstrip().endswith("</html>")
    assert [each.name for each in path.parent.iterdir()] == ["report.html"]


def test_a_place_that_cannot_be_written_is_named(measurement: Make, table: Table, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot write results there"):
        html.render(RunTables(table(measurement())), None, tmp_path / "file" / "report.html")


@pytest.mark.parametrize("library", ["plotly", "jinja2"])
def test_a_missing_library_is_answered_with_the_extra(
    monkeypatch: pytest.MonkeyPatch, measurement: Make, table: Table, library: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UserError, match=rf"the report needs {library}: pip install 'tokenwatt\[report\]'"):
        html.page_text(RunTables(table(measurement())), None)
