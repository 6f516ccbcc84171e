"""Which boards a command will see: CUDA_VISIBLE_DEVICES counts devices as CUDA does, and meters want UUIDs."""

from __future__ import annotations

from collections.abc import Sequence

from tokenwatt.errors import UserError, unknown_name
from tokenwatt.power import Board

PCI_ORDER = "PCI_BUS_ID"
"""Value of CUDA_DEVICE_ORDER with which CUDA numbers devices as NVML does; by default the fastest comes first."""


def visible_gpus(visible: str | None, device_order: str | None, boards: Sequence[Board]) -> tuple[str, ...] | None:
    """UUIDs of the boards that CUDA_VISIBLE_DEVICES names; None where it leaves all of them, or there is no board.

    visible, device_order: the environment's CUDA_VISIBLE_DEVICES and CUDA_DEVICE_ORDER.
    boards: in NVML's order, which is that of the PCI bus.

    Raises:
        UserError: an entry that no board fits, or numbers of unlike boards in an order that only CUDA knows.
    """
    if visible is None or not boards:
        return None
    entries = [entry.strip() for entry in visible.split(",") if entry.strip()]
    if entries[:1] == ["-1"]:
        return ()
    return tuple(dict.fromkeys(_uuid(entry, device_order, boards) for entry in entries))


def _uuid(entry: str, device_order: str | None, boards: Sequence[Board]) -> str:
    if entry.startswith("MIG-"):
        raise UserError(
            f"CUDA_VISIBLE_DEVICES names {entry}: a MIG slice has no power meter; choose its board with --gpu"
        )
    if not entry.isdigit():
        # CUDA takes the beginning of a UUID where it fits one board only.
        fitting = [board.uuid for board in boards if board.uuid.startswith(entry)]
        if len(fitting) != 1:
            raise unknown_name("GPU of CUDA_VISIBLE_DEVICES", entry, [board.uuid for board in boards])
        return fitting[0]
    if int(entry) >= len(boards):
        raise UserError(f"CUDA_VISIBLE_DEVICES names GPU {entry}, NVML finds {len(boards)}: 0 to {len(boards) - 1}")
    if device_order != PCI_ORDER and len({board.name for board in boards}) > 1:
        raise UserError(
            f"CUDA_VISIBLE_DEVICES names GPU {entry} by number, and boards differ here, so that CUDA's numbers are not "
            f"NVML's; set CUDA_DEVICE_ORDER={PCI_ORDER}, or choose with --gpu UUID"
        )
    return boards[int(entry)].uuid
