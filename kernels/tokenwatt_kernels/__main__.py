"""python -m tokenwatt_kernels check|compile|bench|tune|work [FAMILY...] [--json]

check    run every kernel against its reference: on the GPU, or in Triton's interpreter where there is none
compile  compile every kernel for every GPU generation, and read registers, spills and tensor cores from the result
bench    check, then time every kernel beside its baselines (needs a GPU); `tokenwatt kernels bench` meters them too
tune     find the fastest tile of every kernel and write the table of this GPU (needs a GPU)
work     print what each bench problem asks of a GPU, and the least time that given ceilings allow

Exit codes: 0 all good, 1 a kernel failed, 2 the request cannot be met.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from tokenwatt_kernels import commands, compile_table, generated_part, printing, tables, work_table, workers
from tokenwatt_kernels.budget import Budget
from tokenwatt_kernels.dtypes import DTYPES
from tokenwatt_kernels.families import bench_problems, select
from tokenwatt_kernels.targets import TARGETS

if TYPE_CHECKING:
    import torch

    from tokenwatt_kernels.compiling import CompileReport

GOOD, FAILED, CANNOT = 0, 1, 2
INTERRUPTED = 130
# NVIDIA H200 SXM datasheet: 1,979 TFLOP/s of bf16 with sparsity, half of it dense; 4.8 TB/s.
H200_FLOP_PER_S, H200_BYTES_PER_S = 989.5e12, 4.8e12


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = parser().parse_args(arguments)
    try:
        families = select(options.families)
        if options.problem:
            bench_problems(families, options.dtype or ("bfloat16",), options.problem)
    except ValueError as error:
        print(error, file=sys.stderr)
        return CANNOT
    return options.command(families, options)


def _check(families: Sequence[str], options: argparse.Namespace) -> int:
    device = _device(options.device)
    if device is None:
        print("check --device cuda needs a CUDA GPU, found none; leave --device out to interpret", file=sys.stderr)
        return CANNOT
    results = chain(
        commands.check(families, options.dtype or tuple(DTYPES), device, options.jobs),
        commands.check_mutants(families, device, options.jobs),
    )
    return _code(printing.show(results, printing.check_line, as_json=options.json, last_line=printing.check_summary))


def _compile(families: Sequence[str], options: argparse.Namespace) -> int:
    if _has_no_place(options.markdown, compile_table.PART):
        return CANNOT
    reports: list[CompileReport] = []

    def collected() -> Iterator[CompileReport]:
        dtype_names, capabilities = options.dtype or ("bfloat16",), options.target or tuple(TARGETS)
        for report in commands.compile_all(families, dtype_names, capabilities, options.jobs):
            reports.append(report)
            yield report

    def last_line(shown: list[CompileReport]) -> str:
        return printing.summary([(f"{report.specimen} {report.target}", report.status) for report in shown])

    is_good = printing.show(collected(), printing.report_line, as_json=options.json, last_line=last_line)
    if options.markdown is not None:
        generated_part.write(options.markdown, compile_table.PART, compile_table.table(reports))
    return _code(is_good)


def _work(families: Sequence[str], options: argparse.Namespace) -> int:
    if _has_no_place(options.markdown, work_table.PART):
        return CANNOT
    dtype_names = options.dtype or ("bfloat16",)
    text = "\n".join(
        work_table.markdown(families, dtype_name, options.flop_per_s, options.bytes_per_s) for dtype_name in dtype_names
    )
    print(text, end="")
    if options.markdown is not None:
        generated_part.write(options.markdown, work_table.PART, text)
    return GOOD


def _has_no_place(path: Path | None, name: str) -> bool:
    """Whether a table cannot be written to `path`, which is then said."""
    problem = None if path is None else generated_part.missing_place(path, name)
    if problem is not None:
        print(problem, file=sys.stderr)
    return problem is not None


def _bench(families: Sequence[str], options: argparse.Namespace) -> int:
    device = _device("cuda")
    if device is None:
        print("bench needs a CUDA GPU, found none; `check` and `compile` work without one", file=sys.stderr)
        return CANNOT
    budget, dtype_names = Budget(options.budget_s), options.dtype or ("bfloat16",)
    entries = bench_problems(families, dtype_names, options.problem or ())
    families = tuple(dict.fromkeys(family for family, _, _ in entries))
    verdicts = commands.check(families, dtype_names, device, options.jobs)
    red = [verdict for verdict in verdicts if verdict.status == "failed"]
    if red:
        return _code(printing.show(red, printing.check_line, as_json=options.json))
    from tokenwatt_kernels import contests

    commands.compile_ahead(entries, device, options.jobs)
    results = map(contests.run, commands.bench(budget.take(entries), device))
    is_good = printing.show(chain.from_iterable(results), printing.result_line, as_json=options.json)
    for family, problem, dtype_name in budget.left:
        print(f"left, the time was up: {family} {problem.name} {dtype_name}", file=sys.stderr)
    return _code(is_good)


def _tune(families: Sequence[str], options: argparse.Namespace) -> int:
    device = _device("cuda")
    if device is None:
        print("tune needs a CUDA GPU, found none; `check` and `compile` work without one", file=sys.stderr)
        return CANNOT
    from tokenwatt_kernels import device as device_facts
    from tokenwatt_kernels import trials, tune

    budget = Budget(options.budget_s)
    gpu_name, capability = device_facts.name(device), device_facts.capability(device)
    path = options.output or tables.path_of(gpu_name)
    try:
        table = tables.to_extend(path, gpu_name, capability)
    except tables.TableError as error:
        print(error, file=sys.stderr)
        return CANNOT
    jobs, source = tune.jobs(families, options.dtype or ("bfloat16",), options.problem or ()), trials.source()
    if options.resume:
        jobs = [job for job in jobs if not tune.is_done(job, table, source)]
    try:
        with trials.crew(options.jobs) as crew:
            failed = tune.tune(
                budget.take(jobs),
                table,
                trials.Trials(device, crew),
                source,
                lambda table: tables.write(table, path),
                _print_now,
            )
    except KeyboardInterrupt:
        print(f"interrupted; the rows of finished keys are in {path}", file=sys.stderr)
        return INTERRUPTED
    for job in budget.left:
        print(f"left, the time was up: {job.name}")
    tuned = [job for job in jobs if job not in budget.left]
    print(printing.summary([(job.name, "failed" if job.name in failed else "passed") for job in tuned]), f"-> {path}")
    return _code(not failed)


def _code(is_good: bool) -> int:
    return GOOD if is_good else FAILED


def _print_now(line: str) -> None:
    print(line, flush=True)


def _device(name: str) -> torch.device | None:
    """The device that "auto", "cuda" or "cpu" means here; None for "cuda" where there is none."""
    import torch

    has_cuda = torch.cuda.is_available()
    if name == "cuda" and not has_cuda:
        return None
    return torch.device("cuda" if has_cuda and name != "cpu" else "cpu")


def _jobs(text: str) -> int:
    jobs = int(text) if text.isdecimal() else 0
    if jobs < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, got {text}")
    return jobs


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number > 0, got {text}")
    return number


class _Parser(argparse.ArgumentParser):
    """Says what is wrong with a command line in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(CANNOT, f"{self.prog}: {message}\n")


def parser() -> argparse.ArgumentParser:
    """What reads a command line."""
    parser = _Parser(
        prog="python -m tokenwatt_kernels", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    subparsers = parser.add_subparsers(required=True)
    for name, command in (
        ("check", _check),
        ("compile", _compile),
        ("bench", _bench),
        ("tune", _tune),
        ("work", _work),
    ):
        sub = subparsers.add_parser(name)
        sub.set_defaults(command=command, problem=None)
        sub.add_argument(
            "families",
            nargs="*",
            metavar="FAMILY",
            help="such as attention.prefill, or attention for all of its kind; default: all",
        )
        if name not in ("tune", "work"):
            sub.add_argument("--json", action="store_true", help="print one JSON list")
        sub.add_argument("--dtype", action="append", choices=tuple(DTYPES), help="may be given several times")
        if name == "check":
            sub.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto")
        if name == "tune":
            sub.add_argument("--output", type=Path, metavar="FILE", help="default: the table that ships for this GPU")
            sub.add_argument(
                "--resume", action="store_true", help="leave out keys that have a row of today by this torch and triton"
            )
        if name in ("bench", "tune"):
            sub.add_argument("--problem", action="append", metavar="NAME", help="may be given several times")
            sub.add_argument("--budget-s", type=_positive, metavar="S", help="begin nothing new after so many seconds")
            sub.add_argument(
                "--jobs", type=_jobs, default=workers.beside_this_process(), help="default: all processors but one"
            )
        if name == "compile":
            sub.add_argument("--target", action="append", type=int, choices=tuple(TARGETS), help="such as 90 for sm_90")
        if name == "work":
            sub.add_argument(
                "--flop-per-s", type=_positive, default=H200_FLOP_PER_S, help="default: an H200's, dense bf16"
            )
            sub.add_argument("--bytes-per-s", type=_positive, default=H200_BYTES_PER_S, help="default: an H200's")
        if name in ("check", "compile"):
            sub.add_argument("--jobs", type=_jobs, default=workers.processors(), help="default: all cores")
        if name in ("compile", "work"):
            sub.add_argument(
                "--markdown", type=Path, metavar="FILE", help="also write a table between the two markers in FILE"
            )
    return parser


if __name__ == "__main__":
    sys.exit(main())
