"""CPU packages read through Linux powercap (RAPL), which Intel and AMD processors both offer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tokenwatt.clock import Clock
from tokenwatt.power.instrument import Instruments, Sleep
from tokenwatt.power.meter import RAPL_PREFIX, MeterError
from tokenwatt.record import PowerSample

RAPL_ROOT = Path("/sys/class/powercap")
_JOULES_PER_UJ = 1e-6


def rapl_packages(root: Path = RAPL_ROOT) -> tuple[str, ...]:
    """Sources of the CPU packages whose energy this user may read; empty where there is none."""
    meter = RaplMeter.open(root)
    return () if meter is None else meter.sources


@dataclass(slots=True)
class _Package:
    source: str
    counter: Path
    range_uj: int
    """The counter starts again at 0 after this value."""
    last_uj: int
    total_uj: int


class RaplMeter:
    """Reads every CPU package whose counter this user may read. Build it with `open`."""

    def __init__(self, packages: list[_Package]) -> None:
        self._packages = packages

    @classmethod
    def open(cls, root: Path = RAPL_ROOT) -> RaplMeter | None:
        """A meter for the package domains under `root`; None where none can be read (most kernels ask for root)."""
        packages = [package for domain in sorted(root.glob("intel-rapl:*")) if (package := _package(domain))]
        return cls(packages) if packages else None

    @property
    def sources(self) -> tuple[str, ...]:
        """`rapl:package-0`, ..."""
        return tuple(package.source for package in self._packages)

    def learn(self, clock: Clock, sleep: Sleep) -> Instruments:
        """Nothing: the counter is current within a millisecond."""
        return {}

    def read(self, clock: Clock) -> list[PowerSample]:
        """One sample per package: joules that never go back, although the counter wraps.

        Raises:
            MeterError: a counter that could be read at opening cannot be read any more.
        """
        return [_sample(package, clock) for package in self._packages]

    def close(self) -> None:
        """Nothing to release."""


def _package(domain: Path) -> _Package | None:
    """The domain as a package; None for sub-domains (core, dram), the platform, and what may not be read."""
    try:
        name = (domain / "name").read_text(encoding="ascii").strip()
        range_uj = _integer(domain / "max_energy_range_uj")
        now_uj = _integer(domain / "energy_uj")
    except OSError:
        return None
    if not name.startswith("package"):
        return None
    return _Package(f"{RAPL_PREFIX}{name}", domain / "energy_uj", range_uj, last_uj=now_uj, total_uj=now_uj)


def _integer(file: Path) -> int:
    return int(file.read_text(encoding="ascii"))


def _sample(package: _Package, clock: Clock) -> PowerSample:
    before_s = clock()
    try:
        now_uj = _integer(package.counter)
    except OSError as error:
        raise MeterError(f"cannot read {package.counter} any more: {error}") from error
    at_s = (before_s + clock()) / 2
    step_uj = now_uj - package.last_uj
    package.total_uj += step_uj if step_uj >= 0 else step_uj + package.range_uj
    package.last_uj = now_uj
    return PowerSample(at_s, package.source, energy_j=package.total_uj * _JOULES_PER_UJ)
