"""How probable a prompt's own tokens are, by which two engines are compared."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
from vllm import SamplingParams
from vllm.inputs.engine import tokens_input
from vllm.outputs import RequestOutput
from vllm.v1.engine.async_llm import AsyncLLM


async def score(engine: AsyncLLM, prompts: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Natural log-probabilities [isl - 1] of the tokens of each prompt, given those before them.

    Raises:
        VLLMError: vLLM does not score one of them, and the others are abandoned; EngineDeadError if it has ended.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_last_output(engine, *numbered)) for numbered in enumerate(prompts)]
    except ExceptionGroup as failed:
        first = failed.exceptions[0]
        raise first from first.__cause__
    return [_logprobs(task.result(), prompt) for task, prompt in zip(tasks, prompts, strict=True)]


async def _last_output(engine: AsyncLLM, place: int, prompt: np.ndarray) -> RequestOutput:
    outputs = engine.generate(tokens_input(prompt.tolist()), _params(), f"score-{place}")
    return [output async for output in outputs][-1]


def _logprobs(output: RequestOutput, prompt: np.ndarray) -> np.ndarray:
    pairs = zip(output.prompt_logprobs[1:], prompt[1:].tolist(), strict=True)
    return np.array([entry[token].logprob for entry, token in pairs], dtype=np.float64)


def _params() -> SamplingParams:
    """Log-probabilities of the prompt's own tokens, and the one token that vLLM always makes."""
    return SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, ignore_eos=True, detokenize=False)
