"""Tasks of lm-evaluation-harness, answered by what an engine tells; with lm-eval itself where it is installed.

It is in the environment of `make test-vllm`, whose warnings are no errors: it warns of much.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from tests.accuracy.engines import loaded, spec_of
from tests.accuracy.trained import TEXT
from tests.accuracy.writing import by_transformers
from tests.accuracy.wrong_models import WRONG

from tokenwatt.bench.accuracy import Gate, gate_of
from tokenwatt.bench.accuracy.tasks import continuation_logprobs
from tokenwatt.engines import open_engine
from tokenwatt.errors import EngineError, UserError
from tokenwatt.spec import AccuracySpec, LmEvalTask

needs_lm_eval = pytest.mark.skipif(find_spec("lm_eval") is None, reason="lm-eval is not installed: pip install lm-eval")


class Counting:
    """A token is as probable as exp(-its id)."""

    scores_by_decoding = True

    def __init__(self) -> None:
        self.longest = 0

    def continuations(self, prompts: Sequence[np.ndarray], count: int) -> None:
        return None

    def prompt_logprobs(self, prompts: Sequence[np.ndarray]) -> list[np.ndarray]:
        self.longest = max(self.longest, *map(len, prompts))
        return [-prompt[1:].astype(np.float32) for prompt in prompts]


def test_only_the_tokens_of_the_choice_count():
    scorer = Counting()
    assert continuation_logprobs(scorer, [([9, 9], [1, 2]), ([5], [4]), ([3, 3], [])], 10) == [-3.0, -4.0, 0.0]
    # More than are scored together.
    many = [([1], [place]) for place in range(150)]
    assert continuation_logprobs(scorer, many, 10) == [-float(place) for place in range(150)]


def test_a_context_that_is_too_long_loses_its_beginning():
    scorer = Counting()
    assert continuation_logprobs(scorer, [(list(range(50)), [7, 8])], 10) == [-15.0]
    assert scorer.longest == 10
    with pytest.raises(EngineError, match="a choice has 10 tokens, the engine is loaded for prompts of 10"):
        continuation_logprobs(scorer, [([1], [7] * 10)], 10)


@pytest.mark.skipif(find_spec("lm_eval") is not None, reason="lm-eval is installed")
def test_without_lm_eval_one_line_says_how_to_install_it(trained):
    with pytest.raises(UserError, match=r"\[\[bench.accuracy.lm_eval\]\] needs .*: pip install lm-eval"):
        gate(trained, LmEvalTask(task="arc_easy", min_score=0.5))


def gate(folder: Path, *tasks: LmEvalTask, weights: Path | None = None) -> Gate:
    accuracy = AccuracySpec(
        sequences=1, lm_eval=tasks, reference_weights=str(folder), max_mean_difference=10.0, max_perplexity_ratio=100.0
    )
    spec = spec_of(weights or folder, accuracy=accuracy)
    found = gate_of(spec, open_engine(spec), 97, 256)
    assert found is not None
    return found


TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: {kind}
doc_to_text: "{{{{before}}}}"
doc_to_target: {target}
target_delimiter: ""
metric_list: [{{metric: {metric}}}]
{more}
"""
WRITES = """
generation_kwargs: {until: ["."], max_gen_toks: 5, do_sample: false}
"""


@pytest.fixture
def tasks(trained, tmp_path) -> Path:
    """Tasks of one's own: which of four strings is English, of which three are turned round or have other letters; and
    what the model writes after a text, by transformers."""
    text = TEXT.read_text(encoding="utf-8")[:560]
    questions = []
    for start in range(0, 480, 20):
        right = text[start + 40 : start + 60]
        wrong = [right[::-1], codecs.encode(right, "rot13"), right.swapcase()]
        before = text[start : start + 40]
        answer = by_transformers(trained, before, 5).split(".")[0]
        questions.append({"before": before, "choices": [right, *wrong], "answer": answer})
    data = tmp_path / "questions.jsonl"
    data.write_text("".join(json.dumps(question) + "\n" for question in questions))
    for name, kind, target, metric, more in (
        ("reads_well", "multiple_choice", "0", "acc", "doc_to_choice: choices"),
        ("writes", "generate_until", "answer", "exact_match", WRITES),
        ("reads_on", "loglikelihood_rolling", "0", "word_perplexity", ""),
    ):
        task = TASK.format(name=name, data=data, kind=kind, target=target, metric=metric, more=more)
        (tmp_path / f"{name}.yaml").write_text(task)
    return tmp_path


@needs_lm_eval
@pytest.mark.slow
def test_a_task_of_one_s_own_is_passed_by_the_model_and_failed_by_a_wrong_one(trained, tasks, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    asked = LmEvalTask(task="reads_well", min_score=0.9, include_path=str(tasks))
    found = []
    for weights in (trained, next(w for w in WRONG if "another seed" in w.name).make(trained, tmp_path / "wrong")):
        check = gate(trained, asked, weights=weights)
        check.refer()
        found.append(check.check(loaded(spec_of(weights), 97)))
    right, wrong = found
    assert right.status == "agrees", right.detail
    assert "; lm_eval reads_well acc " in str(right.detail)
    # Of four choices a model that knows nothing finds about one.
    assert wrong.status == "disagrees"
    assert "reads_well 0." in str(wrong.detail)
    assert "< 0.9" in str(wrong.detail)
    check = gate(trained, asked.model_copy(update={"metric": "f1", "limit": 2}))
    check.refer()
    with pytest.raises(EngineError, match="task 'reads_well' has no metric 'f1'; known: acc"):
        check.check(loaded(spec_of(trained), 97))


@needs_lm_eval
@pytest.mark.slow
def test_answers_that_are_written_are_served_by_the_engine(trained, tasks, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    asked = LmEvalTask(task="writes", metric="exact_match", min_score=0.8, include_path=str(tasks))
    check = gate(trained, asked)
    check.refer()
    right = check.check(loaded(spec_of(trained), 97))
    assert right.status == "agrees", right.detail
    assert "; lm_eval writes exact_match " in str(right.detail)
    wrong = next(w for w in WRONG if "another seed" in w.name).make(trained, tmp_path / "wrong")
    assert "writes 0 < 0.8" in str(check.check(loaded(spec_of(wrong), 97)).detail)


@needs_lm_eval
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("reads_on", "is loglikelihood_rolling; allowed: multiple_choice or generate_until"),
        ("absent_task", "cannot be loaded: "),
    ],
)
def test_a_task_that_cannot_be_a_check_is_refused_before_anything_runs(trained, tasks, name, message):
    with pytest.raises(UserError, match=message):
        gate(trained, LmEvalTask(task=name, min_score=0.9, include_path=str(tasks)))
