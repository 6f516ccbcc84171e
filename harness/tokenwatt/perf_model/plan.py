"""A case as work: the model's shape, how it is split and stored, how many sequences run, and what a step does.

Closed loop: `concurrency` requests over all instances, each instance and attention rank with its share, but no more
than fit. Offline: as many as fit, each with room for all of its tokens from the start, up to the engine's own limit; of
a run that ends, as many as are in flight on average (`finite_run`).
Decode steps see a mean context of isl + osl / 2. Prompts are computed in chunks of whole prompts, up to CHUNK tokens.
Drafted tokens are verified in the step: it carries `draft_tokens` + 1 tokens of each sequence and yields
`accepted_length` of them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from tokenwatt.errors import UserError
from tokenwatt.perf_model.capacity import Capacity, capacity_of
from tokenwatt.perf_model.finite_run import in_flight
from tokenwatt.perf_model.operations import Load, Operation
from tokenwatt.perf_model.parallelism import Parallelism
from tokenwatt.perf_model.precision import Precision, precision_of
from tokenwatt.perf_model.shape import ModelShape
from tokenwatt.perf_model.shape_library import model_shape
from tokenwatt.perf_model.steps import step_operations
from tokenwatt.reference.systems import SystemSpec, load_system

CHUNK = 8192
"""Tokens of one prefill step at most, unless one prompt is longer: what servers allow by default or are told to."""
LARGEST_BATCH = {"trtllm": 4096}
OTHER_LARGEST_BATCH = 1024
"""Sequences that an engine lets run at once where nobody says how many, for one attention rank. TensorRT-LLM: as its
trtllm-bench has it (tensorrt_llm/bench/build/tuning.py)."""
BENCH_STEP_TOKENS = (2048.0, 32768.0)
"""Least and most tokens of a step that trtllm-bench chooses; within these batch x (1 + isl / osl), with which as many
come in as leave."""
NATIVE = "native"
ENGINES = {"vllm": "vllm", "sglang": "sglang", "trt": "trtllm", "tensorrt": "trtllm"}


@dataclass(frozen=True, slots=True)
class Plan:
    """One case."""

    family: str
    system: str
    engine: str
    """vllm, sglang or trtllm: whose operators and overheads; vllm where a case names none of them."""
    is_native: bool
    """Whether it is our own engine, which has overheads of its own."""
    source: str
    """Whose definitions the numbers follow: mlenergy's TPOT is a gap that no prompt interrupts, others' a mean."""
    shape: ModelShape
    parallelism: Parallelism
    precision: Precision
    capacity: Capacity
    isl: float
    osl: float
    batch: float
    """Sequences that decode at once, for one attention rank."""
    fits: float
    """As many at most."""
    waits: float
    """Requests of the same rank in flight; more than `batch` where not all fit."""
    concurrency: float
    """Requests in flight in one instance."""
    chunk: float
    """Tokens of one prefill step."""
    taking_in: float
    """Largest share of the steps that may hold prompts: 1 but in a run that ends."""
    is_offline: bool
    gpus: int
    """All GPUs of one instance, or of both pools."""
    accepted_length: float
    prefill: Parallelism | None
    """Of one worker of the prefill pool; None where prefill and decode share their GPUs."""
    prefill_workers: float
    decode_workers: float
    queries: float = 1.0
    """Tokens of a sequence in one decode step."""

    @property
    def group(self) -> str:
        """Whose overheads it has: the engine as this source runs it."""
        if self.is_native:
            return "native"
        if self.source == "mlenergy":
            return f"{self.engine} mlenergy"
        return f"{self.engine} offline" if self.is_offline and self.engine == "trtllm" else self.engine

    @property
    def setting(self) -> str:
        """What kind of run it is: intervals are calibrated for each kind by itself."""
        return "mlenergy" if self.source == "mlenergy" else "offline" if self.is_offline else "closed loop"

    def decode_operations(self) -> list[Operation]:
        """One decode step of one GPU."""
        tokens = self.batch / self.parallelism.pp * self.queries
        load = Load(tokens, self.queries, self.isl + self.osl / 2)
        return step_operations(self.shape, self.parallelism, self.precision, load)

    def prefill_operations(self) -> list[Operation]:
        """One prefill step of one GPU."""
        load = Load(prefill_tokens=self.chunk, prompt=self.isl)
        return step_operations(self.shape, self.prefill or self.parallelism, self.precision, load)


def is_split_open(row: Mapping[Any, Any]) -> bool:
    """Whether a valid row leaves open how its GPUs share the model."""
    return "tp" in row["assumed"].split()


def is_batch_open(row: Mapping[Any, Any]) -> bool:
    """Whether a limit is to decide how many sequences run."""
    return math.isnan(row["concurrency"]) and not (math.isnan(row["tpot_limit_s"]) and math.isnan(row["ttft_limit_s"]))


def plan_case(row: Mapping[Any, Any]) -> Plan:
    """The plan of a valid row of `check_cases`.

    Raises:
        UserError: a model that does not fit, with the arithmetic, or drafted tokens that contradict themselves.
    """
    system, shape, engine = load_system(row["system"]), model_shape(row["model"]), engine_of(row["engine"])
    is_offline = row["scenario"] != "closed_loop" and math.isnan(row["concurrency"])
    parallelism = _split(row, shape, engine, is_offline)
    parallelism.check(shape)
    precision = precision_of(row["weight_dtype"], shape, engine)
    if engine == "trtllm":
        precision = _as_trtllm_has_it(precision, row["family"], system)
    isl, osl = float(row["isl"]), float(row["osl"])
    memory = system.addressable_memory_bytes.value
    context = isl + osl if is_offline else isl + osl / 2
    capacity = capacity_of(shape, parallelism, precision, context, memory)
    capacity.check(row["gpu"])
    prefill, prefill_workers, decode_workers = _pools(row, parallelism)
    if prefill is not None:
        prefill.check(shape)
        capacity_of(shape, prefill, precision, isl, memory).check(f"{row['gpu']} of a prefill worker")
    gpus = int(row["num_gpus"]) if prefill else parallelism.gpus
    instances = decode_workers if prefill else max(row["num_gpus"] / parallelism.gpus, 1.0)
    fits = capacity.largest_batch
    limit = float(LARGEST_BATCH.get(engine, OTHER_LARGEST_BATCH))
    asked = row["concurrency"] / instances / parallelism.attention_dp
    wanted = limit if math.isnan(asked) else asked
    batch = max(min(wanted, fits), min(wanted, 1.0))
    queries, accepted = _drafted(row)
    taking_in = 1.0
    if is_offline and not math.isnan(row["num_requests"]):
        requests = max(row["num_requests"] / instances / parallelism.attention_dp, 1.0)
        flight = in_flight(requests, max(batch, 1.0), isl, osl / accepted, _step_tokens(engine, batch, isl, osl))
        batch, taking_in = flight.mean, flight.taking_in
    return Plan(
        family=row["family"],
        system=system.name,
        engine=engine,
        is_native=row["engine"].casefold() == NATIVE,
        source=row["source_set"],
        shape=shape,
        parallelism=parallelism,
        precision=precision,
        capacity=capacity,
        isl=isl,
        osl=osl,
        batch=batch,
        fits=fits,
        waits=batch if math.isnan(asked) else max(asked, batch),
        concurrency=(batch if math.isnan(asked) else asked) * parallelism.attention_dp,
        chunk=isl * max(min(CHUNK // max(isl, 1.0), math.floor(batch)), 1.0),
        taking_in=taking_in,
        is_offline=is_offline,
        gpus=gpus,
        accepted_length=accepted,
        prefill=prefill,
        prefill_workers=prefill_workers,
        decode_workers=decode_workers,
        queries=queries,
    )


def _as_trtllm_has_it(precision: Precision, family: str, system: SystemSpec) -> Precision:
    """Precision as its published runs have it: one scale for a tensor of fp8 but for DeepSeek, which is published in
    blocks; a cache in fp8 for MXFP4 mixtures where tensor cores know fp4, in bfloat16 on Hopper."""
    if precision.experts == "fp8_block" and not family.startswith("DeepSeek"):
        return replace(precision, attention="fp8", mlp="fp8", experts="fp8")
    if precision.experts == "mxfp4" and system.has_peak("fp4"):
        return replace(precision, kv="fp8")
    return precision


def _step_tokens(engine: str, batch: float, isl: float, osl: float) -> float:
    """Tokens that a step of an offline run has room for."""
    least, most = BENCH_STEP_TOKENS
    return min(max(batch * (1 + isl / osl), least), most) if engine == "trtllm" else float(CHUNK)


def engine_of(name: str) -> str:
    """The engine whose operators and overheads stand for `name`.

    >>> engine_of("TensorRT-LLM 1.2")
    'trtllm'
    """
    return next((engine for mark, engine in ENGINES.items() if mark in name.casefold()), "vllm")


def _split(row: Mapping[Any, Any], shape: ModelShape, engine: str, is_offline: bool) -> Parallelism:
    """As the row says, but mixtures in TensorRT-LLM's tables of most throughput.

    Those label a mixture on 4 or 8 GPUs TP4 or TP8 and ask for attention data parallel in the options beside it: on
    Hopper the published tokens/s are off by 10 % (median) read so, and by 17 % read as tensor parallel attention.
    """
    names = ("attention_tp", "attention_dp", "moe_tp", "moe_ep", "pp")
    tp, dp, moe_tp, moe_ep, pp = (int(row[name]) for name in names)
    given = Parallelism(tp * dp * pp, tp, dp, moe_tp, moe_ep, pp)
    if engine == "trtllm" and is_offline and shape.has_experts and re.fullmatch(r"TP[48]", str(row["task"])):
        return replace(given, attention_tp=1, attention_dp=tp, moe_tp=1, moe_ep=tp)
    return given


def _pools(row: Mapping[Any, Any], decode: Parallelism) -> tuple[Parallelism | None, float, float]:
    """A prefill worker, the number of them, and that of decode workers; None, 1, 1 where they are the same GPUs."""
    if not row["disaggregated"]:
        return None, 1.0, 1.0
    each, workers, others = (
        _number(row.get(name), 1.0) for name in ("prefill_gpus_each", "prefill_workers", "decode_workers")
    )
    ep = int(each) if decode.moe_ep > 1 else 1
    return Parallelism(int(each), int(each), 1, int(each) // ep, ep, 1), workers, others


def _drafted(row: Mapping[Any, Any]) -> tuple[float, float]:
    """Tokens of a sequence in a step, and those of them that it yields."""
    drafted = _number(row.get("draft_tokens"), 0.0)
    accepted = _number(row.get("accepted_length"), 1.0)
    if not 1 <= accepted <= drafted + 1:
        raise UserError(
            f"accepted_length {accepted:g} must be from 1 to draft_tokens + 1 = {drafted + 1:g}: "
            "a step yields at least one token and at most all that it verifies"
        )
    return drafted + 1, accepted


def _number(cell: object, default: float) -> float:
    if cell is None or cell == "" or (isinstance(cell, float) and math.isnan(cell)):
        return default
    try:
        return float(str(cell))
    except ValueError:
        raise UserError(f"{cell!r} is not a number") from None
