"""Sampling: the filters of transformers, draws of the right frequency, and tokens that no other row can change."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, cast

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from transformers.generation import logits_process

from tokenwatt.engines.native import sampling as module
from tokenwatt.engines.native.noise import exponential, random_bits
from tokenwatt.engines.native.sampling import NO_TOKEN, _filtered, _penalised, sample
from tokenwatt.engines.native.sampling_batch import SamplingBatch, Way
from tokenwatt.errors import UserError
from tokenwatt.spec import validate
from tokenwatt.workloads import Sampling

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
INFINITY = float("inf")
# One sampling, or more, of each way.
KINDS = {
    "greedy": Sampling(),
    "greedy, penalised": Sampling(repetition_penalty=1.5, top_p=0.5),
    "few": Sampling(temperature=0.8, top_k=50, top_p=0.9, min_p=0.01),
    "few, penalised": Sampling(temperature=1.5, top_k=128, repetition_penalty=0.7),
    "whole": Sampling(temperature=1.0),
    "whole, min-p": Sampling(temperature=1.2, min_p=0.05, repetition_penalty=1.2),
    "bounded": Sampling(temperature=2.0, top_k=200),
    "bounded higher": Sampling(temperature=2.0, top_k=250, min_p=0.01),
    "sorted": Sampling(temperature=0.9, top_p=0.95),
    "sorted, top-k": Sampling(temperature=1.1, top_p=0.9, top_k=150, min_p=0.02),
}
# Filters that a vocabulary of 8 tokens takes each way.
ONE_OF_EACH_WAY = [
    Sampling(temperature=1.0, top_k=8),
    Sampling(temperature=1.0),
    Sampling(temperature=1.0, top_k=129),
    Sampling(temperature=1.0, top_p=0.9999),
]
BY_WAY = pytest.mark.parametrize("sampling", ONE_OF_EACH_WAY, ids=lambda sampling: Way.of(sampling).name.lower())


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def batch_of(*samplings: Sampling, seeds: list[int] | None = None, device: torch.device = CPU) -> SamplingBatch:
    return SamplingBatch.of(samplings, list(range(len(samplings))) if seeds is None else seeds, device)


def draws(logits: Tensor, sampling: Sampling, seeds: list[int], positions: Tensor) -> Tensor:
    """Tokens of one row of logits [V] at every seed and position."""
    rows = logits.expand(len(seeds), -1).contiguous()
    return sample(rows, batch_of(*[sampling] * len(seeds), seeds=seeds), positions)


def probabilities(logits: Tensor, sampling: Sampling, seen: Tensor | None = None) -> Tensor:
    """[V] of one row [V], fp64: what may be drawn, and how likely."""
    batch = batch_of(sampling)
    row = _penalised(logits[None], batch.penalty, None if seen is None else seen[None])
    scores, tokens = _filtered(row, batch.groups[0])
    return torch.zeros(logits.shape[0], dtype=torch.float64).scatter(0, tokens[0], scores[0].double().softmax(0))


def test_one_of_each_way_is_tested():
    assert {Way.of(sampling) for sampling in KINDS.values()} == set(Way)
    assert [Way.of(sampling) for sampling in ONE_OF_EACH_WAY] == list(Way)


# ---- filters


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [0.4, 0.3, 0.2, 0.1]),
        # 4/10, 3/10 and 2/10 of 9/10.
        ({"top_k": 3}, [4 / 9, 3 / 9, 2 / 9, 0]),
        # 0.4 is not yet 0.5, 0.7 is.
        ({"top_p": 0.5}, [4 / 7, 3 / 7, 0, 0]),
        # Of the 3 that top-k left, the first two are 7/9 > 0.75; of all 4 they would be 0.7, and the third would stay.
        ({"top_k": 3, "top_p": 0.75}, [4 / 7, 3 / 7, 0, 0]),
        # 0.3 is 0.75 of 0.4, and 0.2 is 0.5 of it.
        ({"min_p": 0.6}, [4 / 7, 3 / 7, 0, 0]),
        ({"min_p": 0.8}, [1, 0, 0, 0]),
        # Square roots of 0.4 to 0.1, in parts of 0.1^(1/2): 2, 3^(1/2), 2^(1/2), 1.
        ({"temperature": 2.0}, [part / (3 + 3**0.5 + 2**0.5) for part in (2, 3**0.5, 2**0.5, 1)]),
        ({"top_p": 1e-300}, [1, 0, 0, 0]),
    ],
)
def test_filters_by_hand(changes, expected):
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()
    found = probabilities(logits, Sampling.model_validate({"temperature": 1.0, **changes}))
    assert found.tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("top_k", [0, 4])
def test_a_probability_that_is_reached_exactly_is_enough(top_k):
    found = probabilities(torch.zeros(4), Sampling(temperature=1.0, top_k=top_k, top_p=0.5))
    assert found.tolist() == [0.5, 0.5, 0, 0]


def test_many_small_probabilities_add_up():
    # In parts of the largest: 1 and 99,999 times w = e^-14 = 8.3e-7. After the largest, 0.95 of all needs n of the
    # others, the last of which reaches it: n w >= 0.95 (1 + 99,999 w) - 1.
    logits = torch.full((100_000,), -14.0).index_fill(0, torch.tensor([5]), 0.0)
    w = math.exp(-14)
    kept = probabilities(logits, Sampling(temperature=1.0, top_p=0.95)).count_nonzero()
    assert int(kept) == 1 + math.ceil((0.95 * (1 + 99_999 * w) - 1) / w)


def test_the_penalty_by_hand():
    # Seen: 2 / 2 = 1, -1 * 2 = -2, and 0 stays. Not seen: 1 stays. e^1, e^-2, e^0, e^1.
    found = probabilities(
        torch.tensor([2.0, -1.0, 0.0, 1.0]),
        Sampling(temperature=1.0, repetition_penalty=2.0),
        torch.tensor([True, True, True, False]),
    )
    parts = [math.exp(logit) for logit in (1, -2, 0, 1)]
    assert found.tolist() == pytest.approx([part / sum(parts) for part in parts])


def by_transformers(logits: Tensor, sampling: Sampling, seen: Tensor, nudge: float) -> Tensor:
    """log-probabilities [V], fp64, at limits of top-p and min-p that are moved by a share `nudge`."""
    top_p, min_p = sampling.top_p * (1 + nudge), sampling.min_p * (1 - nudge)
    processors = [
        logits_process.RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty),
        logits_process.TemperatureLogitsWarper(sampling.temperature),
        logits_process.TopKLogitsWarper(sampling.top_k or len(logits)),
        *([logits_process.TopPLogitsWarper(top_p)] if sampling.top_p < 1 else []),
        logits_process.MinPLogitsWarper(min_p),
    ]
    ids, scores = cast("torch.LongTensor", seen.nonzero().T), logits.double()[None]
    for process in processors:
        scores = process(ids, scores)
    return scores[0].log_softmax(0)


@settings(max_examples=200, deadline=None)
@given(
    vocabulary=st.sampled_from([3, 100, 127, 128, 129, 1000]),
    seed=st.integers(0, 2**31),
    spread=st.sampled_from([0.5, 2.0, 8.0]),
    sampling=st.builds(
        Sampling,
        repetition_penalty=st.one_of(st.just(1.0), st.floats(0.5, 2.0)),
        temperature=st.floats(0.1, 3.0),
        top_k=st.one_of(st.just(0), st.integers(1, 128), st.integers(129, 1010)),
        top_p=st.one_of(st.just(1.0), st.floats(0.001, 0.99)),
        min_p=st.one_of(st.just(0.0), st.floats(0.0001, 0.9)),
    ),
)
def test_filters_are_those_of_transformers(vocabulary, seed, spread, sampling):
    logits, seen = spread * randn(vocabulary, seed=seed), randn(vocabulary, seed=seed + 1) > 0.5
    penalised = _penalised(logits[None], batch_of(sampling).penalty, seen[None])[0]
    assume(len(penalised.unique()) == vocabulary)  # of equal logits transformers leaves more, or others
    expected = by_transformers(logits, sampling, seen, nudge=0.0)
    for nudge in (-1e-4, 1e-4):  # a token at a limit falls to either side as numbers are rounded
        assume(torch.equal(by_transformers(logits, sampling, seen, nudge).isneginf(), expected.isneginf()))
    found = probabilities(logits, sampling, seen)
    assert torch.equal(found == 0, expected.exp() == 0)
    torch.testing.assert_close(found, expected.exp(), rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("top_k", [3, 200])
def test_of_equal_logits_the_lower_ids_are_left(top_k):
    # One token on top, then equal ones from id 4 on. transformers leaves all of them.
    logits = torch.zeros(300).index_fill(0, torch.arange(4), -1.0).index_fill(0, torch.tensor([250]), 2.0)
    kept = probabilities(logits, Sampling(temperature=1.0, top_k=top_k)).nonzero()[:, 0].tolist()
    assert kept == [*range(4, 4 + top_k - 1), 250]
    by_them = logits_process.TopKLogitsWarper(top_k)(cast("torch.LongTensor", torch.empty(1, 0)), logits[None])
    assert int(by_them.isfinite().sum()) == 296


def test_a_row_without_top_p_keeps_what_is_all_but_impossible():
    # e^-60 is less than 2^-42, so its weight in the sums of top-p is 0.
    logits = torch.tensor([0.0, -60.0])
    for sampling in (Sampling(temperature=1.0, top_k=2), Sampling(temperature=1.0)):
        assert probabilities(logits, sampling).tolist() == pytest.approx([1.0, math.exp(-60)], rel=1e-4, abs=0)


# ---- draws

POSITIONS = torch.arange(20_000)
LOGITS = torch.tensor([0.0, 1.0, -1.0, 0.5, 2.0, -2.0, 1.5, 0.25])
# What a chi-square variable with so many degrees of freedom exceeds once in a thousand times.
CHI_SQUARE = {3: 16.27, 7: 24.32, 49: 85.35}


def chi_square(counts: Tensor, expected: Tensor) -> float:
    return float(((counts - expected) ** 2 / expected).sum())


@BY_WAY
@pytest.mark.parametrize("varied", ["positions", "seeds"])
def test_tokens_are_drawn_as_often_as_they_should(sampling, varied):
    count = len(POSITIONS)
    seeds, positions = ([7] * count, POSITIONS) if varied == "positions" else (list(range(count)), POSITIONS * 0 + 7)
    counts = draws(LOGITS, sampling, seeds, positions).bincount(minlength=8)
    assert chi_square(counts, LOGITS.double().softmax(0) * count) < CHI_SQUARE[7]


def test_filtered_tokens_are_drawn_as_often_as_they_should():
    sampling = Sampling(temperature=0.7, top_k=5, top_p=0.9, min_p=0.1)
    expected = probabilities(LOGITS, sampling) * len(POSITIONS)
    kept = expected > 0
    # Parts of top-k, e^((logit - 2) / 0.7): 1, 0.490, 0.240, 0.117, 0.082. The first three are 1.729 of 1.929: 0.897.
    assert kept.nonzero()[:, 0].tolist() == [1, 3, 4, 6]
    counts = draws(LOGITS, sampling, [3] * len(POSITIONS), POSITIONS).bincount(minlength=8)
    assert counts[~kept].tolist() == [0] * 4
    assert chi_square(counts[kept], expected[kept]) < CHI_SQUARE[3]


@pytest.mark.parametrize("neighbours", ["positions", "seeds"])
def test_neighbours_draw_independently(neighbours):
    count = len(POSITIONS)
    seeds, positions = ([1] * count, POSITIONS) if neighbours == "positions" else (list(range(count)), POSITIONS * 0)
    tokens = draws(LOGITS, Sampling(temperature=2.0), seeds, positions)
    pairs = (tokens[:-1] * 8 + tokens[1:]).bincount(minlength=64).view(8, 8).double()
    independent = pairs.sum(1, keepdim=True) * pairs.sum(0, keepdim=True) / pairs.sum()
    assert chi_square(pairs, independent) < CHI_SQUARE[49]


def test_a_seed_is_a_stream():
    sampling, positions = Sampling(temperature=1.0), POSITIONS[:200]
    first, again, other = (draws(torch.zeros(100), sampling, [seed] * 200, positions) for seed in (5, 5, 6))
    assert torch.equal(first, again)
    # Two tokens of 100 are the same by chance once in 100 times: 2 of 200, with a standard deviation of 1.4.
    assert int((first == other).sum()) < 9
    assert first.dtype == torch.int64


KIND_LISTS = st.lists(st.tuples(st.sampled_from(sorted(KINDS)), st.integers(0, 2**63 - 1)), min_size=1, max_size=12)


@settings(deadline=None)
@given(
    rows=KIND_LISTS,
    vocabulary=st.sampled_from([5, 129, 300, 1001]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    random=st.randoms(use_true_random=False),
)
def test_other_rows_change_nothing(rows, vocabulary, dtype, random):
    logits = (3 * randn(len(rows), vocabulary, seed=len(rows))).to(dtype)
    seen, positions = randn(len(rows), vocabulary) > 1, torch.arange(len(rows)) * 17

    def tokens(chosen: list[int]) -> list[int]:
        batch = batch_of(*[KINDS[rows[i][0]] for i in chosen], seeds=[rows[i][1] for i in chosen])
        return sample(logits[chosen], batch, positions[chosen], seen[chosen]).tolist()

    together = tokens(list(range(len(rows))))
    assert [tokens([i])[0] for i in range(len(rows))] == together
    order = random.sample(range(len(rows)), len(rows))
    assert tokens(order) == [together[i] for i in order]


@settings(deadline=None)
@given(
    vocabulary=st.integers(1, 128),
    seed=st.integers(0, 2**63 - 1),
    temperature=st.floats(0.05, 5.0),
    top_p=st.one_of(st.just(1.0), st.floats(0.01, 0.999)),
    min_p=st.floats(0.0, 0.5),
    is_rounded=st.booleans(),
)
def test_every_way_draws_the_same_token(vocabulary, seed, temperature, top_p, min_p, is_rounded):
    logits = 2 * randn(20, vocabulary, seed=seed % 2**31)
    logits = logits.round() if is_rounded else logits  # many are equal then
    few, whole, beyond = (
        Sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p) for top_k in (vocabulary, 0, 129)
    )
    assert Way.of(few) is not Way.of(whole)
    found = [sample(logits, batch_of(*[it] * 20, seeds=[seed] * 20), torch.arange(20)) for it in (few, whole, beyond)]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


# ---- limits


@given(seed=st.integers(0, 2**31), vocabulary=st.sampled_from([1, 2, 100, 300]))
@settings(deadline=None)
def test_the_limits_of_sampling_are_greedy(seed, vocabulary):
    row = randn(vocabulary, seed=seed)
    assume(len(row.unique()) == vocabulary)
    tiny = [Sampling(temperature=t, top_k=k) for t in (1e-9, 1e-30, 1e-300, 5e-324) for k in (0, 5, 129)]
    one = [Sampling(temperature=5.0, top_k=1), Sampling(temperature=5.0, top_p=1e-9), Sampling()]
    kinds = [*tiny, *one]
    found = sample(row.expand(len(kinds), -1).contiguous(), batch_of(*kinds), torch.arange(len(kinds)))
    assert found.tolist() == [int(row.argmax())] * len(kinds)


@pytest.mark.parametrize("mate", ["greedy", "whole"])
def test_greedy_takes_the_lowest_of_equal_ids(mate):
    logits = torch.tensor([[1.0, 3.0, 2.0, 3.0], [-0.0, 0.0, -1.0, 0.0], [5.0, 5.0, 5.0, 5.0]])
    batch = batch_of(Sampling(), Sampling(temperature=9.0, top_k=1), KINDS[mate])
    assert sample(logits, batch, torch.arange(3)).tolist()[:2] == [1, 0]


def test_greedy_minds_the_penalty():
    # 4 / 2 is less than 3 for the row that has seen it; the second row has no penalty.
    batch = batch_of(Sampling(repetition_penalty=2.0), Sampling())
    seen = torch.tensor([[False, True, False]] * 2)
    assert sample(torch.tensor([[0.0, 4.0, 3.0]] * 2), batch, torch.arange(2), seen).tolist() == [2, 1]


def test_a_high_temperature_is_even_but_for_what_is_ruled_out():
    logits = torch.tensor([0.0, -INFINITY, 50.0, float("nan")])
    counts = draws(logits, Sampling(temperature=1e300), [0] * 2000, POSITIONS[:2000]).bincount(minlength=4)
    # Half of 2000, with a standard deviation of 22.
    assert counts[[0, 2]].tolist() == pytest.approx([1000, 1000], abs=80)
    assert counts[[1, 3]].tolist() == [0, 0]


@pytest.mark.parametrize("name", sorted(KINDS))
def test_what_is_no_number_does_no_harm(name):
    nan = float("nan")
    logits = torch.full((5, 300), nan)
    logits[0, 17] = 1.0  # the only number
    logits[2] = -INFINITY
    logits[3, [5, 9]] = torch.tensor([INFINITY, 1e38])
    logits[4] = 0.0
    logits[4, ::2] = nan
    seen = torch.zeros(5, 300, dtype=torch.bool)
    found = sample(logits, batch_of(*[KINDS[name]] * 5), torch.arange(5), seen).tolist()
    assert found[:4] == [17, 0, 0, 5]
    assert found[4] % 2 == 1


def test_no_rows_have_no_tokens():
    assert sample(torch.zeros(0, 9), batch_of(), torch.arange(0)).shape == (0,)


def test_bad_calls_are_refused():
    with pytest.raises(ValueError, match="logits must have as many rows as the batch, 2, got 3"):
        sample(torch.zeros(3, 9), batch_of(Sampling(), Sampling()), torch.arange(3))
    with pytest.raises(ValueError, match="a repetition penalty other than 1 needs `seen`"):
        sample(torch.zeros(1, 9), batch_of(Sampling(repetition_penalty=1.1)), torch.arange(1))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("temperature", -0.5, "temperature: input should be greater than or equal to 0, got -0.5"),
        ("temperature", INFINITY, "temperature: input should be a finite number, got inf"),
        ("temperature", float("nan"), "temperature: input should be a finite number, got nan"),
        ("top_k", -1, "top_k: input should be greater than or equal to 0, got -1"),
        ("top_k", 1.5, "top_k: input should be a valid integer, got 1.5"),
        ("top_p", 0.0, "top_p: input should be greater than 0, got 0.0"),
        ("top_p", 1.1, "top_p: input should be less than or equal to 1, got 1.1"),
        ("top_p", float("nan"), "top_p: input should be less than or equal to 1, got nan"),
        ("min_p", -0.1, "min_p: input should be greater than or equal to 0, got -0.1"),
        ("min_p", 1.0, "min_p: input should be less than 1, got 1.0"),
        ("repetition_penalty", 0.0, "repetition_penalty: input should be greater than 0, got 0.0"),
        ("repetition_penalty", INFINITY, "repetition_penalty: input should be a finite number, got inf"),
        ("stop_token_ids", [3, -1], "stop_token_ids.1: input should be greater than or equal to 0, got -1"),
        ("stop_token_ids", 3, "stop_token_ids: input should be a valid tuple, got 3"),
        ("top_q", 1, "unknown key 'top_q'; allowed here: min_p, repetition_penalty, stop_token_ids, temperature"),
    ],
)
def test_bad_settings_are_refused(key, value, message):
    with pytest.raises(UserError) as error:
        validate({key: value}, Sampling, where="w")
    assert str(error.value).startswith(f"w: {message}")


# ---- noise


def unsigned(numbers: Tensor) -> list[int]:
    return [number % 2**64 for number in numbers.tolist()]


def test_random_bits_are_those_of_splitmix64():
    # The first numbers of the reference program, https://prng.di.unimi.it/splitmix64.c, from 1234567 and from 0.
    assert unsigned(random_bits(torch.tensor(1234567), torch.arange(5))) == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert unsigned(random_bits(torch.tensor([0]), 0)) == [0xE220A8397B1DCDAF]


def bits_of(seeds: Tensor, positions: Tensor, tokens: Tensor) -> Tensor:
    """What decides over a token, as `sample` makes it."""
    return random_bits(random_bits(random_bits(seeds, 0), positions), tokens)


def test_nearby_keys_have_other_bits():
    seeds, positions, tokens = torch.arange(32)[:, None, None], torch.arange(32)[:, None], torch.arange(1024)
    bits = bits_of(seeds, positions, tokens).flatten()
    assert len(bits.unique()) == len(bits) == 2**20
    # Each of 64 bits is set in half of 2^20 numbers, with a standard deviation of 512; five of them.
    for place in range(64):
        assert abs(int(((bits >> place) & 1).sum()) - 2**19) < 5 * 512


@pytest.mark.parametrize("varied", [0, 1, 2])
def test_one_bit_of_a_key_turns_half_of_the_bits(varied):
    key = [torch.arange(1000), torch.arange(1000) * 3, torch.arange(1000) * 7]
    for place in range(20):
        other = [part ^ (1 << place) if which == varied else part for which, part in enumerate(key)]
        turned = bits_of(*key) ^ bits_of(*other)
        share = sum(number.bit_count() for number in unsigned(turned)) / 1000
        # 32 of 64, with a standard deviation of 4 / 1000^(1/2) = 0.126; five of them.
        assert share == pytest.approx(32, abs=0.64)


@pytest.mark.parametrize("varied", ["seeds", "positions", "tokens"])
def test_times_are_exponential(varied):
    count = 100_000
    keys = [torch.arange(count) if name == varied else torch.tensor([11]) for name in ("seeds", "positions", "tokens")]
    uniform = (1 - (-exponential(bits_of(*keys)).double()).exp()).sort().values
    # Kolmogorov-Smirnov: n^(1/2) times the largest distance exceeds (ln(2000) / 2)^(1/2) = 1.95 once in 1000 times.
    above = (torch.arange(1, count + 1) / count - uniform).abs().max()
    assert float(above) * count**0.5 < 1.95


def test_times_have_ends():
    # u is clamped to 2^-64 and to 1 - 2^-24, of which -log(1 - u) is 24 log 2. The sign bit is not used.
    ends = exponential(torch.tensor([0, 2**63 - 1, -(2**63), -1]))
    assert ends.tolist() == pytest.approx([2.0**-64, 24 * math.log(2), 2.0**-64, 24 * math.log(2)])


# ---- no wait


def mixed(vocabulary: int, device: torch.device) -> tuple[SamplingBatch, tuple[Tensor, Tensor, Tensor]]:
    """A batch of every kind, and logits, positions and seen."""
    count = len(KINDS)
    logits, seen = randn(count, vocabulary), randn(count, vocabulary, seed=1) > 1
    inputs = logits.to(device), torch.arange(count, device=device), seen.to(device)
    return batch_of(*KINDS.values(), device=device), inputs


def test_nothing_depends_on_values():
    # Fake tensors have none, so reading one, or a shape that follows from one, raises.
    batch, inputs = mixed(1000, CPU)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        logits, positions, seen = map(mode.from_tensor, inputs)
        with pytest.raises(DataDependentOutputException):
            logits.max().item()
        found = sample(logits, batch, positions, seen)
    assert (found.shape, found.dtype) == ((len(KINDS),), torch.int64)


def test_everything_is_on_the_device_of_the_logits(monkeypatch):
    monkeypatch.setattr(module, "top_k", torch.ops.tokenwatt.top_k)
    batch, (logits, positions, seen) = mixed(1000, torch.device("meta"))
    assert sample(logits, batch, positions, seen).device.type == "meta"


def test_a_compiler_takes_it_whole():
    batch, (logits, positions, seen) = mixed(1000, CPU)
    compiled = torch.compile(lambda *given: sample(given[0], batch, *given[1:]), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(logits, positions, seen), sample(logits, batch, positions, seen))


@pytest.fixture
def sync_mode() -> Iterator[Any]:
    yield torch.cuda.set_sync_debug_mode
    torch.cuda.set_sync_debug_mode("default")


# Torch says so once when the mode is set.
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype feature:UserWarning")
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
def test_it_does_not_wait_for_the_gpu(sync_mode):
    batch, (logits, positions, seen) = mixed(128_256, CUDA)
    first = sample(logits, batch, positions, seen)  # compiles
    torch.cuda.synchronize()
    sync_mode("error")
    second = sample(logits, batch_of(*KINDS.values(), device=CUDA), positions, seen)
    sync_mode("default")
    assert torch.equal(first, second)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
@pytest.mark.parametrize("vocabulary", [1001, 50_257, 128_256])
def test_other_rows_change_nothing_on_the_gpu(vocabulary):
    batch, (logits, positions, seen) = mixed(vocabulary, CUDA)
    together = sample(logits, batch, positions, seen)
    for row, kind in enumerate(KINDS.values()):
        its = slice(row, row + 1)
        alone = batch_of(kind, seeds=[row], device=CUDA)
        assert torch.equal(sample(logits[its], alone, positions[its], seen[its]), together[its])
    assert int(together.max()) < vocabulary < NO_TOKEN
