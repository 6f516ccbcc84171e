"""How the GPUs of one instance share a model: what a published row says, read so that its counts agree."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tokenwatt.errors import UserError
from tokenwatt.perf_model.shape import LinearAttention, Mixer, ModelShape, StateSpace


@dataclass(frozen=True, slots=True)
class Parallelism:
    """The GPUs of one instance. In each of `pp` stages attention_tp * attention_dp = moe_tp * moe_ep GPUs work."""

    gpus: int
    """GPUs of the instance: attention_tp * attention_dp * pp."""
    attention_tp: int
    """GPUs that share the heads of one attention; all matrices outside the experts are split likewise."""
    attention_dp: int
    """Groups that each attend to requests of their own."""
    moe_tp: int
    """GPUs that share one expert."""
    moe_ep: int
    """Groups that hold experts of their own."""
    pp: int
    """Stages, one after the other."""

    def check(self, shape: ModelShape) -> None:
        """Whether a model can be split so.

        Raises:
            UserError: one line that says which does not divide which.
        """
        for heads in sorted({_heads(block.mixer) for block in shape.counted if block.mixer}):
            if heads % self.attention_tp:
                raise UserError(f"tp {self.attention_tp} does not divide the {heads} heads of {shape.name}")
        for experts in sorted({block.experts.num_experts for block in shape.counted if block.experts}):
            if experts % self.moe_ep:
                raise UserError(f"ep {self.moe_ep} does not divide the {experts} experts of {shape.name}")
        if len(shape.blocks) < self.pp:
            raise UserError(f"pp {self.pp} is more than the {len(shape.blocks)} layers of {shape.name}")


@dataclass(frozen=True, slots=True)
class Given:
    """What a row says; None for what it does not."""

    num_gpus: int | None = None
    tp: int | None = None
    ep: int | None = None
    dp: int | None = None
    pp: int | None = None
    task: str | None = None
    """Its label, such as TP8 or DEP4, in rows of TensorRT-LLM; any other task says nothing of this."""


_LABEL = re.compile(r"(TP|TEP|DEP)(\d+)(?:-?PP(\d+))?", re.IGNORECASE)


def resolve_parallelism(given: Given) -> Parallelism:
    """Read what a row says.

    Nothing said: tensor parallel over all GPUs, one GPU where their number is not said either.
    Labels: TP8 shares everything among 8; TEP8 shares attention among 8 and gives each GPU experts of its own; DEP4
    gives each of 4 GPUs requests and experts of its own.
    Columns: an instance has num_gpus = tp * dp * pp GPUs, and `ep` says how many groups of them hold experts of their
    own. What is not said follows from the rest (dp = num_gpus / (tp * pp), ep = 1). Two sources write it otherwise:

    - `ep` > 1 and no `dp`, tp = ep * num_gpus (InferenceX, 4 to 64 for 2 to 8 GPUs): its tp is the product of tp and
      ep. A row of such a source whose tp is num_gpus means the same.
    - dp = 1 and tp * ep = num_gpus (ML.ENERGY): tp and ep say how the experts are split. It starts vLLM with
      --tensor-parallel-size num_gpus and, for a mixture of experts, --enable-expert-parallel, so that attention is
      shared among all of them.

    Raises:
        UserError: counts that contradict one another; one line.
    """
    return _of_label(given) or _of_columns(given)


def _heads(mixer: Mixer) -> int:
    if isinstance(mixer, LinearAttention):
        return mixer.num_value_heads
    return mixer.num_heads if isinstance(mixer, StateSpace) else mixer.num_attention_heads


def is_label(task: str) -> bool:
    """Whether a task says how GPUs share a model."""
    return _LABEL.fullmatch(task.strip()) is not None


def _of_label(given: Given) -> Parallelism | None:
    match = _LABEL.fullmatch((given.task or "").strip())
    if match is None:
        return None
    kind, count, pp = match[1].upper(), int(match[2]), int(match[3] or 1)
    if count < 1 or pp < 1:
        raise UserError(f"task {given.task!r} names no GPU")
    attention_tp, ep = (1 if kind == "DEP" else count), (1 if kind == "TP" else count)
    found = Parallelism(count * pp, attention_tp, count // attention_tp, count // ep, ep, pp)
    said = {"num_gpus": found.gpus, "tp": attention_tp, "ep": ep, "dp": found.attention_dp, "pp": pp}
    for name, value in said.items():
        other = getattr(given, name)
        if other is not None and other != value:
            raise UserError(f"task {given.task} means {name} {value}, but {name} is {other}")
    return found


def _of_columns(given: Given) -> Parallelism:
    pp, ep, dp = given.pp or 1, given.ep or 1, given.dp
    gpus = given.num_gpus or (given.tp or ep) * (dp or 1) * pp
    if gpus % pp:
        raise UserError(f"pp {pp} does not divide {gpus} GPUs")
    width = gpus // pp
    tp = given.tp
    if tp is None:
        tp = _quotient(width, dp or 1, "dp")
    elif ep > 1 and (tp == ep * width if dp is None else dp == 1 and tp * ep == width):
        tp = width
    if dp is None:
        dp = _quotient(width, tp, "tp")
    if tp * dp != width:
        raise UserError(f"tp {tp} x dp {dp} x pp {pp} are {tp * dp * pp} GPUs, but num_gpus is {gpus}")
    return Parallelism(gpus, tp, dp, _quotient(width, ep, "ep"), ep, pp)


def _quotient(width: int, part: int, name: str) -> int:
    """GPUs of a stage over a count that must divide them."""
    if width % part:
        raise UserError(f"{name} {part} does not divide {width} GPUs")
    return width // part
