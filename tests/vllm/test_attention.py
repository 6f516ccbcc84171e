"""Our attention as a backend of vLLM: known by its name, caches and steps as vLLM makes them, right numbers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.vllm.attention_case import BLOCK, Case, answer_and_truth, metadata, vllm_caches
from tests.vllm.conftest import VOCABULARY, Reference
from vllm.platforms.interface import DeviceCapability
from vllm.v1.attention.backend import AttentionCGSupport
from vllm.v1.kv_cache_interface import KVCacheLayout

from tokenwatt.clock import RunClock
from tokenwatt.engines import open_engine
from tokenwatt.engines.vllm_engine.attention.backend import TokenwattBackend
from tokenwatt.engines.vllm_engine.attention.cache import blocks, pages
from tokenwatt.engines.vllm_engine.attention.layer import TokenwattAttention
from tokenwatt.load import Listed, Load
from tokenwatt.spec import BenchSpec
from tokenwatt.workloads import Request
from tokenwatt_kernels.attention.keys import check_paged

ROOT = Path(__file__).parents[2]
TOLERANCE = 1e-5
"""Of fp32 sums over at most 130 keys, in another order."""


def run(code: str, **environment: str) -> str:
    """What a fresh process prints last."""
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=os.environ | environment
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()[-1]


def test_vllm_finds_the_backend_by_its_entry_point_however_often_it_asks():
    code = """
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = AsyncEngineArgs.add_cli_args(FlexibleArgumentParser())  # loads plug-ins
import vllm.plugins
vllm.plugins.plugins_loaded = False
vllm.plugins.load_general_plugins()
from vllm.config import AttentionConfig
arguments = parser.parse_args(["--model", "x", "--attention-backend", "TOKENWATT"])
config = AttentionConfig(backend=arguments.attention_backend)
print(config.backend.name, config.backend.get_class().get_name())
"""
    assert run(code) == "TOKENWATT TOKENWATT"


def test_another_plugin_list_leaves_it_out():
    code = """
import vllm.plugins
vllm.plugins.load_general_plugins()
from vllm.v1.attention.backends.registry import AttentionBackendEnum
print("TOKENWATT" in AttentionBackendEnum.__members__)
"""
    assert run(code, VLLM_PLUGINS="another") == "False"


def test_a_config_that_names_it_reaches_a_process_without_plugins():
    code = """
import multiprocessing.reduction, pickle
from tokenwatt.engines.vllm_engine.attention.registration import register
from vllm.v1.attention.backends.registry import AttentionBackendEnum
register()
entries = [AttentionBackendEnum["TOKENWATT"], AttentionBackendEnum.FLASH_ATTN]
print(multiprocessing.reduction.ForkingPickler.dumps(entries).hex())
"""
    pickled = run(code)
    assert run(f"import pickle; print([x.name for x in pickle.loads(bytes.fromhex({pickled!r}))])") == (
        "['TOKENWATT', 'FLASH_ATTN']"
    )


def test_vllms_choice_for_gpus_takes_it_by_name():
    # The module imports kernels that are not in a build for processors; the choice itself needs none of them.
    code = """
import sys, types
import vllm, torch
sys.modules["vllm._C_stable_libtorch"] = types.ModuleType("vllm._C_stable_libtorch")
from vllm.platforms.cuda import CudaPlatformBase
from vllm.platforms.interface import DeviceCapability
from vllm.v1.attention.selector import AttentionSelectorConfig
from tokenwatt.engines.vllm_engine.attention.registration import member

class H100(CudaPlatformBase):
    @classmethod
    def get_device_capability(cls, device_id=0):
        return DeviceCapability(9, 0)

def choice(**asked):
    config = AttentionSelectorConfig(128, torch.bfloat16, "auto", None, **asked)
    try:
        return H100.get_attn_backend_cls(member(), attn_selector_config=config).rpartition(".")[2]
    except ValueError as error:
        return str(error).rpartition("Reason: ")[2]

print(choice(), choice(use_mla=True))
"""
    assert run(code) == "TokenwattBackend ['MLA not supported']"


def reasons(**changes) -> list[str]:
    """Why vLLM would not choose it; by default for a model such as Llama 3.1 on an H100."""
    settings = {
        "head_size": 128, "dtype": torch.bfloat16, "kv_cache_dtype": "auto", "block_size": None, "use_mla": False,
        "has_sink": False, "use_sparse": False, "use_mm_prefix": False, "use_per_head_quant_scales": False,
        "device_capability": DeviceCapability(9, 0), "attn_type": "decoder",
    }  # fmt: skip
    return TokenwattBackend.validate_configuration(**settings | changes)


@pytest.mark.parametrize(
    "changes",
    [
        {}, {"head_size": 64, "has_sink": True, "has_sliding_window": True},
        {"head_size": 80}, {"head_size": 96}, {"head_size": 256},
        {"dtype": torch.float16, "kv_cache_dtype": "float16"}, {"kv_cache_dtype": "fp8"}, {"block_size": 128},
        {"device_capability": DeviceCapability(8, 0)}, {"device_capability": DeviceCapability(10, 0)},
    ],
)  # fmt: skip
def test_what_the_kernels_have_is_offered(changes):
    assert reasons(**changes) == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"use_mla": True}, "MLA not supported"),
        ({"head_size": 576}, "head_size not supported"),
        ({"kv_cache_dtype": "fp8_e5m2"}, "kv_cache_dtype not supported"),
        ({"kv_cache_dtype": "float16"}, "kv_cache_dtype float16 is neither the model's torch.bfloat16 nor float8"),
        (
            {"kv_cache_dtype": "fp8", "device_capability": DeviceCapability(8, 0)},
            "a float8 cache needs sm_90, got sm_80",
        ),
        ({"device_capability": DeviceCapability(7, 5)}, "compute capability not supported"),
        ({"attn_type": "encoder"}, "attention type encoder not supported"),
        ({"use_non_causal": True}, "non-causal attention not supported"),
        ({"block_size": 16}, "block_size not supported"),
        ({"use_kv_connector": True}, "KV connector not supported"),
        ({"use_dcp": True}, "DCP not supported"),
    ],
)
def test_what_they_lack_is_refused_with_its_reason(changes, reason):
    assert reason in reasons(**changes)


def test_a_layer_refuses_what_a_model_asks_for_beyond_that():
    with pytest.raises(NotImplementedError, match="no ALiBi slopes"):
        TokenwattAttention(4, 32, 1.0, 2, alibi_slopes=[0.5] * 4)
    with pytest.raises(NotImplementedError, match="decoder attention only, got encoder"):
        TokenwattAttention(4, 32, 1.0, 2, attn_type="encoder")


@pytest.mark.parametrize("layout", [KVCacheLayout.LBNHC, KVCacheLayout.LBHNC])
def test_vllms_cache_is_what_the_kernels_copy_by_hardware(layout):
    case = Case(layout=layout)
    first, second = vllm_caches(case, blocks=5, layers=2)
    assert first.shape == (5, 2, BLOCK, 64)
    q, table, lengths = torch.zeros(1, 4, 32), torch.zeros(1, 1, dtype=torch.int32), torch.ones(1, dtype=torch.int32)
    keys = check_paged(q, *pages(first, 32), table, lengths, 1)
    assert keys.k.shape == (9, BLOCK, 2, 32)
    assert keys.k.stride() == keys.v.stride() == (BLOCK * 2 * 32, 2 * 32, 32, 1)
    assert keys.allow_descriptors(BLOCK)
    # All of a block belongs to it: keys and values of block 3 fill it, and nothing else.
    for part, number in zip(blocks(first, 32), (1.0, 2.0), strict=True):
        part[3] = number
    assert first[3].unique().tolist() == [1.0, 2.0]
    assert first[[0, 1, 2, 4]].isnan().all()
    assert second.isnan().all()
    # Page 6 of the pool of pages is block 3.
    assert [part[6].unique().tolist() for part in pages(first, 32)] == [[1.0], [2.0]]


@pytest.mark.parametrize("layout", [KVCacheLayout.BLNHC, KVCacheLayout.LHBNC])
def test_a_cache_whose_blocks_are_scattered_is_refused(layout):
    shape, axes = [2, 3, 2, BLOCK, 64], layout.stride_order
    there = torch.zeros([shape[axis] for axis in axes]).permute([axes.index(axis) for axis in range(5)])
    with pytest.raises(ValueError, match="must lie side by side, each in one piece"):
        pages(there[0], 32)


def test_a_step_is_decodes_and_then_chunks():
    step = metadata(Case())
    assert (step.num_actual_tokens, step.decodes, step.longest_chunk) == (1 + 1 + 1 + 65 + 7, 3, 65)
    assert step.context_lens.tolist() == [70, 1, 130, 65, 40]
    assert step.chunk_starts.tolist() == [0, 65, 72]
    # Blocks 1 2 3, 4 5 6 ... of vLLM are pages 2 4 6, 8 10 12 ...
    assert step.block_table.tolist() == [[2, 4, 6], [8, 10, 12], [14, 16, 18], [20, 22, 24], [26, 28, 30]]


def test_a_step_of_decodes_is_one_launch_and_may_be_captured():
    step = metadata(Case(contexts=(70, 1, 130), counts=(1, 1, 1)))
    assert (step.decodes, step.longest_chunk) == (3, 0)
    builder = TokenwattBackend.get_builder_cls()
    assert builder.get_cudagraph_support(None, None) is AttentionCGSupport.UNIFORM_SINGLE_TOKEN_DECODE


@pytest.mark.parametrize(
    "case",
    [
        Case(), Case(window=33), Case(softcap=2.0), Case(has_sinks=True), Case(layout=KVCacheLayout.LBHNC),
        Case(heads=3, kv_heads=3, head_size=96), Case(contexts=(70, 1), counts=(1, 1)),
        Case(contexts=(70, 64), counts=(70, 30)), Case(cache_dtype="fp8"),
    ],
    ids=["plain", "window", "softcap", "sinks", "LBHNC", "heads of 96", "decodes", "chunks", "float8"],
)  # fmt: skip
def test_a_layer_answers_as_plain_torch_does(case):
    found, truth = answer_and_truth(case)
    torch.testing.assert_close(found, truth, rtol=TOLERANCE, atol=TOLERANCE)


def test_the_kernels_themselves_answer_so_too():
    script = ROOT / "tests" / "vllm" / "interpreted" / "attention.py"
    paths = os.pathsep.join(str(ROOT / folder) for folder in (".", "harness", "kernels"))
    environment = {"TRITON_INTERPRET": "1", "PYTHONPATH": paths}
    ran = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, cwd=ROOT, env=os.environ | environment
    )
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout.splitlines()[-1])
    assert found["launches"] == {"attention.decode": 3, "attention.prefill": 3}
    assert all(error < 1e-4 for name, error in found["errors"].items() if name != "float8")
    assert found["errors"]["float8"] < 2e-3  # weights and values are multiplied in fp16


PLUGIN = """
from vllm.platforms.cpu import CpuPlatform
from tokenwatt.engines.vllm_engine.attention.registration import member

def on_a_processor():
    CpuPlatform.get_attn_backend_cls = classmethod(lambda cls, *arguments, **named: member().get_path())
"""


@pytest.fixture
def chosen_on_a_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plug-in of its own, which lets vLLM take our backend where it otherwise takes only its own: on a processor."""
    (tmp_path / "forced.py").write_text(PLUGIN)
    about = tmp_path / "forced-0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: forced\nVersion: 0\n")
    (about / "entry_points.txt").write_text("[vllm.general_plugins]\nforced = forced:on_a_processor\n")
    monkeypatch.syspath_prepend(tmp_path)


def spec(model: Path, **options) -> BenchSpec:
    options = {"enforce_eager": True, "attention_backend": "TOKENWATT", **options}
    return BenchSpec(
        engine="vllm", weights=str(model), dtype="float32", workloads=("chat",), concurrency=(8,), options=options
    )


@pytest.mark.usefixtures("chosen_on_a_processor")
def test_vllm_serves_with_it_and_the_tokens_are_those_of_transformers(tiny_model, reference: Reference):
    # Chunks of prompts beside decodes, on blocks that the prefix cache shares: 128 tokens a step, prompts of 280.
    engine = open_engine(spec(tiny_model, max_num_batched_tokens=128))
    engine.load(8, 512)
    assert "attention=TOKENWATT" in engine.identity.version
    rng = np.random.default_rng(0)
    head = rng.integers(3, VOCABULARY, 256)
    asked = [
        Request(index, np.concatenate([head, rng.integers(3, VOCABULARY, 20 + index)]).astype(np.int32), 8)
        for index in range(10)
    ]
    found: dict[int, list[int]] = {request.index: [] for request in asked}
    for event in engine.serve(Load.closed(Listed(tuple(asked)), 8), RunClock()):
        found[event.request_index] += event.token_ids
    hit_rate = engine.report(0.0, 1e9).prefix_cache_hit_rate
    engine.close()
    assert [found[request.index] for request in asked] == [reference.greedy(request.prompt, 8) for request in asked]
    assert hit_rate is not None
    assert hit_rate > 0
