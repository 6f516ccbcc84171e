"""One case explained: its numbers, shares of time and energy, memory, and what it rests on."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from tokenwatt.perf_model.attribution import Attribution, Floor, Part, Split
from tokenwatt.perf_model.explanation import Explanation
from tokenwatt.terminal.cells import MAX_WIDTH, new_table
from tokenwatt.units import format_si

_QUANTITIES = {
    "output_tokens_per_s_per_gpu": ("tokens/s per GPU", "token/s"),
    "tpot_s": ("TPOT", "s"),
    "ttft_s": ("TTFT", "s"),
    "gpu_power_w": ("board power", "W"),
    "joules_per_output_token": ("energy per output token", "J"),
}
_COLUMNS = ("decode", "prompt", "token")
_GB = 1e9


def print_explanation(found: Explanation) -> None:
    """Tables and lines; shares of each column add up to 100 %."""
    console = Console(width=MAX_WIDTH)
    for line in _head(found):
        console.print(line, highlight=False, markup=False)
    console.print(_numbers(found))
    console.print()
    console.print(_shares(found.attribution))
    lines = [*_bounds(found.attribution), *_power(found.attribution), *_memory(found)]
    for line in ("", *lines, "", "It rests on:", *(f"  {line}" for line in found.assumptions or ("nothing assumed",))):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _head(found: Explanation) -> list[str]:
    plan, split = found.plan, found.plan.parallelism
    shares = {"tp": split.attention_tp, "dp": split.attention_dp, "ep": split.moe_ep, "pp": split.pp}
    parallel = ", ".join(f"{name} {size}" for name, size in shares.items() if size > 1) or "one GPU"
    return [
        f"{found.case}: {found.model} ({plan.family}) on {plan.gpus} x {plan.system}, {parallel}, "
        f"{plan.isl:g} tokens in, {plan.osl:g} out",
        f"method {found.method}, overheads of {found.group}, times of its cell x {found.attribution.cell_factor:.3f}",
        "",
    ]


def _numbers(found: Explanation) -> Table:
    table = new_table("", "predicted", "80 % from", "to")
    for name, (heading, unit) in _QUANTITIES.items():
        table.add_row(heading, *(format_si(value, unit) for value in found.numbers[name]))
    return table


def _shares(shares: Attribution) -> Table:
    table = new_table(
        "operation",
        *(f"{kind}:\n{of}" for kind in ("time", "energy") for of in ("decode step", "prompt", "output token")),
        "bound by:\ndecode step",
        "\nprompt",
    )
    for part in shares.parts:
        if not any(_values(part.seconds) + _values(part.joules)):
            continue
        table.add_row(part.name, *_cells(shares, part), part.decode_floor.bound, part.prompt_floor.bound)
    table.add_section()
    table.add_row(
        "all",
        *(format_si(value, "s") for value in _values(shares.seconds)),
        *(format_si(value, "J") for value in _values(shares.joules)),
        shares.decode_floor.bound,
        shares.prompt_floor.bound,
    )
    return table


def _cells(shares: Attribution, part: Part) -> list[str]:
    values = _values(shares.time_share(part)) + _values(shares.energy_share(part))
    return [f"{100 * value:.1f} %" if value else "–" for value in values]


def _values(split: Split) -> list[float]:
    return [getattr(split, name) for name in _COLUMNS]


def _bounds(shares: Attribution) -> list[str]:
    seconds = shares.seconds
    return [
        "A decode step and a prompt are of one GPU; an output token is GPU time and energy of all GPUs, with its share "
        "of the prompts.",
        _bound("decode step", seconds.decode, shares.decode_floor),
        _bound("prompt", seconds.prompt, shares.prompt_floor),
    ]


def _bound(name: str, seconds: float, floor: Floor) -> str:
    least = max(floor.flop_s, floor.bytes_s, floor.links_s)
    # The fit may have a prompt cost less than its work allows: nobody should read such a time as physics.
    warning = "; the fitted time is less than that, which no GPU can do" if seconds < least else ""
    return (
        f"{name}: {format_si(seconds, 's')}; at the ceilings its FLOP take {format_si(floor.flop_s, 's')}, its bytes "
        f"{format_si(floor.bytes_s, 's')}, its links {format_si(floor.links_s, 's')}: bound by {floor.bound}{warning}"
    )


def _power(shares: Attribution) -> list[str]:
    lines = [
        f"operators and static power explain {100 * shares.operators_share:.0f} % of the predicted power; "
        "all parts are scaled to it alike"
    ]
    if shares.waiting_s:
        lines.append(
            f"{format_si(shares.waiting_s, 's')} of GPU time for each output token is waiting, in no column of time; "
            "its energy is in static/idle"
        )
    return lines


def _memory(found: Explanation) -> list[str]:
    held, plan = found.memory, found.plan
    per_sequence = format_si(held["sequence_bytes"], "byte")
    asked = f", {plan.waits:g} in flight" if plan.waits > plan.batch else ""
    usual = held["usable_share"] * held["memory_bytes"] - held["weight_bytes"] - held["workspace_bytes"]
    least = "" if usual >= held["cache_bytes"] else f"{usual / _GB:.1f} GB, at least "
    return [
        f"memory of a GPU: {held['usable_share']:g} x {held['memory_bytes'] / _GB:.1f} GB "
        f"- {held['weight_bytes'] / _GB:.1f} GB of weights - {held['workspace_bytes'] / _GB:.1f} GB of workspace = "
        f"{least}{held['cache_bytes'] / _GB:.1f} GB of cache",
        f"largest batch: cache / {per_sequence} of a sequence = {held['largest_batch']:.4g} on one attention rank; "
        f"{plan.batch:.4g} run{asked}",
    ]
