"""GPUs of another machine by the pages of a DCGM exporter."""

from __future__ import annotations

import itertools

import pytest
from tests.web import serving

from tokenwatt.errors import UserError
from tokenwatt.power import MeterError
from tokenwatt.power.external import open_gpu_meter

LABELS = 'gpu="{gpu}",UUID="{uuid}",pci_bus_id="00000000:0{gpu}:00.0",device="nvidia{gpu}",modelName="NVIDIA H200"'
FIELDS = {
    "DCGM_FI_DEV_SM_CLOCK": ("gauge", "SM clock frequency (in MHz).", 1980),
    "DCGM_FI_DEV_MEM_CLOCK": ("gauge", "Memory clock frequency (in MHz).", 3201),
    "DCGM_FI_DEV_GPU_TEMP": ("gauge", "GPU temperature (in C).", 41),
    "DCGM_FI_DEV_POWER_USAGE": ("gauge", "Power draw (in W).", 123.5),
    "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": ("counter", "Total energy consumption since boot (in mJ).", 5_551_899_580),
}


def page(uuids=("GPU-a", "GPU-b"), slices=("",), **more) -> str:
    lines = []
    for name, (kind, help_, value) in {**FIELDS, **more}.items():
        lines += [f"# HELP {name} {help_}", f"# TYPE {name} {kind}"]
        for gpu, uuid in enumerate(uuids):
            lines += [f"{name}{{{LABELS.format(gpu=gpu, uuid=uuid)}{part}}} {value + gpu}" for part in slices]
    return "\n".join(lines) + "\n"


def clock():
    return itertools.count(start=10.0, step=0.5).__next__


def test_every_gpu_in_si_units():
    with serving({"/metrics": page()}) as web:
        meter = open_gpu_meter(f"dcgm:{web.address}/metrics")
        first, second = meter.read(clock())
    assert meter.sources == ("GPU-a", "GPU-b")
    assert meter.gpu_names == ("NVIDIA H200", "NVIDIA H200")
    assert first.at_s == 10.25  # asked at 10.0, answered at 10.5
    assert (first.energy_j, first.power_w) == (pytest.approx(5_551_899.58), 123.5)
    assert (first.sm_clock_hz, first.memory_clock_hz, first.temperature_c) == (1.98e9, 3.201e9, 41.0)
    assert (second.source, second.power_w) == ("GPU-b", 124.5)
    assert first.power_limit_w is None  # the exporter's default set has none


def test_the_default_power_is_a_trailing_average_and_the_instant_is_preferred():
    instant = {"DCGM_FI_DEV_POWER_USAGE_INSTANT": ("gauge", "Instant power draw (in W).", 200.0)}
    with serving({"/metrics": page(), "/instant": page(**instant)}) as web:
        assert open_gpu_meter(f"dcgm:{web.address}/metrics").is_trailing_average
        meter = open_gpu_meter(f"dcgm:{web.address}/instant")
        assert not meter.is_trailing_average
        assert meter.read(clock())[0].power_w == 200.0


def test_gpus_are_chosen_by_uuid_and_slices_are_not_added_up():
    slices = (',GPU_I_PROFILE="2g.20gb",GPU_I_ID="3"', ',GPU_I_PROFILE="2g.20gb",GPU_I_ID="5"')
    with serving({"/metrics": page(slices=slices)}) as web:
        (sample,) = open_gpu_meter(f"dcgm:{web.address}/metrics", ("GPU-b",)).read(clock())
        assert (sample.source, sample.power_w) == ("GPU-b", 124.5)
        with pytest.raises(UserError, match="unknown GPU 'GPU-c' .*; known: GPU-a, GPU-b"):
            open_gpu_meter(f"dcgm:{web.address}/metrics", ("GPU-c",))


def test_a_gpu_that_vanishes_is_an_error_and_a_blank_is_no_value():
    pages = iter([page(), page(("GPU-a",)), page(DCGM_FI_DEV_POWER_USAGE=("gauge", "Power.", 2.0**47))])
    with serving({"/metrics": lambda: next(pages)}) as web:
        meter = open_gpu_meter(f"dcgm:{web.address}/metrics")
        with pytest.raises(MeterError, match="no longer tells power or energy of GPU-b"):
            meter.read(clock())
        assert [sample.power_w for sample in meter.read(clock())] == [None, None]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("<html>Hello</html>", "is not a page of Prometheus metrics"),
        ("up 1\n", "has neither DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION nor DCGM_FI_DEV_POWER_USAGE"),
    ],
)
def test_another_page_is_refused_in_one_line(body, message):
    with serving({"/metrics": body}) as web, pytest.raises(UserError, match=message):
        open_gpu_meter(f"dcgm:{web.address}/metrics")


def test_a_meter_of_the_machine_is_no_meter_of_gpus():
    with pytest.raises(UserError, match="it reads a machine, not its GPUs; known: dcgm"):
        open_gpu_meter("ipmi")
