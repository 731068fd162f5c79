"""Encoder and decoder of the taming-transformers VQGAN (Esser et al., 2021), with the public parameter names.

Every module name here is a key of the public checkpoint (`encoder.down.0.block.1.conv2.weight`, ...): renaming one
breaks loading. Feature maps are (N, C, H, W).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class VQGANConfig:
    """Shape of a VQGAN; the fields down to `embed_dim` are those of the public yaml, with Chameleon's values.

    `norm_groups` and `patch` are this kit's, and their defaults are the public architecture. With `patch` p, the
    encoder sees p x p pixels folded into channels and the decoder unfolds them again, which spares a tiny CPU model
    the full-resolution levels.
    """

    ch: int = 128
    ch_mult: tuple[int, ...] = (1, 1, 2, 2, 4)
    num_res_blocks: int = 2
    attn_resolutions: tuple[int, ...] = ()
    in_channels: int = 3
    out_ch: int = 3
    resolution: int = 512
    z_channels: int = 256
    dropout: float = 0.0
    n_embed: int = 8192
    embed_dim: int = 256
    norm_groups: int = 32
    patch: int = 1

    @property
    def downsampling(self) -> int:
        """Pixels per code along one side."""
        return self.patch * 2 ** (len(self.ch_mult) - 1)


def fold(pixels: Tensor, patch: int) -> Tensor:
    """Fold patch x patch pixels into channels: (N, C, H, W) to (N, C * patch**2, H / patch, W / patch)."""
    return pixels if patch == 1 else functional.pixel_unshuffle(pixels, patch)


def unfold(pixels: Tensor, patch: int) -> Tensor:
    """Undo `fold`."""
    return pixels if patch == 1 else functional.pixel_shuffle(pixels, patch)


def _make_norm(channels: int, groups: int) -> nn.GroupNorm:
    return nn.GroupNorm(groups, channels, eps=1e-6)


def _make_conv3x3(source: int, target: int) -> nn.Conv2d:
    return nn.Conv2d(source, target, 3, padding=1)


class ResnetBlock(nn.Module):
    """Pre-activation residual block; the shortcut is a 1x1 convolution where the width changes."""

    def __init__(self, source: int, target: int, groups: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.conv1 = _make_norm(source, groups), _make_conv3x3(source, target)
        self.norm2, self.conv2 = _make_norm(target, groups), _make_conv3x3(target, target)
        self.dropout = nn.Dropout(dropout)
        if source != target:
            self.nin_shortcut = nn.Conv2d(source, target, 1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv1(functional.silu(self.norm1(x)))
        hidden = self.conv2(self.dropout(functional.silu(self.norm2(hidden))))
        return (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x) + hidden


class AttnBlock(nn.Module):
    """Single-head self-attention over all positions."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = _make_norm(channels, groups)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm(x)
        query, key, value = (layer(hidden).flatten(2) for layer in (self.q, self.k, self.v))  # (N, C, positions)
        weights = torch.bmm(query.transpose(1, 2), key) * x.shape[1] ** -0.5  # (N, positions, positions)
        # (N, C, positions)
        attended = torch.bmm(value, weights.softmax(dim=2).transpose(1, 2).to(value.dtype))
        return x + self.proj_out(attended.view_as(x))


class Downsample(nn.Module):
    """Stride-2 convolution, padded on the right and below only, as in the public model."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(functional.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Nearest-neighbour doubling and a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = _make_conv3x3(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(functional.interpolate(x, scale_factor=2.0, mode="nearest"))


def _make_middle(channels: int, config: VQGANConfig) -> nn.Module:
    middle = nn.Module()
    middle.block_1 = ResnetBlock(channels, channels, config.norm_groups, config.dropout)
    middle.attn_1 = AttnBlock(channels, config.norm_groups)
    middle.block_2 = ResnetBlock(channels, channels, config.norm_groups, config.dropout)
    return middle


def _apply_middle(middle: nn.Module, x: Tensor) -> Tensor:
    return middle.block_2(middle.attn_1(middle.block_1(x)))


def _make_level(source: int, target: int, num_blocks: int, resolution: int, config: VQGANConfig) -> nn.Module:
    """Build one resolution: `num_blocks` residual blocks, each followed by attention at the listed resolutions."""
    level = nn.Module()
    widths = [source] + [target] * num_blocks
    level.block = nn.ModuleList(
        ResnetBlock(widths[i], target, config.norm_groups, config.dropout) for i in range(num_blocks)
    )
    attended = resolution in config.attn_resolutions
    level.attn = nn.ModuleList(AttnBlock(target, config.norm_groups) for _ in range(num_blocks if attended else 0))
    return level


def _apply_level(level: nn.Module, x: Tensor) -> Tensor:
    for i, block in enumerate(level.block):
        x = block(x)
        if len(level.attn):
            x = level.attn[i](x)
    return x


class Encoder(nn.Module):
    """Pixels (N, in_channels, H, W) to features (N, z_channels, H / f, W / f), f being `config.downsampling`."""

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        self.patch = config.patch
        widths = [config.ch * factor for factor in config.ch_mult]
        self.conv_in = _make_conv3x3(config.in_channels * config.patch**2, config.ch)
        self.down = nn.ModuleList()
        # Level i enters with the width of the one before; the last width of the first list has no partner.
        for i, (source, target) in enumerate(zip([config.ch, *widths], widths, strict=False)):
            level = _make_level(
                source, target, config.num_res_blocks, config.resolution // config.patch // 2**i, config
            )
            if i < len(widths) - 1:
                level.downsample = Downsample(target)
            self.down.append(level)
        self.mid = _make_middle(widths[-1], config)
        self.norm_out = _make_norm(widths[-1], config.norm_groups)
        self.conv_out = _make_conv3x3(widths[-1], config.z_channels)

    def forward(self, pixels: Tensor) -> Tensor:
        hidden = self.conv_in(fold(pixels, self.patch))
        for level in self.down:
            hidden = _apply_level(level, hidden)
            if hasattr(level, "downsample"):
                hidden = level.downsample(hidden)
        return self.conv_out(functional.silu(self.norm_out(_apply_middle(self.mid, hidden))))


class Decoder(nn.Module):
    """Features (N, z_channels, h, w) to pixels (N, out_ch, h * f, w * f); level 0 of `up` is the finest."""

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        self.patch = config.patch
        widths = [config.ch * factor for factor in config.ch_mult]
        self.conv_in = _make_conv3x3(config.z_channels, widths[-1])
        self.mid = _make_middle(widths[-1], config)
        self.up = nn.ModuleList()
        # The coarsest level runs first: level i enters with the width of level i + 1.
        for i, (source, target) in enumerate(zip([*widths[1:], widths[-1]], widths, strict=True)):
            level = _make_level(
                source, target, config.num_res_blocks + 1, config.resolution // config.patch // 2**i, config
            )
            if i > 0:
                level.upsample = Upsample(target)
            self.up.append(level)
        self.norm_out = _make_norm(widths[0], config.norm_groups)
        self.conv_out = _make_conv3x3(widths[0], config.out_ch * config.patch**2)

    def forward(self, features: Tensor) -> Tensor:
        hidden = _apply_middle(self.mid, self.conv_in(features))
        for level in reversed(self.up):
            hidden = _apply_level(level, hidden)
            if hasattr(level, "upsample"):
                hidden = level.upsample(hidden)
        return unfold(self.conv_out(functional.silu(self.norm_out(hidden))), self.patch)
