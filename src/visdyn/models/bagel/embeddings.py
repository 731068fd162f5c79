"""Fixed 2-D position tables, the timestep embedder, the connector, and patchify."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


def sincos_axis(positions: np.ndarray, dim: int) -> np.ndarray:
    """Return [sin(p w), cos(p w)], float64 (n, dim), with w_i = 10000^(-i / (dim / 2))."""
    frequencies = 10000.0 ** (-np.arange(dim // 2, dtype=np.float64) / (dim / 2))
    angles = np.outer(positions.astype(np.float64), frequencies)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def sincos_2d(dim: int, side: int) -> Tensor:
    """Return the float32 table (side * side, dim), row-major; the first half encodes the column, the second the row."""
    rows, columns = np.divmod(np.arange(side * side), side)
    table = np.concatenate([sincos_axis(columns, dim // 2), sincos_axis(rows, dim // 2)], axis=1)
    return torch.from_numpy(table.astype(np.float32))


class PositionTable(nn.Module):
    """A fixed sin-cos table, kept as a parameter without gradient because public checkpoints store it."""

    def __init__(self, dim: int, side: int) -> None:
        super().__init__()
        self.dim, self.side = dim, side
        self.pos_embed = nn.Parameter(torch.empty(side * side, dim), requires_grad=False)
        self.reset()

    def reset(self) -> None:
        """Fill in the table; a table on the meta device stays empty."""
        if not self.pos_embed.is_meta:
            self.pos_embed.data.copy_(sincos_2d(self.dim, self.side))

    def forward(self, position_ids: Tensor) -> Tensor:
        return self.pos_embed[position_ids]


def grid_position_ids(height: int, width: int, side: int, device=None) -> Tensor:
    """Return int64 (height * width) table rows row * side + column of a grid's top left corner.

    Raises:
        ValueError: the grid is larger than the table.
    """
    if max(height, width) > side:
        raise ValueError(f"an image of {height} x {width} patches does not fit a position table of side {side}")
    # The table's side, not the image's width: a grid smaller than the table takes its top left corner.
    rows = torch.arange(height, device=device).unsqueeze(1) * side  # (height, 1)
    return (rows + torch.arange(width, device=device)).flatten()


def timestep_sinusoid(t: Tensor, dim: int = 256) -> Tensor:
    """Return [cos(t f), sin(t f)], float32 (n, dim), with f_k = 10000^(-k / (dim / 2)); t in [0, 1] is not scaled."""
    half = dim // 2
    frequencies = torch.exp(-math.log(10000.0) / half * torch.arange(half, dtype=torch.float32, device=t.device))
    angles = t.float().unsqueeze(-1) * frequencies  # (n, dim / 2)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class TimestepEmbedder(nn.Module):
    """Sinusoid, Linear, SiLU, Linear."""

    def __init__(self, hidden_size: int, sinusoid_size: int = 256) -> None:
        super().__init__()
        self.sinusoid_size = sinusoid_size
        self.mlp = nn.Sequential(nn.Linear(sinusoid_size, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size))

    def forward(self, t: Tensor) -> Tensor:
        return self.mlp(timestep_sinusoid(t, self.sinusoid_size).to(self.mlp[0].weight.dtype))


class Connector(nn.Module):
    """Two linear layers with a tanh GELU between them, from ViT features to the language model."""

    def __init__(self, in_size: int, out_size: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_size, out_size)
        self.fc2 = nn.Linear(out_size, out_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


def patchify(maps: Tensor, patch: int) -> Tensor:
    """Cut maps (..., C, h * p, w * p) into tokens (..., h * w, p * p * C), (row, column, channel) in a patch."""
    *lead, channels, height, width = maps.shape
    h, w = height // patch, width // patch
    cut = maps.reshape(*lead, channels, h, patch, w, patch)  # (..., C, h, p, w, p)
    n = len(lead)
    cut = cut.permute(*range(n), n + 1, n + 3, n + 2, n + 4, n)  # (..., h, w, p, p, C)
    return cut.reshape(*lead, h * w, patch * patch * channels)


def unpatchify(tokens: Tensor, shape: tuple[int, int], patch: int) -> Tensor:
    """Undo `patchify`: tokens (..., h * w, p * p * C) of a grid `shape` (h, w) to maps (..., C, h * p, w * p)."""
    *lead, _, size = tokens.shape
    (h, w), channels = shape, size // patch**2
    cut = tokens.reshape(*lead, h, w, patch, patch, channels)  # (..., h, w, p, p, C)
    n = len(lead)
    cut = cut.permute(*range(n), n + 4, n, n + 2, n + 1, n + 3)  # (..., C, h, p, w, p)
    return cut.reshape(*lead, channels, h * patch, w * patch)
