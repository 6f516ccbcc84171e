"""From a workload's sampling to vLLM's, as far as both mean the same."""

from __future__ import annotations

from vllm import SamplingParams
from vllm.sampling_params import RequestOutputKind

from tokenwatt.workloads import Request, Sampling


def unmapped(sampling: Sampling) -> str | None:
    """Why a sampling cannot be had from vLLM; None if it can."""
    # vLLM filters by min_p before top_p, which then adds up other probabilities.
    if sampling.min_p > 0 and sampling.top_p < 1:
        return (
            f"engine 'vllm' has no min_p behind top_p, got min_p = {sampling.min_p:g} and top_p = {sampling.top_p:g};"
            " allowed: one of them"
        )
    return None


def sampling_params(request: Request) -> SamplingParams:
    """What is asked of vLLM: the budget is spent, whatever a checkpoint calls its last token, and text is not made.

    Draws are seeded once, for the engine: with a seed of its own for each request vLLM draws row by row.
    """
    sampling = request.sampling
    return SamplingParams(
        max_tokens=request.max_tokens,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        min_p=sampling.min_p,
        repetition_penalty=sampling.repetition_penalty,
        stop_token_ids=[*sampling.stop_token_ids],
        ignore_eos=True,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
    )
