"""The NVML binding, started and called: what is absent becomes None, what is broken a `MeterError`."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from tokenwatt.errors import unknown_name
from tokenwatt.power.meter import MeterError

Handle = Any
"""A board, as the binding hands it out."""


class Driver:
    """A started NVML. Build it with `start`, and `stop` it."""

    def __init__(self, binding: ModuleType) -> None:
        self.binding = binding
        """Module `pynvml` of nvidia-ml-py."""

    @classmethod
    def start(cls) -> Driver | None:
        """NVML, started; None where the package, the library or the driver is absent.

        Raises:
            MeterError: it is there and refuses to start.
        """
        try:
            import pynvml
        except ModuleNotFoundError:
            return None
        absent = (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            if getattr(error, "value", None) in absent:
                return None
            raise MeterError(f"NVML cannot start: {error}; energy can be measured once nvidia-smi works") from error
        return cls(pynvml)

    def stop(self) -> None:
        """Shut NVML down."""
        self.binding.nvmlShutdown()

    def handles(self) -> list[Handle]:
        """Every board, in NVML's order."""
        nvml = self.binding
        count = self.required("number of boards", nvml.nvmlDeviceGetCount)
        return [self.required(f"board {index}", nvml.nvmlDeviceGetHandleByIndex, index) for index in range(count)]

    def uuid(self, handle: Handle) -> str:
        """The board's `GPU-...` name."""
        return self.required("UUID", self.binding.nvmlDeviceGetUUID, handle)

    def handle(self, uuid: str) -> Handle:
        """The board of that name; for a MIG slice the board that it is a part of.

        Raises:
            UserError: there is none.
        """
        nvml = self.binding
        try:
            found = nvml.nvmlDeviceGetHandleByUUID(uuid)
            return nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(found) if uuid.startswith("MIG-") else found
        except nvml.NVMLError as error:
            if error.value not in (nvml.NVML_ERROR_NOT_FOUND, nvml.NVML_ERROR_INVALID_ARGUMENT):
                raise failure(uuid, error) from error
        raise unknown_name("GPU", uuid, (self.uuid(handle) for handle in self.handles()))

    def required(self, what: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """Answer of a call that every board supports.

        Raises:
            MeterError: it failed.
        """
        try:
            return function(*arguments)
        except self.binding.NVMLError as error:
            raise failure(what, error) from error

    def optional(self, what: str, calls: tuple[str, ...], *arguments: Any) -> Any:
        """Answer of the first of `calls` that binding, driver and board all know; None if there is none.

        None also where this user may not ask, or where the driver has no answer this time: what follows from silence is
        for the verdict to say.

        Raises:
            MeterError: a call that they know failed.
        """
        nvml = self.binding
        for call in calls:
            function = getattr(nvml, call, None)
            if function is None:
                continue
            try:
                return function(*arguments)
            except nvml.NVMLError as error:
                if error.value != nvml.NVML_ERROR_FUNCTION_NOT_FOUND and not self.is_silent(error.value):
                    raise failure(what, error) from error
        return None

    def is_silent(self, code: int) -> bool:
        """Whether a return code means that there is no answer, now or ever, and not that something broke."""
        nvml = self.binding
        return code in (
            nvml.NVML_ERROR_NOT_SUPPORTED,
            nvml.NVML_ERROR_NO_PERMISSION,
            nvml.NVML_ERROR_TIMEOUT,
            nvml.NVML_ERROR_UNKNOWN,
            nvml.NVML_ERROR_NO_DATA,
            nvml.NVML_ERROR_NOT_READY,
            nvml.NVML_ERROR_INSUFFICIENT_RESOURCES,
        )


def failure(what: str, error: Exception) -> MeterError:
    """The error for a reading that should have worked."""
    return MeterError(f"NVML cannot read {what}: {error}; see nvidia-smi and the kernel log")
