"""A tiny TimeSformer with LaViLa's names, as its public checkpoints lie on disk."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from visdyn.models.timesformer import TimeSformer, TimeSformerConfig

TINY = TimeSformerConfig(width=128, depth=2, patch=14, side=28, frames=4, classes=(97, 300, 9))


@torch.no_grad()
def fill(model: TimeSformer) -> TimeSformer:
    """Give each tensor a wave of its own: the same weights can be made again anywhere, without a file."""
    for place, (name, tensor) in enumerate(sorted(model.state_dict().items())):
        wave = torch.sin(0.7 * torch.arange(tensor.numel(), dtype=torch.float64) ** 2 + place).reshape(tensor.shape)
        is_scale = name.endswith("weight") and ("norm" in name or "ln_pre" in name)
        tensor.copy_(0.3 * wave + is_scale if tensor.ndim == 1 else wave * (6 / tensor[0].numel()) ** 0.5)
    return model.eval()


def save_classifier(path: Path, config: TimeSformerConfig = TINY) -> Path:
    """Save it as the public file is: in a wrapper's names, with the options of its training beside the tensors."""
    weights = {f"module.{name}": value for name, value in fill(TimeSformer(config)).state_dict().items()}
    torch.save({"epoch": 90, "state_dict": weights, "args": argparse.Namespace(clip_length=config.frames)}, path)
    return path
