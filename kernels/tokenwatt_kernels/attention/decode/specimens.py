"""What the compile report compiles for decode attention."""

from __future__ import annotations

from tokenwatt_kernels.attention.decode.kernel import combine_kernel, split_kernel
from tokenwatt_kernels.attention.decode.tiles import MAX_SPLITS, block_rows, choose
from tokenwatt_kernels.compiling import Specimen
from tokenwatt_kernels.dtypes import DTYPES
from tokenwatt_kernels.targets import Target

HEAD_DIMS = (64, 128, 256)
GROUPS = (4, 32)
PAGE_SIZE = 16


def specimens(target: Target, dtype_names: tuple[str, ...]) -> list[Specimen]:
    """Both kernels with the tile that `choose` gives for each dtype, head dimension and group."""
    return [
        specimen
        for dtype_name in dtype_names
        for head_dim in HEAD_DIMS
        for specimen in (
            *(_split(dtype_name, head_dim, group, target) for group in GROUPS),
            _combine(dtype_name, head_dim),
        )
    ]


def _split(dtype_name: str, head_dim: int, group: int, target: Target) -> Specimen:
    dtype = DTYPES[dtype_name]
    tile = choose(group, head_dim, dtype.bytes, target.capability)
    tensors = ("q_ptr", "k_ptr", "v_ptr")
    integers = ("block_table_ptr", "context_lens_ptr")
    scratch = ("partial_ptr", "log_sum_ptr")
    strides = ("q_stride_b", "q_stride_h", "page_stride", "slot_stride", "head_stride")
    return Specimen(
        name=f"decode split {dtype_name} D{head_dim} G{group} N{tile.block_n} w{tile.num_warps} s{tile.num_stages}",
        kernel=split_kernel,
        signature={
            **dict.fromkeys(tensors, f"*{dtype.triton_name}"),
            **dict.fromkeys(integers, "*i32"),
            **dict.fromkeys(scratch, "*fp32"),
            "scale_log2": "fp32",
            **dict.fromkeys((*strides, "table_stride_b"), "i32"),
        },
        constexprs={
            "GROUP": group,
            "HEAD_DIM": head_dim,
            "PAGE_SIZE": PAGE_SIZE,
            "SPLITS": 8,
            "BLOCK_M": block_rows(group),
            "BLOCK_N": tile.block_n,
        },
        aligned=frozenset((*tensors, *integers, *scratch, *strides)),
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        needs_tensor_cores=dtype.has_tensor_core_path,
    )


def _combine(dtype_name: str, head_dim: int) -> Specimen:
    pointers = ("partial_ptr", "log_sum_ptr", "out_ptr")
    strides = ("out_stride_b", "out_stride_h")
    return Specimen(
        name=f"decode combine {dtype_name} D{head_dim} S{MAX_SPLITS}",
        kernel=combine_kernel,
        signature={
            "partial_ptr": "*fp32",
            "log_sum_ptr": "*fp32",
            "out_ptr": f"*{DTYPES[dtype_name].triton_name}",
            **dict.fromkeys(strides, "i32"),
        },
        constexprs={"HEAD_DIM": head_dim, "SPLITS": MAX_SPLITS},
        aligned=frozenset((*pointers, *strides)),
        num_warps=4,
        num_stages=1,
        needs_tensor_cores=False,
    )
