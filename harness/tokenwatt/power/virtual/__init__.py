"""A virtual NVML: boards that draw exactly known power and fail on cue, so that joules can be checked without a GPU.

`virtual_nvml.h` is the manual of the scripts that the C library plays; `script` writes them; `library` builds it, gives
it to child processes, or puts it in the place of this process's NVML; `loads` are what boards do; `recorder` reads
meters on a manual clock; `scenarios` is the fault table and `simulate` runs it.
"""

from tokenwatt.power.virtual.coverage import Coverage, Unsteady, coverage
from tokenwatt.power.virtual.library import Library, Machine, build, load, temporary
from tokenwatt.power.virtual.recorder import Mishap, record
from tokenwatt.power.virtual.script import Board, Fault, FaultKind, Script, uuid
from tokenwatt.power.virtual.simulate import Outcome, simulate, simulate_file

__all__ = [
    "Board",
    "Coverage",
    "Fault",
    "FaultKind",
    "Library",
    "Machine",
    "Mishap",
    "Outcome",
    "Script",
    "Unsteady",
    "build",
    "coverage",
    "load",
    "record",
    "simulate",
    "simulate_file",
    "temporary",
    "uuid",
]
