"""GPUs of any machine by its DCGM exporter (github.com/NVIDIA/dcgm-exporter), as a `Meter` that stands in for NVML.

Its readings are as old as the exporter's collect interval: 30 s, unless it was started with `--collect-interval=1000`.
DCGM_FI_DEV_POWER_USAGE is what NVML averages over a second on recent boards.
"""

from __future__ import annotations

import math

from tokenwatt.clock import Clock
from tokenwatt.errors import UserError, unknown_name
from tokenwatt.power.external.http import get
from tokenwatt.power.external.prometheus import Samples, parse_metrics
from tokenwatt.power.external.request import MeterRequest
from tokenwatt.power.instrument import Instrument, Instruments, Sleep
from tokenwatt.power.meter import MeterError
from tokenwatt.record import PowerSample

SAMPLING_PERIOD_S = 1.0
"""An exporter collects once a second at most."""
_MILLI, _MEGA = 1e-3, 1e6
# Fields: DCGM API, dcgm_fields.h.
_ENERGY_MJ = "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION"
_INSTANT_POWER_W = "DCGM_FI_DEV_POWER_USAGE_INSTANT"
_POWER_W = "DCGM_FI_DEV_POWER_USAGE"
_BLANK = 2.0**47
"""From here on a value means that there is none (dcgm_structs.h, DCGM_FP64_BLANK)."""


class DcgmMeter:
    """Reads every GPU asked for in one request. Build it with `open`."""

    def __init__(self, url: str, uuids: tuple[str, ...], names: tuple[str, ...], power_field: str) -> None:
        self._url = url
        self._uuids = uuids
        self._power_field = power_field
        self.gpu_names = names
        """Product names, in the order of `sources`."""

    @classmethod
    def open(cls, request: MeterRequest, gpu_uuids: tuple[str, ...] | None = None) -> DcgmMeter:
        """A meter for the GPUs named, in the order named, or for all that the exporter has.

        Raises:
            UserError: no answer, no GPU with power or energy, or none of that UUID.
        """
        request.only(())
        url = request.address()
        try:
            samples = _scrape(url)
        except MeterError as error:
            raise UserError(f"meter 'dcgm': {error}") from None
        power_field = _INSTANT_POWER_W if _INSTANT_POWER_W in samples else _POWER_W
        names = _model_names(samples, (_ENERGY_MJ, power_field))
        if not names:
            raise UserError(f"meter 'dcgm': {url} has neither {_ENERGY_MJ} nor {_POWER_W} with a UUID")
        for uuid in gpu_uuids or ():
            if uuid not in names:
                raise unknown_name("GPU", uuid, names)
        uuids = tuple(names) if gpu_uuids is None else gpu_uuids
        return cls(url, uuids, tuple(names[uuid] for uuid in uuids), power_field)

    @property
    def sources(self) -> tuple[str, ...]:
        """UUIDs of the GPUs."""
        return self._uuids

    @property
    def is_trailing_average(self) -> bool:
        """Whether power is the mean of the second before; false where the exporter was told to send the instant."""
        return self._power_field == _POWER_W

    def learn(self, clock: Clock, sleep: Sleep) -> Instruments:
        """That power is an average; periods are not tried out, because the exporter may collect twice a minute."""
        return {uuid: Instrument(is_trailing_average=self.is_trailing_average) for uuid in self._uuids}

    def read(self, clock: Clock) -> list[PowerSample]:
        """One sample per GPU, stamped with the middle of the request.

        Raises:
            MeterError: no answer, or a GPU is missing from it.
        """
        before_s = clock()
        samples = _scrape(self._url)
        at_s = (before_s + clock()) / 2
        return [self._sample(samples, uuid, at_s) for uuid in self._uuids]

    def close(self) -> None:
        """Nothing to release."""

    def _sample(self, samples: Samples, uuid: str, at_s: float) -> PowerSample:
        def told(name: str, scale: float = 1.0) -> float | None:
            value = _value(samples, name, uuid)
            return None if value is None else value * scale

        sample = PowerSample(
            at_s,
            uuid,
            energy_j=told(_ENERGY_MJ, _MILLI),
            power_w=told(self._power_field),
            sm_clock_hz=told("DCGM_FI_DEV_SM_CLOCK", _MEGA),
            memory_clock_hz=told("DCGM_FI_DEV_MEM_CLOCK", _MEGA),
            temperature_c=told("DCGM_FI_DEV_GPU_TEMP"),
            power_limit_w=told("DCGM_FI_DEV_POWER_MGMT_LIMIT"),
        )
        if sample.energy_j is None and sample.power_w is None:
            raise MeterError(f"{self._url} no longer tells power or energy of {uuid}")
        return sample


def _scrape(url: str) -> Samples:
    return parse_metrics(get(url), url)


def _value(samples: Samples, name: str, uuid: str) -> float | None:
    """The field of one GPU. One that is cut in slices (MIG) has a series for each, all with the board's value."""
    values = [value for labels, value in samples.get(name, {}).items() if ("UUID", uuid) in labels]
    known = [value for value in values if math.isfinite(value) and value < _BLANK]
    return max(known, default=None)


def _model_names(samples: Samples, fields: tuple[str, ...]) -> dict[str, str]:
    """UUID -> product name, of the GPUs that have one of the fields."""
    names: dict[str, str] = {}
    for name in fields:
        for labels in samples.get(name, {}):
            if uuid := dict(labels).get("UUID"):
                names.setdefault(uuid, dict(labels).get("modelName", ""))
    return names
