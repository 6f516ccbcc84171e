from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from tokenwatt.power import MeterError, open_meters, rapl_packages
from tokenwatt.power.rapl import RaplMeter

RANGE_UJ = 262_143_328_850


def domain(root: Path, folder: str, name: str, energy_uj: int) -> Path:
    path = root / folder
    path.mkdir(parents=True)
    (path / "name").write_text(f"{name}\n")
    (path / "max_energy_range_uj").write_text(f"{RANGE_UJ}\n")
    (path / "energy_uj").write_text(f"{energy_uj}\n")
    return path


def clock():
    return itertools.count(start=10.0, step=0.5).__next__


def test_packages_only(tmp_path: Path):
    domain(tmp_path, "intel-rapl:0", "package-0", 1_000_000)
    domain(tmp_path, "intel-rapl:0:0", "core", 5)
    domain(tmp_path, "intel-rapl:1", "package-1", 2_500_000)
    domain(tmp_path, "intel-rapl:2", "psys", 7)
    # The same package again through another interface: counting it would double the energy.
    domain(tmp_path, "intel-rapl-mmio:0", "package-0", 1_000_000)
    assert rapl_packages(tmp_path) == ("rapl:package-0", "rapl:package-1")
    found = open_meters((), rapl_root=tmp_path)
    assert found.scope is None
    (meter,) = found.meters
    samples = meter.read(clock())
    # Middle of the clock's 10.0 and 10.5, then of 11.0 and 11.5.
    assert [(sample.source, sample.energy_j, sample.at_s) for sample in samples] == [
        ("rapl:package-0", 1.0, 10.25),
        ("rapl:package-1", 2.5, 11.25),
    ]
    assert samples[0].power_w is None


def test_the_counter_wraps(tmp_path: Path):
    path = domain(tmp_path, "intel-rapl:0", "package-0", RANGE_UJ - 1_000_000)
    meter = RaplMeter.open(tmp_path)
    assert meter is not None
    tick = clock()
    before = meter.read(tick)[0].energy_j
    (path / "energy_uj").write_text("2000000\n")
    after = meter.read(tick)[0].energy_j
    (path / "energy_uj").write_text("2500000\n")
    later = meter.read(tick)[0].energy_j
    assert before is not None
    # 1 J up to the wrap and 2 J after it; then half a joule.
    assert after == pytest.approx(before + 3.0)
    assert later == pytest.approx(before + 3.5)


def test_nothing_readable_is_no_meter(tmp_path: Path):
    assert RaplMeter.open(tmp_path / "absent") is None
    path = domain(tmp_path, "intel-rapl:0", "package-0", 1)
    (path / "energy_uj").unlink()
    assert RaplMeter.open(tmp_path) is None
    assert rapl_packages(tmp_path) == ()


def test_a_counter_that_disappears_is_an_error(tmp_path: Path):
    path = domain(tmp_path, "intel-rapl:0", "package-0", 1)
    meter = RaplMeter.open(tmp_path)
    assert meter is not None
    (path / "energy_uj").unlink()
    with pytest.raises(MeterError, match=r"cannot read .*energy_uj any more"):
        meter.read(clock())
