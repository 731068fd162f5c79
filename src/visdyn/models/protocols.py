"""Protocols of a model's two roles, inverse and forward dynamics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from visdyn.images import ImageRef


@runtime_checkable
class InverseDynamics(Protocol):
    """Two images to an action: p(a | o_s, o_t) (Bootstrapping, section 3.1)."""

    def log_likelihood(
        self, sources: Sequence[ImageRef], targets: Sequence[ImageRef], actions: Sequence[str]
    ) -> torch.Tensor:
        """Return float32 (N,): the mean log-probability per action token, in nats."""

    def predict(self, sources: Sequence[ImageRef], targets: Sequence[ImageRef]) -> list[str]:
        """Return one action text for each pair, decoded greedily."""


@runtime_checkable
class ForwardDynamics(Protocol):
    """An image and an action to the next image: p(o_t | o_s, a) (Bootstrapping, section 3.2)."""

    def log_likelihood(
        self, sources: Sequence[ImageRef], actions: Sequence[str], targets: Sequence[ImageRef]
    ) -> torch.Tensor:
        """Return float32 (N,): the mean log-probability per image token, in nats."""

    def sample(
        self, source: ImageRef, action: str, num_samples: int, generator: torch.Generator | None = None
    ) -> list[np.ndarray]:
        """Return `num_samples` uint8 images (H, W, 3) drawn from the model."""


def role_of(model: Any, task: str) -> InverseDynamics | ForwardDynamics:
    """Return a model in one role: its attribute `inverse_dynamics` (`idp`) or `forward_dynamics` (`fdp`), or itself.

    Raises:
        ValueError: it does not answer as the role asks.
    """
    attribute, role = {"idp": ("inverse_dynamics", InverseDynamics), "fdp": ("forward_dynamics", ForwardDynamics)}[task]
    found = getattr(model, attribute, model)
    if not isinstance(found, role):
        asked = "predict" if task == "idp" else "sample"
        raise ValueError(
            f"{type(model).__name__} is no {role.__name__}: it has neither log_likelihood and {asked}, nor an "
            f"attribute {attribute} that has"
        )
    return found


def has_role(model: Any, task: str) -> bool:
    """Tell whether `role_of` gives a model in a role."""
    try:
        role_of(model, task)
    except ValueError:
        return False
    return True
