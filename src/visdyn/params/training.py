"""What every optimisation of params.yaml says."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from visdyn.params.reading import Count, Share, Whole, Within


@dataclass(frozen=True)
class Training:
    """One optimisation, with linear warm-up and cosine decay."""

    steps: Count  # of the optimiser
    batch_size: Count  # over all ranks
    learning_rate: Annotated[float, Within(0, 1, above=True)]  # peak
    weight_decay: Share
    warmup_steps: Whole  # linear
    optimizer: Literal["adamw", "muon"] = field(default="adamw", kw_only=True)  # muon: training.engine.muon


def check_pace(log_every: int, save_every: int) -> None:
    """Refuse checkpoints between two rows of a history: a running mean is no part of one, a resumed run would differ.

    Raises:
        ValueError: one is no multiple of the other.
    """
    if save_every % log_every:
        raise ValueError(
            f"save_every ({save_every}) must be a multiple of log_every ({log_every}), "
            "else a resumed run would log other losses than an uninterrupted one"
        )
