"""What this machine has for tokenwatt, what it lacks, and what to do about it."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tokenwatt import __version__, power
from tokenwatt.engines import ENGINES, NEEDS
from tokenwatt.environment import cpu_name
from tokenwatt.power import virtual

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
