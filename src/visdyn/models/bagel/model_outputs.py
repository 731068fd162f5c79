"""BagelOutput: losses, velocities and logits of a training forward."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class BagelOutput:
    """Per-element losses and the values behind them; parts that a batch does not have are None.

    The packed path has n target tokens in one row; the batched path has leading dimensions (batch, tokens).

    Attributes:
        velocity, velocity_target: (..., channels), prediction and noise - clean at the noised tokens.
        mse: float32 (..., channels), squared difference, not reduced.
        timesteps: float32 (...), t of the noised tokens, after sigmoid and shift.
        clean, noised: (..., channels) latents at the noised tokens.
        ce, ce_logits, ce_weights: (m,), (m, vocabulary), (m,) at the predicted text tokens.
        hidden: (L, hidden) or (batch, L, hidden), language model output after the final norms.
    """

    velocity: Tensor | None = None
    velocity_target: Tensor | None = None
    mse: Tensor | None = None
    timesteps: Tensor | None = None
    clean: Tensor | None = None
    noised: Tensor | None = None
    ce: Tensor | None = None
    ce_logits: Tensor | None = None
    ce_weights: Tensor | None = None
    hidden: Tensor | None = None

    def mse_loss(self) -> Tensor | None:
        """Mean over channels and target tokens."""
        return None if self.mse is None else self.mse.mean(-1).mean()

    def ce_loss(self, reweight: bool = False) -> Tensor | None:
        """Mean over predicted tokens, or weighted by 1 / sqrt(answer length)."""
        if self.ce is None:
            return None
        return (self.ce * self.ce_weights).sum() / self.ce_weights.sum() if reweight else self.ce.mean()

    def loss(self, ce_weight: float = 1.0, mse_weight: float = 1.0, reweight: bool = False) -> Tensor:
        """Return mse_weight * MSE + ce_weight * CE over the parts that exist (upstream's weights: 1 and 1).

        Raises:
            ValueError: the batch has neither a noised image nor an answer.
        """
        parts = [(self.mse_loss(), mse_weight), (self.ce_loss(reweight), ce_weight)]
        weighted = [loss * weight for loss, weight in parts if loss is not None]
        if not weighted:
            raise ValueError("nothing to learn from: the batch has no noised image and no answer with loss")
        return torch.stack(weighted).sum()
