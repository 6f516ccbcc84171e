"""What is known of each step, in a file that is whole at any moment, so that a pass can be taken up again."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from tokenwatt.errors import UserError
from tokenwatt.silicon.step import Step
from tokenwatt.spec import Spec
from tokenwatt.store import write_whole


class StepStatus(StrEnum):
    """How a step stands."""

    RUNNING = "running"
    """It has begun. Found in a file, it says that the pass itself was killed meanwhile."""
    DONE = "done"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    """Ended at its limit; what it had written stays."""
    INTERRUPTED = "interrupted"
    BLOCKED = "blocked"
    """Not begun, because a step that it needs is not done."""


class Place(Spec):
    """What a result holds for: another tree, torch, triton or GPU may give another one."""

    tree: str
    """SHA-256 over the sources, without the tile tables, which a step writes itself."""
    git_commit: str | None
    """Commit of the tree, where git knows it."""
    torch: str | None
    triton: str | None
    gpu: str | None
    """Names of the boards that NVML finds."""

    def holds_for(self, other: Place) -> bool:
        """Whether a result from here is one of `other` too; a commit of the same sources is."""
        return self.model_copy(update={"git_commit": None}) == other.model_copy(update={"git_commit": None})


class StepRecord(Spec):
    """The last attempt at a step."""

    status: StepStatus
    began_at: datetime
    """UTC."""
    seconds: float = 0.0
    """How long it ran."""
    exit_code: int | None = None
    """Of its command; -n where signal n ended it, null where it has not ended."""
    found: str = ""
    """What it found, or why it did not, in one line."""
    runs: tuple[str, ...] = ()
    """Folders of results that it wrote, by run id."""
    place: Place


_RECORDS = TypeAdapter(dict[str, StepRecord])


class State:
    """The records of all steps, by name, in `<folder>/steps.json`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        """Holds the file, and a log of each step."""
        self._path = folder / "steps.json"
        self.records: dict[str, StepRecord] = self._read()
        """By the name of the step."""

    def log_of(self, step: Step) -> Path:
        """Where the output of a step is kept."""
        return self.folder / f"{step.name}.log"

    def note(self, step: Step, record: StepRecord) -> None:
        """Replace what is known of a step, on the disk too.

        Raises:
            UserError: the folder cannot be written to.
        """
        self.records[step.name] = record
        text = _RECORDS.dump_json(self.records, indent=2)
        write_whole(self._path, lambda file: file.write(text + b"\n"))

    def is_done(self, step: Step, place: Place) -> bool:
        """Whether a step is done for this place, and after all that it needs."""
        record = self.records.get(step.name)
        if record is None or record.status is not StepStatus.DONE or not record.place.holds_for(place):
            return False
        needed = [self.records[name] for name in step.needs if name in self.records]
        return all(other.began_at <= record.began_at for other in needed)

    def _read(self) -> dict[str, StepRecord]:
        if not self._path.is_file():
            return {}
        try:
            return _RECORDS.validate_json(self._path.read_bytes())
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise UserError(
                f"{self._path}: not a state of steps ({first['msg']}); restore it, or move it away to begin anew"
            ) from None
