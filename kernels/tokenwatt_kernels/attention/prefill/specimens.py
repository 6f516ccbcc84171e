"""What the compile report compiles for prefill attention."""

from __future__ import annotations

from tokenwatt_kernels.attention.prefill.kernel import prefill_kernel
from tokenwatt_kernels.attention.prefill.tiles import choose
from tokenwatt_kernels.compiling import Specimen
from tokenwatt_kernels.dtypes import DTYPES
from tokenwatt_kernels.targets import Target

HEAD_DIMS = (64, 128, 256)
GROUP = 4


def specimens(target: Target, dtype_names: tuple[str, ...]) -> list[Specimen]:
    """The kernel with the tile that `choose` gives for each dtype and head dimension."""
    return [_specimen(dtype_name, head_dim, target) for dtype_name in dtype_names for head_dim in HEAD_DIMS]


def _specimen(dtype_name: str, head_dim: int, target: Target) -> Specimen:
    dtype = DTYPES[dtype_name]
    tile = choose(head_dim, dtype.bytes, target.capability)
    tensors = ("q_ptr", "k_ptr", "v_ptr", "out_ptr")
    strides = tuple(f"{tensor}_stride_{axis}" for tensor in ("q", "k", "v", "out") for axis in "th")
    return Specimen(
        name=f"prefill {dtype_name} D{head_dim} {tile.block_m}x{tile.block_n} w{tile.num_warps} s{tile.num_stages}",
        kernel=prefill_kernel,
        signature={
            **dict.fromkeys(tensors, f"*{dtype.triton_name}"),
            "cu_seqlens_ptr": "*i32",
            "scale_log2": "fp32",
            **dict.fromkeys(strides, "i32"),
        },
        constexprs={"GROUP": GROUP, "HEAD_DIM": head_dim, "BLOCK_M": tile.block_m, "BLOCK_N": tile.block_n},
        aligned=frozenset((*tensors, *strides, "cu_seqlens_ptr")),
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        needs_tensor_cores=dtype.has_tensor_core_path,
    )
