"""python -m tokenwatt_kernels check|compile|bench [FAMILY...] [--json]

check    run every kernel against its reference: on the GPU, or in Triton's interpreter where there is none
compile  compile every kernel for every GPU generation, and read registers, spills and tensor cores from the result
bench    check, then time every kernel beside its baselines (needs a GPU)

Exit codes: 0 all good, 1 a kernel failed, 2 the request cannot be met.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from tokenwatt_kernels import commands
from tokenwatt_kernels.dtypes import DTYPES
from tokenwatt_kernels.families import select
from tokenwatt_kernels.targets import TARGETS

if TYPE_CHECKING:
    import torch

GOOD, FAILED, CANNOT = 0, 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        families = select(options.families)
    except ValueError as error:
        print(error, file=sys.stderr)
        return CANNOT
    return options.command(families, options)


def _check(families: Sequence[str], options: argparse.Namespace) -> int:
    device = _device(options.device)
    if device is None:
        print("check --device cuda needs a CUDA GPU, found none; leave --device out to interpret", file=sys.stderr)
        return CANNOT
    if device.type == "cpu":
        # Triton reads this when it is imported, which nothing has done yet.
        os.environ["TRITON_INTERPRET"] = "1"
    verdicts = commands.check(families, options.dtype or tuple(DTYPES), device)
    return _show(verdicts, _verdict_line, options.json, lambda verdict: f"{verdict.case} {verdict.dtype}")


def _compile(families: Sequence[str], options: argparse.Namespace) -> int:
    reports = commands.compile_all(families, options.dtype or ("bfloat16",), options.target or tuple(TARGETS))
    return _show(reports, _report_line, options.json, lambda report: f"{report.specimen} {report.target}")


def _bench(families: Sequence[str], options: argparse.Namespace) -> int:
    device = _device("cuda")
    if device is None:
        print("bench needs a CUDA GPU, found none; `check` and `compile` work without one", file=sys.stderr)
        return CANNOT
    dtype_names = options.dtype or ("bfloat16",)
    red = [verdict for verdict in commands.check(families, dtype_names, device) if verdict.status == "failed"]
    if red:
        return _show(red, _verdict_line, options.json)
    return _show(commands.bench(families, dtype_names, device), _result_line, options.json)


def _device(name: str) -> torch.device | None:
    """The device that "auto", "cuda" or "cpu" means here; None for "cuda" where there is none."""
    import torch

    has_cuda = torch.cuda.is_available()
    if name == "cuda" and not has_cuda:
        return None
    return torch.device("cuda" if has_cuda and name != "cpu" else "cpu")


def _show(
    results: Iterable[Any], line: Callable[[Any], str], as_json: bool, name: Callable[[Any], str] | None = None
) -> int:
    """Print each result as it comes, or all of them as one JSON list. FAILED if there is a bad one among them.

    With `name`, the lines end in a summary that names those that failed.
    """
    shown = []
    for result in results:
        shown.append(result)
        if not as_json:
            print(line(result), *(f"    {reason}" for reason in result.reasons), sep="\n", flush=True)
    if as_json:
        print(json.dumps([result.as_row() for result in shown], indent=1))
    elif name is not None:
        print(_summary([(name(result), result.status) for result in shown]))
    return FAILED if any(result.status in ("failed", "disagrees") for result in shown) else GOOD


def _summary(statuses: Sequence[tuple[str, str]]) -> str:
    """Such as "54 of 54 passed", "48 of 54 passed, 6 skipped" or "2 of 54 FAILED: name, name"."""
    total = len(statuses)
    failed = [name for name, status in statuses if status == "failed"]
    if failed:
        return f"{len(failed)} of {total} FAILED: {', '.join(failed)}"
    skipped = sum(status == "skipped" for _, status in statuses)
    return f"{total - skipped} of {total} passed" + (f", {skipped} skipped" if skipped else "")


def _verdict_line(verdict: Any) -> str:
    return (
        f"{verdict.status:7} {verdict.case:55} {verdict.dtype:9} max {verdict.max_abs_error:.2e}"
        f" (limit {verdict.max_abs_limit:.2e})  rms {verdict.rms_error:.2e} (limit {verdict.rms_limit:.2e})"
    )


def _report_line(report: Any) -> str:
    return (
        f"{report.status:7} {report.target:6} {report.specimen:44} {report.registers:3} registers"
        f" {report.shared_bytes:7} B shared {report.stack_bytes:3} B stack {report.spill_instructions:3} spills"
        f" {report.tensor_core_instructions:3} tensor-core ({report.counted_in})"
    )


def _result_line(result: Any) -> str:
    if result.median_s is None:
        return f"{result.status:11} {result.problem:28} {result.dtype:9} {result.contender}"
    ratio = "" if result.time_over_ours is None else f"  {result.time_over_ours:5.2f} x our time"
    return (
        f"{result.status:11} {result.problem:28} {result.dtype:9} {result.contender:15} {result.median_s * 1e6:9.1f} us"
        f" ({result.low_s * 1e6:.1f}-{result.high_s * 1e6:.1f})  {result.flop_per_s / 1e12:6.1f} TFLOP/s"
        f" {result.bytes_per_s / 1e12:5.2f} TB/s{ratio}"
    )


class _Parser(argparse.ArgumentParser):
    """Says what is wrong with a command line in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(CANNOT, f"{self.prog}: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m tokenwatt_kernels", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    subparsers = parser.add_subparsers(required=True)
    for name, command in (("check", _check), ("compile", _compile), ("bench", _bench)):
        sub = subparsers.add_parser(name)
        sub.set_defaults(command=command)
        sub.add_argument("families", nargs="*", metavar="FAMILY", help="such as attention.prefill; default: all")
        sub.add_argument("--json", action="store_true", help="print one JSON list")
        sub.add_argument("--dtype", action="append", choices=tuple(DTYPES), help="may be given several times")
        if name == "check":
            sub.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto")
        if name == "compile":
            sub.add_argument("--target", action="append", type=int, choices=tuple(TARGETS), help="such as 90 for sm_90")
    return parser


if __name__ == "__main__":
    sys.exit(main())
