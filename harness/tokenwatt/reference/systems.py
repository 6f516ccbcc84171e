"""SystemSpec: one accelerator system, made of Facts. Quantities are per GPU (package) and SI."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tokenwatt.errors import UserError, unknown_name
from tokenwatt.reference.facts import Fact, FactBook, load_facts

Ownership = Literal["hyperscaler", "neocloud", "rental"]
"""Who pays for the GPU-hour: an owner at hyperscale, a smaller cloud that owns, or a tenant on a long contract."""

_HOURLY_COST = {
    "hyperscaler": "own_hyperscaler_usd_per_gpu_h",
    "neocloud": "own_neocloud_usd_per_gpu_h",
    "rental": "rental_usd_per_gpu_h",
}
_PEAK = {
    "bfloat16": "bf16_flop_per_s",
    "float16": "bf16_flop_per_s",
    "fp8": "fp8_flop_per_s",
    "fp4": "fp4_flop_per_s",
}
_SYSTEM_OF_BOARD = {"NVIDIA H100 80GB HBM3": "H100 SXM", "NVIDIA H200": "H200 SXM"}
"""NVML board names of the systems that a fleet study can start from. PCIe and NVL boards are other systems."""

HOPPER = ("H100 SXM", "H200 SXM")


@dataclass(frozen=True, slots=True)
class SystemSpec:
    """One accelerator system. Reading a quantity for which there is no Fact raises UserError."""

    name: str
    facts: FactBook

    def _fact(self, name: str, unit: str) -> Fact:
        return self.facts.get(self.name, name, unit)

    def flop_per_s(self, dtype: str) -> Fact:
        """Dense tensor-core peak in `dtype`, FLOP/s.

        Raises:
            UserError: no peak is known for `dtype`.
        """
        if dtype not in _PEAK:
            raise UserError(f"no dense peak is known for dtype {dtype!r}; known: {', '.join(sorted(_PEAK))}")
        return self._fact(_PEAK[dtype], "flop/s")

    def has_peak(self, dtype: str) -> bool:
        """Whether a dense peak in `dtype` is known."""
        return self.facts.has(self.name, _PEAK[dtype])

    @property
    def nvlink_bytes_per_s(self) -> Fact:
        """Bandwidth of one GPU's links, both directions together, byte/s; those of PCIe where there is no NVLink."""
        return self._fact("nvlink_bytes_per_s", "byte/s")

    @property
    def scale_out_bytes_per_s(self) -> Fact:
        """Bandwidth of one GPU's share of the network between domains, in one direction, byte/s."""
        return self._fact("scale_out_bytes_per_s", "byte/s")

    @property
    def ship_year(self) -> Fact:
        """Year of the first shipments."""
        return self._fact("ship_year", "a")

    @property
    def hbm_bytes_per_s(self) -> Fact:
        """Memory bandwidth, byte/s."""
        return self._fact("hbm_bytes_per_s", "byte/s")

    @property
    def hbm_bytes(self) -> Fact:
        """Memory capacity, byte."""
        return self._fact("hbm_bytes", "byte")

    @property
    def addressable_memory_bytes(self) -> Fact:
        """Memory that software can allocate from, byte; the capacity as sold where nobody reported it."""
        name = "addressable_memory_bytes"
        return self._fact(name if self.facts.has(self.name, name) else "hbm_bytes", "byte")

    @property
    def tdp_w(self) -> Fact:
        """Board power limit as sold, W. Not what a board draws."""
        return self._fact("tdp_w", "W")

    @property
    def host_time_ratio(self) -> Fact:
        """Time that an engine's host code takes on this system's processors over that on x86 ones."""
        return self._fact("host_time_ratio", "1")

    @property
    def gpus_per_domain(self) -> Fact:
        """GPUs that share one NVLink domain."""
        return self._fact("gpus_per_domain", "1")

    @property
    def all_in_power_w_per_gpu(self) -> Fact:
        """All-in provisioned power per GPU at the analyst's boundary, W."""
        return self._fact("all_in_power_w_per_gpu", "W")

    def usd_per_gpu_h(self, ownership: Ownership) -> Fact:
        """Cost of one GPU for an hour, USD/h."""
        return self._fact(_HOURLY_COST[ownership], "USD/h")


def load_system(name: str, facts: FactBook | None = None) -> SystemSpec:
    """The system `name`.

    Raises:
        UserError: no Fact describes it.
    """
    book = load_facts() if facts is None else facts
    if name not in book.subjects:
        raise unknown_name("system", name, book.subjects)
    return SystemSpec(name, book)


def system_of_board(gpu_name: str) -> str | None:
    """System that a board belongs to by its NVML name; None for a board that is not Hopper SXM.

    >>> system_of_board("NVIDIA H200")
    'H200 SXM'
    """
    return _SYSTEM_OF_BOARD.get(gpu_name)
