"""Power: what the machine's meters read, sampled on the run's clock, and the energy of a window with its verdict.

`open_meters` finds the meters, `Meters.learn` tries them out, `Sampler` reads them in the background, and `integrate`
turns its readings into joules that are `valid`, `suspect` with reasons, or absent.
"""

from tokenwatt.power.discovery import Meters, open_meters
from tokenwatt.power.instrument import Instrument, Instruments
from tokenwatt.power.integrate import Energy, binned_power_w, integrate, mean_power_w
from tokenwatt.power.log import PowerLog, PowerReadings, SourceReadings
from tokenwatt.power.meter import Meter, MeterError, PowerScope
from tokenwatt.power.nvml import Board, boards
from tokenwatt.power.processes import Subject
from tokenwatt.power.rapl import rapl_packages
from tokenwatt.power.recorded import recorded_energy
from tokenwatt.power.sampler import SAMPLING_PERIOD_S, Sampler
from tokenwatt.power.table import power_tables

__all__ = [
    "SAMPLING_PERIOD_S",
    "Board",
    "Energy",
    "Instrument",
    "Instruments",
    "Meter",
    "MeterError",
    "Meters",
    "PowerLog",
    "PowerReadings",
    "PowerScope",
    "Sampler",
    "SourceReadings",
    "Subject",
    "binned_power_w",
    "boards",
    "integrate",
    "mean_power_w",
    "open_meters",
    "power_tables",
    "rapl_packages",
    "recorded_energy",
]
