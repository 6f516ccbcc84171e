"""Settings of this engine alone: `options = { ... }` of a `[[bench]]`."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import PositiveInt, model_validator

from tokenwatt.spec import Spec

Mode = Literal["generate", "continuous_batching"]

_OF_CONTINUOUS = ("block_size", "num_blocks", "max_batch_tokens", "use_cuda_graph", "use_async_batching")
_OF_GENERATE = ("cache_implementation",)


class HfOptions(Spec):
    """How transformers runs the model; what is left out is transformers' own choice."""

    mode: Mode
    """generate: `model.generate` over `concurrency` requests at a time; the next ones begin when the last of them is
    done. continuous_batching: transformers' own manager, to which a request is handed the moment another one ends."""
    attn_implementation: str = "sdpa"
    """Attention by transformers' name: sdpa, eager, flash_attention_2 ... For continuous batching the paged variant of
    it is taken."""
    cache_implementation: Literal["static"] | None = None
    """Cache of `generate`: by default one that grows with each step; static: of full length from the start, for which
    transformers compiles the step on a GPU, once for each shape."""
    block_size: PositiveInt | None = None
    """Tokens of a block of the paged cache."""
    num_blocks: PositiveInt | None = None
    """Blocks of the paged cache; by default, on a GPU as many as transformers finds room for, else as many as the
    concurrency can fill."""
    max_batch_tokens: PositiveInt | None = None
    """Token budget of a step with continuous batching; on a processor the default is what can come together, at most
    8192."""
    use_cuda_graph: bool | None = None
    """Whether steps with continuous batching are CUDA graphs; transformers' default depends on the attention."""
    use_async_batching: bool | None = None
    """Whether the next batch is prepared while one runs; transformers' default depends on the attention."""

    @model_validator(mode="after")
    def _of_the_mode(self) -> Self:
        """Refuse what the mode would ignore."""
        foreign = _OF_CONTINUOUS if self.mode == "generate" else _OF_GENERATE
        named = [name for name in foreign if getattr(self, name) is not None]
        if named:
            raise ValueError(f"mode {self.mode} has no {named[0]}; leave it out")
        return self

    @property
    def label(self) -> str:
        """Every setting that is no default, in one line: attention first.

        >>> HfOptions(mode="continuous_batching", max_batch_tokens=4096).label
        'sdpa max_batch_tokens=4096'
        """
        named = self.model_dump(exclude={"mode", "attn_implementation"}, exclude_none=True)
        return " ".join([self.attn_implementation, *(f"{name}={value}" for name, value in named.items())])
