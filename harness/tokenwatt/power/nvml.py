"""GPU boards read through NVML, addressed by UUID.

CUDA_VISIBLE_DEVICES renumbers devices for CUDA and not for NVML, so an index means different boards to the two. Power,
energy and temperature belong to the whole board: a MIG slice has none of its own, and its UUID is refused here.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

from tokenwatt.clock import Clock
from tokenwatt.power.nvml_driver import Driver, Handle, failure
from tokenwatt.power.throttle import decode
from tokenwatt.record import PowerSample

_MILLI = 1e-3
_MEGA = 1e6

_ENERGY = ("nvmlDeviceGetTotalEnergyConsumption",)
_CLOCK = ("nvmlDeviceGetClockInfo",)
_POWER_LIMIT = ("nvmlDeviceGetEnforcedPowerLimit",)
# The second name of each pair is deprecated, and all that older bindings and drivers know.
_TEMPERATURE = ("nvmlDeviceGetTemperatureV", "nvmlDeviceGetTemperature")
_EVENT_REASONS = ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons")


@dataclass(frozen=True, slots=True)
class Board:
    """One GPU board that NVML sees."""

    name: str
    """Product name."""
    uuid: str
    """`GPU-...`, the same name that CUDA reports."""
    driver_version: str
    """NVIDIA driver of the host."""
    memory_bytes: int | None
    """Device memory; None where it is shared with the CPU and NVML does not count it."""


def boards() -> list[Board]:
    """Every board that NVML sees, in NVML's order; empty where there is no NVML.

    Raises:
        MeterError: NVML is there and refuses to work.
    """
    driver = Driver.start()
    if driver is None:
        return []
    try:
        version = driver.required("driver version", driver.binding.nvmlSystemGetDriverVersion)
        return [_board(driver, handle, version) for handle in driver.handles()]
    finally:
        driver.stop()


class NvmlMeter:
    """Reads boards. Build it with `open`."""

    def __init__(self, driver: Driver, handles: dict[str, Handle]) -> None:
        self._driver = driver
        self._handles = handles

    @classmethod
    def open(cls, uuids: tuple[str, ...] | None) -> NvmlMeter | None:
        """A meter for the boards named, in the order named, or for every board (None).

        Returns None where there is no NVML or no board.

        Raises:
            UserError: NVML knows no board of that UUID.
            MeterError: NVML is there and refuses to work.
        """
        driver = Driver.start()
        if driver is None:
            return None
        with ExitStack() as undo:
            undo.callback(driver.stop)
            if uuids is None:
                handles = {driver.uuid(handle): handle for handle in driver.handles()}
            else:
                handles = {uuid: driver.handle(uuid) for uuid in uuids}
            if handles:
                undo.pop_all()
                return cls(driver, handles)
        return None

    @property
    def sources(self) -> tuple[str, ...]:
        """UUIDs of the boards."""
        return tuple(self._handles)

    def read(self, clock: Clock) -> list[PowerSample]:
        """One sample per board; a quantity that the board does not support is None.

        Raises:
            MeterError: a call failed for any other reason (the board fell off the bus, say).
        """
        return [self._read_board(uuid, handle, clock) for uuid, handle in self._handles.items()]

    def close(self) -> None:
        """Shut NVML down."""
        self._driver.stop()

    def _read_board(self, uuid: str, handle: Handle, clock: Clock) -> PowerSample:
        get, nvml = self._driver.optional, self._driver.binding
        before_s = clock()
        energy_mj = get(f"energy counter of {uuid}", _ENERGY, handle)
        power_mw = _instant_power_mw(self._driver, uuid, handle)
        at_s = (before_s + clock()) / 2
        return PowerSample(
            at_s=at_s,
            source=uuid,
            energy_j=_scaled(energy_mj, _MILLI),
            power_w=_scaled(power_mw, _MILLI),
            sm_clock_hz=_scaled(get(f"SM clock of {uuid}", _CLOCK, handle, nvml.NVML_CLOCK_SM), _MEGA),
            memory_clock_hz=_scaled(get(f"memory clock of {uuid}", _CLOCK, handle, nvml.NVML_CLOCK_MEM), _MEGA),
            temperature_c=_scaled(get(f"temperature of {uuid}", _TEMPERATURE, handle, nvml.NVML_TEMPERATURE_GPU), 1.0),
            power_limit_w=_scaled(get(f"power limit of {uuid}", _POWER_LIMIT, handle), _MILLI),
            throttle_reasons=decode(get(f"clocks event reasons of {uuid}", _EVENT_REASONS, handle) or 0),
        )


def _board(driver: Driver, handle: Handle, driver_version: str) -> Board:
    memory = driver.optional("memory", ("nvmlDeviceGetMemoryInfo",), handle)
    return Board(
        name=driver.required("name", driver.binding.nvmlDeviceGetName, handle),
        uuid=driver.uuid(handle),
        driver_version=driver_version,
        memory_bytes=None if memory is None else memory.total,
    )


def _instant_power_mw(driver: Driver, uuid: str, handle: Handle) -> int | None:
    """The board's power at this moment. nvmlDeviceGetPowerUsage is no substitute: on recent boards a 1-s average."""
    nvml = driver.binding
    # Scope GPU leaves the CPU of a Grace module out, which scope MODULE would bring in.
    field = (nvml.NVML_FI_DEV_POWER_INSTANT, nvml.NVML_POWER_SCOPE_GPU)
    answer = driver.optional(f"power of {uuid}", ("nvmlDeviceGetFieldValues",), handle, [field])
    if answer is None:
        return None
    value = answer[0]
    # A driver older than the field calls it an invalid argument.
    if value.nvmlReturn in (nvml.NVML_ERROR_NOT_SUPPORTED, nvml.NVML_ERROR_INVALID_ARGUMENT):
        return None
    if value.nvmlReturn != nvml.NVML_SUCCESS:
        raise failure(f"power of {uuid}", nvml.NVMLError(value.nvmlReturn))
    # Some drivers answer 0 mW when polled too fast: no powered board draws that.
    return value.value.uiVal or None


def _scaled(value: int | None, scale: float) -> float | None:
    return None if value is None else value * scale
