"""The page of a study: the same files give the same bytes, whenever and wherever it is written."""

from __future__ import annotations

from tokenwatt.publish.engine_section import engine_section
from tokenwatt.publish.kernel_section import kernel_section
from tokenwatt.publish.origin_section import head_section, limits_section, origin_section
from tokenwatt.publish.prediction_section import prediction_section
from tokenwatt.publish.repeat_section import repeat_section
from tokenwatt.publish.study import Study
from tokenwatt.publish.tuning_section import tuning_section


def page_text(study: Study) -> str:
    """The page as markdown.

    Raises:
        UserError: a prediction cannot be decided as it is written.
    """
    lines = [
        *head_section(study),
        *origin_section(study),
        *engine_section(study.measurements, study.results, study.closure),
        *kernel_section(study.kernels),
        *tuning_section(study.tiles),
        *_notes(study),
        *repeat_section(study.measurements, study.results, study.kernels),
        *prediction_section(study.predictions, study.tables),
        *limits_section(study),
    ]
    return "\n".join(lines).rstrip("\n") + "\n"


def _notes(study: Study) -> list[str]:
    """What people wrote, as they wrote it."""
    return [] if study.notes is None else ["## Notes", "", study.notes.rstrip("\n"), ""]
