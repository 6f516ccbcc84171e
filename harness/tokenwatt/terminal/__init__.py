"""What people see on a terminal: progress, tables and findings. Plain lines where there is no terminal."""

from tokenwatt.terminal.as_json import kernel_rows_as_json, metered_rows_as_json, outcomes_as_json, rows_as_json
from tokenwatt.terminal.explain import print_explanation
from tokenwatt.terminal.findings import print_coverage, print_findings, print_outcomes
from tokenwatt.terminal.fleet import print_fleet
from tokenwatt.terminal.kernels import print_kernels
from tokenwatt.terminal.metered import print_metered
from tokenwatt.terminal.points import print_closure, print_measurements
from tokenwatt.terminal.progress import TerminalObserver
from tokenwatt.terminal.scores import PREDICTOR, print_scores
from tokenwatt.terminal.silicon import PassPrinter, print_step_list, print_steps
from tokenwatt.terminal.what_if import print_what_if, print_worth

__all__ = [
    "PREDICTOR",
    "PassPrinter",
    "TerminalObserver",
    "kernel_rows_as_json",
    "metered_rows_as_json",
    "outcomes_as_json",
    "print_closure",
    "print_coverage",
    "print_explanation",
    "print_findings",
    "print_fleet",
    "print_kernels",
    "print_measurements",
    "print_metered",
    "print_outcomes",
    "print_scores",
    "print_step_list",
    "print_steps",
    "print_what_if",
    "print_worth",
    "rows_as_json",
]
