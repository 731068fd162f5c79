"""A toy regression for the training loop; as a script, it kills itself at a step: `toy_training SCRATCH STEP`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

RECIPE = {"steps": 20, "batch_size": 4, "learning_rate": 0.1, "warmup_steps": 2, "log_every": 5, "save_every": 5}


class Killed(Exception):
    """Raised in place of a kill, where the test goes on in the same process."""


class ToyModel(nn.Module):
    """Linear regression with dropout: resuming it exactly needs the random state as well as the weights."""

    def __init__(self, dropout: float = 0.5, kill: Callable[[int], bool] = lambda step: False) -> None:
        super().__init__()
        self.linear, self.dropout, self.kill = nn.Linear(6, 1), nn.Dropout(dropout), kill
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def forward(self, inputs: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        self.step += 1
        if self.kill(int(self.step)):
            raise Killed
        loss = (self.linear(self.dropout(inputs)).squeeze(1) - labels).pow(2).mean()
        return {"loss": loss, "error": 2 * loss, "ignored": inputs}


def toy_data() -> list[dict[str, torch.Tensor]]:
    """Twelve examples: an epoch is three steps of four."""
    inputs = torch.randn(12, 6, generator=torch.Generator().manual_seed(0))
    return [{"inputs": row, "labels": row.sum() + 3} for row in inputs]


def train_toy(scratch: str | Path, kill: Callable[[int], bool] = lambda step: False, save=None, **recipe):
    """Train the toy; return its weights and its history."""
    from visdyn.training.engine.fit import Recipe, fit

    torch.manual_seed(0)
    model = ToyModel(kill=kill)
    history = fit(model, toy_data(), Recipe.of({**RECIPE, **recipe}), scratch, save=save)
    return {name: value.clone() for name, value in model.state_dict().items()}, history


if __name__ == "__main__":
    torch.set_num_threads(1)
    train_toy(sys.argv[1], kill=lambda step: step == int(sys.argv[2]) and os.kill(os.getpid(), signal.SIGKILL))
