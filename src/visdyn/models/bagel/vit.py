"""SigLIP tower that takes images at their own aspect ratio, packed one after another (NaViT)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visdyn.models.bagel.config import VisionConfig


class VisionAttention(nn.Module):
    """Multi-head attention inside each image; no mask is needed because images are attended one by one."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.heads, size = config.num_attention_heads, config.hidden_size
        self.q_proj, self.k_proj = nn.Linear(size, size), nn.Linear(size, size)
        self.v_proj, self.out_proj = nn.Linear(size, size), nn.Linear(size, size)

    def forward(self, x: Tensor, lengths: list[int]) -> Tensor:
        # Patches of all images stand in one row (n, hidden); each image is attended on its own.
        projected = (self.q_proj(x), self.k_proj(x), self.v_proj(x))
        # For each of q, k, v: one (heads, patches, head_dim) an image.
        heads = [p.unflatten(-1, (self.heads, -1)).transpose(0, 1).split(lengths, dim=1) for p in projected]
        mixed = [F.scaled_dot_product_attention(q, k, v) for q, k, v in zip(*heads, strict=True)]
        return self.out_proj(torch.cat(mixed, dim=1).transpose(0, 1).flatten(1))  # (n, hidden)


class VisionMLP(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class VisionLayer(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.self_attn = VisionAttention(config)
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = VisionMLP(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, x: Tensor, lengths: list[int]) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x), lengths)
        return x + self.mlp(self.layer_norm2(x))


class VisionEmbeddings(nn.Module):
    """A linear patch embedding (columns ordered row, column, channel) plus a learned position table."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.patch_embedding = nn.Linear(config.patch_dim, config.hidden_size)
        self.position_embedding = nn.Embedding(config.side**2, config.hidden_size)

    def forward(self, patches: Tensor, position_ids: Tensor) -> Tensor:
        return self.patch_embedding(patches) + self.position_embedding(position_ids)


class VisionEncoder(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(VisionLayer(config) for _ in range(config.num_hidden_layers))


class VisionTransformer(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.embeddings = VisionEmbeddings(config)
        self.encoder = VisionEncoder(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)


class VisionTower(nn.Module):
    """The tower under the public checkpoint's names (`vision_model....`)."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.vision_model = VisionTransformer(config)

    def forward(self, patches: Tensor, position_ids: Tensor, lengths: list[int]) -> Tensor:
        """Encode packed patches.

        Args:
            patches: (n, patch_dim) pixels in [-1, 1] of all images, one after another.
            position_ids: int64 (n,), row * side + column.
            lengths: patches per image.

        Returns:
            Features (n, hidden) after the last layer norm.
        """
        vision = self.vision_model
        x = vision.embeddings(patches, position_ids)
        for layer in vision.encoder.layers:
            x = layer(x, lengths)
        return vision.post_layernorm(x)
