"""A reference engine and the one under test over the same tokens, one after the other.

The reference comes first, and is closed before the other is loaded: both need not fit into memory together, and of the
reference only its log-probabilities are kept. An engine that computes given tokens by prefill alone is then held
against itself: a token that it draws must have been as probable when it was decoded as it is within a prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tokenwatt.analysis.agreement import Agreement, compare
from tokenwatt.bench.accuracy.pieces import pieces_of
from tokenwatt.bench.accuracy.tasks import Tasks
from tokenwatt.engines import open_engine
from tokenwatt.engines.protocol import Engine, EngineIdentity, Scorer, scorer_of
from tokenwatt.errors import EngineError, UserError
from tokenwatt.record import AccuracyStatus
from tokenwatt.spec import AccuracySpec, BenchSpec

PLAIN_LIMIT = 0.03
"""Nats per token between a float32 reference and an engine whose numbers have 16 bits or more. Seen with a small model
that knows a text well (tests/accuracy): float16 0.001, bfloat16 0.008. Wrong models of it, such as one with twice the
rotary base, or with two heads swapped, are 0.14 and more off."""
QUANTISED_LIMIT = 0.1
"""The same where weights or cache have fewer bits, or the engine does not say. Seen there: fp8 0.019, a float8 cache
0.026, int4 0.033."""


DRAWN_TOKENS = 512
"""Tokens that an engine decodes, over all prompts."""
LEAST_SPREAD = 0.6
"""Nats: where log-probabilities of the reference vary less from token to token, wrong models pass. Seen there: 0.21 and
0.25 with weights that nobody trained, 1.2 after 60 steps of training, and as good as all of the wrong models told."""


@dataclass(frozen=True, slots=True)
class Accuracy:
    """What the check of one bench found."""

    status: AccuracyStatus = "not_checked"
    reference: str | None = None
    agreement: Agreement | None = None
    decoding: Agreement | None = None
    """Of tokens that the engine drew, with itself: as it decoded them, and as part of a prompt."""
    detail: str | None = None

    @property
    def figures(self) -> str:
        """In words: what was found, what was allowed."""
        found = None if self.agreement is None else str(self.agreement)
        drawn = None if self.decoding is None else f"decoding {self.decoding.mean_difference:.4g} nats from its prompts"
        return ", ".join(filter(None, (found, drawn, self.detail)))

    def columns(self) -> dict[str, Any]:
        """Of a `Measurement`."""
        found, drawn = self.agreement, self.decoding
        return {
            "accuracy_status": self.status,
            "accuracy_reference": self.reference,
            "accuracy_tokens": None if found is None else found.tokens,
            "accuracy_mean_difference": None if found is None else found.mean_difference,
            "accuracy_perplexity": None if found is None else found.perplexity,
            "accuracy_reference_perplexity": None if found is None else found.reference_perplexity,
            "accuracy_decoded_tokens": None if drawn is None else drawn.tokens,
            "accuracy_decode_difference": None if drawn is None else drawn.mean_difference,
            "accuracy_detail": self.detail,
        }


@dataclass(slots=True)
class Gate:
    """The check that a bench asks for; or why it has none."""

    spec: AccuracySpec
    why_not: str | None = None
    """Why it does not apply; then it has no reference."""
    reference: Engine | None = None
    pieces: list[np.ndarray] = field(default_factory=list)
    tasks: Tasks | None = None
    """Of lm-evaluation-harness, if there are any."""
    _expected: Sequence[np.ndarray] | None = None

    @property
    def accuracy(self) -> Accuracy:
        """What is known before anything was compared."""
        return Accuracy() if self.why_not is None else Accuracy("not_applicable", detail=self.why_not)

    def refer(self) -> None:
        """Load the reference, ask it, and close it.

        Raises:
            EngineError: it cannot be loaded, or cannot answer.
        """
        reference = self.reference
        if reference is None:
            return
        with closing(reference):
            try:
                reference.load(1, 1 + max(map(len, self.pieces)))
                self._expected = _scorer(reference).prompt_logprobs(self.pieces)
            except EngineError as error:
                raise EngineError(f"reference engine {reference.identity.name}: {error}") from None

    def check(self, engine: Engine) -> Accuracy:
        """Compare an engine, which is loaded, with what the reference said when it was asked (`refer`).

        Raises:
            EngineError: it cannot answer.
        """
        if self.reference is None:
            return self.accuracy
        assert self._expected is not None, "the reference was not asked"
        scorer = _scorer(engine)
        agreement = compare(scorer.prompt_logprobs(self.pieces), self._expected)
        reference = named(self.reference.identity, self.spec)
        if agreement.reference_spread < LEAST_SPREAD:
            why = (
                f"the reference holds all tokens alike ({agreement.reference_spread:.2g} nats apart, it takes "
                f"{LEAST_SPREAD:g}): its weights are untrained, and wrong models would agree with it"
            )
            return Accuracy("not_applicable", reference, agreement, detail=why)
        most = self.spec.max_mean_difference or default_limit(engine.identity)
        objections = agreement.objections(most, self.spec.max_perplexity_ratio)
        limits = f"allowed {most:g} nats, ratio {self.spec.max_perplexity_ratio:g}"
        decoding = decoding_of(scorer, self.pieces)
        if decoding is not None and not decoding.mean_difference <= most:
            objections.append(f"decoding {decoding.mean_difference:.4g} nats > {most:g}")
        told = [", ".join(objections) or limits, f"contexts to {max(map(len, self.pieces))} tokens"]
        if decoding is None and not scorer.scores_by_decoding:
            told.append("prompts alone: it does not tell how it decodes")
        if self.tasks is not None:
            scores, below = self.tasks.run(engine, scorer)
            objections += below
            told.append(scores)
        status: AccuracyStatus = "disagrees" if objections else "agrees"
        return Accuracy(status, reference, agreement, decoding, "; ".join(told))


def decoding_of(scorer: Scorer, pieces: Sequence[np.ndarray]) -> Agreement | None:
    """How probable drawn tokens were to an engine as it decoded them, against what they are in a prompt.

    The pieces lose their ends to what is drawn, so that nothing is longer than they are. None of an engine that does
    not tell.

    Raises:
        EngineError: the engine cannot go on.
    """
    longest = max(map(len, pieces))
    count = min(-(-DRAWN_TOKENS // len(pieces)), longest // 2)
    prompts = [piece[: max(1, len(piece) - count)] for piece in pieces]
    drawn = scorer.continuations(prompts, count)
    if drawn is None:
        return None
    whole = [np.concatenate([prompt, one.tokens]) for prompt, one in zip(prompts, drawn, strict=True)]
    again = scorer.prompt_logprobs(whole)
    return compare(
        [one.logprobs for one in drawn], [all_of[-len(one.tokens) :] for all_of, one in zip(again, drawn, strict=True)]
    )


def gate_of(spec: BenchSpec, engine: Engine, longest_context: int, vocabulary: int) -> Gate | None:
    """The check that a bench asks for, its reference open and its tokens cut; nothing is loaded yet. None without one.

    Args:
        spec: the bench.
        engine: its engine.
        longest_context: tokens that the engine will be loaded for, which the check does not change.
        vocabulary: random tokens are below it.

    Raises:
        UserError: the check cannot be made as it is asked for.
    """
    asked = spec.accuracy
    if asked is None:
        return None
    identity = engine.identity
    if identity.weights_source == "random":
        return Gate(asked, "weights are random: each engine makes others of the same seed")
    _refuse_silent(engine, spec.engine, "engine")
    weights = asked.reference_weights or spec.weights
    if weights == "random":
        raise UserError("[bench.accuracy] needs reference_weights: the bench names no saved weights")
    reference = open_engine(reference_spec(spec, asked, weights))
    _refuse_silent(reference, asked.reference, "reference")
    length = min(asked.length, longest_context - 1)
    reference.check(1 + length, vocabulary if asked.tokens == "random" else 1)
    pieces = pieces_of(asked, weights, length, vocabulary)
    tasks = Tasks.of(asked, weights, longest_context) if asked.lm_eval else None
    return Gate(asked, None, reference, pieces, tasks)


def _refuse_silent(engine: Engine, name: str, role: str) -> None:
    if scorer_of(engine) is None:
        raise UserError(f"[bench.accuracy] compares probabilities of tokens, and {role} {name!r} tells none")


def reference_spec(spec: BenchSpec, asked: AccuracySpec, weights: str) -> BenchSpec:
    """The bench as the reference is opened with: the same model, and nothing of the engine's own options."""
    options = asked.reference_options
    if asked.reference == "hf_transformers":
        options = {"mode": "generate", **options}
    return spec.model_copy(
        update={
            "engine": asked.reference,
            "model": asked.reference_model or spec.model,
            "weights": weights,
            "dtype": asked.reference_dtype,
            "device": asked.reference_device or spec.device,
            "options": options,
            "accuracy": None,
        }
    )


def default_limit(identity: EngineIdentity) -> float:
    """Nats per token that an engine may be off, by the formats that it says it has; the larger where it does not."""
    cache = identity.kv_cache_dtype or ""
    has_narrow_cache = any(bits in cache for bits in ("8", "4"))
    return PLAIN_LIMIT if identity.quantization == "none" and not has_narrow_cache else QUANTISED_LIMIT


def named(identity: EngineIdentity, asked: AccuracySpec) -> str:
    """A reference in words: engine, version, dtype, and its weights where they are not the engine's."""
    own = "" if asked.reference_weights is None else f", weights {asked.reference_weights}"
    return f"{identity.name} {identity.version}, {identity.dtype}{own}"


def _scorer(engine: Engine) -> Scorer:
    scorer = scorer_of(engine)
    assert scorer is not None, "gate_of has asked"
    return scorer
