"""Launches that begin before the one ahead of them has ended (programmatic dependent launch, from sm_90 on).

A kernel of a decoding step takes a few microseconds, about as long as it takes to get the next one going. So each lets
the next come as soon as all of its programs have begun, and waits itself until the one ahead has ended and what it
wrote can be read. Since every kernel waits before it reads or writes, order is kept along the whole line; a launch
without this, such as one of torch, waits as it always does.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from tokenwatt_kernels import device as device_facts
from tokenwatt_kernels.targets import Target, target_for


@triton.jit
def begin(FOLLOWS: tl.constexpr):
    """The first line of a kernel that is launched with `options`: nothing may be read or written ahead of it."""
    if FOLLOWS:
        gdc_launch_dependents()
        gdc_wait()


def constants(target: Target) -> dict[str, bool]:
    """The compile-time argument of a kernel that begins so."""
    return {"FOLLOWS": target.can_overlap}


def options(device: torch.device) -> dict[str, bool]:
    """The same for a launch on a device, and what its launcher must know. The interpreter never overlaps."""
    follows = device.type == "cuda" and target_for(device_facts.capability(device)).can_overlap
    return {"FOLLOWS": follows, "launch_pdl": follows}
