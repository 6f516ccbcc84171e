"""The real vLLM on a processor: a tiny random model, and the server of vLLM with it."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tokenwatt.engines.served_command import ServedCommand
from tokenwatt.engines.vllm_engine.log import vllm_log

VOCABULARY = 512
SPREAD = 0.3
"""Of weights: with so wide ones no two tokens are nearly as probable, and greedy tokens are the same everywhere."""
START_WITHIN_S = 180.0


@pytest.fixture(scope="session", autouse=True)
def little_memory() -> Iterator[None]:
    """vLLM's processes take 1 GiB for keys and values, instead of half of the machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        yield
    vllm_log().is_named = False  # errors that tests provoke have named it; nobody will look there


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a Llama in float32 with random weights; its tokenizer has a word for each token, `w0` to `w511`."""
    folder = tmp_path_factory.mktemp("tiny")
    words = Tokenizer(models.WordLevel({f"w{index}": index for index in range(VOCABULARY)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="w0", bos_token="w1", eos_token="w2", pad_token="w0"
    )
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=32, max_position_embeddings=4096,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.endswith("norm.weight"):
                parameter.normal_(0.0, SPREAD, generator=generator)
    model.save_pretrained(folder)
    return folder


class Reference:
    """What transformers makes of the same weights."""

    def __init__(self, folder: Path) -> None:
        self._model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    @torch.no_grad()
    def greedy(self, prompt: np.ndarray, tokens: int) -> list[int]:
        """The most probable tokens behind a prompt."""
        ids = torch.tensor(prompt[None].astype(np.int64))
        for _ in range(tokens):
            ids = torch.cat([ids, self._model(ids).logits[:, -1:].argmax(-1)], dim=1)
        return ids[0, len(prompt) :].tolist()

    @torch.no_grad()
    def logprobs(self, prompt: np.ndarray) -> np.ndarray:
        """Of each prompt token but the first, given those before it."""
        ids = torch.tensor(prompt[None].astype(np.int64))
        return self._model(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0].numpy()


@pytest.fixture(scope="session")
def reference(tiny_model: Path) -> Reference:
    return Reference(tiny_model)


class Server(NamedTuple):
    """A server of vLLM that runs."""

    url: str
    """`http://host:port`."""
    model: str
    """Its name for the tiny model, which is the path of its folder."""


@pytest.fixture(scope="session")
def vllm_server(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """vLLM's OpenAI-compatible server with the tiny model, in float32."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(tiny_model), "--dtype", "float32",
        "--enforce-eager", "--host", "127.0.0.1", "--port", str(port), "--max-model-len", "2048",
    ]  # fmt: skip
    log = tmp_path_factory.mktemp("server") / "server.log"
    with ServedCommand(command, f"{url}/health", START_WITHIN_S, log):
        yield Server(url, str(tiny_model))


def alive(pid: int) -> bool:
    """Whether a process runs, or has ended and only waits for its parent."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def offspring(name: str, of: int | None = None) -> list[int]:
    """Processes that descend from this one and whose name has `name` in it."""
    found = []
    for entry in Path(f"/proc/{of or os.getpid()}/task").glob("*/children"):
        for child in map(int, entry.read_text().split()):
            if alive(child):
                if name in Path(f"/proc/{child}/comm").read_text():
                    found.append(child)
                found += offspring(name, child)
    return found
