"""Power limits of boards: read, set with a proof that they took, and put back. The only code that changes a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass

from tokenwatt.errors import TokenwattError, UserError
from tokenwatt.power.meter import MeterError
from tokenwatt.power.nvml_driver import Driver, Handle

MILLI = 1e-3
# A board that keeps its limit in whole watts reads back up to half a watt away.
_SAME_MW = 500

_CONSTRAINTS = ("nvmlDeviceGetPowerManagementLimitConstraints",)
_DEFAULT = ("nvmlDeviceGetPowerManagementDefaultLimit",)
_ENFORCED = ("nvmlDeviceGetEnforcedPowerLimit",)
# What was set comes first: the enforced limit may be lower, where something else (the chassis, say) limits it too.
_SET = ("nvmlDeviceGetPowerManagementLimit", *_ENFORCED)


class RestoreError(TokenwattError):
    """A board was left with a power limit that is not its own; the text holds the command that repairs it."""


@dataclass(frozen=True, slots=True)
class BoardLimits:
    """What one board allows, and what it was set to when it was first looked at."""

    uuid: str
    """NVML UUID."""
    min_w: float
    """Lowest limit that can be set."""
    max_w: float
    """Highest limit that can be set."""
    default_w: float
    """Limit that the board comes with."""
    set_w: float
    """Limit that was set: what is put back."""
    enforced_w: float
    """Limit in force: `set_w`, or less where something else limits the board too."""


class LimitedBoards:
    """Boards whose power limit can be changed. `open` says why, if it cannot."""

    def __init__(self, driver: Driver, handles: Mapping[str, Handle]) -> None:
        self._driver = driver
        self._handles = handles

    @classmethod
    def open(cls, uuids: tuple[str, ...] | None) -> LimitedBoards:
        """The boards named, or every board (None).

        Raises:
            UserError: no NVML, no board, an unknown one, one that is cut in MIG slices.
            MeterError: NVML is there and refuses to work.
        """
        driver = Driver.start()
        if driver is None:
            raise UserError("power caps need NVML, found none here (package nvidia-ml-py and an NVIDIA driver)")
        with ExitStack() as undo:
            undo.callback(driver.stop)
            found = {driver.uuid(handle): handle for handle in driver.handles()} if uuids is None else {}
            handles = found or {uuid: driver.handle(uuid) for uuid in uuids or ()}
            if not handles:
                raise UserError("power caps need a GPU board, found none that the engine uses; run without power caps")
            boards = cls(driver, handles)
            boards._refuse_slices()
            undo.pop_all()
        return boards

    def close(self) -> None:
        """Shut NVML down."""
        self._driver.stop()

    def limits(self) -> tuple[BoardLimits, ...]:
        """Limits of each board, now.

        Raises:
            UserError: a board has no power limit that can be set.
            MeterError: a reading failed.
        """
        return tuple(self._limits(uuid) for uuid in self._handles)

    def set_limit_mw(self, uuid: str) -> int:
        """Limit that a board is set to now, in milliwatts, which is NVML's own unit.

        Raises:
            MeterError: it cannot be read.
        """
        return self._reading("power limit", _SET, uuid)

    def set_to(self, uuid: str, limit_mw: int) -> None:
        """Set one board's limit, and read it back.

        Raises:
            UserError: no right to, or the board does not take it.
            MeterError: any other refusal, or the board says it took it and did not.
        """
        nvml = self._driver.binding
        try:
            nvml.nvmlDeviceSetPowerManagementLimit(self._handles[uuid], limit_mw)
        except nvml.NVMLError as error:
            if error.value == nvml.NVML_ERROR_NO_PERMISSION:
                raise UserError(
                    f"no right to set the power limit of {uuid}: the driver lets only root of the host do it; run with"
                    " sudo (a container needs that right too), or set one limit by hand with"
                    f" `{repair_command(uuid, limit_mw)}` and run without power caps"
                ) from error
            if error.value == nvml.NVML_ERROR_NOT_SUPPORTED:
                raise UserError(f"{uuid} does not let its power limit be set; run without power caps") from error
            if error.value == nvml.NVML_ERROR_INVALID_ARGUMENT:
                raise UserError(f"{uuid} refuses a power limit of {limit_mw * MILLI:g} W; run without it") from error
            raise MeterError(f"NVML cannot set the power limit of {uuid}: {error}; see the kernel log") from error
        found_mw = self.set_limit_mw(uuid)
        if not same(found_mw, limit_mw):
            raise MeterError(f"{uuid} was set to {limit_mw * MILLI:g} W and reads {found_mw * MILLI:g} W")

    def enforced_mw(self, uuid: str) -> int:
        """Limit in force, in milliwatts.

        Raises:
            MeterError: it cannot be read.
        """
        return self._reading("enforced power limit", _ENFORCED, uuid)

    def put_back(self, previous_mw: Mapping[str, int], ours_mw: set[int]) -> tuple[str, ...]:
        """Set every board back, and read back that it took.

        A board whose limit is neither the previous one nor one of ours was set by somebody else meanwhile, or lost its
        limit when the driver was unloaded: it is left as it is.

        Args:
            previous_mw: Limit of each board before, by UUID.
            ours_mw: Limits that may have been set since.

        Returns:
            A line for each board that was left.

        Raises:
            RestoreError: a board is not back; the others are all the same.
        """
        left, failed = [], []
        for uuid, limit_mw in previous_mw.items():
            try:
                found_mw = self.set_limit_mw(uuid)
                if same(found_mw, limit_mw):
                    continue
                if any(same(found_mw, ours) for ours in ours_mw):
                    self.set_to(uuid, limit_mw)
                else:
                    left.append(
                        f"{uuid} has a power limit of {found_mw * MILLI:g} W, which is neither ours nor its former"
                        f" {limit_mw * MILLI:g} W: somebody else set it, so it is left; to undo:"
                        f" {repair_command(uuid, limit_mw)}"
                    )
            except TokenwattError as error:
                failed.append(f"{repair_command(uuid, limit_mw)} ({error})")
        if failed:
            raise RestoreError(f"POWER LIMIT NOT RESTORED; repair it with: {'; '.join(failed)}")
        return tuple(left)

    def _limits(self, uuid: str) -> BoardLimits:
        handle = self._handles[uuid]
        constraints = self._driver.optional(f"power limits of {uuid}", _CONSTRAINTS, handle)
        default_mw = self._driver.optional(f"default power limit of {uuid}", _DEFAULT, handle)
        if constraints is None or default_mw is None:
            raise UserError(f"{uuid} has no power limit that can be set; run without power caps")
        return BoardLimits(
            uuid=uuid,
            min_w=constraints[0] * MILLI,
            max_w=constraints[1] * MILLI,
            default_w=default_mw * MILLI,
            set_w=self.set_limit_mw(uuid) * MILLI,
            enforced_w=self.enforced_mw(uuid) * MILLI,
        )

    def _reading(self, what: str, calls: tuple[str, ...], uuid: str) -> int:
        answer = self._driver.optional(f"{what} of {uuid}", calls, self._handles[uuid])
        if answer is None:
            raise UserError(f"{uuid} has no power limit; run without power caps")
        return answer

    def _refuse_slices(self) -> None:
        for uuid, handle in self._handles.items():
            modes = self._driver.optional(f"MIG mode of {uuid}", ("nvmlDeviceGetMigMode",), handle)
            if modes is not None and modes[0]:
                raise UserError(f"{uuid} is cut in MIG slices, which share one power limit; run without power caps")


def same(one_mw: int, other_mw: int) -> bool:
    """Whether two readings are one limit."""
    return abs(one_mw - other_mw) <= _SAME_MW


def repair_command(uuid: str, limit_mw: int) -> str:
    """The command line with which a person sets a board's limit."""
    return f"sudo nvidia-smi -i {uuid} -pl {limit_mw * MILLI:g}"
