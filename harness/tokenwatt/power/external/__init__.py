"""Meters that are no part of this machine's drivers: the whole node by its BMC or a wall meter's file, or GPUs by DCGM.

A short text asks for one: `csv:rack.csv?timezone=Europe/Berlin`, `ipmi`, `redfish:https://bmc/redfish/v1/Chassis/1` for
`open_node_meter`, `dcgm:http://host:9400/metrics` for `open_gpu_meter`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tokenwatt.clock import RunClock
from tokenwatt.errors import UserError, unknown_name
from tokenwatt.power.external.energy import NodeEnergy, Readings, node_energy
from tokenwatt.power.external.node import NodeMeter
from tokenwatt.power.external.request import MeterRequest, parse

if TYPE_CHECKING:
    from tokenwatt.power.external.dcgm import DcgmMeter

__all__ = [
    "GPU_METERS",
    "NODE_METERS",
    "MeterRequest",
    "NodeEnergy",
    "NodeMeter",
    "Readings",
    "node_energy",
    "open_gpu_meter",
    "open_node_meter",
    "parse",
]

NODE_METERS: dict[str, str] = {
    "csv": "tokenwatt.power.external.csv_log:open_log",
    "ipmi": "tokenwatt.power.external.ipmi:open_ipmi",
    "redfish": "tokenwatt.power.external.redfish:open_redfish",
}
"""Meter of a whole machine -> the function that opens it, imported only when it is asked for."""

GPU_METERS: dict[str, str] = {"dcgm": "tokenwatt.power.external.dcgm:DcgmMeter.open"}
"""Meter that stands in for NVML -> the same."""


def open_node_meter(text: str, clock: RunClock) -> NodeMeter:
    """The meter that `text` asks for, tried once; a context manager that reads while it is open.

    Raises:
        UserError: no such meter or option, nobody answers, a file that cannot be used.
    """
    return _open(text, "node meter", NODE_METERS, GPU_METERS, "it reads GPUs, not the machine")(parse(text), clock)


def open_gpu_meter(text: str, gpu_uuids: tuple[str, ...] | None = None) -> DcgmMeter:
    """A `Meter` of the GPUs named (None: all that it has), on this machine or another one.

    Raises:
        UserError: no such meter, option or GPU; nobody answers.
    """
    return _open(text, "GPU meter", GPU_METERS, NODE_METERS, "it reads a machine, not its GPUs")(parse(text), gpu_uuids)


def _open(text: str, kind: str, known: dict[str, str], others: dict[str, str], why_not: str) -> Any:
    name = parse(text).name
    if name in others:
        raise UserError(f"{kind} {text!r}: {why_not}; known: {', '.join(sorted(known))}")
    if name not in known:
        raise unknown_name(kind, name, known)
    module, _, path = known[name].partition(":")
    found: Any = import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    return found
