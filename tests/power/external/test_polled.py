"""BMCs that are asked while a run goes on: a fake ipmitool, and Redfish over real sockets."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import ssl
import subprocess
import time

import pytest
from tests.web import serving

from tokenwatt.clock import RunClock
from tokenwatt.errors import UserError
from tokenwatt.power.external import NodeEnergy, node, open_node_meter
from tokenwatt.power.sampler import Sampler
from tokenwatt.record import EnergyStatus, PowerSample, Reason

DCMI = """
    Instantaneous power reading:                   {watts} Watts
    Minimum during sampling period:                 92 Watts
    Maximum during sampling period:               1024 Watts
    Average power reading over sample period:      301 Watts
    IPMI timestamp:                           Thu Nov 26 12:00:00 2026
    Sampling period:                          00000001 Seconds.
    Power reading state is:                   {state}
"""
CHASSIS = "/redfish/v1/Chassis/1"
POWER = {"@odata.id": f"{CHASSIS}/Power", "PowerControl": [{"MemberId": "0", "PowerConsumedWatts": 590}]}
METRICS = {"@odata.id": f"{CHASSIS}/EnvironmentMetrics", "PowerWatts": {"Reading": 612.5, "DataSourceUri": "/x"}}


@pytest.fixture
def quick(monkeypatch):
    """Polls ten times a second, so that tests are short."""
    monkeypatch.setattr(node, "POLLING_PERIOD_S", 0.1)


@pytest.fixture
def ipmitool(tmp_path, monkeypatch):
    """Write the program that answers `ipmitool dcmi power reading`."""

    def write(body: str) -> None:
        tool = tmp_path / "ipmitool"
        tool.write_text(f"#!/bin/sh\n{body}\n")
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    return write


def watts(meter: node.NodeMeter) -> float:
    """Its first reading."""
    power_w = meter.readings().power_w
    assert power_w is not None
    return power_w[0]


def undisturbed(meter: node.NodeMeter, clock: RunClock) -> NodeEnergy:
    """Energy of 1.5 s. Taken again where this computer stalled the polling: that says nothing about it."""
    for _ in range(4):
        start_s = clock()
        time.sleep(1.5)
        energy = meter.energy(start_s, start_s + 1.5)
        if energy.status is EnergyStatus.VALID:
            break
    return energy


def answer(watts: int | str = 300, state: str = "activated") -> str:
    return f"cat <<END{DCMI.format(watts=watts, state=state)}END"


def test_ipmi_is_asked_in_the_background(ipmitool, quick, tmp_path):
    # 299 W and 301 W in turns, as a BMC whose every answer is new: equal ones are not known to be.
    turn = f"if [ -e {tmp_path}/high ]; then rm {tmp_path}/high; w=301; else : > {tmp_path}/high; w=299; fi\n"
    ipmitool(
        '[ "$*" = "dcmi power reading" ] || exit 9\n' + turn.replace("rm ", f"{shutil.which('rm')} ") + answer("$w")
    )
    clock = RunClock()
    with open_node_meter("ipmi", clock) as meter:
        columns = undisturbed(meter, clock).columns(meter.text)
    assert columns == {
        "node_meter": "ipmi",
        "node_energy_j": pytest.approx(450.0, abs=1.5),
        "node_energy_status": EnergyStatus.VALID,
        "node_energy_reasons": (),
    }


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("echo 'Could not open device at /dev/ipmi0' >&2; exit 1", "failed: Could not open device at /dev/ipmi0"),
        (answer(0), "ipmi gives 0 W; the power of a machine is finite and > 0"),
        (answer(0, "deactivated"), "gives no power: Power reading state is: deactivated"),
        ("echo 'Invalid command'", "gives no power: Invalid command"),
    ],
)
def test_an_ipmi_that_gives_no_power_is_refused_in_one_line(ipmitool, body, message):
    ipmitool(body)
    with pytest.raises(UserError) as refused:
        open_node_meter("ipmi", RunClock())
    assert message in str(refused.value)


def test_without_ipmitool_a_line_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="needs the program ipmitool; install it, or use redfish"):
        open_node_meter("ipmi", RunClock())


def test_a_bmc_that_stops_answering_leaves_a_gap_and_its_words(ipmitool, tmp_path, quick, monkeypatch):
    monkeypatch.setattr(node, "MIN_WAIT_S", 0.3)
    ipmitool(f"[ -e {tmp_path}/gone ] && {{ echo 'BMC busy' >&2; exit 1; }}\n{answer()}")
    clock = RunClock()
    with open_node_meter("ipmi", clock) as meter:
        start_s = clock()
        time.sleep(0.6)
        (tmp_path / "gone").touch()
        time.sleep(0.6)
        energy = meter.energy(start_s, start_s + 1.2)
    assert (energy.energy_j, energy.reasons) == (None, (Reason.EDGE_NOT_BRACKETED,))
    assert "last failure: ipmitool dcmi power reading failed: BMC busy" in (energy.detail or "")


@pytest.mark.parametrize(("resource", "body", "watts"), [("Power", POWER, 590), ("EnvironmentMetrics", METRICS, 612.5)])
def test_redfish_reads_the_old_resource_and_the_new_one(quick, resource, body, watts):
    clock = RunClock()
    text = json.dumps(body)
    turns = itertools.cycle((text.replace(str(watts), str(watts - 1)), text.replace(str(watts), str(watts + 1))))
    with (
        serving({f"{CHASSIS}/{resource}": lambda: next(turns)}) as web,
        open_node_meter(f"redfish:{web.address}{CHASSIS}/", clock) as meter,
    ):
        energy = undisturbed(meter, clock)
    assert (energy.status, energy.energy_j) == (EnergyStatus.VALID, pytest.approx(watts * 1.5, abs=1.5))


def test_a_bmc_that_never_renews_its_answer_gives_no_joules(quick, monkeypatch):
    clock = RunClock()
    with (
        serving({f"{CHASSIS}/Power": json.dumps(POWER)}) as web,
        open_node_meter(f"redfish:{web.address}{CHASSIS}", clock) as meter,
    ):
        start_s = clock()
        time.sleep(1.5)
        energy = meter.energy(start_s, start_s + 1.5)
    assert (energy.energy_j, energy.reasons) == (None, (Reason.POWER_STUCK,))


@pytest.mark.parametrize("number", ["NaN", "0", "-5", "1e999", "1" + "0" * 400])
def test_what_cannot_be_a_power_is_no_reading(quick, number):
    good = [json.dumps(POWER)] * 2  # one finds the resource, one is the first reading
    bad = json.dumps(POWER).replace("590", number)
    with (
        serving({f"{CHASSIS}/Power": lambda: good.pop() if good else bad}) as web,
        open_node_meter(f"redfish:{web.address}{CHASSIS}", RunClock()) as meter,
    ):
        while len(web.authorizations) < 5:
            time.sleep(0.02)
        assert len(meter.readings().at_s) == 1
    with serving({f"{CHASSIS}/Power": bad}) as web, pytest.raises(UserError, match="finite and > 0|has no number"):
        open_node_meter(f"redfish:{web.address}{CHASSIS}", RunClock())


def test_an_old_resource_that_says_0_gives_way_to_the_new_one():
    zero = json.dumps(POWER).replace("590", "0")
    pages = {f"{CHASSIS}/Power": zero, f"{CHASSIS}/EnvironmentMetrics": json.dumps(METRICS)}
    with serving(pages) as web, open_node_meter(f"redfish:{web.address}{CHASSIS}", RunClock()) as meter:
        assert watts(meter) == 612.5


def test_credentials_come_from_netrc(tmp_path, monkeypatch, quick):
    monkeypatch.setenv("HOME", str(tmp_path))
    pages = {f"{CHASSIS}/Power": json.dumps(POWER)}
    with serving(pages, password="Basic b3BlcmF0b3I6c2VjcmV0") as web:  # operator:secret
        with pytest.raises(
            UserError, match="answers 401 .*; put `machine HOST login NAME password WORD` into ~/.netrc"
        ):
            open_node_meter(f"redfish:{web.address}{CHASSIS}", RunClock())
        netrc = tmp_path / ".netrc"
        netrc.write_text("machine 127.0.0.1 login operator password secret\n")
        netrc.chmod(0o644)
        with pytest.raises(UserError, match=r"~/.netrc cannot be used: ~/.netrc access too permissive"):
            open_node_meter(f"redfish:{web.address}{CHASSIS}", RunClock())
        netrc.chmod(0o600)
        with open_node_meter(f"redfish:{web.address}{CHASSIS}", RunClock()) as meter:
            assert watts(meter) == 590
    netrc.write_text("machine bmc.example login operator password secret\n")
    with pytest.raises(UserError, match="goes over https only"):
        open_node_meter("redfish:http://bmc.example/redfish/v1/Chassis/1", RunClock())


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl for a certificate")
def test_a_certificate_is_verified_unless_told_otherwise(tmp_path, quick):
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=bmc"]
    subprocess.run([*make, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    with serving({f"{CHASSIS}/Power": json.dumps(POWER)}, tls=tls) as web:
        with pytest.raises(UserError, match="a BMC with a certificate of its own needs \\?insecure=1"):
            open_node_meter(f"redfish:{web.address}{CHASSIS}", RunClock())
        with open_node_meter(f"redfish:{web.address}{CHASSIS}?insecure=1", RunClock()) as meter:
            assert watts(meter) == 590


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("redfish:bmc/redfish/v1/Chassis/1", "needs an http or https address, got 'bmc/redfish/v1/Chassis/1'"),
        ("redfish:file:///etc/passwd", "needs an http or https address"),
        ("redfish:http://[::1", "needs an http or https address"),
        ("redfish:https://me:word@bmc/redfish", "name and password belong into ~/.netrc, not into the address"),
        ("redfish:https://bmc/redfish?insecure=yes", "insecure must be 0 or 1, got 'yes'"),
        ("redfish:http://127.0.0.1:9/redfish/v1/Chassis/1", "does not answer ([Errno 111] Connection refused)"),
        ("ipmi:bmc", "takes no address, got 'bmc'"),
        ("redfisch:https://bmc", "unknown node meter 'redfisch' (did you mean 'redfish'?); known: csv, ipmi, redfish"),
        ("dcgm:http://host:9400/metrics", "it reads GPUs, not the machine; known: csv, ipmi, redfish"),
        ("csv:a.csv?x", "options are written ?name=value&name=value, got 'x'"),
    ],
)
def test_a_wrong_request_is_refused_in_one_line(text, message):
    with pytest.raises(UserError) as refused:
        open_node_meter(text, RunClock())
    assert message in str(refused.value)


def test_an_old_resource_without_a_number_gives_way_to_the_new_one():
    pages = {f"{CHASSIS}/Power": "{}", f"{CHASSIS}/EnvironmentMetrics": json.dumps(METRICS)}
    with serving(pages) as web, open_node_meter(f"redfish:{web.address}{CHASSIS}", RunClock()) as meter:
        assert watts(meter) == 612.5


def test_a_chassis_without_power_is_refused():
    body = json.dumps({"PowerControl": [{"PowerConsumedWatts": None}]})
    with serving({f"{CHASSIS}/Power": body}) as web:
        with pytest.raises(UserError, match="has no number at PowerControl.0.PowerConsumedWatts"):
            open_node_meter(f"redfish:{web.address}{CHASSIS}", RunClock())
        with pytest.raises(UserError, match="has neither Power nor EnvironmentMetrics"):
            open_node_meter(f"redfish:{web.address}/redfish/v1/Chassis/2", RunClock())


def test_a_slow_bmc_does_not_disturb_the_sampler():
    # It takes 0.6 s to answer; boards are still read every 62 ms.
    clock = RunClock()
    with (
        serving({f"{CHASSIS}/Power": json.dumps(POWER)}, delay_s=0.6) as web,
        open_node_meter(f"redfish:{web.address}{CHASSIS}", clock) as meter,
    ):
        opened_s = clock()
        with Sampler([_Board()], clock) as sampler:
            time.sleep(2.0)
        readings = meter.readings()
    assert len(sampler.log.readings()["GPU-0"]) > 20  # 32 on a quiet computer; held up by the BMC, five
    # Stamped with the middle of the request, not with its end.
    assert readings.at_s[0] == pytest.approx(opened_s - 0.3, abs=0.2)


class _Board:
    sources = ("GPU-0",)

    def learn(self, clock, sleep):
        return {}

    def read(self, clock):
        return [PowerSample(clock(), "GPU-0", power_w=1.0)]

    def close(self) -> None:
        pass
