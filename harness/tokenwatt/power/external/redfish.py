"""A chassis' power by Redfish (DMTF DSP0266), from a BMC on the network or on this machine.

The schemas: `Power` (PowerControl[0].PowerConsumedWatts), which newer BMCs leave out in favour of `EnvironmentMetrics`
(PowerWatts.Reading). https://redfish.dmtf.org/schemas/
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tokenwatt.clock import RunClock
from tokenwatt.errors import UserError
from tokenwatt.power.external.energy import is_power
from tokenwatt.power.external.http import HttpError, basic_authorization, get
from tokenwatt.power.external.node import PolledMeter
from tokenwatt.power.external.request import MeterRequest
from tokenwatt.power.meter import MeterError

RESOURCES: dict[str, tuple[str | int, ...]] = {
    "Power": ("PowerControl", 0, "PowerConsumedWatts"),
    "EnvironmentMetrics": ("PowerWatts", "Reading"),
}
"""Resource under the chassis, and the way to the watts in it."""
_NOT_FOUND = 404


def open_redfish(request: MeterRequest, clock: RunClock) -> PolledMeter:
    """The chassis whose address is asked for; name and password come from ~/.netrc.

    Raises:
        UserError: no answer, no such chassis, no rights, or a chassis without a power reading.
    """
    request.only(("insecure",))
    chassis, is_insecure = request.address(), request.flag("insecure")
    authorization = basic_authorization(chassis)

    def fetch(url: str) -> bytes:
        return get(url, authorization, is_insecure)

    try:
        resource = _resource_with_power(chassis, fetch)
        return PolledMeter(request, lambda: _power_w(chassis, resource, fetch), clock)
    except MeterError as error:
        raise UserError(f"meter 'redfish': {error}{_advice(error)}") from None


def _resource_with_power(chassis: str, fetch: Callable[[str], bytes]) -> str:
    """The first resource that gives a power; one that is left with a 0 in it gives way to the other."""
    empty: MeterError | None = None
    for resource in RESOURCES:
        try:
            power_w = _power_w(chassis, resource, fetch)
        except HttpError as error:
            if error.status != _NOT_FOUND:
                raise
        except MeterError as error:  # some BMCs keep the old resource without its number
            empty = error
        else:
            if is_power(power_w):
                return resource
            empty = MeterError(f"{chassis}/{resource} gives {power_w:g} W; the power of a machine is finite and > 0")
    neither = f"{chassis} has neither {' nor '.join(RESOURCES)}; list the chassis under /redfish/v1/Chassis"
    raise empty or MeterError(neither)


def _power_w(chassis: str, resource: str, fetch: Callable[[str], bytes]) -> float:
    url, way = f"{chassis}/{resource}", RESOURCES[resource]
    try:
        found: Any = json.loads(fetch(url))
        for step in way:
            found = found[step]
        watts = None if isinstance(found, bool) or not isinstance(found, int | float) else float(found)
    except (ValueError, KeyError, IndexError, TypeError, OverflowError):
        watts = None
    if watts is None:
        raise MeterError(f"{url} has no number at {'.'.join(map(str, way))}")
    return watts


def _advice(error: MeterError) -> str:
    if isinstance(error, HttpError) and error.status in (401, 403):
        return "; put `machine HOST login NAME password WORD` into ~/.netrc (mode 600)"
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return "; a BMC with a certificate of its own needs ?insecure=1"
    return ""
