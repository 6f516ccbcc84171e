"""What the bits of NVML's clocks event reasons mean, and which of them are throttling."""

from __future__ import annotations

_GPU_IDLE = 0x1
_NAMES: dict[int, str] = {
    # nvml.h, nvmlClocksEventReasons; the last two only in the older nvmlClocksThrottleReasons.
    0x2: "applications_clocks_setting",
    0x4: "sw_power_cap",
    0x8: "hw_slowdown",
    0x10: "sync_boost",
    0x20: "sw_thermal_slowdown",
    0x40: "hw_thermal_slowdown",
    0x80: "hw_power_brake_slowdown",
    0x100: "display_clock_setting",
    0x200: "board_limit",
    0x400: "reliability",
}

SLOWDOWNS = frozenset({"hw_slowdown", "sw_thermal_slowdown", "hw_thermal_slowdown", "hw_power_brake_slowdown"})
"""Heat, or hardware that protects itself. A software power cap is not one: it is how a loaded board normally runs."""


def decode(bits: int) -> tuple[str, ...]:
    """Names of the set bits, lowest first, `gpu_idle` left out; a bit without a name becomes `bit_<n>`.

    >>> decode(0x1 | 0x4 | 0x40)
    ('sw_power_cap', 'hw_thermal_slowdown')
    >>> decode(1 << 20)
    ('bit_20',)
    """
    held = bits & ~_GPU_IDLE
    return tuple(_NAMES.get(1 << n, f"bit_{n}") for n in range(held.bit_length()) if held >> n & 1)
