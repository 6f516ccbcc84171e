"""Published parallelism is read so that its counts agree, or refused."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenwatt.errors import UserError
from tokenwatt.perf_model.parallelism import Given, Parallelism, resolve_parallelism
from tokenwatt.perf_model.shape_library import model_shape

# num_gpus, tp, ep, dp, pp, task -> GPUs, attention tp and dp, expert tp and ep, stages
READINGS = {
    "nothing is said": (Given(), (1, 1, 1, 1, 1, 1)),
    "GPUs alone share everything": (Given(num_gpus=4), (4, 4, 1, 4, 1, 1)),
    "TensorRT-LLM TP8": (Given(num_gpus=8, task="TP8"), (8, 8, 1, 8, 1, 1)),
    "TensorRT-LLM DEP4": (Given(num_gpus=4, task="DEP4"), (4, 1, 4, 1, 4, 1)),
    "TEP8": (Given(task="tep8"), (8, 8, 1, 1, 8, 1)),
    "two stages of four": (Given(task="TP4PP2"), (8, 4, 1, 4, 1, 2)),
    "another task says nothing": (Given(num_gpus=2, tp=2, ep=1, dp=1, task="gpqa"), (2, 2, 1, 2, 1, 1)),
    "InferenceX with its own dp": (Given(8, 1, 8, 8), (8, 1, 8, 1, 8, 1)),
    "InferenceX, dp follows": (Given(8, 1, 8), (8, 1, 8, 1, 8, 1)),
    "InferenceX, tp times ep on four": (Given(4, 16, 4), (4, 4, 1, 1, 4, 1)),
    "InferenceX, tp times ep on eight": (Given(8, 64, 8), (8, 8, 1, 1, 8, 1)),
    "InferenceX, tp times ep on two": (Given(2, 4, 2), (2, 2, 1, 1, 2, 1)),
    "InferenceX, experts split both ways": (Given(8, 8, 4), (8, 8, 1, 2, 4, 1)),
    "ML.ENERGY, mixture": (Given(8, 1, 8, 1), (8, 8, 1, 1, 8, 1)),
    "ML.ENERGY, dense": (Given(4, 4, 1, 1), (4, 4, 1, 4, 1, 1)),
    "replicas": (Given(8, 4, 1), (8, 4, 2, 8, 1, 1)),
    "GPUs follow": (Given(tp=4, dp=2, pp=2), (16, 4, 2, 8, 1, 2)),
}


@pytest.mark.parametrize("name", READINGS)
def test_reading(name: str) -> None:
    said, expected = READINGS[name]
    assert resolve_parallelism(said) == Parallelism(*expected)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (Given(8, 4, 1, 4), "tp 4 x dp 4 x pp 1 are 16 GPUs, but num_gpus is 8"),
        (Given(8, 3), "tp 3 does not divide 8 GPUs"),
        (Given(8, 8, 3), "ep 3 does not divide 8 GPUs"),
        (Given(4, 32, 4), "tp 32 does not divide 4 GPUs"),
        (Given(6, pp=4), "pp 4 does not divide 6 GPUs"),
        (Given(4, task="TP8"), "task TP8 means num_gpus 8, but num_gpus is 4"),
        (Given(tp=2, task="DEP4"), "task DEP4 means tp 1, but tp is 2"),
        (Given(task="TP0"), "task 'TP0' names no GPU"),
    ],
)
def test_contradictions(said: Given, words: str) -> None:
    with pytest.raises(UserError, match=words):
        resolve_parallelism(said)


def test_what_does_not_divide_a_model() -> None:
    with pytest.raises(UserError, match="tp 16 does not divide the 40 heads of Qwen3-14B"):
        Parallelism(16, 16, 1, 16, 1, 1).check(model_shape("Qwen3-14B"))
    with pytest.raises(UserError, match="ep 3 does not divide the 256 experts of DeepSeek-V3"):
        Parallelism(3, 1, 3, 1, 3, 1).check(model_shape("DeepSeek-V3"))
    Parallelism(8, 8, 1, 1, 8, 1).check(model_shape("DeepSeek-V3"))


counts = st.one_of(st.none(), st.sampled_from([1, 2, 3, 4, 8, 16, 64]))


@settings(max_examples=300)
@given(st.builds(Given, counts, counts, counts, counts, counts))
def test_what_is_read_adds_up(said: Given) -> None:
    try:
        found = resolve_parallelism(said)
    except UserError:
        return
    assert found.attention_tp * found.attention_dp * found.pp == found.gpus
    assert found.moe_tp * found.moe_ep == found.attention_tp * found.attention_dp
    assert said.num_gpus in (None, found.gpus)
    assert said.dp in (None, found.attention_dp)
