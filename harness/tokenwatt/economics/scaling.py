"""How one operating point on Hopper is carried to another system. First version: bounds, not a fitted model.

Speed, per GPU, at the same precision, lengths and concurrency (so a larger memory or a larger batch earns nothing).
Five ratios, each with the range of its Facts, span low and high:

* roofline: the ratio of the two systems' physical limits at the row's own point, as if the row's distance from its
  limit were the same fraction on both;
* fixed overhead: only the share of the row's time that its roofline explains gets faster, and the rest (launches,
  host, scheduling, communication) takes as long as before: 1 / ((1 - s) + s / roofline ratio), with
  s = measured speed / roofline speed;
* memory bandwidth; dense peak; and no gain at all (the row's own speed).

The central value is the roofline's or the fixed overhead's, as the scenario says.

Evidence: eleven dense rows at bf16 that ML.ENERGY measured on both H100 and B200 (Qwen3-14B and Gemma-3-12B,
lm-arena-chat, 8 to 256 requests in flight, github:ml-energy/leaderboard@0cd52dab) ran 1.3 to 1.9 times as fast on B200.
The roofline ratio says 2.4 (median error 57 and 47 %), fixed overhead 1.2 to 1.6 (5 and 9 %).

Power, per GPU: central scales with TDP; low is the wattage of the row itself, where that is less; high is the board's
TDP, which nothing exceeds.
"""

from __future__ import annotations

from typing import Literal

from tokenwatt.architecture import Architecture
from tokenwatt.economics.reference_row import ReferenceRow
from tokenwatt.perf_model.roofline import system_limit, throughput_ratio
from tokenwatt.reference.ranges import Range
from tokenwatt.reference.systems import SystemSpec

SpeedMethod = Literal["roofline", "fixed_overhead"]
"""Which ratio carries the central speed."""


def describe(speed: SpeedMethod) -> str:
    """The method in words, for the `method` column."""
    return (
        f"Speed: Hopper row x {speed.replace('_', ' ')} ratio at the same precision, lengths and concurrency per GPU; "
        "range over the roofline, fixed-overhead, bandwidth and dense-peak ratios, their Facts' ranges, and no gain. "
        "Not credited: larger batches in larger memory, lower precision, NVLink domains: cautious for newer systems. "
        "Power: row x TDP ratio; range from the row's own watts to TDP. "
        "Fleet: power budget over all-in power per GPU, every GPU busy all the time."
    )


def speed_ratio(
    reference: ReferenceRow,
    architecture: Architecture,
    spec_from: SystemSpec,
    spec_to: SystemSpec,
    speed: SpeedMethod = "fixed_overhead",
) -> Range:
    """Tokens/s per GPU on `spec_to` over `spec_from`; exactly 1 for the row's own system."""
    if spec_from.name == spec_to.name:
        return Range.exact(1.0)
    lengths = (reference.isl.central, reference.isl.low, reference.isl.high)
    load = (reference.osl, reference.concurrency)
    rooflines, overheads = [], []
    for isl in lengths:
        point = (architecture, reference.dtype, isl, *load)
        rooflines.append(throughput_ratio(*point, spec_from, spec_to))
        limit = system_limit(*point, spec_from, reference.gpus)
        measured = reference.output_tokens_per_s_per_gpu * reference.gpus
        overheads.append(_fixed_overhead(measured, limit, rooflines[-1]))
    bandwidth = spec_to.hbm_bytes_per_s.range / spec_from.hbm_bytes_per_s.range
    peak = spec_to.flop_per_s(reference.dtype).range / spec_from.flop_per_s(reference.dtype).range
    central = {"roofline": rooflines[0], "fixed_overhead": overheads[0]}[speed]
    return central.widened([*rooflines, *overheads, bandwidth, peak, Range.exact(1.0)])


def _fixed_overhead(output_tokens_per_s: float, limit: Range, ratio: Range) -> Range:
    """Speed-up when only the roofline's share of the time shrinks. A row above its own limit has no overhead."""

    def speed_up(limit_tokens_per_s: float, roofline_ratio: float) -> float:
        share = min(output_tokens_per_s / limit_tokens_per_s, 1.0)
        return 1 / ((1 - share) + share / roofline_ratio)

    ends = [speed_up(each, by) for each in (limit.low, limit.high) for by in (ratio.low, ratio.high)]
    central = speed_up(limit.central, ratio.central)
    return Range.exact(central).widened(Range.exact(end) for end in ends)


def board_power_w(reference: ReferenceRow, spec_from: SystemSpec, spec_to: SystemSpec) -> Range:
    """Board power per GPU on `spec_to` under the row's load, W; exactly the row's own on its own system."""
    if spec_from.name == spec_to.name:
        return Range.exact(reference.gpu_power_w)
    tdp_w = spec_to.tdp_w.range
    scaled = Range.exact(reference.gpu_power_w) * tdp_w / spec_from.tdp_w.range
    ends = (Range.exact(reference.gpu_power_w), Range.exact(tdp_w.high))
    return scaled.at_most(tdp_w.high).widened(ends).at_most(tdp_w.high)
