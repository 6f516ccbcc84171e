"""Every page of the predictor, into one folder."""

from __future__ import annotations

import json
from pathlib import Path

from tokenwatt import store
from tokenwatt.perf_model.fit import Fit
from tokenwatt.perf_model.page.rack_page import rack_page
from tokenwatt.perf_model.page.rack_ratio import rack_ratio
from tokenwatt.perf_model.page.score_page import score_files, scores_as_plain
from tokenwatt.perf_model.page.system_page import BESIDE, compared, page_name, system_page
from tokenwatt.perf_model.page.trials import Trials
from tokenwatt.reference.published_ratios import load_ratios

SYSTEMS = (
    "H100 SXM",
    "H200 SXM",
    "B200 SXM",
    "B300 SXM",
    "GB200 NVL72",
    "GB300 NVL72",
    "VR NVL72",
    "Rubin Ultra NVL144",
)
RACKS, SCORES = "rubin.md", "scores.json"


def page_files(trials: Trials) -> dict[str, str]:
    """Text of every file by its name. The same trials give the same bytes."""
    files = score_files(trials)
    files["README.md"] += "\n".join(_systems_part(trials.fit))
    files |= {page_name(system): system_page(system, trials.fit) for system in SYSTEMS}
    files[RACKS] = rack_page([rack_ratio(each, trials.fit) for each in load_ratios()])
    files[SCORES] = json.dumps(scores_as_plain(trials), indent=1) + "\n"
    return files


def _systems_part(fit: Fit) -> list[str]:
    return [
        "\n## Systems\n",
        f"Median of the named cases that both have, over {BESIDE}; each page has them one by one, with ranges.\n",
        compared(fit, SYSTEMS),
        f"Rubin beside what was published of it: [DeepSeek-R1 on VR NVL72]({RACKS}).\n",
    ]


def write_pages(folder: Path, files: dict[str, str]) -> None:
    """Write each file in one step.

    Raises:
        UserError: the folder cannot be written to.
    """
    for name, text in files.items():
        data = text.encode()
        store.write_whole(folder / name, lambda file, data=data: file.write(data))
