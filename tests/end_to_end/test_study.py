"""`tokenwatt fleet`, `report`, `doctor` and `data`, as their users call them."""

from __future__ import annotations

import json

import pandas as pd
from tests.factories import measurement

from tokenwatt import store
from tokenwatt.record import Measurement


def test_fleet_prints_five_systems_with_ranges_and_sources(tokenwatt, tmp_path):
    path = tmp_path / "fleet.parquet"
    outcome = tokenwatt("fleet", "--json", "-o", str(path))
    assert outcome.code == 0
    study = json.loads(outcome.out)
    assert list(study["systems"]) == ["H200 SXM", "B200 SXM", "GB200 NVL72", "GB300 NVL72", "VR NVL72"]
    for quantities in study["systems"].values():
        for quantity in quantities.values():
            assert quantity["low"] <= quantity["central"] <= quantity["high"]
            assert quantity["unit"]
    assert all(fact["source"] for fact in study["sources"])
    table = pd.read_parquet(path)
    assert len(table) == 15
    assert set(table["case"]) == {"low", "central", "high"}


def test_fleet_prints_a_table_that_fits_80_columns(tokenwatt, tmp_path):
    outcome = tokenwatt("fleet", "-o", str(tmp_path / "fleet.parquet"))
    assert outcome.code == 0
    head = outcome.out.split("Facts:")[0]
    assert "VR NVL72" in head
    assert "…" not in head
    assert max(map(len, head.splitlines())) <= 80


def test_report_is_one_page_with_the_rows_and_the_fleet(tokenwatt, tmp_path):
    store.write([measurement(workload="my-workload")], Measurement, tmp_path / "run")
    path = tmp_path / "report.html"
    outcome = tokenwatt("report", str(tmp_path), "-o", str(path))
    assert outcome.code == 0, outcome.err
    page = path.read_text(encoding="utf-8")
    assert "my-workload" in page
    assert "VR NVL72" in page


def test_doctor_says_what_is_missing_and_what_to_do(tokenwatt):
    outcome = tokenwatt("doctor", "--json")
    assert outcome.code == 0
    findings = json.loads(outcome.out)
    assert {"tokenwatt", "GPU meter", "engine native"} <= {finding["subject"] for finding in findings}
    assert all(finding["is_good"] or finding["advice"] for finding in findings)


def test_the_data_dictionary_can_be_printed_and_written(tokenwatt, tmp_path):
    outcome = tokenwatt("data", "schema")
    assert outcome.out == store.data_dictionary()
    assert tokenwatt("data", "schema", "--write", str(tmp_path / "README.md")).code == 0
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == outcome.out


def test_version_and_help(tokenwatt):
    assert tokenwatt("--version").out.startswith("tokenwatt ")
    assert "bench" in tokenwatt("--help").out


def test_without_arguments_the_help_is_all_that_is_said(tokenwatt):
    for arguments in ((), ("data",)):
        outcome = tokenwatt(*arguments)
        assert outcome.code == 2
        assert "Commands" in outcome.out
        assert outcome.err == ""
