"""Which tensors of a checkpoint a decoder is made of, by their Hugging Face names, and in which format they are kept.

Projections that read the same input become one, and gate and up take turns, row by row, so that one product serves
both. Every tensor is asked for in full and cut to this rank's share at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenwatt.architecture import Architecture, DenseMlp, GroupedAttention, LatentAttention, Layer, MixtureOfExperts
from tokenwatt.engines.native.attention import GroupedLayer, LatentLayer
from tokenwatt.engines.native.linear import Float8, Linear, Weight
from tokenwatt.engines.native.mlp import Experts, GatedMlp
from tokenwatt.engines.native.model import Decoder, DecoderLayer
from tokenwatt.engines.native.options import Quantization
from tokenwatt.engines.native.parallel import ALONE, Group, share_of
from tokenwatt.engines.native.rotary import rotary_tables
from tokenwatt.errors import UserError
from tokenwatt_kernels.attention.options import Options
from tokenwatt_kernels.matmul.activations import interleave
from tokenwatt_kernels.matmul.packed.weights import PackedWeight, arrange_int4, arrange_mxfp4
from tokenwatt_kernels.number_formats.int4 import pack_int4
from tokenwatt_kernels.number_formats.mxfp4 import Mxfp4

Source = Callable[..., Tensor]
"""get(name, *shape, dtype=None): the tensor of a name, on the device of the engine, in the shape that the architecture
demands and the dtype of the engine, or in the one that is given."""

EXPERT_NAMES = {
    "mixtral": ("block_sparse_moe", "w1", "w3", "w2"),
    "qwen3_moe": ("mlp", "gate_proj", "up_proj", "down_proj"),
    "deepseek_v3": ("mlp", "gate_proj", "up_proj", "down_proj"),
}
"""model_type -> module of the experts, and the names of gate, up and down of each."""


def build_decoder(
    architecture: Architecture,
    get: Source,
    positions: int,
    quantization: Quantization = "none",
    group: Group = ALONE,
) -> Decoder:
    """A decoder of this rank's share of the tensors that `get` gives, for contexts of up to `positions` tokens.

    Raises:
        UserError: from `get`, or for numbers that a format of 4 bits does not take.
    """
    return _Builder(architecture, share_of(architecture, group.size), get, quantization, group).decoder(positions)


@dataclass(frozen=True, slots=True)
class _Builder:
    whole: Architecture
    share: Architecture
    get: Source
    quantization: Quantization
    group: Group

    def decoder(self, positions: int) -> Decoder:
        whole, get = self.whole, self.get
        embedding = get("model.embed_tokens.weight", whole.vocab_size, whole.hidden_size)
        layers = tuple(self.layer(place, layer) for place, layer in enumerate(self.share.layers))
        norm = get("model.norm.weight", whole.hidden_size)
        head = embedding
        if not whole.tie_word_embeddings:
            head = get("lm_head.weight", whole.vocab_size, whole.hidden_size)
        is_shared = self.group.size > 1 and whole.vocab_size % self.group.size == 0
        rotaries = dict.fromkeys(layer.rotary for layer in whole.layers)
        return Decoder(
            self.share, self.group, embedding, layers, norm,
            Linear(self.cut(head, 0) if is_shared else head), is_shared,
            float(torch.tensor(whole.embedding_scale, dtype=embedding.dtype)),
            {rotary: rotary_tables(rotary, positions, embedding.device) for rotary in rotaries},
        )  # fmt: skip

    def layer(self, place: int, layer: Layer) -> DecoderLayer:
        prefix, h = f"model.layers.{place}", self.whole.hidden_size

        def norm(name: str) -> Tensor:
            return self.get(f"{prefix}.{name}.weight", h)

        is_sandwich = self.whole.has_sandwich_norms
        if isinstance(self.share.attention, GroupedAttention):
            attention = self.grouped(f"{prefix}.self_attn", layer)
        else:
            attention = self.latent(f"{prefix}.self_attn", layer, self.share.attention)
        return DecoderLayer(
            rotary=layer.rotary,
            attention_norm=norm("input_layernorm"),
            attention=attention,
            after_attention_norm=norm("post_attention_layernorm") if is_sandwich else None,
            mlp_norm=norm("pre_feedforward_layernorm" if is_sandwich else "post_attention_layernorm"),
            mlp=self.mlp(prefix, layer.mlp, self.whole.layers[place].mlp),
            after_mlp_norm=norm("post_feedforward_layernorm") if is_sandwich else None,
        )

    def grouped(self, prefix: str, layer: Layer) -> GroupedLayer:
        whole, share = self.whole.attention, self.share.attention
        assert isinstance(whole, GroupedAttention)
        assert isinstance(share, GroupedAttention)
        h, d = self.whole.hidden_size, whole.head_dim
        sizes = {"q_proj": whole.q_size, "k_proj": whole.kv_size, "v_proj": whole.kv_size}
        cuts = {"q_proj": self.cut, "k_proj": self.cut_kv, "v_proj": self.cut_kv}
        qkv = torch.cat([cuts[name](self.get(f"{prefix}.{name}.weight", size, h), 0) for name, size in sizes.items()])
        bias = None
        if whole.has_qkv_bias:
            bias = torch.cat([cuts[name](self.get(f"{prefix}.{name}.bias", size), 0) for name, size in sizes.items()])
        out = self.cut(self.get(f"{prefix}.o_proj.weight", h, whole.q_size), 1)
        out_bias = self.get(f"{prefix}.o_proj.bias", h) if whole.has_o_bias else None
        sinks = None
        if whole.has_sinks:
            sinks = self.cut(self.get(f"{prefix}.sinks", whole.num_attention_heads, dtype=torch.float32), 0)
        return GroupedLayer(
            shape=share,
            qkv=Linear(self.kept(qkv, f"{prefix}.qkv"), bias),
            out=Linear(self.kept(out, f"{prefix}.o_proj"), self.group.own(out_bias)),
            q_norm=self.get(f"{prefix}.q_norm.weight", d) if whole.has_qk_norm else None,
            k_norm=self.get(f"{prefix}.k_norm.weight", d) if whole.has_qk_norm else None,
            options=Options(scale=whole.scale, window=layer.window, softcap=whole.softcap, sinks=sinks),
            eps=self.whole.rms_norm_eps,
            norm_unit_offset=self.whole.norm_unit_offset,
        )

    def latent(self, prefix: str, layer: Layer, share: LatentAttention) -> LatentLayer:
        h, heads = self.whole.hidden_size, self.whole.attention.num_attention_heads
        rank, q_size = share.q_lora_rank, heads * share.qk_head_dim
        expanded = share.qk_nope_head_dim + share.v_head_dim
        q_name, q_width = ("q_proj", h) if rank is None else ("q_b_proj", rank)
        q_b = self.cut(self.get(f"{prefix}.{q_name}.weight", q_size, q_width), 0)
        kv_a = self.get(f"{prefix}.kv_a_proj_with_mqa.weight", share.cached_size, h)
        kv_b = self.cut(self.get(f"{prefix}.kv_b_proj.weight", heads * expanded, share.kv_lora_rank), 0)
        out = self.cut(self.get(f"{prefix}.o_proj.weight", h, heads * share.v_head_dim), 1)
        q_a = None
        if rank is not None:
            q_a = Linear(self.kept(self.get(f"{prefix}.q_a_proj.weight", rank, h), f"{prefix}.q_a_proj"))
        return LatentLayer(
            shape=share,
            rotary=layer.rotary,
            q_a=q_a,
            q_a_norm=None if rank is None else self.get(f"{prefix}.q_a_layernorm.weight", rank),
            q_b=Linear(self.kept(q_b, f"{prefix}.{q_name}")),
            kv_a=Linear(self.kept(kv_a, f"{prefix}.kv_a_proj_with_mqa")),
            kv_a_norm=self.get(f"{prefix}.kv_a_layernorm.weight", share.kv_lora_rank),
            kv_b=kv_b.unflatten(0, (-1, expanded)),
            out=Linear(self.kept(out, f"{prefix}.o_proj")),
            eps=LATENT_NORM_EPS,
        )

    def mlp(
        self, prefix: str, share: DenseMlp | MixtureOfExperts, whole: DenseMlp | MixtureOfExperts
    ) -> GatedMlp | Experts:
        if isinstance(whole, DenseMlp):
            return self.dense(f"{prefix}.mlp", whole.intermediate_size)
        assert isinstance(share, MixtureOfExperts)
        if self.whole.model_type == "gpt_oss":
            return self.fused_experts(f"{prefix}.mlp", share, whole)
        return self.listed_experts(prefix, share, whole)

    def dense(self, prefix: str, intermediate: int) -> GatedMlp:
        h = self.whole.hidden_size
        gate, up = (
            self.cut(self.get(f"{prefix}.{name}.weight", intermediate, h), 0) for name in ("gate_proj", "up_proj")
        )
        down = self.cut(self.get(f"{prefix}.down_proj.weight", h, intermediate), 1)
        return GatedMlp(
            Linear(self.kept(interleave(gate, up), f"{prefix}.gate_up"), activation=self.whole.activation),
            Linear(self.kept(down, f"{prefix}.down_proj")),
        )

    def listed_experts(self, prefix: str, share: MixtureOfExperts, whole: MixtureOfExperts) -> Experts:
        """Experts of which each has its tensors, as in Mixtral, Qwen3-MoE and DeepSeek-V3."""
        module, gate_name, up_name, down_name = EXPERT_NAMES[self.whole.model_type]
        prefix = f"{prefix}.{module}"
        h, i = self.whole.hidden_size, whole.intermediate_size

        def of(expert: int, name: str, *shape: int) -> Tensor:
            return self.get(f"{prefix}.experts.{expert}.{name}.weight", *shape)

        def gate_up(expert: int) -> Weight:
            gate, up = self.cut(of(expert, gate_name, i, h), 0), self.cut(of(expert, up_name, i, h), 0)
            return self.kept(interleave(gate, up), f"{prefix}.experts.{expert}")

        def down(expert: int) -> Weight:
            return self.kept(self.cut(of(expert, down_name, h, i), 1), f"{prefix}.experts.{expert}")

        shared = None
        if whole.shared_intermediate_size:
            shared = self.dense(f"{prefix}.shared_experts", whole.shared_intermediate_size)
        correction = None
        if whole.has_correction_bias:
            correction = self.get(f"{prefix}.gate.e_score_correction_bias", whole.num_experts, dtype=torch.float32)
        router_dtype = torch.float32 if whole.score == "sigmoid" else None
        return Experts(
            shape=share,
            router=self.get(f"{prefix}.gate.weight", whole.num_experts, h, dtype=router_dtype),
            router_bias=None,
            correction_bias=correction,
            gate_up=_stacked(whole.num_experts, gate_up),
            down=_stacked(whole.num_experts, down),
            gate_up_bias=None,
            down_bias=None,
            shared=shared,
            activation=self.whole.activation,
        )

    def fused_experts(self, prefix: str, share: MixtureOfExperts, whole: MixtureOfExperts) -> Experts:
        """Experts in one tensor, gate and up in turns as we have them too, and biases: gpt-oss."""
        h, i, e = self.whole.hidden_size, whole.intermediate_size, whole.num_experts
        if self.whole.checkpoint_format == "mxfp4_experts":
            gate_up = self.mxfp4(f"{prefix}.experts.gate_up_proj", 0, e, 2 * i, h)
            down = self.mxfp4(f"{prefix}.experts.down_proj", 1, e, h, i)
        else:
            gate_up = self.turned(f"{prefix}.experts.gate_up_proj", 0, e, 2 * i, h)
            down = self.turned(f"{prefix}.experts.down_proj", 1, e, h, i)
        return Experts(
            shape=share,
            router=self.get(f"{prefix}.router.weight", e, h),
            router_bias=self.get(f"{prefix}.router.bias", e),
            correction_bias=None,
            gate_up=gate_up,
            down=down,
            gate_up_bias=self.cut(self.get(f"{prefix}.experts.gate_up_proj_bias", e, 2 * i), 1),
            down_bias=self.group.own(self.get(f"{prefix}.experts.down_proj_bias", e, h)),
            shared=None,
            activation=self.whole.activation,
        )

    def turned(self, name: str, axis: int, experts: int, n: int, k: int) -> Weight:
        """Experts [E, N, K] that a checkpoint has as [E, K, N], cut along an axis of one expert."""
        whole = self.get(name, experts, k, n)
        return _stacked(experts, lambda expert: self.kept(self.cut(whole[expert].mT, axis).contiguous(), name))

    def mxfp4(self, name: str, axis: int, experts: int, n: int, k: int) -> Weight:
        """Experts [E, N, K] as a checkpoint has them: blocks [E, N, K / 32, 16] of two codes a byte, and scales."""
        codes = self.get(f"{name}_blocks", experts, n, k // 32, 16, dtype=torch.uint8)
        scales = self.get(f"{name}_scales", experts, n, k // 32, dtype=torch.uint8)
        cut = self.cut(codes, axis + 1).flatten(2).contiguous(), self.cut(scales, axis + 1).contiguous()
        try:
            return arrange_mxfp4(Mxfp4(*cut))
        except ValueError as error:
            raise UserError(f"{name}: damaged ({error}); download it again") from None

    def kept(self, weight: Tensor, name: str) -> Weight:
        """A weight [..., N, K] in the format that the spec asks for."""
        if self.quantization == "fp8":
            return Float8.of(weight)
        if self.quantization == "int4":
            try:
                return arrange_int4(pack_int4(weight))
            except ValueError as error:
                raise UserError(f"{name}: cannot be kept in int4 ({error})") from None
        return weight

    def cut(self, tensor: Tensor, axis: int) -> Tensor:
        """This rank's equal share along an axis."""
        return tensor if self.group.size == 1 else tensor.chunk(self.group.size, axis)[self.group.rank].contiguous()

    def cut_kv(self, tensor: Tensor, axis: int) -> Tensor:
        """This rank's key or value heads; where there are fewer heads than ranks, several ranks have the same one."""
        attention = self.whole.attention
        assert isinstance(attention, GroupedAttention)
        parts = min(self.group.size, attention.num_key_value_heads)
        return tensor.chunk(parts, axis)[self.group.rank * parts // self.group.size].contiguous()


LATENT_NORM_EPS = 1e-6
"""Of the norms of latents, whatever the model's own is: the default of DeepseekV3RMSNorm in transformers."""


def _stacked(count: int, make: Callable[[int], Weight]) -> Weight:
    """`count` weights [N, K] as one; each is in its place before the next is made, so that only one is there twice."""
    room: list[Tensor] = []
    for place in range(count):
        weight = make(place)
        assert not isinstance(weight, PackedWeight)
        parts = [weight.codes, weight.scales] if isinstance(weight, Float8) else [weight]
        room = room or [part.new_empty(count, *part.shape) for part in parts]
        for whole, part in zip(room, parts, strict=True):
            whole[place] = part
    return Float8(*room) if len(room) == 2 else room[0]
