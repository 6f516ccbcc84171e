"""Text of prompts, and token ids of answers, by the model's own tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tokenwatt.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_AHEAD = "\n"
"""Text that an answer stands behind while it is encoded: some tokenizers put a space before the first word of all."""


@dataclass(frozen=True)
class TextCodec:
    """A tokenizer by its folder or hub id; it can be pickled."""

    name: str

    @classmethod
    def of(cls, name: str) -> Self:
        """Read the tokenizer once, to know that it is there.

        Raises:
            UserError: no package that reads it, or no such tokenizer.
        """
        if find_spec("tokenizers") is None:
            raise UserError("prompts as text need tokenizers; install it with: pip install 'tokenwatt[transformers]'")
        if Path(name).is_dir() and not (Path(name) / "tokenizer.json").is_file():
            raise UserError(f"tokenizer {name}: the folder has no tokenizer.json")
        codec = cls(name)
        try:
            codec._tokenizer.get_vocab_size()
        except Exception as error:  # tokenizers raises bare Exception
            raise UserError(f"tokenizer {name!r} cannot be read: {str(error).splitlines()[0]}") from None
        return codec

    def encode(self, text: str) -> list[int]:
        """Token ids of an answer, which need not be those that the server has drawn."""
        clean = text.encode(errors="replace").decode()  # JSON may hold halves of letters
        ahead, whole = self._ids(_AHEAD), self._ids(_AHEAD + clean)
        return whole[len(ahead) :] if whole[: len(ahead)] == ahead else self._ids(clean)

    def decode(self, token_ids: Sequence[int], skips_special: bool = False) -> str:
        """Text of a prompt; a server that reads it anew may count other tokens than these."""
        return self._tokenizer.decode(list(token_ids), skip_special_tokens=skips_special)

    def _ids(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        from tokenizers import Tokenizer

        file = Path(self.name) / "tokenizer.json"
        return Tokenizer.from_file(str(file)) if file.is_file() else Tokenizer.from_pretrained(self.name)
