"""What this machine has for tokenwatt, what it lacks, and what to do about it."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tokenwatt import __version__, power
from tokenwatt.bench.observer import Unwatched
from tokenwatt.bench.resting import resting_power
from tokenwatt.clock import RunClock
from tokenwatt.engines import ENGINES, NEEDS
from tokenwatt.environment import cpu_name, measure_ceilings
from tokenwatt.errors import UserError
from tokenwatt.power import virtual
from tokenwatt.units import format_si

OPTIONAL = {
    "torch": "bench",
    "triton": "bench",
    "pynvml": "bench",
    "safetensors": "bench",
    "huggingface_hub": "bench",
    "prometheus_client": "bench",
    "plotly": "report",
    "jinja2": "report",
}
"""Importable package -> the extra that brings it."""
CEILING_DTYPES = {"cuda": ("bfloat16", "float8_e4m3fn"), "cpu": ("float32",)}
"""Device -> the dtypes whose ceilings are measured there."""
REST_S = 5.0
"""How long power at rest is read."""
DISTRIBUTIONS = {"pynvml": "nvidia-ml-py"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One fact about this machine."""

    subject: str
    is_good: bool
    found: str
    advice: str = ""


def examine() -> list[Finding]:
    """Everything worth knowing before a run."""
    findings = [
        Finding("tokenwatt", True, f"{__version__} on Python {platform.python_version()}, {platform.system()}"),
        Finding("processor", True, cpu_name()),
    ]
    findings += [_package(name, extra) for name, extra in OPTIONAL.items()]
    findings += [_torch_device(), *map(_tiles, _gpu_names()), *_boards(), _rapl()]
    for engine in ENGINES:
        package, extra = NEEDS.get(engine, ("", ""))
        missing = bool(package) and _version(package) is None
        findings.append(
            Finding(
                f"engine {engine}",
                not missing,
                f"needs {package}" if missing else "ready",
                f"pip install 'tokenwatt[{extra}]'" if missing else "",
            )
        )
    return findings


def simulate(script: Path | None) -> list[virtual.Outcome]:
    """Energy as this tokenwatt measures it on virtual boards: the fault table, or one person's script.

    Raises:
        UserError: the script is wrong, or there is no C compiler or no pynvml.
    """
    return virtual.simulate() if script is None else [virtual.simulate_file(script)]


def coverage(trials: int) -> list[virtual.Coverage]:
    """The coverage experiment, for windows of 5 and of 20 s.

    Raises:
        UserError: there is no C compiler or no pynvml.
    """
    return [virtual.coverage(trials, window_s) for window_s in (5.0, 20.0)]


def ceilings(device: str) -> list[Finding]:
    """What `device` ("cuda" or "cpu") can do at best, in each dtype, on random data, and what the boards draw at rest.

    Raises:
        UserError: there is no such device here.
    """
    if device not in CEILING_DTYPES:
        raise UserError(f"ceilings are those of {' or '.join(CEILING_DTYPES)}, got {device!r}")
    if device == "cuda" and not _has_gpu():
        raise UserError("ceilings of a GPU were asked for, but torch finds none; use cpu, or run `tokenwatt doctor`")
    findings = [_rest()] if device == "cuda" else []
    for dtype in CEILING_DTYPES[device]:
        best = measure_ceilings(device, dtype)
        bandwidth, rate = format_si(best.memory_bytes_per_s, "B/s"), format_si(best.flop_per_s, "FLOP/s")
        findings.append(Finding(f"ceilings in {dtype}", True, f"{bandwidth}, {rate}"))
    return findings


def _rest() -> Finding:
    """Power of all boards before anything is loaded on them."""
    clock = RunClock()
    with power.open_meters(None) as meters:
        resting = resting_power(meters, meters.learn(clock), clock, REST_S, Unwatched(), "power at rest")
    if resting is None:
        return Finding("power at rest", False, "not known", "energy columns stay empty without a meter")
    return Finding("power at rest", True, f"{resting.power_w:.1f} W")


def default_suite() -> str:
    """`gpu` where torch finds a GPU, else `cpu`."""
    return "gpu" if _has_gpu() else "cpu"


def why_default(suite: str) -> str:
    """One clause for the person who did not choose."""
    return "torch finds a GPU" if suite == "gpu" else "torch finds no GPU, so this is the smoke mode on the processor"


def _has_gpu() -> bool:
    if _version("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()


def _version(package: str) -> str | None:
    try:
        return version(DISTRIBUTIONS.get(package, package))
    except PackageNotFoundError:
        return None


def _package(name: str, extra: str) -> Finding:
    found = _version(name)
    advice = "" if found else f"pip install 'tokenwatt[{extra}]'"
    return Finding(f"package {DISTRIBUTIONS.get(name, name)}", found is not None, found or "missing", advice)


def _torch_device() -> Finding:
    if _has_gpu():
        import torch

        return Finding("GPU for torch", True, torch.cuda.get_device_name(0))
    advice = "with a GPU here, install a CUDA build: make setup TORCH='torch==2.13.0'"
    return Finding("GPU for torch", False, "none; engines run on the processor", advice)


def _gpu_names() -> list[str]:
    """The names of the GPUs that torch finds, each once."""
    if not _has_gpu():
        return []
    import torch

    return list(dict.fromkeys(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())))


def _tiles(gpu_name: str) -> Finding:
    from tokenwatt_kernels import tables

    subject = f"kernel tiles for {gpu_name}"
    try:
        table = tables.for_gpu(gpu_name)
    except tables.TableError as error:
        return Finding(subject, False, str(error), "tokenwatt kernels tune")
    if table is None:
        return Finding(subject, False, "none measured; safe ones are used", "tokenwatt kernels tune")
    return Finding(subject, True, f"measured for {sum(map(len, table.rows.values()))} keys")


def _boards() -> list[Finding]:
    try:
        boards = power.boards()
    except power.MeterError as error:
        advice = "reinstall the NVIDIA driver, or reboot after its update"
        return [Finding("GPU meter", False, f"NVML is broken: {error}", advice)]
    if not boards:
        return [Finding("GPU meter", False, "no NVML", "energy columns stay empty (status no_meter)")]
    return [Finding("GPU meter", True, f"{board.name} {board.uuid}, driver {board.driver_version}") for board in boards]


def _rapl() -> Finding:
    packages = power.rapl_packages()
    if packages:
        return Finding("CPU meter", True, f"RAPL, {len(packages)} package(s)")
    return Finding(
        "CPU meter", False, "RAPL absent or not readable", "cpu_energy_j stays empty; reading RAPL may need root"
    )
