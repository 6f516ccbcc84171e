"""Workloads: what users ask. A TOML file becomes a deterministic, endless sequence of requests.

Request i depends on the workload and i alone, so a longer run sends the same requests as a shorter one, and then more.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Self

import numpy as np
from pydantic import Field, FiniteFloat, field_validator, model_validator

from tokenwatt.errors import UserError, unknown_name
from tokenwatt.spec import Spec, load_toml

HASHED_REQUESTS = 256
TokenCount = Annotated[int, Field(gt=0, le=2**24)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]


class Sampling(Spec):
    """How the tokens of a request are chosen. Filters come in this order, each on what the one before it left."""

    repetition_penalty: Annotated[FiniteFloat, Field(gt=0)] = 1.0
    """Logits of tokens in prompt or output are divided by it where positive, else multiplied by it."""
    temperature: Annotated[FiniteFloat, Field(ge=0)] = 0.0
    """Logits are divided by it; 0 takes the most probable token."""
    top_k: int = Field(default=0, ge=0, lt=2**31)
    """Only so many of the most probable tokens are left; 0 leaves all."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Only the fewest most probable tokens that reach this probability together are left."""
    min_p: float = Field(default=0.0, ge=0, lt=1)
    """Only tokens at least so probable, as a share of the most probable one, are left."""
    stop_token_ids: tuple[TokenId, ...] = ()
    """Tokens that end the request; without any, it ends with its budget."""

    @field_validator("stop_token_ids", mode="before")
    @classmethod
    def _array(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value


GREEDY = Sampling()


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """One prompt with its output budget."""

    index: int
    """Position in the workload."""
    prompt: np.ndarray
    """Token ids, int32 [isl]."""
    max_tokens: int
    """Tokens to generate (osl); only `sampling.stop_token_ids` stop a request earlier."""
    sampling: Sampling = GREEDY
    """How its tokens are chosen; greedily if nothing is said."""
    seed: int = 0
    """Seed of its draws, from 0 to 2^63 - 1."""
    conversation: int = 0
    """Whose turn it is: conversations are numbered like the requests of a workload without turns."""
    turn: int = 0
    """Position in its conversation."""


class FollowUp(NamedTuple):
    """The next turn of a conversation."""

    request: Request
    think_s: float
    """How long after the answer it is asked."""


class FixedLength(Spec):
    """Every request has this length."""

    kind: Literal["fixed"] = "fixed"
    """Distribution."""
    tokens: TokenCount
    """Length in tokens."""

    def draw(self, rng: np.random.Generator) -> int:
        """Length of one request in tokens."""
        del rng
        return self.tokens


class LognormalLength(Spec):
    """Lengths with a long tail: lognormal by its median and sigma, rounded, then clipped to [min, max]."""

    kind: Literal["lognormal"]
    """Distribution."""
    median: TokenCount
    """Median in tokens, before clipping."""
    sigma: Annotated[float, Field(gt=0, le=3)]
    """Standard deviation of the logarithm."""
    min: TokenCount = 1
    """Shortest length in tokens."""
    max: TokenCount
    """Longest length in tokens."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.min <= self.median <= self.max:
            raise ValueError(f"needs min <= median <= max, got {self.min}, {self.median}, {self.max}")
        return self

    def draw(self, rng: np.random.Generator) -> int:
        """Length of one request in tokens."""
        return int(np.clip(np.rint(rng.lognormal(np.log(self.median), self.sigma)), self.min, self.max))


Length = Annotated[FixedLength | LognormalLength, Field(discriminator="kind")]


class Workload(Spec):
    """Prompt and output lengths, and a seed. It knows no GPU, engine or path."""

    name: str
    """Name in the results."""
    description: str
    """Who asks this, and where the lengths come from."""
    input: Length
    """Prompt length (isl)."""
    output: Length
    """Output budget (osl)."""
    vocabulary: int = Field(default=32000, gt=0, lt=2**31)
    """Token ids are drawn evenly below this; a model needs at least as many."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of lengths, tokens and draws."""
    sampling: Sampling = GREEDY
    """How output tokens are chosen."""

    def request(self, index: int) -> Request:
        """Request number `index`, the same on every machine."""
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.seed, index])))
        isl, osl = self.input.draw(rng), self.output.draw(rng)
        prompt = rng.integers(0, self.vocabulary, size=isl, dtype=np.int32)
        return Request(index, prompt, osl, self.sampling, _draw_seed(self.seed, index), conversation=index)

    def requests(self) -> Iterator[Request]:
        """All requests, in order, without end."""
        return map(self.request, itertools.count())

    def opening(self, place: int) -> Request | None:
        """First request of conversation `place`."""
        return self.request(place)

    def follow_up(self, request: Request, output: Sequence[int]) -> FollowUp | None:
        """None: conversations have one turn."""
        return None

    @property
    def has_turns(self) -> bool:
        """Whether conversations go on after the first answer."""
        return False

    @property
    def thinks(self) -> bool:
        """Whether users take time between an answer and their next turn."""
        return False

    def timetable(self) -> tuple[float, ...] | None:
        """When conversations come, seconds from the first; None for a workload that has no times of its own."""
        return None

    def sha256(self) -> str:
        """Hash over the bytes of the first 256 requests (budgets and token ids, little-endian int32), then sampling.

        Sampling adds its settings that are no defaults, as JSON, so greedy workloads hash as if there were none.
        """
        digest = hashlib.sha256()
        for request in itertools.islice(self.requests(), HASHED_REQUESTS):
            header = np.array([request.max_tokens, len(request.prompt)], dtype="<i4")
            digest.update(header.tobytes() + request.prompt.astype("<i4").tobytes())
        if self.sampling != GREEDY:
            digest.update(self.sampling.model_dump_json(exclude_defaults=True).encode())
        return digest.hexdigest()

    def longest(self) -> int:
        """Longest context in tokens that a request can reach."""
        return sum(
            length.tokens if isinstance(length, FixedLength) else length.max for length in (self.input, self.output)
        )


def _draw_seed(seed: int, index: int) -> int:
    """Seed of the draws of request `index`: 63 bits of a stream beside the one of lengths and tokens."""
    return int(np.random.SeedSequence([seed, index], spawn_key=(1,)).generate_state(1, np.uint64)[0] >> 1)


def library_folder() -> Path:
    """Folder of the shipped workloads, suites and model shapes: `workloads/` of the tree, or the wheel's copy of it."""
    installed = Path(str(files("tokenwatt"))) / "_workloads"
    return installed if installed.is_dir() else Path(__file__).resolve().parents[2] / "workloads"


def load_workload(name: str) -> Workload:
    """Read a workload of the library by name, or any TOML file by path.

    Raises:
        UserError: unknown name, missing file or a file that is not a workload.
    """
    return load_toml(find_toml(name, library_folder(), "workload"), Workload)


def find_toml(name: str, folder: Path, kind: str) -> Path:
    """Path of `<folder>/<name>.toml`, or of the TOML file that `name` already is."""
    if name.endswith(".toml"):
        path = Path(name)
        if not path.is_file():
            raise UserError(f"no such {kind} file: {name}")
        return path
    path = folder / f"{name}.toml"
    if not path.is_file():
        raise unknown_name(kind, name, (candidate.stem for candidate in folder.glob("*.toml")))
    return path
