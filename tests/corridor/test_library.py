"""The library: every workload says where its lengths come from, and has the means that it states."""

from __future__ import annotations

import itertools
import re
import tomllib

import numpy as np
import pytest

from tokenwatt.spec import validate
from tokenwatt.workloads import Workload, library_folder, load_workload

SHIPPED = sorted(path.stem for path in library_folder().glob("*.toml"))
FIRST = {
    # Frozen: a change here means that published rows can no longer be compared by workload_sha256.
    "chat": "1da93465dab3153b",
    "chat-smoke": "ce57718b134f563c",
    "reason": "94bce406730aa455",
    "summarise": "6fbd611cf8cc0a3a",
    "summarise-smoke": "a92a9e5d12b09720",
}
"""Those that came before sources stood in the description; the README says that they are round figures."""
MEANS = {
    # Prompt and output, tokens: what the sources say (see each file), within what a lognormal can do.
    "code-completion": (1976, 30),
    "mlperf-llama2-70b": (314, 294.45),
    "mlperf-llama3.1-8b": (943, 128),
    "mlperf-llama3.1-405b": (9430, 684.68),
    "mlperf-deepseek-r1": (512, 3886.2274),
    "mlperf-gpt-oss-120b": (1024, 1278.20),
    "mlperf-mixtral-8x7b": (435, 145.9),
}


def test_the_library_has_every_kind_of_traffic():
    assert {"chat", "summarise", "reason", "code-completion", "agentic", "batch-offline", "shared-prompt"} <= set(
        SHIPPED
    )
    assert {name for name in SHIPPED if name.startswith("mlperf-")} == {name for name in MEANS if "mlperf" in name}


@pytest.mark.parametrize("name", FIRST)
def test_what_was_asked_before_is_asked_still(name):
    assert load_workload(name).sha256()[:16] == FIRST[name]


@pytest.mark.parametrize("name", sorted(set(SHIPPED) - set(FIRST)))
def test_a_description_names_its_source(name):
    assert re.search(r"Source: (https://\S+$|none; round figures)", load_workload(name).description)


@pytest.mark.parametrize("name", SHIPPED)
def test_the_readme_describes_every_workload(name):
    readme = (library_folder() / "README.md").read_text()
    assert f"| `{name}` |" in readme


def test_the_examples_of_the_readme_are_workloads():
    blocks = re.findall(r"```toml\n(.*?)```", (library_folder() / "README.md").read_text(), re.DOTALL)
    read = [validate({"name": "w", "description": "d", **tomllib.loads(block)}, Workload, "README") for block in blocks]
    assert [(each.turns is not None, each.trace is not None, each.sharegpt is not None) for each in read] == [
        (True, False, False),
        (False, True, False),
        (False, False, True),
    ]


@pytest.mark.parametrize("name", MEANS)
def test_two_thousand_draws_have_the_means_of_the_source(name):
    requests = list(itertools.islice(load_workload(name).requests(), 2000))
    for lengths, mean in zip(
        np.array([(len(request.prompt), request.max_tokens) for request in requests]).T, MEANS[name], strict=True
    ):
        # Four standard errors, and five percent where a lognormal cannot have both mean and median.
        fit = 0.05 if name == "code-completion" else 0.002
        assert lengths.mean() == pytest.approx(mean, abs=4 * lengths.std() / len(lengths) ** 0.5 + fit * mean)


@pytest.mark.parametrize("name", SHIPPED)
def test_no_request_is_longer_than_said(name):
    workload = load_workload(name)
    requests = list(itertools.islice(workload.requests(), 300))
    assert max(len(request.prompt) + request.max_tokens for request in requests) <= workload.longest()


def test_most_of_a_shared_prompt_is_shared():
    # 1024 tokens of prefix; own prompts of median 256, so about 320 on average.
    assert 0.15 < load_workload("shared-prompt").unique_share() < 0.3
    assert load_workload("agentic").unique_share() < load_workload("shared-prompt").unique_share()
