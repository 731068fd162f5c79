"""What every optimisation of params.yaml says."""

from __future__ import annotations

from dataclasses import dataclass

from visdyn.params.reading import Count, NotNegative, Positive, Whole


@dataclass(frozen=True)
class Training:
    """One optimisation: AdamW with linear warm-up and cosine decay."""

    steps: Count  # of the optimiser
    batch_size: Count  # over all ranks
    learning_rate: Positive  # peak
    weight_decay: NotNegative
    warmup_steps: Whole  # linear
