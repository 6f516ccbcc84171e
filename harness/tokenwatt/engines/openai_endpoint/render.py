"""What is written to the server: an HTTP request with the JSON of one `Request`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any

from tokenwatt.engines.openai_endpoint.address import Address
from tokenwatt.engines.openai_endpoint.options import Api
from tokenwatt.engines.openai_endpoint.text import TextCodec
from tokenwatt.workloads import Request, Sampling

PATHS: dict[Api, str] = {"completions": "/v1/completions", "chat": "/v1/chat/completions"}


class Extra(StrEnum):
    """Fields that are not in every server's API."""

    IGNORE_EOS = "ignore_eos"
    USAGE = "include_usage"
    CONTINUOUS_USAGE = "continuous_usage_stats"
    TOKEN_IDS = "return_token_ids"
    FULL_SAMPLING = "top_k, min_p and repetition_penalty"
    """Said even where they do nothing: servers take what is left out from the model's own generation_config."""


@dataclass(frozen=True)
class Renderer:
    """Makes requests of one kind; it can be pickled."""

    address: Address
    api: Api
    model: str
    headers: Mapping[str, str] = field(repr=False)
    """Beside those of every request; the key is among them."""
    extras: frozenset[Extra]
    extra_body: Mapping[str, Any]
    codec: TextCodec | None
    """Makes text of prompts; None sends token ids."""

    def __call__(self, request: Request) -> bytes:
        """All bytes to send."""
        body = self.body(request)
        return self._head + b"Content-Length: %d\r\n\r\n" % len(body) + body

    def body(self, request: Request) -> bytes:
        """The JSON alone."""
        fields: dict[str, Any] = {"model": self.model, **self._prompt(request), "max_tokens": request.max_tokens}
        fields |= {"stream": True, **self._sampling(request), **self._asked()}
        return json.dumps(fields | dict(self.extra_body), separators=(",", ":")).encode()

    @property
    def path(self) -> str:
        """What is asked for."""
        return self.address.prefix + PATHS[self.api]

    @property
    def all_headers(self) -> dict[str, str]:
        """Headers of each request, but for its length."""
        return {
            "Host": self.address.host_header,
            "Content-Type": "application/json",
            "Accept": "text/event-stream",
            "Connection": "keep-alive",
            **self.headers,
        }

    @cached_property
    def _head(self) -> bytes:
        lines = [f"POST {self.path} HTTP/1.1", *(f"{name}: {value}" for name, value in self.all_headers.items()), ""]
        return "\r\n".join(lines).encode("latin-1")

    def _prompt(self, request: Request) -> dict[str, Any]:
        token_ids: list[int] = request.prompt.tolist()
        if self.api == "chat":
            return {"messages": list(self._messages(token_ids, request.answers))}
        return {"prompt": token_ids if self.codec is None else self.codec.decode(token_ids)}

    def _messages(self, token_ids: list[int], answers: tuple[tuple[int, int], ...]) -> Iterator[dict[str, str]]:
        """The conversation so far, user and assistant in turns; the server's template marks their ends."""
        assert self.codec is not None, "EndpointOptions wants a tokenizer for chat"
        place = 0
        for begin, end in (*answers, (len(token_ids), len(token_ids))):
            yield {"role": "user", "content": self.codec.decode(token_ids[place:begin])}
            if begin < end:
                yield {"role": "assistant", "content": self.codec.decode(token_ids[begin:end], skips_special=True)}
            place = end

    def _sampling(self, request: Request) -> dict[str, Any]:
        """Temperature and top_p always; what not every server knows if it does something, or the server takes it."""
        chosen = request.sampling
        fields: dict[str, Any] = {"temperature": chosen.temperature, "top_p": chosen.top_p}
        if chosen.temperature > 0:
            fields["seed"] = request.seed
        if chosen.stop_token_ids:
            fields["stop_token_ids"] = list(chosen.stop_token_ids)
        for name in ("top_k", "min_p", "repetition_penalty"):
            value = getattr(chosen, name)
            if Extra.FULL_SAMPLING in self.extras or value != Sampling.model_fields[name].default:
                fields[name] = value
        if fields.get("top_k") == 0:
            fields["top_k"] = -1  # all tokens; 0 is an error to SGLang
        return fields

    def _asked(self) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        if Extra.IGNORE_EOS in self.extras:
            fields["ignore_eos"] = True
        if Extra.TOKEN_IDS in self.extras:
            fields["return_token_ids"] = True
        if Extra.USAGE in self.extras:
            fields["stream_options"] = {"include_usage": True}
        if Extra.CONTINUOUS_USAGE in self.extras:
            fields["stream_options"] = {"include_usage": True, "continuous_usage_stats": True}
        return fields
