"""The measured part of the kernels' page: for each family what a published study says of it."""

from __future__ import annotations

from pathlib import Path

from tokenwatt.errors import UserError
from tokenwatt.publish.contests import newest_contests, summaries
from tokenwatt.publish.kernel_section import SUMMARY_HEAD, summary_cells
from tokenwatt.publish.markdown import table
from tokenwatt.publish.study import Study
from tokenwatt_kernels import generated_part

PART = "measured kernels"
"""Name of the part, between whose markers the table is written."""


def part_text(study: Study) -> str:
    """The table of families.

    Raises:
        UserError: no kernel of the study was measured on a GPU.
    """
    on_gpu = study.kernels[study.kernels["device"] == "cuda"]
    contests = [each for each in newest_contests(on_gpu) if each.median_s is not None]
    if not contests:
        raise UserError(f"study {study.manifest.study} has no kernel that a GPU has measured; name one that has")
    rows = [(*summary_cells(each), ", ".join(each.gpu_names), each.days) for each in summaries(contests)]
    told = (
        f"Of study `{study.manifest.study}` (results/published): geometric mean over the problems, lowest to highest."
        " Above 1 our kernel is faster than the fastest baseline of the problem, or takes fewer joules."
    )
    return "\n".join([told, "", *table((*SUMMARY_HEAD, "GPU", "measured"), rows), ""])


def check_place(path: Path) -> None:
    """Whether `path` has a place for the part.

    Raises:
        UserError: it has none.
    """
    missing = generated_part.missing_place(path, PART)
    if missing is not None:
        raise UserError(missing)


def write(study: Study, path: Path) -> None:
    """Replace the part in `path`, which `check_place` has found.

    Raises:
        UserError: no kernel of the study was measured.
    """
    generated_part.write(path, PART, part_text(study))
