"""pytest-benchmark cases: host wall time of a synchronised call. For device times use `tokenwatt kernels bench`.

Run with --benchmark-enable; without it each case runs once, as a test.
"""

from __future__ import annotations

import pytest
import torch

from tokenwatt_kernels.attention.inputs import make_inputs
from tokenwatt_kernels.attention.mixed import mixed_attention
from tokenwatt_kernels.attention.prefill.call import paged_prefill_attention
from tokenwatt_kernels.attention.prefill.problems import chunks
from tokenwatt_kernels.contests import OURS
from tokenwatt_kernels.families import FAMILIES, part

gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")]
GPU_CASES = [
    pytest.param(family, problem, id=problem.name, marks=gpu)
    for family in FAMILIES
    for problem in part(family, "problems").BENCH_PROBLEMS
]


@pytest.mark.parametrize(("family", "problem"), GPU_CASES)
def test_kernel_on_the_gpu(benchmark, family, problem):
    contest = part(family, "contest").contest(problem, "bfloat16", torch.device("cuda"))
    benchmark.extra_info.update(flop=contest.work.flop, bytes=contest.work.bytes)

    def run():
        contest.contenders[OURS].run()
        torch.cuda.synchronize()

    benchmark.pedantic(run, warmup_rounds=3, rounds=20)


# 32 sequences of Llama 3.1 8B that decode, and a chunk of 512 tokens.
MIXED = chunks("mixed", (1,) * 32 + (512,), (4096,) * 33, 32, 8, 128, page_size=16)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
@pytest.mark.parametrize("way", ["two kernels", "one kernel"])
def test_mixed_batch_on_the_gpu(benchmark, way):
    """The dispatch of `mixed_attention` beside one launch of the prefill kernel for everything."""
    made = make_inputs(MIXED, "bfloat16", torch.device("cuda"), poisoned=False)
    keys = made.keys
    assert keys.block_table is not None
    assert keys.context_lens is not None
    arguments = (made.q, keys.k, keys.v, keys.block_table, keys.context_lens, made.query_starts, max(MIXED.queries))

    def run():
        if way == "two kernels":
            mixed_attention(*arguments, decodes=32)
        else:
            paged_prefill_attention(*arguments)
        torch.cuda.synchronize()

    benchmark.pedantic(run, warmup_rounds=3, rounds=20)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_reference_on_the_cpu(benchmark, family):
    problem = part(family, "problems").GATE_PROBLEMS[2]
    case = next(iter(part(family, "cases").cases(problem, "float32", torch.device("cpu"))))
    out = benchmark(case.reference, torch.float32)
    assert out.shape == case.out_shape
