"""The warp-specialised prefill kernel compiles cleanly, its barriers are sound, and its walk over keys is right.

No GPU is needed. The protocol and the walk are modelled in Python around the kernel's own arithmetic (`ring_slot`,
`count_steps`, `count_open_tiles`); the model's order of waits and arrivals mirrors `_produce`, `_consume`, `_advance`.
"""

from __future__ import annotations

import math
import random
import re
from dataclasses import dataclass, field, replace

import pytest
import torch

from tokenwatt_kernels import device
from tokenwatt_kernels.attention.inputs import make_inputs
from tokenwatt_kernels.attention.prefill import variants
from tokenwatt_kernels.attention.prefill.cases import cases
from tokenwatt_kernels.attention.prefill.problems import GPU_GATE_PROBLEMS, chunks, prompts
from tokenwatt_kernels.attention.prefill.warp_specialised_tiles import TILES

CPU = torch.device("cpu")

ws = pytest.importorskip("tokenwatt_kernels.attention.prefill.warp_specialised", reason="needs triton with Gluon")

ring_slot = ws.ring_slot.fn
count_steps = ws.count_steps.fn
count_open_tiles = ws.count_open_tiles.fn


# --- the walk over key tiles


class DeviceInt(int):
    """An int whose // and % refuse negative numbers, for which Python and a GPU disagree."""

    def __floordiv__(self, other):
        assert self >= 0
        return DeviceInt(int(self) // other)

    def __add__(self, other):
        return DeviceInt(int(self) + other)

    def __sub__(self, other):
        return DeviceInt(int(self) - other)


def last_key(row, q_len, kv_len, causal):
    return kv_len - q_len + row if causal else kv_len - 1


LENGTHS = [(q, kv) for q in (1, 3, 4, 5, 8, 9, 13) for kv in (0, 1, 2, 4, 5, 7, 8, 9, 12, 17)]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("q_len", "kv_len"), LENGTHS)
def test_every_visible_key_is_visited_and_open_tiles_hide_nothing(q_len, kv_len, causal):
    rows, block_n = 4, 4
    for first_row in range(0, q_len, 2 * rows):
        steps = count_steps(DeviceInt(first_row), q_len, DeviceInt(kv_len), causal, 2 * rows, block_n)
        assert steps >= 1
        for consumer_row in (first_row, first_row + rows):
            open_tiles = count_open_tiles(DeviceInt(consumer_row), q_len, DeviceInt(kv_len), causal, block_n)
            assert open_tiles <= steps
            for row in range(consumer_row, min(consumer_row + rows, q_len)):
                seen = min(last_key(row, q_len, kv_len, causal) + 1, kv_len)
                assert seen <= steps * block_n
                assert open_tiles * block_n <= max(seen, 0)
        # Only the last tile can hold keys of another sequence, so only step 0 clears.
        assert (steps - 1) * block_n < max(kv_len, 1)


def walk(q, k, v, kv_len, first_row, q_len, scale, causal, block_n, rows):
    """`_consume` in torch: k and v go on beyond kv_len, as the next sequence does. Returns output and log-sum."""
    steps = count_steps(first_row, q_len, kv_len, causal, rows, block_n)
    open_from = max(steps - count_open_tiles(first_row, q_len, kv_len, causal, block_n), 1)
    row_max, row_sum = torch.full((rows,), -math.inf), torch.zeros(rows)
    acc, weights, values = torch.zeros(rows, v.shape[1]), torch.zeros(rows, block_n), torch.zeros(block_n, v.shape[1])
    for step in range(steps):
        first = (steps - 1 - step) * block_n
        scores = q @ k[first : first + block_n].T
        acc = acc + weights @ values  # of the step before
        if step < open_from:
            limit = last_key(first_row, q_len, kv_len, causal) + (torch.arange(rows) if causal else torch.zeros(rows))
            scores = torch.where(first + torch.arange(block_n)[None] <= limit[:, None], scores, -math.inf)
        new_max = torch.maximum(row_max, scores.amax(1) * scale)
        shift = torch.where(new_max == -math.inf, 0.0, new_max)
        weights = torch.exp2(scores * scale - shift[:, None])
        rescale = torch.exp2(row_max - shift)
        row_sum, row_max = row_sum * rescale + weights.sum(1), new_max
        values = v[first : first + block_n].clone()
        if step == 0:
            values[max(kv_len - first, 0) :] = 0.0
        acc = acc * rescale[:, None]
    acc = acc + weights @ values
    out = torch.where(row_sum[:, None] == 0.0, 0.0, acc / row_sum[:, None])
    return out, (row_max + torch.log2(row_sum)) * math.log(2.0)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("q_len", "kv_len"), LENGTHS)
def test_walk_is_attention_beside_a_sequence_of_nan(q_len, kv_len, causal):
    rows, block_n, scale = 4, 4, 0.7
    generator = torch.Generator().manual_seed(q_len * 100 + kv_len)
    q, k, v = (torch.randn(n, 8, generator=generator) for n in (q_len + rows, kv_len + block_n, kv_len + block_n))
    k[kv_len:], v[kv_len:] = math.nan, math.nan
    for first_row in range(0, q_len, rows):
        q_tile = q[first_row : first_row + rows]
        out, lse = walk(q_tile, k, v, kv_len, first_row, q_len, scale / math.log(2.0), causal, block_n, rows)
        for row in range(first_row, min(first_row + rows, q_len)):
            seen = max(min(last_key(row, q_len, kv_len, causal) + 1, kv_len), 0)
            scores = (k[:seen] @ q[row]) * scale
            expected = torch.softmax(scores, 0) @ v[:seen] if seen else torch.zeros(8)
            torch.testing.assert_close(out[row - first_row], expected, rtol=1e-5, atol=1e-5)
            expected_lse = torch.logsumexp(scores, 0) if seen else torch.tensor(-math.inf)
            torch.testing.assert_close(lse[row - first_row], expected_lse, rtol=1e-5, atol=1e-5)


# --- the barriers


class ProtocolError(AssertionError):
    """The model read, overwrote or waited wrongly."""


def require(condition, what):
    if not condition:
        raise ProtocolError(what)


@dataclass
class Barrier:
    """An mbarrier: a phase ends when all arrivals and promised copies are there. It tells only its parity."""

    arrivals: int
    phase: int = 0
    pending: int = 0
    copies: int = 0

    def __post_init__(self):
        self.pending = self.arrivals

    def arrive(self):
        self.pending -= 1
        require(self.pending >= 0, "more arrivals than the barrier was made for")
        self.end_phase()

    def expect(self):
        self.copies += 1
        self.arrive()

    def land(self):
        self.copies -= 1
        self.end_phase()

    def end_phase(self):
        if self.pending == 0 and self.copies == 0:
            self.phase += 1
            self.pending = self.arrivals

    def passes(self, parity):
        return self.phase & 1 != parity


@dataclass
class Buffer:
    """One tile of shared memory: which step's tile it holds, who reads it, whether a copy is on its way into it."""

    holds: int | None = None
    readers: set = field(default_factory=set)
    is_written: bool = False
    cleared: set = field(default_factory=set)


class Ring:
    def __init__(self, buffers, arrivals_to_free):
        self.buffers = [Buffer() for _ in range(buffers)]
        self.full = [Barrier(1) for _ in range(buffers)]
        self.empty = [Barrier(arrivals_to_free) for _ in range(buffers)]


@dataclass(frozen=True)
class Protocol:
    """What the kernel does, and ways to do it wrongly that the model must notice."""

    steps: int
    buffers: int
    is_ragged: bool
    arrivals_to_free: int = 2
    first_round_parity: int = 1
    hands_back_while_reading: bool = False
    waits_for_the_other_clearing: bool = True


class Machine:
    """One producer, two consumers and the copies in flight, interleaved at random."""

    def __init__(self, protocol, seed):
        self.protocol = protocol
        self.random = random.Random(seed)
        self.k = Ring(protocol.buffers, protocol.arrivals_to_free)
        self.v = Ring(protocol.buffers, protocol.arrivals_to_free)
        self.q_full = [Barrier(1), Barrier(1)]
        self.q = [Buffer(), Buffer()]
        self.cleared = Barrier(2)
        self.copies = []
        self.consumed = {(which, name): [] for which in range(2) for name in "kv"}

    def run(self):
        """Let a random one of those that can go on go on, until nobody can. Everybody must have finished then."""
        agents = {"producer": self.produce(), "consumer 0": self.consume(0), "consumer 1": self.consume(1)}
        waiting = dict.fromkeys(agents)
        while True:
            ready = [name for name, wait in waiting.items() if wait is None or wait[0].passes(wait[1])]
            choices = ready + ["copy"] * len(self.copies)
            if not choices:
                break
            name = self.random.choice(choices)
            if name == "copy":
                self.land(self.copies.pop(self.random.randrange(len(self.copies))))
                continue
            try:
                waiting[name] = next(agents[name])
            except StopIteration:
                del waiting[name]
        require(not waiting, f"deadlock: {sorted(waiting)} wait for ever")

    def fetch(self, buffer, step, full):
        require(not buffer.readers, "a buffer is overwritten while it is read")
        require(not buffer.is_written, "two copies into one buffer")
        buffer.is_written = True
        full.expect()
        self.copies.append((buffer, step, full))

    def land(self, copy):
        buffer, step, full = copy
        require(not buffer.readers, "a buffer is overwritten while it is read")
        buffer.holds, buffer.is_written = step, False
        buffer.cleared = set()
        full.land()

    def refill(self, ring, step):
        slot, parity = ring_slot(step, self.protocol.buffers)
        yield ring.empty[slot], parity ^ self.protocol.first_round_parity
        self.fetch(ring.buffers[slot], step, ring.full[slot])
        yield

    def produce(self):
        for which in range(2):
            self.fetch(self.q[which], 0, self.q_full[which])
            yield
        yield from self.refill(self.k, 0)
        for step in range(1, self.protocol.steps):
            yield from self.refill(self.k, step)
            yield from self.refill(self.v, step - 1)
        yield from self.refill(self.v, self.protocol.steps - 1)

    def start(self, which, name, step):
        """Wait for a tile and start reading it. The product runs on until `finish`."""
        ring = getattr(self, name)
        slot, parity = ring_slot(step, self.protocol.buffers)
        yield ring.full[slot], parity
        buffer = ring.buffers[slot]
        require(buffer.holds == step and not buffer.is_written, f"{name} of step {step} is not there yet or any more")
        if name == "v" and step == 0 and self.protocol.is_ragged:
            require(buffer.cleared == {0, 1}, "dead rows are read")
        buffer.readers.add(which)
        self.consumed[which, name].append(step)
        if self.protocol.hands_back_while_reading:
            ring.empty[slot].arrive()
        yield

    def finish(self, which, name, step):
        slot, _parity = ring_slot(step, self.protocol.buffers)
        buffer = getattr(self, name).buffers[slot]
        require(buffer.holds == step and not buffer.is_written, "a buffer changed while it was read")
        buffer.readers.remove(which)
        yield

    def hand_back(self, name, step):
        slot, _parity = ring_slot(step, self.protocol.buffers)
        if not self.protocol.hands_back_while_reading:
            getattr(self, name).empty[slot].arrive()
        yield

    def clear(self, which):
        yield self.v.full[0], 0
        buffer = self.v.buffers[0]
        require(not buffer.readers, "rows are cleared while they are read")
        require(buffer.holds == 0 and not buffer.is_written, "the wrong tile is cleared")
        yield
        buffer.cleared.add(which)
        self.cleared.arrive()
        if self.protocol.waits_for_the_other_clearing:
            yield self.cleared, 0
        yield

    def consume(self, which):
        steps = self.protocol.steps
        yield self.q_full[which], 0
        require(self.q[which].holds == 0, "Q is not there")
        yield from self.start(which, "k", 0)
        yield from self.finish(which, "k", 0)
        yield from self.hand_back("k", 0)
        if self.protocol.is_ragged:
            yield from self.clear(which)
        for step in range(1, steps):
            yield from self.start(which, "k", step)
            yield from self.start(which, "v", step - 1)
            yield from self.finish(which, "k", step)
            yield from self.hand_back("k", step)
            yield from self.finish(which, "v", step - 1)
            yield from self.hand_back("v", step - 1)
        yield from self.start(which, "v", steps - 1)
        yield from self.finish(which, "v", steps - 1)


SEEDS = range(60)
# `count_steps` never gives 0: a program that sees no key walks one tile, all of it hidden.
RINGS = [(buffers, steps) for buffers in (1, 2, 3, 4) for steps in range(1, 2 * buffers + 3)]


@pytest.mark.parametrize("is_ragged", [False, True])
@pytest.mark.parametrize(("buffers", "steps"), RINGS)
def test_barriers_pass_every_tile_once_in_order(buffers, steps, is_ragged):
    for seed in SEEDS:
        machine = Machine(Protocol(steps, buffers, is_ragged), seed)
        machine.run()
        assert all(seen == list(range(steps)) for seen in machine.consumed.values())
        assert machine.copies == []


SOUND = Protocol(steps=6, buffers=2, is_ragged=True)
WRONG = {
    "one consumer frees a buffer for both": replace(SOUND, arrivals_to_free=1),
    "the first round waits for buffers that nobody holds": replace(SOUND, first_round_parity=0),
    "a buffer is handed back before the product is over": replace(SOUND, hands_back_while_reading=True),
    "a consumer reads before the other one has cleared its rows": replace(SOUND, waits_for_the_other_clearing=False),
}


@pytest.mark.parametrize("fault", WRONG)
def test_model_notices_a_wrong_protocol(fault):
    caught = 0
    for seed in SEEDS:
        try:
            Machine(WRONG[fault], seed).run()
        except ProtocolError:
            caught += 1
    assert caught > 0


# --- who may call it


def heads(tokens, count, head_dim, dtype=torch.bfloat16):
    return torch.zeros(tokens, count, head_dim, dtype=dtype)


UNALIGNED = torch.zeros(5, 132, dtype=torch.bfloat16)[:, 4:].unflatten(1, (2, 64))


def test_packed_bfloat16_heads_can_run():
    q, k = heads(5, 8, 128), heads(7, 2, 128)
    assert ws.can_run(q, k, k, 90)
    assert not ws.can_run(q, k, k, 100)


def test_heads_of_one_fused_projection_can_run():
    fused = heads(5, 8 + 2 + 2, 64, torch.float16)
    assert ws.can_run(fused[:, :8], fused[:, 8:10], fused[:, 10:], 90)


@pytest.mark.parametrize(
    ("q", "k", "v"),
    [
        pytest.param(heads(5, 8, 96), heads(7, 2, 96), heads(7, 2, 96), id="head dimension without a tile"),
        pytest.param(heads(5, 8, 128), heads(7, 2, 128), heads(7, 2, 64), id="narrower values"),
        pytest.param(heads(5, 8, 128), heads(7, 3, 128), heads(7, 3, 128), id="heads that do not divide"),
        pytest.param(*(heads(5, 2, 64, torch.float32) for _ in range(3)), id="float32"),
        pytest.param(heads(5, 2, 64), heads(5, 2, 64, torch.float16), heads(5, 2, 64), id="mixed types"),
        pytest.param(heads(5, 2, 65)[..., 1:], heads(5, 2, 64), heads(5, 2, 64), id="heads not side by side"),
        pytest.param(heads(2, 5, 64).transpose(0, 1), heads(5, 2, 64), heads(5, 2, 64), id="head-major layout"),
        pytest.param(UNALIGNED, heads(5, 2, 64), heads(5, 2, 64), id="rows not 16-byte aligned"),
    ],
)
def test_other_tensors_cannot_run(q, k, v):
    assert not ws.can_run(q, k, v, 90)


@pytest.mark.parametrize("has_lse", [False, True], ids=["", "lse"])
@pytest.mark.parametrize("dtype_name", ["bfloat16", "float16"])
@pytest.mark.parametrize("head_dim", sorted(TILES))
def test_the_gate_reaches_the_kernel_with_packed_prompts(monkeypatch, head_dim, dtype_name, has_lse):
    monkeypatch.setattr(device, "capability", lambda _: ws.CAPABILITY)
    for problem in (
        prompts("group", (33, 0, 16), 8, 2, head_dim, checks_lse=has_lse),
        prompts("one head", (33, 7), 1, 1, head_dim, causal=False, checks_lse=has_lse),
        chunks("chunks", (5, 16), (21, 40), 4, 4, head_dim, checks_lse=has_lse),
    ):
        inputs = make_inputs(problem, dtype_name, CPU)
        assert ws.can_run(inputs.q, inputs.keys.k, inputs.keys.v, ws.CAPABILITY)
        # A kernel that takes tokens to lie side by side reads NaN from the gap.
        assert inputs.q.stride(0) > problem.query_heads * head_dim
        names = [case.name for case in cases(problem, dtype_name, CPU, tiles=[TILES[head_dim]])]
        assert (
            names
            == [f"attention.prefill {problem.name} {TILES[head_dim].name}{end}" for end in ("", " lse")][: 1 + has_lse]
        )


def test_the_gates_own_problems_reach_the_kernel_in_every_width(monkeypatch):
    monkeypatch.setattr(device, "capability", lambda _: ws.CAPABILITY)
    found = set()
    for problem in GPU_GATE_PROBLEMS:
        # The lengths decide nothing here: one token is enough.
        inputs = make_inputs(replace(problem, queries=(1,), contexts=(1,)), "bfloat16", CPU)
        tile = TILES.get(problem.head_dim)
        if tile and variants.takes(tile, inputs.q, inputs.keys, inputs.options):
            found.add(problem.head_dim)
    assert found == set(TILES)


# --- what the compiler makes of it


def compiled(dtype_name, head_dim, causal, with_lse=True):
    """PTX, machine code, registers, stack bytes and shared bytes of one specialisation for sm_90."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.experimental.gluon._runtime import GluonASTSource

    from tokenwatt_kernels.machine_code import inspect

    signature, constants, aligned = ws.compile_inputs(dtype_name, head_dim, causal, with_lse, ws.TILES[head_dim])
    names = ws.warp_specialised_kernel.arg_names
    source = GluonASTSource(
        ws.warp_specialised_kernel,
        {name: signature.get(name, "constexpr") for name in names},
        constants,
        {(names.index(name),): [["tt.divisibility", 16]] for name in aligned},
    )
    options = {"num_warps": ws.NUM_WARPS, "enable_fp_fusion": True}
    kernel = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    _registers, stack_bytes, sass = inspect(kernel.asm["cubin"])
    return kernel.asm["ptx"], sass, stack_bytes, kernel.metadata.shared


def times(pattern, text):
    return len(re.findall(pattern, text))


def check_machine_code(dtype_name, head_dim, causal, with_lse=True):
    ptx, sass, stack_bytes, shared_bytes = compiled(dtype_name, head_dim, causal, with_lse)
    assert stack_bytes == 0
    assert times(r"\b(?:LDL|STL)\b", sass) == 0
    tiles = ws.shared_bytes(ws.TILES[head_dim], head_dim)
    assert tiles <= shared_bytes <= min(tiles + 1024, 232_448)
    products = times(r"\bHGMMA\b", sass)
    # A serialised kernel waits after each product. Every group of products, 4 at least, has one wait here.
    assert 0 < 4 * times(r"WARPGROUP\.DEPBAR", sass) <= products
    # In each loop of each consumer one wait leaves a product running: that is the overlap.
    loops = 1 if causal and head_dim == 256 else 2
    assert times(r"WARPGROUP\.DEPBAR\.LE gsb0, 0x1\b", sass) == 2 * loops
    assert times(r"\bUTMALDG\b", sass) > 0
    assert times(r"\bUSETMAXREG\b", sass) > 0
    check_synchronisation(ptx)


def check_synchronisation(ptx):
    """One thread arrives for 128, so they must have met since the last product ended or the last zero was written."""
    events = re.findall(r"wgmma\.wait_group|bar\.sync|mbarrier\.arrive\.shared::cta\.b64|fence\.proxy\.async", ptx)
    story = re.sub(r"(?:bar\.sync )+", "meet ", " ".join(events) + " ")
    arrivals = re.findall(r"(\S+) (\S+) mbarrier\.arrive", story)
    assert all(met == "meet" for _before, met in arrivals)
    # Per consumer K and V in each loop and K of step 0 are handed back after a product; one arrival is of the clearing.
    assert [before for before, _met in arrivals].count("fence.proxy.async") == 2
    assert [before for before, _met in arrivals].count("wgmma.wait_group") == len(arrivals) - 2 >= 2 * 3


def test_bfloat16_of_128_dimensions_compiles():
    check_machine_code("bfloat16", 128, causal=True)


@pytest.mark.slow
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype_name", ["bfloat16", "float16"])
@pytest.mark.parametrize("head_dim", ws.TILES)
def test_every_specialisation_compiles(head_dim, dtype_name, causal):
    check_machine_code(dtype_name, head_dim, causal)
    check_machine_code(dtype_name, head_dim, causal, with_lse=False)
