"""Specifications that people write: TOML in, frozen and validated objects out, one clear line when they are wrong."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from tokenwatt.errors import UserError


class Spec(BaseModel):
    """Base of everything read from TOML: unknown keys are refused, values are never coerced, nothing changes later."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


class ServiceLevel(Spec):
    """What users are promised: a request that keeps every limit is a good one, and goodput counts those alone."""

    ttft_s: PositiveFloat | None = None
    """Longest time to first token, seconds."""
    tpot_s: PositiveFloat | None = None
    """Longest time per output token, seconds."""
    e2el_s: PositiveFloat | None = None
    """Longest end-to-end latency, seconds."""
    share: float = Field(default=0.99, gt=0, le=1)
    """Share of requests that must be good for a rate to keep the promise."""

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if self.ttft_s is None and self.tpot_s is None and self.e2el_s is None:
            raise ValueError("needs at least one of ttft_s, tpot_s, e2el_s")
        return self

    def in_words(self) -> str:
        """The limits for people.

        >>> ServiceLevel(ttft_s=0.5, tpot_s=0.05).in_words()
        'ttft 0.5 s, tpot 0.05 s'
        """
        limits = (("ttft", self.ttft_s), ("tpot", self.tpot_s), ("e2el", self.e2el_s))
        return ", ".join(f"{name} {limit:g} s" for name, limit in limits if limit is not None)

    def holds(self, ttft_s: float, tpot_s: float, e2el_s: float) -> bool:
        """Whether a request with these latencies keeps every limit."""
        return all(
            limit is None or found <= limit
            for limit, found in ((self.ttft_s, ttft_s), (self.tpot_s, tpot_s), (self.e2el_s, e2el_s))
        )


class Sweep(Spec):
    """Levels of a load evenly apart on a logarithmic scale, both ends among them; seven or more draw a frontier."""

    low: PositiveFloat = Field(alias="from", allow_inf_nan=False)
    """Lowest level."""
    high: PositiveFloat = Field(alias="to", allow_inf_nan=False)
    """Highest level."""
    points: int = Field(default=7, ge=2, le=1000)
    """How many; whole numbers that fall together count once."""

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if self.high <= self.low:
            raise ValueError(f"needs from < to, got {self.low:g} and {self.high:g}")
        return self

    def levels(self) -> tuple[float, ...]:
        """The levels, rising.

        >>> Sweep.model_validate({"from": 1.0, "to": 16.0, "points": 3}).levels()
        (1.0, 4.0, 16.0)
        """
        step = (self.high / self.low) ** (1 / (self.points - 1))
        return (*(self.low * step**place for place in range(self.points - 1)), self.high)

    def whole_levels(self) -> tuple[int, ...]:
        """The levels as whole numbers, each once."""
        return tuple(sorted({round(level) for level in self.levels()}))


class LmEvalTask(Spec):
    """A task of lm-evaluation-harness, of choices or of answers to write, that the engine must be good enough at."""

    task: str
    """Name, as lm-eval lists it."""
    min_score: float = Field(ge=0, le=1)
    """A lower score is a disagreement."""
    metric: str = "acc"
    """Which of the task's metrics is the score; with a filter after a comma where it has several, such as
    `exact_match,flexible-extract`."""
    limit: PositiveInt | None = None
    """So many questions alone; by default all."""
    include_path: str | None = None
    """Folder with tasks of one's own, as YAML files."""


class AccuracySpec(Spec):
    """Whether the engine computes the model: its log-probabilities of some text beside those of a reference engine."""

    reference: str = "hf_transformers"
    """Engine that is right by definition."""
    reference_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Its precision."""
    reference_model: str | None = None
    """Its model; by default that of the bench."""
    reference_weights: str | None = None
    """Its weights, such as those from which a quantised checkpoint was made; by default those of the bench."""
    reference_device: Literal["auto", "cpu", "cuda"] | None = None
    """Where it runs; by default where the bench does."""
    reference_options: dict[str, Any] = Field(default_factory=dict)
    """Settings of that engine alone."""
    tokens: Literal["text", "random"] = "text"
    """What is asked: a text, or token ids drawn at random, for a model without a tokenizer."""
    text: str | None = None
    """Path of a UTF-8 text; by default one that comes with tokenwatt."""
    tokenizer: str | None = None
    """Folder or Hugging Face hub id; by default the weights of the reference."""
    sequences: Annotated[PositiveInt, Field(le=4096)] = 16
    """Pieces of the text at most."""
    length: int = Field(default=512, ge=2, le=2**20)
    """Tokens of a piece at most; never more than the engine is loaded for by its workloads."""
    max_mean_difference: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Largest mean difference of log-probabilities, nats per token; by default 0.03, or 0.1 where the engine says that
    its weights or its cache are quantised, or does not say."""
    max_perplexity_ratio: float = Field(default=1.05, ge=1, allow_inf_nan=False)
    """How many times as large one perplexity may be as the other."""
    lm_eval: tuple[LmEvalTask, ...] = ()
    """Tasks of lm-evaluation-harness, where that is installed."""

    @field_validator("lm_eval", mode="before")
    @classmethod
    def _array(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _random_tokens_have_no_text(self) -> Self:
        named = [key for key in ("text", "tokenizer") if getattr(self, key) is not None]
        if self.tokens == "random" and named and not self.lm_eval:
            raise ValueError(
                f'tokens = "random" asks about no text; leave out {named[0]}, got {getattr(self, named[0])!r}'
            )
        return self


Rate = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
LOADS = ("concurrency", "rate", "replay_speed", "requests_at_once")
"""The keys of which a bench has exactly one: each is a kind of load."""


class BenchSpec(Spec):
    """One engine with one model, measured over every pair of workload and load."""

    engine: str
    """Engine name; `tokenwatt doctor` lists them."""
    model: str | None = None
    """Name of a folder under workloads/models/, the path of a folder that holds a config.json, or a Hugging Face hub
    id; by default what the saved weights are of."""
    weights: str = "random"
    """`random` (made on the device from the architecture and the seed), the path of a safetensors folder, or a Hugging
    Face hub id, which is fetched."""
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    """Precision of weights, activations and KV cache."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the engine runs; `auto` takes the GPU where there is one."""
    workloads: tuple[str, ...] = Field(min_length=1)
    """Names of TOML files under workloads/, or paths."""
    concurrency: tuple[Annotated[PositiveInt, Field(le=65536)], ...] = ()
    """Closed loop: conversations kept going, one point each. A bench has this, `rate`, `replay_speed` or
    `requests_at_once`; each is a list, or a sweep such as {from = 1, to = 64, points = 7}."""
    rate: tuple[Rate, ...] = ()
    """Open loop: conversations that come a second, whatever the engine does, one point each."""
    burstiness: float = Field(default=1.0, gt=0)
    """Of an open loop: shape of the gamma distribution of the gaps; 1 is Poisson, below 1 bursts, above 1 more even,
    inf a constant gap."""
    replay_speed: tuple[Rate, ...] = ()
    """Replay of a trace's own timetable, so many times as fast, one point each."""
    requests_at_once: tuple[PositiveInt, ...] = ()
    """Offline: so many conversations all at once, one point each."""
    ramp_s: float = Field(default=0.0, ge=0, le=3600)
    """Over how long a closed loop begins its conversations, or an open one rises from 0 to its rate, seconds."""
    max_in_flight: PositiveInt = 256
    """Requests that the engine is loaded for where the load does not say: of the others it may run so many together."""
    slo: ServiceLevel | None = None
    """What users are promised; with it, goodput."""
    usd_per_gpu_h: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Price of a GPU for an hour, US dollars; with it, dollars per million tokens."""
    window_s: PositiveFloat = Field(default=30.0, le=86400)
    """Length of the steady window to measure, seconds."""
    min_window_s: PositiveFloat = Field(default=20.0, le=86400)
    """A shorter steady window is reported as not stable, seconds."""
    interval_width: float = Field(default=0.02, ge=0, le=1)
    """Windows of a point are repeated until the 95 % interval of its joules per token (without energy: of its tokens
    per second) is at most so wide, as a share of the mean; 0 measures one window."""
    max_windows: PositiveInt = Field(default=20, le=1000)
    """Windows of a point at most."""
    budget_s: PositiveFloat = Field(default=300.0, le=86400)
    """No further window of a point begins if all of them together would be longer than this, seconds."""
    phases: bool = False
    """Whether each point is followed by its prefill alone and by its decode alone."""
    closure: bool = False
    """Whether the energy of each point's last window is explained, by metering its kernel families one by one; takes up
    to half a minute a point."""
    accuracy: AccuracySpec | None = None
    """How the engine's answers are checked before it is measured; without it they are not."""
    idle_s: float = Field(default=5.0, ge=0, le=3600)
    """How long power at rest is read: before the engine loads, after its warm-up and after its end, seconds; 0 skips
    all three."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of random weights."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Settings of that engine alone, validated by it."""

    @field_validator("concurrency", "requests_at_once", mode="before")
    @classmethod
    def _whole_levels(cls, value: object) -> object:
        return Sweep.model_validate(value).whole_levels() if isinstance(value, dict) else value

    @field_validator("rate", "replay_speed", mode="before")
    @classmethod
    def _levels(cls, value: object) -> object:
        return Sweep.model_validate(value).levels() if isinstance(value, dict) else value

    @field_validator("workloads", *LOADS, mode="before")
    @classmethod
    def _array(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _one_kind_of_load(self) -> Self:
        found = [key for key in LOADS if getattr(self, key)]
        if len(found) != 1:
            raise ValueError(f"needs exactly one of {', '.join(LOADS)}, got {' and '.join(found) or 'none'}")
        if self.ramp_s and not (self.concurrency or self.rate):
            raise ValueError(f"ramp_s goes with concurrency or rate, got it with {found[0]}")
        if self.burstiness != 1.0 and not self.rate:
            raise ValueError(f"burstiness goes with rate, got it with {found[0]}")
        if self.phases and not self.concurrency:
            raise ValueError(f"phases = true needs concurrency, got {found[0]}: phases are of a closed loop")
        return self


class SuiteSpec(Spec):
    """What `tokenwatt bench SUITE.toml` runs."""

    name: str
    """Name in the results."""
    description: str = ""
    """One sentence for the reader of the results."""
    node_meter: str | None = None
    """A meter of the whole machine: `ipmi`, `redfish:URL` or `csv:FILE`."""
    bench: tuple[BenchSpec, ...] = Field(min_length=1)
    """The benches, run in order."""

    @field_validator("bench", mode="before")
    @classmethod
    def _array(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value


SpecT = TypeVar("SpecT", bound=BaseModel)


def load_toml(path: Path, kind: type[SpecT]) -> SpecT:
    """Read `path` as a `kind`.

    Raises:
        UserError: the file is missing, is not TOML, or does not fit `kind`.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"no such file: {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: not valid TOML ({error})") from None
    return validate(content, kind, where=str(path))


def validate(content: dict[str, Any], kind: type[SpecT], where: str) -> SpecT:
    """Build a `kind` from plain values, turning the first thing that is wrong into one line.

    Raises:
        UserError: names the place, what was found and what is allowed.
    """
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{where}: {_first_line(error, kind)}") from None


def _first_line(error: ValidationError, kind: type[BaseModel]) -> str:
    problem = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in problem["loc"]) or "file"
    if problem["type"] == "extra_forbidden":
        return f"unknown key {place!r}; allowed here: {', '.join(_allowed_keys(kind, problem['loc'][:-1]))}"
    if problem["type"] == "missing":
        return f"missing key {place!r}"
    message = problem["msg"].removeprefix("Value error, ")
    if ", got " in message:  # of several keys together: what was found is said already
        return f"{place}: {message}"
    return f"{place}: {message[0].lower()}{message[1:]}, got {problem['input']!r}"


def _allowed_keys(kind: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Keys of the model that `location` leads to, walking through arrays of models."""
    for part in location:
        if isinstance(part, int):
            continue
        field = kind.model_fields.get(part)
        if field is None:
            break
        inner = [field.annotation, *getattr(field.annotation, "__args__", ())]
        models = [candidate for candidate in inner if isinstance(candidate, type) and issubclass(candidate, BaseModel)]
        if not models:
            break
        kind = models[0]
    return sorted(kind.model_fields)
