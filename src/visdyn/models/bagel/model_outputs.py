"""BagelOutput: losses, velocities and logits of a training forward."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass
class BagelOutput:
    """What the losses of a pack are made of; parts that a pack does not have are None.

    `visdyn.training.losses` holds the losses; `visdyn.training.bagel.objective` puts them together.

    Attributes:
        velocity: (n, channels), the velocity predicted at the n noised latent tokens.
        clean, noise, noised: float32 (n, channels), x_0, eps and x_t there.
        timesteps: float32 (n,), t there, after sigmoid and shift.
        ce, ce_logits, ce_weights: (m,), (m, vocabulary), (m,) at the predicted text tokens.
        hidden: (L, hidden), language model output after the final norms.
    """

    velocity: Tensor | None = None
    clean: Tensor | None = None
    noise: Tensor | None = None
    noised: Tensor | None = None
    timesteps: Tensor | None = None
    ce: Tensor | None = None
    ce_logits: Tensor | None = None
    ce_weights: Tensor | None = None
    hidden: Tensor | None = None
