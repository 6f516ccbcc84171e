"""How probable given tokens are to the server, and those that it draws, by which engines are compared."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from tokenwatt.engines.openai_endpoint.logprobs import ECHO_FIELDS, continuation_of, prompt_logprobs_of
from tokenwatt.engines.openai_endpoint.probe import Server
from tokenwatt.engines.openai_endpoint.render import Extra, Renderer
from tokenwatt.engines.openai_endpoint.tokens import OK
from tokenwatt.engines.protocol import Continuation
from tokenwatt.errors import EngineError
from tokenwatt.workloads import Request, Sampling

DRAWN_AT_ONCE = 16
"""Requests of `draw` in flight."""


@dataclass(frozen=True, slots=True)
class Scoring:
    """A server that is asked for completions with log-probabilities."""

    server: Server
    renderer: Renderer
    timeout_s: float
    """For each answer."""

    def prompt_logprobs(self, prompts: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Natural-log probability of each token of each prompt given those before it, float64 [isl - 1].

        Raises:
            EngineError: the server refuses, or does not echo; chat never does.
        """
        if self.renderer.api != "completions":
            raise EngineError('log-probabilities of prompts need api = "completions", got "chat"')
        return [self._score(prompt) for prompt in prompts]

    def draw(self, prompts: Sequence[np.ndarray], count: int) -> list[Continuation] | None:
        """`count` tokens after each prompt at temperature 1, or fewer where the server ends one sooner.

        None of a server that does not say which tokens they are.

        Raises:
            EngineError: the server refuses, or tells no log-probabilities.
        """
        if Extra.TOKEN_IDS not in self.renderer.extras:
            return None
        renderer = replace(
            self.renderer,
            codec=None,
            extras=self.renderer.extras - {Extra.USAGE, Extra.CONTINUOUS_USAGE},  # of streams alone
            extra_body={**self.renderer.extra_body, "stream": False, "logprobs": 1},
        )
        bodies = [
            renderer.body(Request(place, prompt, count, Sampling(temperature=1.0), seed=place))
            for place, prompt in enumerate(prompts)
        ]
        with ThreadPoolExecutor(DRAWN_AT_ONCE, thread_name_prefix="tokenwatt-draw") as threads:
            return list(map(continuation_of, threads.map(self._told, bodies)))

    def _score(self, prompt: np.ndarray) -> np.ndarray:
        asked = {"model": self.renderer.model, "prompt": prompt.tolist(), **ECHO_FIELDS}
        return prompt_logprobs_of(self._told(json.dumps(asked).encode()), len(prompt))

    def _told(self, body: bytes) -> object:
        """The answer to a request."""
        page = self.server.ask(self.renderer.path, self.timeout_s, body)
        if page.status != OK:
            raise EngineError(f"the server tells no log-probabilities: {self.server.why(page)}")
        try:
            return json.loads(page.body)
        except ValueError as error:
            raise EngineError(f"the server's log-probabilities are no JSON: {error}") from None
