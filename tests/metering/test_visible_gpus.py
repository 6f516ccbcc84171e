"""What CUDA_VISIBLE_DEVICES means in UUIDs, which are all that a meter may go by."""

from __future__ import annotations

import pytest

from tokenwatt.errors import UserError
from tokenwatt.metering.visible_gpus import visible_gpus
from tokenwatt.power import Board


def boards(*names: str) -> list[Board]:
    return [Board(name, f"GPU-{index}f00-{index}", "580", None, None, None) for index, name in enumerate(names)]


TWINS = boards("H200", "H200")
UNLIKE = boards("H200", "L4")


@pytest.mark.parametrize(
    ("visible", "order", "found", "expected"),
    [
        (None, None, TWINS, None),
        ("1", None, [], None),
        ("", None, TWINS, ()),
        ("-1", None, TWINS, ()),
        ("1", None, TWINS, ("GPU-1f00-1",)),
        ("1, 0", None, TWINS, ("GPU-1f00-1", "GPU-0f00-0")),
        ("GPU-1f00-1", None, UNLIKE, ("GPU-1f00-1",)),
        ("GPU-1f,1", "PCI_BUS_ID", UNLIKE, ("GPU-1f00-1",)),
    ],
    ids=["unset", "no NVML", "none", "minus one", "number", "order", "UUID", "prefix, and the same by number"],
)
def test_entries_become_uuids_in_the_order_named(visible, order, found, expected):
    assert visible_gpus(visible, order, found) == expected


@pytest.mark.parametrize(
    ("visible", "message"),
    [
        ("0", "by number, and boards differ here.*set CUDA_DEVICE_ORDER=PCI_BUS_ID, or choose with --gpu UUID"),
        ("7", "names GPU 7, NVML finds 2: 0 to 1"),
        ("GPU-", "unknown GPU of CUDA_VISIBLE_DEVICES 'GPU-'"),
        ("MIG-7", "a MIG slice has no power meter; choose its board with --gpu"),
    ],
)
def test_what_cannot_be_known_is_refused(visible, message):
    with pytest.raises(UserError, match=message):
        visible_gpus(visible, None, UNLIKE)
