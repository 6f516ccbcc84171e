"""GPU boards read through NVML, addressed by UUID.

CUDA_VISIBLE_DEVICES renumbers devices for CUDA and not for NVML, so an index means different boards to the two. Power,
energy and temperature belong to the whole board: a MIG slice has none of its own, so its board is read, and said to be
one with slices.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

from tokenwatt.clock import Clock
from tokenwatt.power.instrument import Instrument, Instruments, QuickRead, Sleep, learn_periods
from tokenwatt.power.nvml_driver import Driver, Handle, failure
from tokenwatt.power.processes import Subject, has_mine, newcomers, others
from tokenwatt.power.throttle import decode
from tokenwatt.record import PowerSample

STATE_EVERY = 4
"""Clocks, temperature, limit and throttling are read with every fourth reading of energy and power: 4 Hz."""
PROCESSES_EVERY = 16
"""Processes with every sixteenth: once a second."""
_MILLI = 1e-3
_MEGA = 1e6

_ENERGY = ("nvmlDeviceGetTotalEnergyConsumption",)
_CLOCK = ("nvmlDeviceGetClockInfo",)
_POWER_LIMIT = ("nvmlDeviceGetEnforcedPowerLimit",)
_DEFAULT_LIMIT = ("nvmlDeviceGetPowerManagementDefaultLimit",)
_PROCESSES = ("nvmlDeviceGetComputeRunningProcesses",)
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
    has_ecc: bool | None
    """Whether its memory corrects errors now; None where it has no such mode."""
    is_mig: bool | None
    """Whether it is cut in slices now; None where it cannot be."""


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

    def __init__(self, driver: Driver, handles: dict[str, Handle], subject: Subject = "ours") -> None:
        self._driver = driver
        self._handles = handles
        every = {driver.uuid(handle): handle for handle in driver.handles()}
        self._others = {uuid: handle for uuid, handle in every.items() if uuid not in handles}
        self._foreign = others if subject == "ours" else newcomers
        self._before = {uuid: frozenset(self._pids(uuid, handle) or ()) for uuid, handle in handles.items()}
        self._readings = 0

    @classmethod
    def open(cls, uuids: tuple[str, ...] | None, subject: Subject = "ours") -> NvmlMeter | None:
        """A meter for the boards named, in the order named, or for every board (None).

        subject: whose processes belong there; any other is a doubt.

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
            handles = driver.handles() if uuids is None else [driver.handle(uuid) for uuid in uuids]
            if handles:
                meter = cls(driver, {driver.uuid(handle): handle for handle in handles}, subject)
                undo.pop_all()
                return meter
        return None

    @property
    def sources(self) -> tuple[str, ...]:
        """UUIDs of the boards."""
        return tuple(self._handles)

    def learn(self, clock: Clock, sleep: Sleep) -> Instruments:
        """Poll the boards for a second and a half, and ask what is set on them.

        Raises:
            MeterError: a call failed.
        """
        periods = learn_periods({uuid: self._quick(uuid) for uuid in self._handles}, clock, sleep)
        learnt = {}
        for uuid, (counter, power_period_s) in periods.items():
            limit_mw = self._driver.optional(f"default power limit of {uuid}", _DEFAULT_LIMIT, self._handles[uuid])
            is_mig = bool(_is_mig(self._driver, uuid, self._handles[uuid]))
            learnt[uuid] = Instrument(counter, power_period_s, _scaled(limit_mw, _MILLI), is_mig)
        return learnt

    def read(self, clock: Clock) -> list[PowerSample]:
        """One sample per board; a quantity that the board does not support, or that is not its turn, is None.

        Raises:
            MeterError: a call failed for any other reason (the board fell off the bus, say).
        """
        with_state = self._readings % STATE_EVERY == 0
        with_processes = self._readings % PROCESSES_EVERY == 0
        self._readings += 1
        unmetered = self._unmetered_in_use() if with_processes else None
        return [
            self._read_board(uuid, handle, clock, unmetered, with_state=with_state)
            for uuid, handle in self._handles.items()
        ]

    def close(self) -> None:
        """Shut NVML down."""
        self._driver.stop()

    def _read_board(
        self, uuid: str, handle: Handle, clock: Clock, unmetered: int | None, *, with_state: bool
    ) -> PowerSample:
        get, nvml = self._driver.optional, self._driver.binding
        before_s = clock()
        energy_mj = get(f"energy counter of {uuid}", _ENERGY, handle)
        after_s = clock()
        power_mw = _instant_power_mw(self._driver, uuid, handle, nvml.NVML_POWER_SCOPE_GPU)
        sample = PowerSample(
            at_s=(before_s + after_s) / 2,
            source=uuid,
            energy_j=_scaled(energy_mj, _MILLI),
            call_s=after_s - before_s,
            power_w=_scaled(power_mw, _MILLI),
        )
        if not with_state:
            return sample
        module_mw = _instant_power_mw(self._driver, uuid, handle, nvml.NVML_POWER_SCOPE_MODULE)
        pids = None if unmetered is None else self._pids(uuid, handle)
        return sample._replace(
            sm_clock_hz=_scaled(get(f"SM clock of {uuid}", _CLOCK, handle, nvml.NVML_CLOCK_SM), _MEGA),
            memory_clock_hz=_scaled(get(f"memory clock of {uuid}", _CLOCK, handle, nvml.NVML_CLOCK_MEM), _MEGA),
            temperature_c=_scaled(get(f"temperature of {uuid}", _TEMPERATURE, handle, nvml.NVML_TEMPERATURE_GPU), 1.0),
            power_limit_w=_scaled(get(f"power limit of {uuid}", _POWER_LIMIT, handle), _MILLI),
            throttle_reasons=decode(get(f"clocks event reasons of {uuid}", _EVENT_REASONS, handle) or 0),
            module_power_w=_scaled(module_mw, _MILLI),
            other_processes=None if pids is None else self._foreign(pids, self._before[uuid]),
            unmetered_gpus=unmetered,
        )

    def _quick(self, uuid: str) -> QuickRead:
        handle, get, nvml = self._handles[uuid], self._driver.optional, self._driver.binding

        def energy_j() -> float | None:
            return _scaled(get(f"energy counter of {uuid}", _ENERGY, handle), _MILLI)

        def power_w() -> float | None:
            return _scaled(_instant_power_mw(self._driver, uuid, handle, nvml.NVML_POWER_SCOPE_GPU), _MILLI)

        return QuickRead(energy_j, power_w)

    def _pids(self, uuid: str, handle: Handle) -> list[int] | None:
        found = self._driver.optional(f"processes of {uuid}", _PROCESSES, handle)
        return None if found is None else [process.pid for process in found]

    def _unmetered_in_use(self) -> int:
        return sum(has_mine(self._pids(uuid, handle) or ()) for uuid, handle in self._others.items())


def _board(driver: Driver, handle: Handle, driver_version: str) -> Board:
    uuid = driver.uuid(handle)
    memory = driver.optional("memory", ("nvmlDeviceGetMemoryInfo",), handle)
    ecc = driver.optional(f"ECC mode of {uuid}", ("nvmlDeviceGetEccMode",), handle)
    return Board(
        name=driver.required("name", driver.binding.nvmlDeviceGetName, handle),
        uuid=uuid,
        driver_version=driver_version,
        memory_bytes=None if memory is None else memory.total,
        has_ecc=None if ecc is None else bool(ecc[0]),
        is_mig=_is_mig(driver, uuid, handle),
    )


def _is_mig(driver: Driver, uuid: str, handle: Handle) -> bool | None:
    mode = driver.optional(f"MIG mode of {uuid}", ("nvmlDeviceGetMigMode",), handle)
    return None if mode is None else mode[0] == driver.binding.NVML_DEVICE_MIG_ENABLE


def _instant_power_mw(driver: Driver, uuid: str, handle: Handle, scope: int) -> int | None:
    """Power at this moment. nvmlDeviceGetPowerUsage is no substitute: on recent boards a 1-s average.

    scope: the GPU alone, which leaves the CPU of a Grace module out, or the module.
    """
    nvml = driver.binding
    answer = driver.optional(
        f"power of {uuid}", ("nvmlDeviceGetFieldValues",), handle, [(nvml.NVML_FI_DEV_POWER_INSTANT, scope)]
    )
    if answer is None:
        return None
    value = answer[0]
    # A driver older than the field, or a board without that scope, calls it an invalid argument.
    if value.nvmlReturn == nvml.NVML_ERROR_INVALID_ARGUMENT or driver.is_silent(value.nvmlReturn):
        return None
    if value.nvmlReturn != nvml.NVML_SUCCESS:
        raise failure(f"power of {uuid}", nvml.NVMLError(value.nvmlReturn))
    # Some drivers answer 0 mW when polled too fast: no powered board draws that.
    return value.value.uiVal or None


def _scaled(value: int | None, scale: float) -> float | None:
    return None if value is None else value * scale
