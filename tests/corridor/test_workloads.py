"""Workloads: same seed, same bytes; lengths as declared."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwatt.errors import UserError
from tokenwatt.workloads import FixedLength, LognormalLength, Sampling, Workload, library_folder, load_workload

SHIPPED = sorted(path.stem for path in library_folder().glob("*.toml"))


def workload(seed=0, **changes) -> Workload:
    parts: dict[str, Any] = {"input": FixedLength(tokens=8), "output": FixedLength(tokens=4), **changes}
    return Workload(name="w", description="d", seed=seed, vocabulary=100, **parts)


@given(seed=st.integers(0, 2**31), index=st.integers(0, 10_000))
def test_a_request_depends_on_seed_and_index_alone(seed, index):
    first, second = workload(seed).request(index), workload(seed).request(index)
    assert first.prompt.tobytes() == second.prompt.tobytes()
    assert first.prompt.dtype == np.int32
    assert len(first.prompt) == 8
    assert first.max_tokens == 4
    assert 0 <= first.prompt.min() <= first.prompt.max() < 100


def test_a_longer_run_sends_the_same_requests_first():
    requests = list(itertools.islice(workload().requests(), 5))
    assert [request.index for request in requests] == [0, 1, 2, 3, 4]
    assert requests[3].prompt.tobytes() == workload().request(3).prompt.tobytes()


def test_the_hash_tells_seeds_and_lengths_apart():
    hashes = {workload(0).sha256(), workload(1).sha256(), workload(0, output=FixedLength(tokens=5)).sha256()}
    assert len(hashes) == 3
    assert workload(0).sha256() == workload(0).sha256()


def test_the_hash_is_the_same_on_every_machine():
    # Frozen: a change here means that published rows can no longer be compared by workload_sha256.
    assert load_workload("chat-smoke").sha256()[:16] == "ce57718b134f563c"


def test_sampling_changes_the_hash_and_no_prompt():
    plain, samplings = workload(), [Sampling(temperature=0.7), Sampling(temperature=0.7, top_k=5), Sampling(top_k=5)]
    assert workload(sampling=Sampling()).sha256() == plain.sha256()
    assert len({plain.sha256(), *(workload(sampling=sampling).sha256() for sampling in samplings)}) == 4
    sampled = workload(sampling=samplings[0]).request(3)
    assert sampled.prompt.tobytes() == plain.request(3).prompt.tobytes()
    assert (sampled.seed, sampled.max_tokens) == (plain.request(3).seed, 4)
    assert (sampled.sampling, plain.request(3).sampling) == (samplings[0], Sampling())


def test_every_request_has_its_seed():
    seeds = [workload(seed).request(index).seed for seed in range(20) for index in range(20)]
    assert len(set(seeds)) == 400
    assert 0 <= min(seeds) < 2**58
    assert 2**62 < max(seeds) < 2**63
    # Frozen: a change here means that sampled rows can no longer be compared.
    assert workload(7).request(3).seed == 6448789463074183947


def test_sampling_is_read_from_toml(tmp_path):
    path = tmp_path / "w.toml"
    path.write_text(
        'name = "w"\ndescription = "d"\n[input]\nkind = "fixed"\ntokens = 1\n[output]\nkind = "fixed"\ntokens = 1\n'
        "[sampling]\ntemperature = 1\ntop_k = 40\ntop_p = 0.9\nmin_p = 0.05\nrepetition_penalty = 1.1\n"
        "stop_token_ids = [2, 7]\n"
    )
    assert load_workload(str(path)).request(0).sampling == Sampling(
        temperature=1.0, top_k=40, top_p=0.9, min_p=0.05, repetition_penalty=1.1, stop_token_ids=(2, 7)
    )
    path.write_text(path.read_text().replace("0.9", "1.9"))
    with pytest.raises(UserError, match="sampling.top_p: input should be less than or equal to 1, got 1.9"):
        load_workload(str(path))


def test_lognormal_lengths_have_their_median_and_stay_within_bounds():
    length = LognormalLength(kind="lognormal", median=100, sigma=0.5, min=40, max=300)
    drawn = [workload(input=length).request(index).prompt.size for index in range(800)]
    assert 40 <= min(drawn) <= max(drawn) <= 300
    # Standard error of the median of 800 lognormal draws: 100 x 0.5 x 1.2533 / sqrt(800) = 2.2; four of them.
    assert np.median(drawn) == pytest.approx(100, abs=9)
    # ln(300 / 100) / 0.5 = 2.2 sigma: about 1.4 % are clipped at the top, ln(100 / 40) / 0.5 = 1.8: 3.3 % below.
    assert 0.001 < np.mean(np.array(drawn) == 300) < 0.04
    assert workload(input=length).longest() == 304


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_workloads_load_and_are_named_after_their_file(name):
    assert load_workload(name).name == name


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("tokens = -5", "tokens: input should be greater than 0, got -5"),
        ("tokens = 1.5", "got 1.5"),
        ("tokens = 99999999999999999999", "input.fixed.tokens: input should be less than or equal to 16777216"),
        ("", "missing key 'input.fixed.tokens'"),
    ],
)
def test_bad_lengths_are_refused(tmp_path, line, message):
    path = tmp_path / "w.toml"
    path.write_text(
        f'name = "w"\ndescription = "d"\n[input]\nkind = "fixed"\n{line}\n[output]\nkind = "fixed"\ntokens = 1\n'
    )
    with pytest.raises(UserError) as error:
        load_workload(str(path))
    assert message in str(error.value)


def test_unordered_lognormal_bounds_are_refused(tmp_path):
    path = tmp_path / "w.toml"
    path.write_text(
        'name = "w"\ndescription = "d"\n[input]\nkind = "lognormal"\nmedian = 5\nsigma = 1.0\nmin = 9\nmax = 10\n'
        '[output]\nkind = "fixed"\ntokens = 1\n'
    )
    with pytest.raises(UserError, match="needs min <= median <= max, got 9, 5, 10"):
        load_workload(str(path))


def test_an_unknown_workload_is_answered_with_the_known_ones():
    with pytest.raises(
        UserError, match=r"unknown workload 'chatt' \(did you mean 'chat'\?\); known: .*, chat, chat-smoke"
    ):
        load_workload("chatt")
    with pytest.raises(UserError, match="no such workload file: absent.toml"):
        load_workload("absent.toml")
