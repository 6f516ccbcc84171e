"""How the programs that share a tile find out which of them comes last: that one adds up the parts, in the same launch.

Each tile has a counter. A program that has left its part adds one to it, and the one that makes it full sets it back to
zero, so that counters need no launch to clear them and a CUDA graph can be replayed. Which program comes last differs
from run to run; in which order it adds does not.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

COUNTERS = 1 << 20
"""Of a GPU, 4 MiB. A call takes the next ones: calls on several streams share none until all were taken once.

A captured launch keeps its own. Later calls come round to them, and must not run beside its replays on another stream.
"""

ALIGNMENT = 4
"""In counters, 16 bytes: kernels are compiled for pointers that are aligned so."""


@triton.jit
def is_last(counters_ptr, tile, parts):
    """Whether all other parts of a tile lie in memory by now. Every program that has left one asks once."""
    tl.debug_barrier()  # what all threads of the program have stored comes before the one that counts
    is_full = tl.atomic_add(counters_ptr + tile, 1, sem="acq_rel", scope="gpu") == parts - 1
    if is_full:
        tl.store(counters_ptr + tile, 0)
    return is_full


@dataclass(slots=True)
class Ring:
    """Counters that are given out piece by piece, and again from the first when the rest is too short.

    zeros: int32 [size]. begin: where the next piece begins, a multiple of ALIGNMENT.
    """

    zeros: Tensor
    begin: int = 0

    def take(self, count: int) -> Tensor:
        """The next `count`, at most as many as there are."""
        if self.begin + count > len(self.zeros):
            self.begin = 0
        taken = self.zeros[self.begin : self.begin + count]
        self.begin += (count + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
        return taken


_rings: dict[torch.device, Ring] = {}
_lock = threading.Lock()


def counters(count: int, device: torch.device) -> Tensor:
    """int32 [count], zeros as long as no launch that was given them is under way.

    Raises RuntimeError where the first call on a GPU is in a CUDA graph, which would own them, and ValueError for more
    than COUNTERS.
    """
    if count > COUNTERS:
        raise ValueError(f"a launch must have at most {COUNTERS} tiles that are shared, got {count}")
    if device.type != "cuda":
        return torch.zeros(count, dtype=torch.int32, device=device)
    with _lock:
        ring = _rings.get(device)
        if ring is None:
            if torch.cuda.is_current_stream_capturing():
                raise RuntimeError("the first call on a GPU must not be captured; make it once before the capture")
            ring = _rings[device] = Ring(torch.zeros(COUNTERS, dtype=torch.int32, device=device))
            torch.cuda.synchronize(device)  # other streams may be given some of them at once
        return ring.take(count)
