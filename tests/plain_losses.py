"""The loss of a pack as upstream's code adds it up, for comparisons with golden tensors and between packs."""

from __future__ import annotations

import torch

from visdyn.models.bagel import BagelOutput
from visdyn.training.losses import rectified_flow_loss


def flow_loss(output: BagelOutput, reduction: str = "mean") -> torch.Tensor | None:
    if output.velocity is None:
        return None
    return rectified_flow_loss(output.velocity, output.clean, output.noise, reduction)


def text_loss(output: BagelOutput, reweight: bool = False) -> torch.Tensor | None:
    """Return the mean over answer tokens, or weighted by 1 / sqrt(answer length)."""
    if output.ce is None:
        return None
    return (output.ce * output.ce_weights).sum() / output.ce_weights.sum() if reweight else output.ce.mean()


def total_loss(output: BagelOutput) -> torch.Tensor:
    parts = [loss for loss in (flow_loss(output), text_loss(output)) if loss is not None]
    return torch.stack(parts).sum()
