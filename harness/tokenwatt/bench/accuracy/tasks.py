"""Tasks of lm-evaluation-harness, answered by the engine: each must reach its score.

Of several choices the answer is the one whose tokens are most probable, which is what a `Scorer` tells; where an answer
is to be written, the engine serves it as it serves any request.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from tokenwatt.bench.accuracy.pieces import load_tokenizer
from tokenwatt.bench.accuracy.writing import MOST_WRITTEN, Wanted, Writer, ends_of
from tokenwatt.engines.protocol import Engine, Scorer
from tokenwatt.errors import EngineError, UserError
from tokenwatt.spec import AccuracySpec, LmEvalTask

if TYPE_CHECKING:
    from lm_eval.api.model import TemplateLM
    from transformers import PreTrainedTokenizerBase

AT_ONCE = 64
"""Requests that are scored together."""
KINDS = ("multiple_choice", "generate_until")
"""Of lm-eval's tasks, those that can be answered."""


@dataclass(frozen=True, slots=True)
class Tasks:
    """The tasks of one bench, loaded."""

    asked: tuple[LmEvalTask, ...]
    loaded: tuple[dict[str, Any], ...]
    """Of each, what lm-eval's TaskManager loads: its task by name."""
    tokenizer: PreTrainedTokenizerBase
    ends: tuple[int, ...]
    """Tokens that end a written answer."""
    longest: int
    """Tokens that a context and a choice may have together; longer ones lose their beginning, as lm-eval's own do."""

    @classmethod
    def of(cls, spec: AccuracySpec, weights: str, longest_context: int) -> Tasks:
        """Load the tasks of a table, which may fetch their data.

        Raises:
            UserError: no lm-eval, no such task, no data, or a task of a kind that cannot be answered.
        """
        if find_spec("lm_eval") is None:
            raise UserError("[[bench.accuracy.lm_eval]] needs lm-evaluation-harness: pip install lm-eval")
        tokenizer = load_tokenizer(spec.tokenizer or weights)
        loaded, ends = tuple(map(_load, spec.lm_eval)), ends_of(tokenizer, weights)
        return cls(spec.lm_eval, loaded, tokenizer, ends, longest_context - 1)

    def run(self, engine: Engine, scorer: Scorer) -> tuple[str, list[str]]:
        """Scores in words, and which of them are too low.

        Raises:
            EngineError: the engine cannot answer, or a task has no such metric.
        """
        cut = Counter[str]()
        writer = Writer(engine, self.tokenizer, self.ends, self.longest + 1, cut)
        model = _as_model(writer, scorer, self.longest)
        scores = [(asked, _score(model, asked, loaded)) for asked, loaded in zip(self.asked, self.loaded, strict=True)]
        told = [f"lm_eval {asked.task} {asked.metric} {score:.4g}" for asked, score in scores]
        told += [f"{count} {what} cut to {self.longest} tokens" for what, count in cut.items() if count]
        low = [f"{asked.task} {score:.4g} < {asked.min_score:g}" for asked, score in scores if score < asked.min_score]
        return ", ".join([*told, *low]), low


def _load(asked: LmEvalTask) -> dict[str, Any]:
    from lm_eval.models.utils import normalize_gen_kwargs
    from lm_eval.tasks import TaskManager

    try:
        own = asked.include_path  # lm-eval's own thousands take seconds to list
        tasks = TaskManager(include_path=own, include_defaults=own is None).load([asked.task])["tasks"]
    except (OSError, ValueError, KeyError) as error:  # no such task, or no data: what lm-eval and datasets raise
        why = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"lm_eval task {asked.task!r} cannot be loaded: {why}") from None
    for name, task in tasks.items():
        if task.OUTPUT_TYPE not in KINDS:
            raise UserError(f"lm_eval task {name!r} is {task.OUTPUT_TYPE}; allowed: {' or '.join(KINDS)}")
        if task.OUTPUT_TYPE == "generate_until":
            Wanted.of("", normalize_gen_kwargs(dict(task.config.generation_kwargs or {})))
    if asked.task not in tasks:
        raise UserError(f"lm_eval task {asked.task!r} is a group; name its tasks: {', '.join(list(tasks)[:5])} ...")
    return tasks


def _score(model: TemplateLM, asked: LmEvalTask, loaded: dict[str, Any]) -> float:
    from lm_eval import simple_evaluate

    answer = simple_evaluate(
        model=model, tasks=list(loaded.values()), limit=asked.limit, bootstrap_iters=0, log_samples=False
    )
    results = {} if answer is None else answer["results"][asked.task]
    score = results.get(asked.metric if "," in asked.metric else f"{asked.metric},none")
    if not isinstance(score, int | float):
        known = sorted(name.removesuffix(",none") for name in results if "," in name and "_stderr," not in name)
        raise EngineError(f"lm_eval task {asked.task!r} has no metric {asked.metric!r}; known: {', '.join(known)}")
    return float(score)


def continuation_logprobs(scorer: Scorer, pairs: Sequence[tuple[list[int], list[int]]], longest: int) -> list[float]:
    """Log-probability of each continuation after its context, both in tokens; contexts that are too long are cut.

    Raises:
        EngineError: a continuation that is longer than a context may be.
    """
    too_long = max((len(continuation) for _, continuation in pairs), default=0)
    if too_long >= longest:
        raise EngineError(f"a choice has {too_long} tokens, the engine is loaded for prompts of {longest}")
    prompts = [np.array([*context, *continuation][-longest:], dtype=np.int32) for context, continuation in pairs]
    found = list[np.ndarray]()
    for start in range(0, len(prompts), AT_ONCE):
        found += scorer.prompt_logprobs(prompts[start : start + AT_ONCE])
    return [
        float(logprobs[-len(continuation) :].sum(dtype=np.float64)) if continuation else 0.0
        for logprobs, (_, continuation) in zip(found, pairs, strict=True)
    ]


def _as_model(writer: Writer, scorer: Scorer, longest: int) -> TemplateLM:
    """What lm-eval calls a model: it makes tokens of texts, and sums or texts of what the engine tells."""
    from lm_eval.api.model import TemplateLM
    from lm_eval.models.utils import normalize_gen_kwargs

    tokenizer = writer.tokenizer

    class ScoredModel(TemplateLM):
        """An engine for choices and short answers."""

        @property
        def eot_token_id(self) -> int:
            """Stands before a choice that has no context."""
            first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
            return 0 if first is None else first

        def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
            """Tokens, with those that the tokenizer puts around a text unless told otherwise."""
            return tokenizer.encode(string, add_special_tokens=add_special_tokens is not False)

        def _loglikelihood_tokens(
            self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **kwargs: Any
        ) -> list[tuple[float, bool]]:
            """Whether a choice is what the engine itself would say is not known, and multiple choice does not ask."""
            pairs = [(context, continuation) for _, context, continuation in requests]
            writer.cut["choices"] += sum(len(context) + len(choice) > longest for context, choice in pairs)
            return [(logprob, False) for logprob in continuation_logprobs(scorer, pairs, longest)]

        def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
            """Of whole texts, for which no task of `KINDS` asks; lm-eval's interface wants it all the same."""
            raise EngineError(f"lm_eval asks about whole texts; allowed: tasks of {' or '.join(KINDS)}")

        def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
            """Answers that are served."""
            asked = [request.args for request in requests]
            wanted = [Wanted.of(text, normalize_gen_kwargs(settings, MOST_WRITTEN)) for text, settings in asked]
            return writer.write(wanted)

    return ScoredModel()
