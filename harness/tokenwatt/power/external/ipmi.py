"""The machine's power by its own BMC, asked through `ipmitool dcmi power reading` (usually as root)."""

from __future__ import annotations

import re
import shutil
import subprocess

from tokenwatt.clock import RunClock
from tokenwatt.errors import UserError
from tokenwatt.power.external.http import TIMEOUT_S
from tokenwatt.power.external.node import PolledMeter
from tokenwatt.power.external.request import MeterRequest
from tokenwatt.power.meter import MeterError

_READING = re.compile(r"Instantaneous power reading:\s*(\d+) Watts")
_STATE = re.compile(r"Power reading state is:\s*(\S+)")


def open_ipmi(request: MeterRequest, clock: RunClock) -> PolledMeter:
    """The BMC of this machine.

    Raises:
        UserError: no ipmitool, no rights, or a BMC without DCMI power.
    """
    request.only(())
    if request.place:
        raise UserError(f"meter 'ipmi' reads this machine's BMC and takes no address, got {request.place!r}")
    tool = shutil.which("ipmitool")
    if tool is None:
        raise UserError(
            "meter 'ipmi' needs the program ipmitool; install it, or use redfish:https://BMC/redfish/v1/..."
        )
    try:
        return PolledMeter(request, lambda: _power_w(tool), clock)
    except MeterError as error:
        raise UserError(f"meter 'ipmi': {error}") from None


def _power_w(tool: str) -> float:
    command = [tool, "dcmi", "power", "reading"]
    try:
        # A session of its own: Ctrl-C in the terminal ends a measurement, not a reading.
        done = subprocess.run(  # noqa: S603
            command,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=TIMEOUT_S,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired:
        raise MeterError(f"ipmitool does not answer within {TIMEOUT_S:.0f} s") from None
    except OSError as error:
        raise MeterError(f"ipmitool cannot be started ({error.strerror})") from None
    if done.returncode != 0:
        words = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise MeterError(f"ipmitool dcmi power reading failed: {words}")
    reading, state = _READING.search(done.stdout), _STATE.search(done.stdout)
    # A BMC that has switched its measurement off goes on answering, with zeros.
    if reading is None or (state is not None and state[1] != "activated"):
        found = state[0] if reading and state else done.stdout
        raise MeterError(f"ipmitool gives no power: {' '.join(found.split()) or 'nothing'}")
    return float(reading[1])
