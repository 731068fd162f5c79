"""The sections `idm`, `idm_evaluation` and `fdm` of params.yaml.

`DynamicsFineTuning` is what the recipe `training.dynamics.train_dynamics` takes: an option is a line of params.yaml and
a field here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from visdyn.params.reading import Count, Name, PartOf, Several, Share, Whole
from visdyn.params.training import Training, check_pace

ArmName = Literal[
    "supervised",
    "supervised_weighted",
    "synthetic",
    "synthetic_weighted",
    "synthetic_weighted_nofloor",
    "synthetic_weighted_true",
    "weights_permuted",
    "labels_shuffled",
]


@dataclass(frozen=True)
class FineTuning(Training):
    """Training of an IDM or FDM: of so many steps, or of so many epochs."""

    steps: Count | None  # of the optimiser; None follows from the epochs
    epochs: Count | None  # of the data; None takes the steps
    precision: Literal["fp32", "bf16"]
    log_every: Count = 20  # steps between two rows of training.csv
    save_every: Count = 100  # steps between two resumable checkpoints

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError(
                f"steps ({self.steps}) and epochs ({self.epochs}): write a number for one, null for the other"
            )
        check_pace(self.log_every, self.save_every)


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters on all linear maps of the decoder."""

    rank: Count
    alpha: Count  # the scale is alpha / rank
    dropout: PartOf  # before each adapter
    modules_to_save: Several[Name]  # trained in full


@dataclass(frozen=True, kw_only=True)
class DynamicsFineTuning:
    """How an IDM or FDM is fine-tuned (Bootstrapping, sections 3.1 and 3.2): the configuration of `train_dynamics`."""

    base: Name  # folder or hub id of a Chameleon, Anole or Liquid
    lora: Lora | None  # None fine-tunes everything but the image tokenizer
    training: FineTuning


@dataclass(frozen=True)
class Limits:
    """Most triplets of each AURORA subset, a seeded sample; None takes all, 0 leaves the subset out."""

    magicbrush: Whole | None
    ag: Whole | None
    something: Whole | None
    kubric: Whole | None


@dataclass(frozen=True)
class IdmLimits(Limits):
    """The same, and the EPIC-KITCHENS segments that the IDM alone sees."""

    epic: Whole | None


@dataclass(frozen=True, kw_only=True)
class Idm(DynamicsFineTuning):
    """Inverse-dynamics model."""

    limits: IdmLimits
    same_labels: bool  # trains `idm_same_labels` too, from the labels that the FDM has: as long again as the IDM


@dataclass(frozen=True)
class IdmEvaluation:
    """Measures of the inverse-dynamics models."""

    bert_score: Name | None  # model of BERTScore; None leaves it out
    max_new_tokens: Count  # of a predicted action; what a longer answer goes on to say is not measured


@dataclass(frozen=True, kw_only=True)
class Fdm(DynamicsFineTuning):
    """Forward-dynamics model; its arms are `training.arms.ARMS`."""

    arms: Several[ArmName]  # trained in every chain
    first_chain_arms: Several[ArmName]  # in the first alone
    floor: Share  # w = floor + (1 - floor) * w_rec
    limits: Limits

    def __post_init__(self) -> None:
        if twice := sorted(set(self.arms) & set(self.first_chain_arms)):
            raise ValueError(f"{twice[0]} stands under arms and under first_chain_arms; keep one")
