"""A GPU that only sleeps, so that the kernels' bench runs without one; gate, ceilings and times are scripted.

As a program: `tokenwatt` on the second board, for a test that must choose the NVML library before the process starts.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch

from tokenwatt import cli, kernel_bench
from tokenwatt.environment import Ceilings
from tokenwatt_kernels import commands, contests, timing
from tokenwatt_kernels.contests import Contender, Contest
from tokenwatt_kernels.families import BenchProblem
from tokenwatt_kernels.work import Work

WORK = Work(flop=4 * 10**9, bytes=10**9)
CEILINGS = Ceilings(memory_bytes_per_s=8e11, flop_per_s=4e12)
ANSWER = torch.tensor([1.0, 2.0])
PASSED = SimpleNamespace(case="case", dtype="bfloat16", status="passed")


@dataclass
class Device:
    """Works off what was queued when somebody waits for it."""

    queued_s: float = 0.0

    def synchronize(self) -> None:
        time.sleep(self.queued_s)
        self.queued_s = 0.0


@dataclass
class Call:
    """A contender: a call costs its device `device_s` and its host `host_s`; when timed, it "takes" `samples_s`."""

    device: Device
    samples_s: tuple[float, ...] = (1e-3, 2e-3, 3e-3)
    device_s: float = 2e-3
    host_s: float = 0.0
    offset: float = 0.0

    def __call__(self) -> torch.Tensor:
        time.sleep(self.host_s)
        self.device.queued_s += self.device_s
        return ANSWER + self.offset


def scripted(call: Any) -> Sequence[float]:
    """In the place of `cold_l2_samples`."""
    return call.samples_s


def absent() -> torch.Tensor:
    raise RuntimeError("No available kernel.\nmore")


def one_of_each(device: Device) -> dict[str, Callable[[], torch.Tensor]]:
    """A contender for each way in which a row can end."""
    return {
        "tokenwatt": Call(device),
        "peer": Call(device, samples_s=(4e-3, 4e-3, 4e-3), device_s=1e-3),
        "wrong": Call(device, offset=1.0),
        "absent": absent,
    }


@dataclass
class PretendGpu:
    """What the bench meets; a test replaces parts of it."""

    board: int = 0
    device: Device = field(default_factory=Device)
    verdicts: Sequence[Any] = (PASSED,)
    problems: dict[str, Callable[[Device], dict[str, Callable[[], torch.Tensor]]]] = field(
        default_factory=lambda: {"mixed": one_of_each}
    )

    def entries(self, families: object, dtype_names: Sequence[str], names: Sequence[str]) -> list[BenchProblem]:
        """In the place of `bench_problems`."""
        chosen = [name for name in self.problems if not names or name in names]
        return [("family", SimpleNamespace(name=name), dtype_name) for name in chosen for dtype_name in dtype_names]

    def contests(self, entries: Iterable[BenchProblem], device: object) -> Iterator[Contest]:
        """In the place of `commands.bench`."""
        for family, problem, dtype_name in entries:
            contenders = {key: Contender(run) for key, run in self.problems[problem.name](self.device).items()}
            yield Contest(family, problem.name, dtype_name, 1, WORK, contenders, configuration="tile 64")

    def install(self, replace: Callable[[Any, str, Any], object]) -> None:
        """Put everything in its place with `replace(owner, name, value)`."""
        uuid = f"00000000-0000-0000-0000-{self.board:012d}"
        replace(torch.cuda, "is_available", lambda: True)
        replace(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid=uuid))
        replace(torch.cuda, "synchronize", self.device.synchronize)
        replace(timing, "in_one_launch", lambda function, calls: lambda: [function() for _ in range(calls)])
        replace(kernel_bench, "measure_ceilings", lambda *_: CEILINGS)
        replace(commands, "check", lambda *_: iter(self.verdicts))
        replace(commands, "compile_ahead", lambda *_: None)
        replace(commands, "bench", self.contests)
        replace(kernel_bench, "bench_problems", self.entries)
        replace(contests, "run", functools.partial(contests.run, sampler=scripted))


if __name__ == "__main__":
    PretendGpu(board=1).install(lambda owner, name, value: mock.patch.object(owner, name, value).start())
    cli.main()
