"""What engine `native` loads from where, what that takes, and what it refuses before or while it loads."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import get_args

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.engines.families import CONFIGS, make
from tests.engines.test_native_parity import TOLERANCE, assert_same, engine_of, prompts, watch
from tests.engines.test_native_quantised import DENSE, EXPERTS
from torch import Tensor

from tokenwatt.architecture import Architecture, GroupedAttention, LatentAttention
from tokenwatt.engines import open_engine
from tokenwatt.engines.native.checkpoint import RandomWeights
from tokenwatt.engines.native.hub import is_hub_id
from tokenwatt.engines.native.memory import quantised_weights, weight_bytes
from tokenwatt.engines.native.model import Decoder
from tokenwatt.engines.native.options import NativeOptions, Quantization
from tokenwatt.engines.native.requirements import check_runs
from tokenwatt.engines.native.weights import build_decoder
from tokenwatt.errors import EngineError, UserError
from tokenwatt.model_config import load_architecture
from tokenwatt.spec import BenchSpec
from tokenwatt.workloads import library_folder

LIBRARY = sorted(path.parent.name for path in (library_folder() / "models").glob("*/config.json"))


def spec_of(**settings) -> BenchSpec:
    usual = {"engine": "native", "dtype": "float32", "device": "cpu", "workloads": ("chat",), "concurrency": (2,)}
    return BenchSpec.model_validate(usual | settings)


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory) -> Path:
    """A saved model in several shards."""
    folder = tmp_path_factory.mktemp("qwen3")
    make("qwen3", folder)
    assert len([*folder.glob("*.safetensors")]) > 1
    return folder


@pytest.fixture
def folder(qwen3, tmp_path) -> Path:
    """A copy of it to be damaged."""
    return Path(shutil.copytree(qwen3, tmp_path / "model"))


# What is refused


def refusal(**settings) -> str:
    """The one line with which an engine is refused, when it is opened or else when it loads."""
    with pytest.raises(UserError) as caught:
        open_engine(spec_of(**settings)).load(max_concurrency=1, longest_context=16)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def cut_short(folder: Path) -> None:
    shard = sorted(folder.glob("*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:-100])


def without_a_shard(folder: Path) -> None:
    sorted(folder.glob("*.safetensors"))[1].unlink()


def with_half_an_index(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    index.write_text(index.read_text()[:200])


def with_an_index_of_nothing(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text('{"weight_map": []}')


def with_an_index_that_errs(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    shards = sorted(set(content["weight_map"].values()))
    held = content["weight_map"]["model.norm.weight"]
    content["weight_map"]["model.norm.weight"] = next(shard for shard in shards if shard != held)
    index.write_text(json.dumps(content))


def without_weights(folder: Path) -> None:
    for path in folder.glob("model*"):
        path.unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_short, "model-00002-of-0000"),
        (cut_short, "damaged or cut short"),
        (without_a_shard, "shard model-00002-of-0000"),
        (without_a_shard, "of model.safetensors.index.json is missing; download it again"),
        (with_half_an_index, "model.safetensors.index.json: damaged (JSONDecodeError"),
        (with_an_index_of_nothing, "model.safetensors.index.json: damaged (AttributeError"),
        (with_an_index_that_errs, "says that 'model.norm.weight' is in model-0000"),
        (without_weights, "holds neither model.safetensors nor model.safetensors.index.json"),
        (shutil.rmtree, "no such weights folder"),
    ],
)
def test_a_damaged_folder_is_refused_before_anything_is_loaded(folder, qwen3, damage: Callable[[Path], None], message):
    damage(folder)
    with pytest.raises(UserError) as caught:
        open_engine(spec_of(model=str(qwen3), weights=str(folder)))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def changed(folder: Path, name: str, change: Callable[[dict[str, Tensor]], object]) -> None:
    """The shard with a tensor of that name, changed."""
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    shard = folder / content["weight_map"][name]
    tensors = load_file(shard)
    change(tensors)
    save_file(tensors, shard)
    content["weight_map"] = {key: file for key, file in content["weight_map"].items() if file != shard.name}
    content["weight_map"] |= dict.fromkeys(tensors, shard.name)
    index.write_text(json.dumps(content))


def test_a_missing_tensor_is_named(folder):
    name = "model.layers.1.self_attn.k_norm.weight"
    changed(folder, name, lambda tensors: tensors.pop(name))
    # Three layers of eleven tensors, embedding and norm: 35, of which one is gone.
    assert f"no tensor '{name}' among its 34, but the config.json demands it" in refusal(weights=str(folder))


def test_a_tensor_of_another_shape_is_named(folder):
    name = "model.layers.2.mlp.down_proj.weight"
    changed(folder, name, lambda tensors: tensors.update({name: torch.zeros(96, 128)}))
    found = refusal(weights=str(folder))
    assert f"tensor '{name}' has shape (96, 128), the config.json demands (96, 160)" in found
    assert "take weights and config.json of one model" in found


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "engine 'native' needs a model: the name of a folder under workloads/models/, a path, or a hub id"),
        ({"model": "Qwen3-9B"}, "unknown model 'Qwen3-9B' (did you mean 'Qwen3-8B'?)"),
        ({"model": "/no/such"}, "no such model folder: /no/such"),
        ({"weights": "absent"}, "no such weights folder: absent; allowed: 'random', a folder with safetensors, a hub"),
        ({"weights": "/no/such"}, "no such weights folder: /no/such; allowed"),
        ({"model": "Qwen3-8B", "weights": "./no/such"}, "no such weights folder: ./no/such; allowed"),
        ({"model": "Qwen3-8B", "options": {"quantisation": "fp8"}}, "unknown key 'quantisation'; allowed here: cuda_g"),
        ({"model": "Qwen3-8B", "options": {"quantization": "int8"}}, "should be 'none', 'fp8' or 'int4', got 'int8'"),
        ({"model": "Qwen3-8B", "options": {"page_size": 24}}, "should be 16, 32, 64 or 128, got 24"),
        ({"model": "Qwen3-8B", "options": {"max_step_tokens": 0}}, "should be greater than 0, got 0"),
        ({"model": "Qwen3-8B", "options": {"num_pages": -1}}, "should be greater than 0, got -1"),
    ],
)
def test_a_wrong_setting_is_refused(settings, message):
    assert message in refusal(**settings)


def test_an_unsupported_architecture_lists_those_that_are_supported(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "mamba2"}))
    found = refusal(weights=str(folder))
    assert "model_type 'mamba2' is not supported; allowed: " in found
    assert all(name in found for name in ("llama", "qwen3_moe", "gemma3_text", "gpt_oss", "deepseek_v3"))


FP8, INT4 = {"quantization": "fp8"}, {"quantization": "int4"}
FP8_CACHE = {"kv_cache_dtype": "float8_e4m3fn"}


def runs(architecture: Architecture, dtype: str, capability: int | None, **options) -> None:
    check_runs(architecture, dtype, NativeOptions(**options), capability)


@pytest.mark.parametrize(
    ("model", "dtype", "capability", "options", "message"),
    [
        ("Qwen3-8B", "bfloat16", 75, {}, "needs a GPU of sm_80 or newer, for its bfloat16 tensor cores, this GPU is"),
        ("Qwen3-8B", "bfloat16", 80, FP8, "fp8 needs a GPU of sm_89 or newer, this GPU is sm_80; allowed here: none"),
        ("Qwen3-8B", "bfloat16", 89, FP8_CACHE, "needs a GPU of sm_90 or newer, this GPU is sm_89; allowed here: auto"),
        ("Qwen3-8B", "float16", 90, FP8, "fp8 takes dtype bfloat16, which its products have, got 'float16'"),
        ("Qwen3-8B", "float32", None, FP8, "fp8 takes dtype bfloat16, which its products have, got 'float32'"),
        ("Qwen3-8B", "float32", 90, INT4, "int4 takes dtype float16 or bfloat16 on a GPU, got 'float32'"),
        ("SmolLM2-135M", "bfloat16", 90, INT4, "multiples of 128, qkv_proj has 576; allowed: quantization = none, fp8"),
        ("Mixtral-8x7B", "bfloat16", None, INT4, "experts have no int4 kernel; allowed: quantization = none, fp8"),
        ("gpt-oss-20b", "float16", 90, {}, "gpt-oss-20b: mxfp4 experts take dtype bfloat16 on a GPU, got 'float16'"),
        ("gpt-oss-20b", "bfloat16", 90, {"tensor_parallel": 4}, "90 groups of an expert's mxfp4 weights cannot be"),
    ],
)  # fmt: skip
def test_formats_without_a_kernel_are_refused(model, dtype, capability, options, message):
    with pytest.raises(UserError) as caught:
        runs(load_architecture(model), dtype, capability, **options)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("model", "dtype", "capability", "options"),
    [
        ("Qwen3-8B", "float32", None, INT4 | FP8_CACHE),
        ("Qwen3-8B", "bfloat16", 80, INT4),
        ("Qwen3-8B", "bfloat16", 89, FP8),
        ("gpt-oss-20b", "bfloat16", 90, FP8 | FP8_CACHE),
        ("gpt-oss-20b", "float32", None, {}),
        ("DeepSeek-V3", "bfloat16", 120, FP8),
    ],
)
def test_formats_with_a_kernel_run(model, dtype, capability, options):
    runs(load_architecture(model), dtype, capability, **options)


def test_heads_without_a_kernel_are_refused():
    qwen, latent = load_architecture("Qwen3-8B"), load_architecture("DeepSeek-V3")
    assert isinstance(qwen.attention, GroupedAttention)
    assert isinstance(latent.attention, LatentAttention)
    for head_dim in (80, 64 + 32, 256):  # 64 + 16, 64 + 32, and one power
        runs(replace(qwen, attention=replace(qwen.attention, head_dim=head_dim)), "bfloat16", None)
    for wrong, message in (
        # 112 = 64 + 48, 224 = 128 + 96; of 64 + 64 the power is 128, where values have 64.
        (replace(qwen, attention=replace(qwen.attention, head_dim=112)), "head_dim 112 has no attention kernel"),
        (
            replace(latent, attention=replace(latent.attention, qk_nope_head_dim=160)),
            r"qk_nope \+ qk_rope = 224 has no attention kernel; allowed: powers of two from 16, or the sum of two",
        ),
        (
            replace(latent, attention=replace(latent.attention, kv_lora_rank=64)),
            "kv_lora_rank 64 has no attention kernel beside a rotary part of 64; allowed: the largest power of two in",
        ),
    ):
        with pytest.raises(UserError, match=message):
            runs(wrong, "bfloat16", None)


def test_mxfp4_experts_come_in_whole_groups(tmp_path):
    CONFIGS["gpt-oss"].save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | {"quantization_config": {"quant_method": "mxfp4"}}
    (tmp_path / "config.json").write_text(json.dumps(config | {"intermediate_size": 144}))
    with pytest.raises(UserError, match="mxfp4 experts take widths in multiples of 32, intermediate_size is 144"):
        runs(load_architecture(str(tmp_path)), "bfloat16", None)


# The same models under other names


@pytest.mark.parametrize(
    ("body", "head"), [("language_model.model.", "language_model.lm_head."), ("model.language_model.", "lm_head.")]
)
def test_the_language_model_of_one_that_also_sees(body, head, tmp_path, monkeypatch):
    model = make("gemma3", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    renamed = {body + name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    # Published models share the embedding; here the head has a tensor of its own, with the same numbers.
    renamed[f"{head}weight"] = tensors["model.embed_tokens.weight"].clone()
    renamed["vision_tower.vision_model.post_layernorm.weight"] = torch.zeros(8)
    save_file(renamed, tmp_path / "model.safetensors")
    text = json.loads((tmp_path / "config.json").read_text())
    outer = {"model_type": "gemma3", "text_config": text, "tie_word_embeddings": False}
    (tmp_path / "config.json").write_text(json.dumps(outer))
    requests = prompts((5, 40), osl=6)
    engine = engine_of(tmp_path, "cpu", 2, 64, page_size=16)
    assert_same(model, requests, watch(engine, requests, 2, monkeypatch), TOLERANCE["cpu"])


def test_without_a_model_it_is_that_of_the_weights(qwen3, monkeypatch):
    monkeypatch.chdir(qwen3.parent)
    engine = open_engine(spec_of(weights=qwen3.name))
    assert engine.identity.model == qwen3.name
    assert engine.identity.weights_source == "safetensors"
    engine.load(max_concurrency=1, longest_context=16)


# The hub


@pytest.mark.parametrize(
    ("name", "is_id"),
    [
        ("Qwen/Qwen3-0.6B", True),
        ("meta-llama/Llama-3.1-8B", True),
        ("openai/gpt-oss-20b", True),
        ("Qwen3-0.6B", False),
        ("./weights", False),
        ("../weights", False),
        ("weights/", False),
        ("/data/weights", False),
        ("data/qwen/weights", False),
        ("a/..", False),
        ("a b/c", False),
        ("", False),
    ],
)
def test_what_looks_like_an_id(name, is_id):
    assert is_hub_id(name) is is_id


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """What a hub answers for org/model, and what it was asked for."""

    folder: Path
    asked: list[str]
    gated: bool = False
    silent: bool = False


@contextmanager
def hub_at_work(hub: Hub) -> Iterator[str]:
    """A server with the few addresses that huggingface_hub asks for; gives the address to put into HF_ENDPOINT."""
    ends = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            hub.asked.append(f"{self.command} {path}")
            if hub.silent:
                ends.wait()
                self.close_connection = True
            elif path in ("/api/models/org/model", "/api/models/org/model/revision/main"):
                self.answer(200, json.dumps({"id": "org/model", "sha": COMMIT}).encode())
            elif path == f"/api/models/org/model/tree/{COMMIT}":
                self.answer(200, json.dumps([*map(self.entry, self.files())]).encode())
            elif path.startswith(f"/org/model/resolve/{COMMIT}/"):
                self.resolve(path.removeprefix(f"/org/model/resolve/{COMMIT}/"))
            else:
                self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})

        do_HEAD = do_GET  # noqa: N815

        def files(self) -> list[str]:
            return [str(path.relative_to(hub.folder)) for path in hub.folder.rglob("*") if path.is_file()]

        def entry(self, name: str) -> dict[str, object]:
            return {"type": "file", "path": name, "size": (hub.folder / name).stat().st_size, "oid": etag(name)}

        def resolve(self, name: str) -> None:
            if hub.gated:
                self.answer(403, b"", {"X-Error-Code": "GatedRepo"})
            else:
                headers = {"ETag": f'"{etag(name)}"', "X-Repo-Commit": COMMIT}
                self.answer(200, (hub.folder / name).read_bytes(), headers)

        def answer(self, code: int, content: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(code)
            for key, value in {**(headers or {}), "Content-Length": str(len(content))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        ends.set()
        server.shutdown()
        thread.join()
        server.server_close()


def etag(name: str) -> str:
    return name.encode().hex()[:40].ljust(40, "0")


# Opened in a process of its own, since huggingface_hub reads its environment once, and loaded.
OPEN = """
import json, sys, time
from tokenwatt.engines import open_engine
from tokenwatt.errors import UserError
from tokenwatt.spec import BenchSpec
begin = time.monotonic()
try:
    engine = open_engine(BenchSpec.model_validate_json(sys.argv[1]))
    engine.load(max_concurrency=1, longest_context=16)
    outcome = {"model": engine.identity.model, "weights": engine.identity.weights_source}
except UserError as error:
    outcome = {"error": str(error)}
print(json.dumps({**outcome, "seconds": time.monotonic() - begin}))
"""


@dataclass
class Asker:
    """Opens engines with a cache of its own."""

    home: Path

    def open(self, endpoint: str, *, offline: bool = False, **settings) -> dict:
        """What came of it."""
        kept = {name: value for name, value in os.environ.items() if not name.lower().startswith(("hf_", "http"))}
        environment = {
            **kept,
            "HF_ENDPOINT": endpoint,
            "HF_HOME": str(self.home),
            "HF_HUB_OFFLINE": str(int(offline)),
            "HF_HUB_ETAG_TIMEOUT": "2",
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        }
        command = [sys.executable, "-c", OPEN, spec_of(**settings).model_dump_json()]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
        outcome = json.loads(done.stdout)
        assert "\n" not in outcome.get("error", "")
        return outcome


@pytest.fixture
def asker(tmp_path) -> Asker:
    return Asker(tmp_path / "home")


NOWHERE = "http://127.0.0.1:9"
"""The port of `discard`, on which nothing listens."""


def test_weights_and_model_come_from_the_hub_and_stay_in_its_cache(folder, asker):
    # Copies of the weights, of which publishers keep some beside them, and a file that is neither.
    (folder / "original").mkdir()
    (folder / "original" / "model.safetensors").write_bytes(b"twice")
    (folder / "consolidated.safetensors").write_bytes(b"twice")
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    hub = Hub(folder, [])
    with hub_at_work(hub) as endpoint:
        outcome = asker.open(endpoint, weights="org/model")
    assert (outcome["model"], outcome["weights"]) == ("org/model", "safetensors")
    fetched = {line.rpartition("/")[2] for line in hub.asked if line.startswith("GET /org/model/resolve/")}
    wanted = {path.name for path in folder.iterdir() if path.suffix in (".json", ".safetensors")}
    assert fetched == wanted - {"consolidated.safetensors"}
    assert not any("original" in line for line in hub.asked)
    for endpoint, offline in ((NOWHERE, False), (NOWHERE, True)):  # nobody is there, or nobody may be asked
        assert asker.open(endpoint, offline=offline, weights="org/model")["model"] == "org/model"


def test_of_a_model_alone_only_its_config_is_fetched(folder, asker):
    hub = Hub(folder, [])
    with hub_at_work(hub) as endpoint:
        outcome = asker.open(endpoint, model="org/model")
    assert (outcome["model"], outcome["weights"]) == ("org/model", "random")
    fetched = [line for line in hub.asked if line.startswith("GET /org/model/resolve/")]
    assert fetched == [f"GET /org/model/resolve/{COMMIT}/config.json"]
    # The weights are not there then, and it is said so.
    message = asker.open(NOWHERE, weights="org/model")["error"]
    assert "the model of that id can neither be fetched (" in message
    assert "nor is it complete in the hub's cache" in message


def test_what_cannot_run_is_not_fetched(folder, asker):
    hub = Hub(folder, [])
    with hub_at_work(hub) as endpoint:
        message = asker.open(endpoint, weights="org/model", options={"quantization": "int4"})["error"]
    assert "org/model: int4 takes widths in multiples of 128, qkv_proj has 96" in message
    assert not any(line.endswith(".safetensors") for line in hub.asked)


def test_a_model_that_the_hub_does_not_give(folder, asker):
    hub = Hub(folder, [], gated=True)
    with hub_at_work(hub) as endpoint:
        message = asker.open(endpoint, weights="org/model")["error"]
        assert message == (
            "there is no folder org/model, and the model of that id is gated: accept its terms on its page and log in"
            ' (`hf auth login`); or give a folder, or weights = "random"'
        )
        message = asker.open(endpoint, model="org/other")["error"]
        assert message == (
            "there is no folder org/other, and the model of that id is not on the hub, or is private: check the id, or"
            " log in (`hf auth login`); or give a model of the library, or a folder with its config.json"
        )


def test_a_hub_that_cannot_be_reached(asker):
    settings = {"model": "Qwen3-0.6B", "weights": "org/model"}
    assert asker.open(NOWHERE, **settings)["error"] == (
        "there is no folder org/model, and the model of that id can neither be fetched ([Errno 111] Connection refused)"
        ' nor is it complete in the hub\'s cache; give a folder, or weights = "random"'
    )
    assert "HF_HUB_OFFLINE" in asker.open(NOWHERE, offline=True, **settings)["error"]


def test_a_hub_that_does_not_answer(folder, asker):
    with hub_at_work(Hub(folder, [], silent=True)) as endpoint:
        outcome = asker.open(endpoint, model="Qwen3-0.6B", weights="org/model")
    assert "can neither be fetched (timed out)" in outcome["error"]
    # Two seconds are allowed here, ten without HF_HUB_ETAG_TIMEOUT; the rest is for a slow machine's imports.
    assert outcome["seconds"] < 15


# Memory


def tensors_of(part: object) -> Iterator[Tensor]:
    """All tensors in a decoder, but for its rotary tables, which are no weights: they grow with the context."""
    if isinstance(part, Tensor):
        yield part
    elif isinstance(part, tuple):
        for inner in part:
            yield from tensors_of(inner)
    elif is_dataclass(part):
        for field in fields(part):
            if field.name != "tables":
                yield from tensors_of(getattr(part, field.name))


def allocated_bytes(decoder: Decoder) -> int:
    """Storage of all tensors, a tied head counted once; a view of something larger would count as all of it."""
    tensors = {id(tensor): tensor for tensor in tensors_of(decoder)}
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors.values())


def allowed(architecture: Architecture, dtype: str) -> list[Quantization]:
    kept = []
    for quantisation in get_args(Quantization):
        try:
            runs(architecture, dtype, None, quantization=quantisation)
        except UserError:
            continue
        kept.append(quantisation)
    return kept


TINY = CONFIGS | DENSE | EXPERTS


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_take_what_was_reckoned(name, dtype, tmp_path):
    TINY[name].save_pretrained(tmp_path)
    architecture = load_architecture(str(tmp_path))
    source = RandomWeights(getattr(torch, dtype), torch.device("cpu"), 0)
    kinds = allowed(architecture, dtype)
    assert ("fp8" in kinds) is (dtype == "bfloat16")
    assert ("int4" in kinds) is (name in DENSE)
    for quantisation in kinds:
        decoder = build_decoder(architecture, source, 16, quantisation)
        assert allocated_bytes(decoder) == weight_bytes(architecture, dtype, quantisation), quantisation


@pytest.mark.parametrize("quantisation", ["none", "fp8"])
def test_mxfp4_weights_take_what_was_reckoned(quantisation, tmp_path):
    CONFIGS["gpt-oss"].save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "mxfp4"}}))
    architecture = load_architecture(str(tmp_path))
    decoder = build_decoder(architecture, RandomWeights(torch.bfloat16, torch.device("cpu"), 0), 16, quantisation)
    # hidden 96 is one chunk of 128 and intermediate 160 two: of 4 experts in 3 layers, 320 rows of one and 96 of two.
    assert 4 * 3 * (320 * 1 + 96 * 2) * 68 == 417_792
    assert sum(w.bytes("mxfp4", 2) for w in quantised_weights(architecture) if w.is_expert) == 417_792
    assert allocated_bytes(decoder) == weight_bytes(architecture, "bfloat16", quantisation)


def described(name: str, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
    """A source of tensors that have shapes, and no memory."""
    del name
    return torch.empty(shape, dtype=dtype or torch.bfloat16, device="meta")


@pytest.mark.parametrize("name", [name for name in LIBRARY if name != "gpt-oss-20b"])
@pytest.mark.parametrize("quantisation", ["none", "fp8"])
def test_weights_of_the_library_take_what_was_reckoned(name, quantisation):
    architecture = load_architecture(name)
    # Six layers have all kinds of a model, and thousands of experts take a while even without memory.
    architecture = replace(architecture, layers=architecture.layers[:6])
    decoder = build_decoder(architecture, described, 1, quantisation)
    assert allocated_bytes(decoder) == weight_bytes(architecture, "bfloat16", quantisation)


@pytest.mark.parametrize("name", LIBRARY)
def test_weights_of_the_library_follow_from_their_number(name):
    architecture = load_architecture(name)
    if architecture.checkpoint_format == "plain":
        # DeepSeek-V3 alone has weights of four bytes: 58 routers of 256 x 7168, each with 256 corrections.
        more = 2 * 58 * 256 * (7168 + 1) if name == "DeepSeek-V3" else 0
        assert weight_bytes(architecture, "bfloat16", "none") == 2 * architecture.parameters + more
        assert weight_bytes(architecture, "float32", "none") == 4 * architecture.parameters
    if "int4" in allowed(architecture, "bfloat16"):
        # All products but the head: 4 bits, and 32 more for every 128.
        inner = architecture.matmul_parameters - architecture.head_parameters
        expected = 2 * (architecture.parameters - inner) + inner * 4.25 / 8
        assert weight_bytes(architecture, "bfloat16", "int4") == expected


def test_gpt_oss_takes_fourteen_gigabytes():
    # Experts: 24 layers of 32, each 3 x 2880 rows of 23 chunks (2880 = 22.5 x 128) of 68 bytes. The rest, of 20.9e9
    # parameters less 24 x 32 x 3 x 2880^2, has two bytes each, but for 24 x 64 sinks, which have four.
    experts = 24 * 32 * 3 * 2880 * 23 * 68
    others = 20_914_757_184 - 24 * 32 * 3 * 2880**2
    expected = experts + 2 * others + 2 * 24 * 64
    assert weight_bytes(load_architecture("gpt-oss-20b"), "bfloat16", "none") == expected == 13_986_875_520


def test_what_does_not_fit_is_reckoned_before_anything_is_loaded():
    engine = open_engine(spec_of(model="DeepSeek-V3", dtype="bfloat16", options={"page_size": 64}))
    begin = time.monotonic()
    with pytest.raises(EngineError) as caught:
        engine.load(max_concurrency=2, longest_context=1000)
    assert time.monotonic() - begin < 20
    # 671,026,419,200 parameters of 2 bytes and 58 x 256 x 7169 of 2 more: 1342.27 GB. Cache: 1000 tokens are 16 pages
    # of 64, and a token has 61 layers of 576 numbers of 2 bytes: 1024 x 70,272 = 0.07 GB.
    assert str(caught.value).startswith("DeepSeek-V3 needs weights 1342.27 GB + activations ")
    assert " + KV cache of one request 0.07 GB = 134" in str(caught.value)
    assert str(caught.value).endswith(" GB are free")


def test_pages_that_do_not_fit_say_how_many(qwen3):
    engine = open_engine(spec_of(weights=str(qwen3), options={"num_pages": 10**12, "page_size": 16}))
    # Of a token three layers have keys and values of two heads of 32, four bytes each: 1536. Of 10^12 x 16 tokens:
    message = "1000000000000 pages of the KV cache need 24576000.00 GB, .* GB are left beside weights and activations"
    with pytest.raises(EngineError, match=message):
        engine.load(max_concurrency=1, longest_context=16)
