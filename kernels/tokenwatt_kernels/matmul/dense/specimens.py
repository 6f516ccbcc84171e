"""What the compile report compiles for dense matmul."""

from __future__ import annotations

from tokenwatt_kernels.compiling import Specimen
from tokenwatt_kernels.dtypes import DTYPES
from tokenwatt_kernels.matmul.dense.kernel import matmul_kernel
from tokenwatt_kernels.matmul.dense.problems import DTYPE_NAMES
from tokenwatt_kernels.matmul.dense.tiles import MatmulTile, choose
from tokenwatt_kernels.targets import Target

ROWS = (16, 32, 64, 4096)


def specimens(target: Target, dtype_names: tuple[str, ...]) -> list[Specimen]:
    """The kernel with the tile that `choose` gives for each dtype and number of rows."""
    return [
        _specimen(dtype_name, rows, choose(rows, DTYPES[dtype_name].bytes, target.capability))
        for dtype_name in dtype_names
        if dtype_name in DTYPE_NAMES
        for rows in ROWS
    ]


def _specimen(dtype_name: str, rows: int, tile: MatmulTile) -> Specimen:
    dtype = DTYPES[dtype_name]
    tensors = ("a_ptr", "weight_ptr", "out_ptr")
    sizes = ("M", "N", "K")
    strides = ("a_stride_m", "weight_stride_n", "out_stride_m")
    shape = f"{tile.block_m}x{tile.block_n}x{tile.block_k}"
    return Specimen(
        name=f"matmul {dtype_name} {rows} rows",
        kernel=matmul_kernel,
        signature={**dict.fromkeys(tensors, f"*{dtype.triton_name}"), **dict.fromkeys((*sizes, *strides), "i32")},
        constexprs={
            "BLOCK_M": tile.block_m,
            "BLOCK_N": tile.block_n,
            "BLOCK_K": tile.block_k,
            "GROUP_M": tile.group_m,
        },
        aligned=frozenset((*tensors, "N", "K", *strides)),
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        needs_tensor_cores=dtype.has_tensor_core_path,
        configuration=f"{shape} w{tile.num_warps} s{tile.num_stages}",
    )
