"""pytest-benchmark cases: host wall time of a synchronised call. For device times use `tokenwatt kernels bench`.

Run with --benchmark-enable; without it each case runs once, as a test.
"""

from __future__ import annotations

import pytest
import torch

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


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_reference_on_the_cpu(benchmark, family):
    problem = part(family, "problems").GATE_PROBLEMS[2]
    case = next(iter(part(family, "cases").cases(problem, "float32", torch.device("cpu"))))
    out = benchmark(case.reference, torch.float32)
    assert out.shape == case.out_shape
