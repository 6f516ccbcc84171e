"""What a model can be asked, whichever engine runs it: contexts and token ids within its own."""

from __future__ import annotations

from tokenwatt.architecture import Architecture
from tokenwatt.errors import UserError
from tokenwatt.workloads import Request


def check_workload(architecture: Architecture, longest_context: int, vocabulary: int) -> None:
    """Raise UserError where contexts (tokens) or token ids go beyond the model's."""
    limit = architecture.max_position_embeddings
    if longest_context > limit:
        raise UserError(f"a request may reach {longest_context} tokens, {architecture.name} allows {limit}")
    if vocabulary > architecture.vocab_size:
        allowed = architecture.vocab_size
        raise UserError(f"workload vocabulary is {vocabulary}, {architecture.name} knows {allowed} tokens")


def refusal_of(architecture: Architecture, longest_context: int, request: Request) -> str | None:
    """Why a request cannot be served by a model loaded for `longest_context` tokens; None if it can."""
    prompt = request.prompt
    if not len(prompt):
        return "the prompt is empty; it needs at least one token"
    if request.max_tokens < 1:
        return f"max_tokens must be >= 1, got {request.max_tokens}"
    if len(prompt) + request.max_tokens > longest_context:
        return (
            f"{len(prompt)} prompt tokens and {request.max_tokens} to come exceed the context that was loaded,"
            f" {longest_context} tokens"
        )
    low, high, vocabulary = int(prompt.min()), int(prompt.max()), architecture.vocab_size
    if low < 0 or high >= vocabulary:
        outside = low if low < 0 else high
        return f"token id {outside} is not in the vocabulary of {architecture.name}: 0 to {vocabulary - 1}"
    return None
