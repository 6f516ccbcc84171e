"""The steps in their order: is it right, how fast is it, what does tuning give, what does a token cost."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from tokenwatt.silicon import kernel_flags
from tokenwatt.silicon.step import LIMIT_S, Step
from tokenwatt_kernels.families import FAMILIES, part

CAPABILITY = 90
"""Compute capability of the GPU that the pass is made for, as major * 10 + minor: Hopper."""
PROBLEMS_PER_STEP = 16
"""A problem has about four contenders, all timed and two metered for four seconds each (`metered_loop`: two, and one on
both sides): sixteen take some three and a half minutes, and compilation and the gate come on top."""
TEST_WORKERS = 4
"""Tests of kernels mostly wait for the compiler, so that several share the GPU."""
DTYPES = ("bfloat16", "float8_e4m3fn")

TUNED: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("attention.prefill", "bfloat16", ("llama3.1-8b_b2_s4096", "gpt-oss_b2_s8192_window")),
    ("attention.decode", "bfloat16", ("llama3.1-8b_b32_ctx4096_page64", "llama3.1-8b_b128_ctx2048")),
    ("matmul.dense", "bfloat16", ("llama3.1-8b_gate_up_m4096", "llama3.1-8b_down_m4096")),
    ("matmul.dense", "float8_e4m3fn", ("llama3.1-8b_gate_up_m4096_token_channel",)),
    ("matmul.skinny", "bfloat16", ("llama3.1-8b_gate_up_m1", "llama3.1-8b_gate_up_m64", "llama3.1-8b_down_m64")),
    ("moe.grouped", "bfloat16", ("qwen3-30b-a3b_gate_up_t64", "gpt-oss-20b_mxfp4_gate_up_t64")),
)
"""Family, dtype and problems that a tuning step is spent on: where the suites below spend their time. After the first
timings those with the worst ratios belong here."""

MODELS = {
    "qwen3-8b-bf16": "Qwen3-8B in bfloat16",
    "qwen3-8b-fp8": "Qwen3-8B in fp8",
    "llama-3.1-8b-bf16": "Llama-3.1-8B in bfloat16",
    "llama-3.1-8b-fp8": "Llama-3.1-8B in fp8",
    "qwen3-30b-a3b-bf16": "Qwen3-30B-A3B in bfloat16",
    "qwen3-30b-a3b-fp8": "Qwen3-30B-A3B in fp8",
    "gpt-oss-20b-mxfp4": "gpt-oss-20b, bfloat16 with mxfp4 experts",
}
"""Suite `silicon-NAME` -> what it measures."""
REHEARSAL_SUITE = "silicon-rehearsal"
"""The native engine on a processor: fp8, and phases."""
TRANSFORMERS_REHEARSAL_SUITE = "silicon-rehearsal-transformers"
GATE_GROUPS = ("attention", "matmul", "moe", "fused")
REHEARSAL_FAMILY = "matmul.nvfp4"
"""The family whose gate, with its wrong kernels, takes the shortest to interpret."""

TOKENWATT, KERNELS = ("-m", "tokenwatt"), ("-m", "tokenwatt_kernels")
COMPILE_LIMIT_S = 600.0
"""Of compiling everything on two cores."""


def steps_of(results: Path, has_workers: bool | None = None) -> list[Step]:
    """The pass over a GPU, whose runs are written to `results`.

    has_workers: whether tests can share the work; by default, whether pytest-xdist is installed.
    """
    workers = find_spec("xdist") is not None if has_workers is None else has_workers
    return [
        *_looks(),
        *_tests(workers),
        *_gates(),
        *_benches(results),
        *_tunes(results),
        *_engines(results),
        *_transformers(results),
    ]


def compile_step() -> Step:
    """What a rehearsal begins with; on a GPU each step compiles what it needs."""
    dtypes = [word for dtype in DTYPES for word in ("--dtype", dtype)]
    command = (*KERNELS, "compile", "--target", str(CAPABILITY), *dtypes)
    return Step(
        "compile", "compile", "Does every kernel compile for this GPU, without spills?", command, command,
        limit_s=COMPILE_LIMIT_S,
    )  # fmt: skip


def _looks() -> list[Step]:
    doctor = (*TOKENWATT, "doctor")
    return [
        Step("doctor", "look", "What is here, and what is missing?", doctor, doctor, limit_s=60.0),
        Step(
            "ceilings", "look", "What can this GPU do at best, and what does it draw at rest?",
            (*doctor, "--ceilings", "cuda"), (*doctor, "--ceilings", "cpu"), limit_s=120.0,
        ),
    ]  # fmt: skip


def _tests(has_workers: bool) -> list[Step]:
    # Warnings of a driver or of a newer torch are no failures of the kernels.
    pytest = ("-m", "pytest", "-m", "gpu", "-W", "default")
    timed = ("tests/kernels/test_benchmarks.py", "tests/engines/test_benchmarks.py")
    computed, left_out = ("tests/kernels", "tests/engines"), tuple(f"--ignore={path}" for path in timed)
    metered = ("tests", *(f"--ignore={folder}" for folder in computed))
    shared = ("-n", str(TEST_WORKERS)) if has_workers else ()
    return [
        _test(
            "test-kernels",
            "Do kernels and engine compute what their references do?",
            (*pytest, *computed, *left_out),
            shared,
        ),
        # Alone on the GPU: they meter it.
        _test("test-meter", "Are joules of this board what they must be, and does closure close?", (*pytest, *metered)),
        _test(
            "test-timings",
            "What do mixed batches and engine steps take?",
            (*pytest, "--benchmark-enable", "--benchmark-only", "-k", "mixed or engines", *timed),
        ),
    ]


def _test(name: str, question: str, command: tuple[str, ...], shared: tuple[str, ...] = ()) -> Step:
    return Step(name, "test", question, (*command, *shared), (*command, "--collect-only", "-q"))


def _gates() -> list[Step]:
    return [
        Step(
            f"gate-{group}", "gate", f"Do {group} kernels pass their gate, and are the wrong ones rejected?",
            (*KERNELS, "check", group, "--device", "cuda"),
            (*KERNELS, "check", REHEARSAL_FAMILY, "--device", "cpu", "--dtype", "bfloat16"),
        )
        for group in GATE_GROUPS
    ]  # fmt: skip


def _benches(results: Path) -> list[Step]:
    steps = []
    for family in FAMILIES:
        for dtype in DTYPES:
            chunks = _chunks(_problems(family, dtype))
            for number, problems in enumerate(chunks, start=1):
                name = f"bench-{family}-{dtype}" + (f"-{number}" if len(chunks) > 1 else "")
                question = f"How near are {family} kernels in {dtype} to the limit and to others, and at what energy?"
                steps.append(_bench(name, "bench", question, family, dtype, problems, results))
    return steps


def _bench(
    name: str, group: str, question: str, family: str, dtype: str, problems: tuple[str, ...], results: Path,
    needs: tuple[str, ...] = (),
) -> Step:  # fmt: skip
    of_family = (family, "--dtype", dtype)
    command = (*TOKENWATT, "kernels", "bench", *of_family, *kernel_flags.of_bench(problems, LIMIT_S))
    return Step(
        name, group, question, (*command, "--results", str(results)), (*KERNELS, "work", *of_family), needs=needs
    )


def _problems(family: str, dtype: str) -> tuple[str, ...]:
    """Those of a family's bench that this GPU takes in a dtype."""
    problems = part(family, "problems")
    if dtype not in problems.DTYPE_NAMES:
        return ()
    return tuple(one.name for one in problems.BENCH_PROBLEMS if problems.takes(one, dtype, CAPABILITY))


def _chunks(problems: tuple[str, ...]) -> list[tuple[str, ...]]:
    """As many for each step as fit its limit."""
    starts = range(0, len(problems), PROBLEMS_PER_STEP)
    return [problems[first : first + PROBLEMS_PER_STEP] for first in starts]


def _tunes(results: Path) -> list[Step]:
    steps = []
    for family, dtype, problems in TUNED:
        of_family, tune = (family, "--dtype", dtype), f"tune-{family}-{dtype}"
        steps += [
            Step(
                tune, "tune", f"Which tiles are fastest for {family} in {dtype} on this GPU?",
                (*KERNELS, "tune", *of_family, *kernel_flags.of_tune(problems, LIMIT_S)),
                (*KERNELS, "work", *of_family),
            ),
            _bench(
                f"tuned-{family}-{dtype}", "tuned", f"What did tuning give {family} in {dtype}?",
                family, dtype, problems, results, needs=(tune,),
            ),
        ]  # fmt: skip
    return steps


def _engines(results: Path) -> list[Step]:
    shapes = [
        _suite(f"engine-{name}", "engine", f"What does a token of {model} cost?", f"silicon-{name}",
               REHEARSAL_SUITE, results)
        for name, model in MODELS.items()
    ]  # fmt: skip
    energy = [
        _suite(f"energy-{size}", "energy", f"Where do a token's joules go in {batches}: phases, closure?",
               f"silicon-energy-{size}", REHEARSAL_SUITE, results)
        for size, batches in (("small", "small batches"), ("large", "large batches"))
    ]  # fmt: skip
    return [*shapes, *energy]


def _transformers(results: Path) -> list[Step]:
    return [
        _suite(f"transformers-{mode}", "transformers", f"What do transformers' {said} take for the same requests?",
               f"silicon-transformers-{mode}", TRANSFORMERS_REHEARSAL_SUITE, results)
        for mode, said in (("generate", "generate"), ("continuous", "continuous batching"))
    ]  # fmt: skip


def _suite(name: str, group: str, question: str, suite: str, rehearsal: str, results: Path) -> Step:
    bench = (*TOKENWATT, "bench")
    where = ("--results", str(results))
    return Step(name, group, question, (*bench, suite, *where), (*bench, rehearsal, *where), suite=suite)
