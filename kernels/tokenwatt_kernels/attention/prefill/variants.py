"""Which of the prefill kernels answers a call, and its launch."""

from __future__ import annotations

from torch import Tensor

from tokenwatt_kernels import device, tables
from tokenwatt_kernels.attention.copies import copied_keys
from tokenwatt_kernels.attention.keys import Keys
from tokenwatt_kernels.attention.options import Options
from tokenwatt_kernels.attention.prefill.tiles import FAMILY, PrefillKey, Tile, default
from tokenwatt_kernels.attention.prefill.warp_specialised_tiles import WarpSpecialisedTile


def key_for(q: Tensor, keys: Keys) -> PrefillKey:
    """What the tile for these queries depends on besides the GPU."""
    return PrefillKey(
        q.shape[-1],
        keys.value_dim,
        q.element_size(),
        copied_keys(keys.allow_descriptors),
        is_mixed=keys.k.dtype != q.dtype,
    )


def tile_for(q: Tensor, keys: Keys, options: Options) -> Tile:
    """The tile for queries on a GPU: the measured one if its kernel takes this call, else the default."""
    key, capability = key_for(q, keys), device.capability(q.device)
    tile = tables.tile_on(FAMILY, device.name(q.device), capability, key)
    return tile if takes(tile, q, keys, options) else default(key, capability)


def takes(tile: Tile, q: Tensor, keys: Keys, options: Options) -> bool:
    """Whether the kernel of `tile` can answer this call. The warp-specialised one has no options but scale and mask."""
    if not isinstance(tile, WarpSpecialisedTile):
        return not tile.descriptors or keys.allow_descriptors(tile.block_n)
    from tokenwatt_kernels.attention.prefill.warp_specialised import can_run

    extras = (options.window, options.softcap, options.sinks, options.q_scale, options.k_scale, options.v_scale)
    is_plain = all(extra is None for extra in extras)
    return is_plain and keys.page_size == 0 and can_run(q, keys.k, keys.v, device.capability(q.device))


def launch(
    q: Tensor,
    keys: Keys,
    query_starts: Tensor,
    max_queries: int,
    options: Options,
    out: Tensor,
    log_sum: Tensor | None,
    tile: Tile,
) -> None:
    """Write the attention of checked arguments into out [Tq, Hq, Dv] and, unless None, log_sum [Tq, Hq] (natural)."""
    if isinstance(tile, WarpSpecialisedTile):
        from tokenwatt_kernels.attention.prefill import warp_specialised

        if keys.starts is None:
            raise ValueError("keys must be packed for the warp-specialised kernel, got pages")
        scale = options.resolved_scale(q.shape[-1])
        warp_specialised.launch(
            q, keys.k, keys.v, query_starts, keys.starts, max_queries, scale, options.causal, out, log_sum, tile
        )
    else:
        from tokenwatt_kernels.attention.prefill import kernel

        kernel.launch(q, keys, query_starts, max_queries, options, out, log_sum, tile)
