"""How probable given tokens are, and those that vLLM draws, by which engines are compared."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import numpy as np
from vllm import SamplingParams
from vllm.inputs.engine import tokens_input
from vllm.logprobs import Logprob
from vllm.outputs import RequestOutput
from vllm.v1.engine.async_llm import AsyncLLM

from tokenwatt.engines.protocol import Continuation


async def score(engine: AsyncLLM, prompts: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Natural log-probabilities [isl - 1] of the tokens of each prompt, given those before them.

    Raises:
        VLLMError: vLLM does not score one of them, and the others are abandoned; EngineDeadError if it has ended.
    """
    # Log-probabilities of the prompt's own tokens, and the one token that vLLM always makes.
    params = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, ignore_eos=True, detokenize=False)
    outputs = await _last_outputs(engine, prompts, [params] * len(prompts))
    return [_logprobs(output.prompt_logprobs[1:], prompt[1:]) for output, prompt in zip(outputs, prompts, strict=True)]


async def draw(engine: AsyncLLM, prompts: Sequence[np.ndarray], count: int) -> list[Continuation]:
    """So many tokens after each prompt, which are decoded together.

    Raises:
        VLLMError: vLLM does not serve one of them, and the others are abandoned; EngineDeadError if it has ended.
    """
    params = [
        SamplingParams(max_tokens=count, temperature=1.0, seed=place, logprobs=0, ignore_eos=True, detokenize=False)
        for place in range(len(prompts))
    ]
    drawn = [output.outputs[0] for output in await _last_outputs(engine, prompts, params)]
    tokens = [np.array(output.token_ids, dtype=np.int32) for output in drawn]
    return [Continuation(own, _logprobs(output.logprobs, own)) for own, output in zip(tokens, drawn, strict=True)]


async def _last_outputs(
    engine: AsyncLLM, prompts: Sequence[np.ndarray], params: Sequence[SamplingParams]
) -> list[RequestOutput]:
    """The last output of each prompt, which has everything."""

    async def last(place: int) -> RequestOutput:
        outputs = engine.generate(tokens_input(prompts[place].tolist()), params[place], f"score-{place}")
        return [output async for output in outputs][-1]

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(last(place)) for place in range(len(prompts))]
    except ExceptionGroup as failed:
        first = failed.exceptions[0]
        raise first from first.__cause__
    return [task.result() for task in tasks]


def _logprobs(entries: Sequence[Mapping[int, Logprob]], tokens: np.ndarray) -> np.ndarray:
    """Of the tokens themselves, among those that vLLM tells of."""
    return np.array([entry[token].logprob for entry, token in zip(entries, tokens.tolist(), strict=True)])
