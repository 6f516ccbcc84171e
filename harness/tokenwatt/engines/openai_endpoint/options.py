"""Settings of this engine alone: `options = { ... }` of a `[[bench]]`."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, PositiveFloat, field_validator, model_validator

from tokenwatt.engines.openai_endpoint.address import why_unfit
from tokenwatt.spec import Spec

Api = Literal["completions", "chat"]
Counting = Literal["auto", "token_ids", "usage", "chunks"]
LOOK_FOR_METRICS = "auto"


class EndpointOptions(Spec):
    """Where the server is, how it is asked, and what is known of it."""

    base_url: str
    """Address up to and without `/v1`, such as `http://localhost:8000`; a `/v1` at its end is taken off."""
    api: Api = "completions"
    """`completions`: the prompt as it is; `chat`: as messages, of a user and in later turns of the assistant,
    to which the server's template adds."""
    served_model: str | None = None
    """Name under which the server has the model; by default the only one that /v1/models lists."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the key, in capitals; the key itself is shown nowhere."""
    headers: dict[str, str] = Field(default_factory=dict)
    """Further headers of each request."""
    extra_body: dict[str, Any] = Field(default_factory=dict)
    """Further fields of each request; they replace ours of the same name."""
    ignore_eos: bool = True
    """Whether answers go on to their full length; left out where the server does not know the field."""
    counting: Counting = "auto"
    """How tokens are counted. `usage`: by the server's usage, with each chunk where it takes `continuous_usage_stats`;
    `token_ids`: by the ids that it sends, held against its usage; `chunks`: one for each piece of text; `auto`: usage
    where the server takes it, and ids where a conversation goes on from what was answered."""
    prompt_as: Literal["tokens", "text"] = "tokens"
    """How `completions` sends prompts; `chat` sends text."""
    tokenizer: str | None = None
    """Folder with a tokenizer.json, or a Hugging Face hub id: makes text of prompts, and token ids of the answers with
    which conversations go on where the server sends text alone."""
    connect_s: PositiveFloat = Field(default=10.0, le=3600)
    """Longest wait for a connection, seconds."""
    first_byte_s: PositiveFloat = Field(default=600.0, le=86400)
    """Longest wait for the first byte of an answer's body, seconds."""
    stall_s: PositiveFloat = Field(default=120.0, le=86400)
    """Longest silence within an answer, seconds."""
    ca_file: str | None = None
    """Certificates to trust, of an https server that no public authority vouches for."""
    gpu_uuids: tuple[str, ...] | None = None
    """NVML UUIDs of the server's GPUs, on this machine; by default every board, or none of a server elsewhere."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Precision, for the record."""
    quantization: str | None = None
    """Format of the weights, for the record."""
    metrics_url: str | None = LOOK_FOR_METRICS
    """The server's page of Prometheus metrics; by default `/metrics` if that is one."""
    command: tuple[str, ...] = ()
    """Starts the server, which is stopped at the end; without it the server runs already."""
    health_path: str = "/health"
    """Answers 200 once the server is ready."""
    start_timeout_s: PositiveFloat = Field(default=600.0, le=86400)
    """Longest wait for it, seconds."""

    @field_validator("command", "gpu_uuids", mode="before")
    @classmethod
    def _array(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value

    @field_validator("base_url", "metrics_url")
    @classmethod
    def _address(cls, value: str | None) -> str | None:
        problem = why_unfit(value) if value not in (None, LOOK_FOR_METRICS) else None
        if problem is not None:
            raise ValueError(f"must be an address like http://localhost:8000, got {problem}")
        return value

    @field_validator("base_url")
    @classmethod
    def _ahead_of_v1(cls, value: str) -> str:
        return value.rstrip("/").removesuffix("/v1")

    @model_validator(mode="after")
    def _text_needs_a_tokenizer(self) -> Self:
        if self.tokenizer is None and (self.api == "chat" or self.prompt_as == "text"):
            raise ValueError("prompts as text need a tokenizer: the model's folder or hub id, got no tokenizer")
        return self

    @property
    def sends_text(self) -> bool:
        """Whether prompts are sent as text."""
        return self.api == "chat" or self.prompt_as == "text"
