"""Rotary embedding with its append against the same in torch: norms, a rotation, and writes by index."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tokenwatt_kernels import device as device_facts
from tokenwatt_kernels import tables
from tokenwatt_kernels.contests import OURS, Contender, Contest, compiled
from tokenwatt_kernels.fused.rope.call import rotate_and_append, tile_for
from tokenwatt_kernels.fused.rope.inputs import Inputs, make_inputs
from tokenwatt_kernels.fused.rope.operands import Append
from tokenwatt_kernels.fused.rope.problems import RopeProblem
from tokenwatt_kernels.fused.rope.reference import rotated_reference
from tokenwatt_kernels.fused.rope.tiles import FAMILY, make_key
from tokenwatt_kernels.fused.rope.work import work
from tokenwatt_kernels.number_formats.float8 import LARGEST

Answer = tuple[Tensor, Append, Tensor | None, Tensor | None]


def contest(problem: RopeProblem, dtype_name: str, device: torch.device) -> Contest:
    """Random normal heads. Every contender has caches of its own, and every token is appended to them."""
    inputs = make_inputs(problem, dtype_name, device, poisoned=False)
    contenders = {
        OURS: Contender(_ours(inputs, dtype_name), _as_one(inputs)),
        "torch": Contender(_by_torch(inputs, dtype_name), _as_one(inputs)),
    }
    if device.type == "cuda":
        contenders["torch_compile"] = Contender(
            compiled(_by_torch(inputs, dtype_name)), _as_one(inputs), is_compiled=True
        )
    return Contest(
        family=FAMILY,
        problem=problem.name,
        dtype_name=dtype_name,
        terms=problem.terms,
        work=work(problem, dtype_name),
        contenders=contenders,
        configuration=_configuration(inputs) if device.type == "cuda" else "",
        held_to=problem.kv_dtype or "",
    )


def _outputs(inputs: Inputs, dtype_name: str) -> tuple[Append, Tensor | None, Tensor | None]:
    append = inputs.append_to_empty(getattr(torch, inputs.problem.kv_dtype or dtype_name))
    if append is None:
        raise ValueError("a contest needs a cache, got page_size=0")
    is_packed = inputs.problem.is_packed
    k_out, v_out = (torch.empty_like(heads) if is_packed else None for heads in (inputs.k, inputs.v))
    return append, k_out, v_out


def _ours(inputs: Inputs, dtype_name: str) -> Callable[[], Answer]:
    append, k_out, v_out = _outputs(inputs, dtype_name)
    rotation = inputs.rotation

    def run() -> Answer:
        q = rotate_and_append(
            inputs.q, inputs.k, inputs.v, rotation.cos, rotation.sin, rotation.positions,
            append.k_cache, append.v_cache, append.slots, append.k_scale, append.v_scale,
            rotation.q_weight, rotation.k_weight, k_out, v_out,
            interleaved=rotation.interleaved, eps=rotation.eps, unit_offset=rotation.unit_offset,
        )  # fmt: skip
        return q, append, k_out, v_out

    return run


def _by_torch(inputs: Inputs, dtype_name: str) -> Callable[[], Answer]:
    append, k_out, v_out = _outputs(inputs, dtype_name)
    rotation = inputs.rotation

    def run() -> Answer:
        q = rotated_reference(inputs.q, rotation, rotation.q_weight).to(inputs.q.dtype)
        k = rotated_reference(inputs.k, rotation, rotation.k_weight).to(inputs.k.dtype)
        page_size = append.k_cache.shape[1]
        places = append.slots // page_size, append.slots % page_size
        for cache, heads, scale in ((append.k_cache, k, append.k_scale), (append.v_cache, inputs.v, append.v_scale)):
            stored = heads if scale is None else (heads / scale[:, None]).clamp(-LARGEST, LARGEST)
            cache[places] = stored.to(cache.dtype)
        if k_out is not None and v_out is not None:
            k_out.copy_(k)
            v_out.copy_(inputs.v)
        return q, append, k_out, v_out

    return run


def _as_one(inputs: Inputs) -> Callable[[Answer], Tensor]:
    """Queries, keys and values, as the cache has them and as packed ones, one after another."""

    def flat(answer: Answer) -> Tensor:
        q, append, k_out, v_out = answer
        page_size = append.k_cache.shape[1]
        places = append.slots // page_size, append.slots % page_size
        cached = [
            cache[places].float() * (1.0 if scale is None else scale[:, None])
            for cache, scale in ((append.k_cache, append.k_scale), (append.v_cache, append.v_scale))
        ]
        tensors = [q, *cached, *(out for out in (k_out, v_out) if out is not None)]
        return torch.cat([tensor.float().flatten() for tensor in tensors])

    return flat


def _configuration(inputs: Inputs) -> str:
    q = inputs.q
    tile = tile_for(q)
    key = make_key(q.shape[-1], q.element_size())
    return f"{tile.name} ({tables.origin(device_facts.name(q.device), FAMILY, key, tile)})"
