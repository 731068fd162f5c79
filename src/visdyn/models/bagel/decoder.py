"""The mixture-of-transformers decoder: two experts with separate weights, one joint attention.

Tokens travel as two streams that never mix outside attention: `und` (text, ViT tokens, image markers) and
`gen` (VAE latents). Routing is hard, so a stream *is* an expert. Attention does not care about the order
of tokens once positions and mask are given, so tokens are kept und-first and each expert works on one
contiguous block. Parameter names are those of the public checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from visdyn.models.bagel.config import TextConfig
from visdyn.models.bagel.layers import GatedMLP, RMSNorm, apply_rotary, rotary_tables


class Streams(NamedTuple):
    """Hidden states of both experts: und (batch, U, hidden) and gen (batch, G, hidden); either may be empty."""

    und: Tensor
    gen: Tensor

    def concat(self) -> Tensor:
        return torch.cat([self.und, self.gen], dim=1)

    def keep_last(self, count: int | None) -> Streams:
        """Return only the last `count` gen tokens; all tokens for None."""
        return self if count is None else Streams(self.und[:, :0], self.gen[:, self.gen.shape[1] - count :])


class KeysValues(NamedTuple):
    """Keys (after q/k norm and rotary embedding) and values, each (batch, kv heads, tokens, head_dim)."""

    keys: Tensor
    values: Tensor


class Room(NamedTuple):
    """What a guidance branch has read, in one layer, with room at the end for the tokens of a pass, written by each.

    keys, values: (batch, kv heads, past + U + G, head_dim); mask: bool, broadcastable to (batch, heads, U + G, past +
    U + G), true = may attend; None = all.
    """

    keys: Tensor
    values: Tensor
    mask: Tensor | None


class JointAttention(nn.Module):
    """Self-attention over both streams; projections and q/k norms are per expert, grouped key/value heads."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = (
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
        )
        size, inner, kv = config.hidden_size, self.heads * self.head_dim, self.kv_heads * self.head_dim
        for suffix in ("", "_moe_gen"):
            self.add_module(f"q_proj{suffix}", nn.Linear(size, inner))
            self.add_module(f"k_proj{suffix}", nn.Linear(size, kv))
            self.add_module(f"v_proj{suffix}", nn.Linear(size, kv))
            self.add_module(f"o_proj{suffix}", nn.Linear(inner, size, bias=False))
            self.add_module(f"q_norm{suffix}", RMSNorm(self.head_dim, config.rms_norm_eps))
            self.add_module(f"k_norm{suffix}", RMSNorm(self.head_dim, config.rms_norm_eps))

    def forward(
        self,
        streams: Streams,
        cos: Tensor,
        sin: Tensor,
        mask: Tensor | None,
        past: KeysValues | None,
        outputs: int | None,
        rooms: Sequence[Room] | None = None,
    ) -> tuple[Streams, KeysValues]:
        # Only these tokens ask; all tokens answer, because the queries attend to every key.
        asking = streams.keep_last(outputs)
        count = asking.und.shape[1] + asking.gen.shape[1]  # Q
        query = self._project_heads(asking, "q", normed=True)  # (B, heads, Q, head_dim)
        query = apply_rotary(query, cos[:, -count:], sin[:, -count:])
        mask = None if mask is None else mask[..., -count:, :]  # broadcasts to (B, heads, Q, past + U + G)
        keys = apply_rotary(self._project_heads(streams, "k", normed=True), cos, sin)  # (B, kv heads, U + G, head_dim)
        values = self._project_heads(streams, "v", normed=False)
        new_states = KeysValues(keys, values)
        if rooms is not None:
            mixed = self._attend_branches(query, new_states, rooms)  # (B, heads, Q, head_dim)
        else:
            if past is not None:
                keys, values = torch.cat([past.keys, keys], dim=2), torch.cat([past.values, values], dim=2)
            mixed = self._attend(query, keys, values, mask)  # (B, heads, Q, head_dim)
        und, gen = mixed.transpose(1, 2).flatten(2).split([asking.und.shape[1], asking.gen.shape[1]], dim=1)
        return Streams(self.o_proj(und), self.o_proj_moe_gen(gen)), new_states

    def _attend_branches(self, query: Tensor, new_states: KeysValues, rooms: Sequence[Room]) -> Tensor:
        """Attend each branch's rows to its own room: no branch is padded to the length of another."""
        mixed = []
        for q, new_keys, new_values, room in zip(
            *(part.chunk(len(rooms)) for part in (query, *new_states)), rooms, strict=True
        ):
            past = room.keys.shape[2] - new_keys.shape[2]
            room.keys[:, :, past:], room.values[:, :, past:] = new_keys, new_values
            mixed.append(self._attend(q, room.keys, room.values, room.mask))
        return torch.cat(mixed) if len(mixed) > 1 else mixed[0]

    def _attend(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        # Grouped queries: each key/value head serves `groups` query heads.
        groups = self.heads // self.kv_heads
        if groups > 1 and mask is not None:
            # Flash attention takes groups but no mask, the memory-efficient kernel a mask but no groups.
            keys, values = keys.repeat_interleave(groups, dim=1), values.repeat_interleave(groups, dim=1)
            groups = 1
        elif groups == 1:
            # A kernel on a CPU may round by layout: always this one. Cached states have it already.
            keys, values = keys.contiguous(), values.contiguous()
        return F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, enable_gqa=groups > 1)

    def _project_heads(self, streams: Streams, name: str, normed: bool) -> Tensor:
        """Project both streams and return heads (batch, heads, U + G, head_dim)."""
        parts = []
        for stream, suffix in zip(streams, ("", "_moe_gen"), strict=True):
            # (B, tokens, heads, head_dim)
            heads = getattr(self, f"{name}_proj{suffix}")(stream).unflatten(-1, (-1, self.head_dim))
            parts.append(getattr(self, f"{name}_norm{suffix}")(heads) if normed else heads)
        return torch.cat(parts, dim=1).transpose(1, 2)


class DecoderLayer(nn.Module):
    """Pre-norm transformer layer with a `_moe_gen` twin of every weight."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        size, inner, eps = config.hidden_size, config.intermediate_size, config.rms_norm_eps
        self.self_attn = JointAttention(config)
        self.mlp = GatedMLP(size, inner)
        self.mlp_moe_gen = GatedMLP(size, inner)
        self.input_layernorm = RMSNorm(size, eps)
        self.input_layernorm_moe_gen = RMSNorm(size, eps)
        self.post_attention_layernorm = RMSNorm(size, eps)
        self.post_attention_layernorm_moe_gen = RMSNorm(size, eps)

    def forward(
        self,
        streams: Streams,
        cos: Tensor,
        sin: Tensor,
        mask: Tensor | None,
        past: KeysValues | None = None,
        outputs: int | None = None,
        rooms: Sequence[Room] | None = None,
    ) -> tuple[Streams, KeysValues]:
        normed = Streams(self.input_layernorm(streams.und), self.input_layernorm_moe_gen(streams.gen))
        attended, new_states = self.self_attn(normed, cos, sin, mask, past, outputs, rooms)
        streams = streams.keep_last(outputs)
        und, gen = streams.und + attended.und, streams.gen + attended.gen
        und = und + self.mlp(self.post_attention_layernorm(und))
        gen = gen + self.mlp_moe_gen(self.post_attention_layernorm_moe_gen(gen))
        return Streams(und, gen), new_states


class Decoder(nn.Module):
    """Token embedding, layers and the two final norms."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.norm_moe_gen = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self,
        streams: Streams,
        positions: Tensor,
        mask: Tensor | None = None,
        past: list[KeysValues] | None = None,
        outputs: int | None = None,
        rooms: Sequence[Sequence[Room]] | None = None,
    ) -> tuple[Streams, list[KeysValues]]:
        """Run all layers.

        Args:
            streams: embedded tokens.
            positions: int64 (batch or 1, U + G) rotary positions, und tokens first.
            mask: bool, broadcastable to (batch, heads, U + G, past + U + G), true = may attend; None = all.
            past: per layer, cached keys and values of earlier tokens.
            outputs: if given, only the last so many gen tokens are wanted, and the last layer computes no others.
            rooms: per layer, the room of each branch, instead of `mask` and `past`: the batch is as many equal runs of
                rows, a branch each.

        Returns:
            Hidden states after the final norms, and per layer the keys and values of these tokens (und-first).
        """
        # (batch or 1, U + G, head_dim) each, computed in float32 and cast once for all layers
        cos, sin = rotary_tables(positions, self.config.head_dim, self.config.rope_theta)
        cos, sin = cos.to(streams.und.dtype), sin.to(streams.und.dtype)
        new = []
        for index, layer in enumerate(self.layers):
            cached = past[index] if past else None
            branches = rooms[index] if rooms else None
            wanted = outputs if index + 1 == len(self.layers) else None
            if self.gradient_checkpointing and torch.is_grad_enabled():
                streams, new_states = checkpoint(
                    layer, streams, cos, sin, mask, cached, wanted, branches, use_reentrant=False
                )
            else:
                streams, new_states = layer(streams, cos, sin, mask, cached, wanted, branches)
            new.append(new_states)
        return Streams(self.norm(streams.und), self.norm_moe_gen(streams.gen)), new


class LanguageModel(nn.Module):
    """The decoder and its one (untied) output head."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.model = Decoder(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
