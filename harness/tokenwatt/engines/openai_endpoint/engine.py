"""The engine: a server with OpenAI's API, which runs already or is started by a command, seen from outside."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from tokenwatt import __version__
from tokenwatt.clock import Clock, RunClock
from tokenwatt.engines.openai_endpoint import probe
from tokenwatt.engines.openai_endpoint.address import Address, Target
from tokenwatt.engines.openai_endpoint.client import raise_file_limit
from tokenwatt.engines.openai_endpoint.key import Key, refuse_keys_in_the_open
from tokenwatt.engines.openai_endpoint.loop import Job, Timeouts
from tokenwatt.engines.openai_endpoint.metrics_page import MetricsPage, Watcher, find_page
from tokenwatt.engines.openai_endpoint.options import EndpointOptions
from tokenwatt.engines.openai_endpoint.process import client_process
from tokenwatt.engines.openai_endpoint.reader import Reader
from tokenwatt.engines.openai_endpoint.render import Extra, Renderer
from tokenwatt.engines.openai_endpoint.scoring import Scoring
from tokenwatt.engines.openai_endpoint.text import TextCodec
from tokenwatt.engines.protocol import Continuation, EngineIdentity, EngineReport, Failure, Probes, TokenEvent
from tokenwatt.errors import EngineError, TokenwattError, UserError
from tokenwatt.load import Listed, Load
from tokenwatt.spec import BenchSpec, validate
from tokenwatt.this_machine import is_this_machine
from tokenwatt.workloads import Request

if TYPE_CHECKING:
    from tokenwatt.engines.served_command import ServedCommand

T = TypeVar("T")

FILES_BESIDE = 64
"""Open files of the client that are no connections."""
WARM_UP_TOKENS = 16
"""Output tokens of a request of warm-up."""


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A server that has been found ready."""

    server: probe.Server
    target: Target
    renderer: Renderer
    words: str
    """What it calls itself."""
    longest_context: int | None
    metrics: MetricsPage | None


class EndpointEngine:
    """Any server with OpenAI's completions or chat, measured by a client in a process of its own."""

    def __init__(self, spec: BenchSpec) -> None:
        where = "options of engine 'openai_endpoint'"
        refuse_keys_in_the_open(spec.options)
        self._options = validate(spec.options, EndpointOptions, where=where)
        self._key = Key.of(self._options.api_key_env, self._options.headers)
        self._address = Address.of(self._options.base_url, self._options.ca_file)
        self._codec = TextCodec.of(self._options.tokenizer) if self._options.tokenizer else None
        self._gpu_uuids = _gpu_uuids(self._options)
        self._model = spec.model
        self._command: ServedCommand | None = None
        self._loaded: _Loaded | None = None
        self._reader: Reader | None = None
        self._watcher: Watcher | None = None
        self._is_serving = False

    @property
    def identity(self) -> EngineIdentity:
        """The server in its own words, once it is loaded, and how it is asked; the client's version before."""
        loaded, options = self._loaded, self._options
        return EngineIdentity(
            name=f"openai_endpoint.{options.api}",
            version=f"client {__version__}" if loaded is None else self._label(loaded),
            model=self._model or (loaded.renderer.model if loaded else options.served_model),
            dtype=options.dtype,
            weights_source="none",
            device="cuda" if self._gpu_uuids else "none",
            gpu_uuids=self._gpu_uuids,
            quantization=options.quantization,
            tp=max(1, len(self._gpu_uuids or ())),
            longest_context=loaded.longest_context if loaded else None,
        )

    def check(self, longest_context: int, vocabulary: int) -> None:
        """Accept every request: the server says what it cannot serve, once it runs."""

    def load(self, max_concurrency: int, longest_context: int) -> None:
        """Start the server if there is a command, and find out which model it has and which fields it takes.

        Raises:
            EngineError: no server, or one that has another model, does not know the key, does not take the request's
                form or allows no contexts so long; or fewer open files allowed than connections needed.
        """
        files = raise_file_limit()
        if files < max_concurrency + FILES_BESIDE:
            raise EngineError(
                f"{max_concurrency} connections need {max_concurrency + FILES_BESIDE} open files, the hard limit is"
                f" {files}; raise it (ulimit -Hn)"
            )
        try:
            self._start()
            self._loaded = self._find()
        except (TokenwattError, OSError) as error:
            self.close()
            raise EngineError(self._key.hide(str(error))) from None
        allowed = self._loaded.longest_context
        if allowed is not None and longest_context > allowed:
            raise EngineError(f"a request may reach {longest_context} tokens, the server allows {allowed}")

    def warm_up(self, requests: Sequence[Request], concurrency: int, clock: Clock) -> None:
        """Serve a few tokens of each request.

        Raises:
            EngineError: the server answers none of them.
        """
        short = tuple(replace(request, max_tokens=min(request.max_tokens, WARM_UP_TOKENS)) for request in requests)
        ends = [event for event in self.serve(Load.closed(Listed(short), concurrency), clock) if event.is_last]
        failures = [event.failure for event in ends if event.failure is not None]
        if failures and len(failures) == len(ends):
            raise EngineError(f"no request of the warm-up was answered: {_words(failures[0])}")

    def serve(self, load: Load, clock: Clock) -> Generator[TokenEvent, None, None]:
        """Send what is due, from a process of its own to which `load` goes: the one that was given stays as it is.

        Events come in batches, 50 ms after their stamps at most.
        """
        if not isinstance(clock, RunClock):
            raise EngineError(f"engine 'openai_endpoint' stamps in another process: it needs a RunClock, not {clock!r}")
        if self._is_serving:
            raise EngineError("a run is under way; close it before the next begins")
        self._is_serving = True
        try:
            self._reader = reader = Reader(load.on_sent, self._key.tell)
            job = self._job(load, clock)
            with ExitStack() as stack:
                if self._ready.metrics is not None:
                    self._watcher = watcher = Watcher(self._ready.metrics)
                    stack.callback(watcher.close)
                    reader.running = watcher.running
                batches = stack.enter_context(client_process(job))
                while not reader.has_finished:
                    yield from reader.events(next(batches))
                    self._check_command()
        finally:
            self._is_serving = False

    def report(self, start_s: float, end_s: float) -> EngineReport:
        """The prefix cache since the run began, by the server's counters, and how busy the client was."""
        if self._reader is None:
            return EngineReport()
        busy, lag_s = self._reader.effort(start_s, end_s)
        server = self._watcher.growth() if self._watcher is not None else None
        return EngineReport(
            prefix_cache_hit_rate=server.hit_rate if server else None,
            server_output_tokens=server.output if server else None,
            client_busy=busy,
            client_lag_mean_s=lag_s,
        )

    @property
    def scores_by_decoding(self) -> bool:
        """A prompt is one prefill, as far as anybody knows."""
        return False

    def prompt_logprobs(self, prompts: Sequence[np.ndarray]) -> list[np.ndarray]:
        """By completions with echo."""
        return self._asked(lambda scoring: scoring.prompt_logprobs(prompts))

    def continuations(self, prompts: Sequence[np.ndarray], count: int) -> list[Continuation] | None:
        """By completions with log-probabilities; None of a server that does not say which tokens they are."""
        return self._asked(lambda scoring: scoring.draw(prompts, count))

    def _asked(self, ask: Callable[[Scoring], T]) -> T:
        try:
            options = self._options  # the first byte of an answer in one piece comes when the last one is there
            return ask(Scoring(self._ready.server, self._ready.renderer, options.first_byte_s + options.stall_s))
        except EngineError as error:
            raise EngineError(self._key.tell(str(error))) from None

    def probes(self, start_s: float, end_s: float) -> Probes:
        """Its kernels are the server's own."""
        return Probes()

    def close(self) -> None:
        """Stop the server, if it was started here, and remove its log unless an error has named it."""
        self._loaded = self._reader = self._watcher = None
        command = self._command
        if command is None:
            return
        command.stop()
        self._command = None
        if not command.is_log_named:
            shutil.rmtree(command.log.parent)

    def _start(self) -> None:
        """Start the server by its command, and wait until it is ready."""
        options = self._options
        if not options.command:
            return
        from tokenwatt.engines.served_command import ServedCommand

        log = Path(tempfile.mkdtemp(prefix="tokenwatt-server-")) / "server.log"
        health = options.base_url + options.health_path
        self._command = ServedCommand(
            options.command, health, options.start_timeout_s, log, ssl_context=self._address.tls()
        )
        self._command.start()

    def _check_command(self) -> None:
        if self._command is not None:
            self._command.check()

    def _find(self) -> _Loaded:
        """Ask the server everything that is asked only once."""
        options = self._options
        headers = {**self._key.headers, **options.headers}
        server = probe.Server(self._address, headers, self._key.tell)
        try:
            target = self._address.find(options.connect_s)
        except OSError as error:
            raise EngineError(f"no server at {options.base_url}: {error}") from None
        model = probe.find_model(server, options.served_model)
        renderer = Renderer(
            self._address, options.api, model, headers, frozenset(), options.extra_body,
            self._codec if options.sends_text else None,
        )  # fmt: skip
        renderer = replace(renderer, extras=probe.find_extras(server, renderer, options))
        return _Loaded(
            server, target, renderer, self._key.hide(probe.describe(server)), probe.longest_context(server, model),
            find_page(self._address, options.metrics_url, headers),
        )  # fmt: skip

    def _job(self, load: Load, clock: RunClock) -> Job:
        """What the client does; ids are asked for only where they are needed: with them the prompt's come back too.

        Text is read for them only where none come."""
        options, loaded = self._options, self._ready
        extras = loaded.renderer.extras
        if options.counting != "token_ids" and not (options.counting == "auto" and load.needs_output):
            extras -= {Extra.TOKEN_IDS}
        codec = None if Extra.TOKEN_IDS in extras else self._codec
        timeouts = Timeouts(options.connect_s, options.first_byte_s, options.stall_s)
        return Job(clock, loaded.target, replace(loaded.renderer, extras=extras), codec, load, timeouts)

    def _label(self, loaded: _Loaded) -> str:
        """The server's words, then how it is asked."""
        extras, options = loaded.renderer.extras, self._options
        if Extra.TOKEN_IDS in extras and options.counting == "token_ids":
            counting = "token_ids"
        elif Extra.CONTINUOUS_USAGE in extras:
            counting = "continuous_usage"
        else:
            counting = "usage" if Extra.USAGE in extras else "chunks"
        sends_ids = Extra.TOKEN_IDS in extras and options.counting in ("auto", "token_ids")
        answers = "ids" if sends_ids else "text" if self._codec else "unseen"
        words = [
            loaded.words, f"prompt_as={'text' if options.sends_text else 'tokens'}", f"counting={counting}",
            f"answers={answers}",
        ]  # fmt: skip
        if options.ignore_eos:
            words.append(f"ignore_eos={'yes' if Extra.IGNORE_EOS in extras else 'refused'}")
        return " ".join(filter(None, words))

    @property
    def _ready(self) -> _Loaded:
        if self._loaded is None:
            raise EngineError("the engine is not loaded; call load() first")
        return self._loaded


def _gpu_uuids(options: EndpointOptions) -> tuple[str, ...] | None:
    """The GPUs to meter; None for every board, which may be a server's only if it runs here.

    Raises:
        UserError: GPUs of this machine for a server on another.
    """
    if options.command or _is_here(options.base_url):
        return options.gpu_uuids
    if options.gpu_uuids:
        raise UserError(
            f"gpu_uuids are GPUs of this machine, and {options.base_url} is none of its addresses; leave gpu_uuids out,"
            " or reach the server by localhost"
        )
    return ()


def _is_here(url: str) -> bool:
    try:
        return is_this_machine(url)
    except OSError:  # an unknown name is nobody's yet; load() says so
        return False


def _words(failure: Failure) -> str:
    return f"{failure.status}, {failure.detail}"
