"""The section `doundo` of params.yaml: Do-Undo fine-tuning of a BAGEL, small or public."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mixture:
    """Relative weights of the kinds of training samples; 0 leaves a kind out."""

    edit: float
    undo: float
    text_to_image: float
    understanding: float


@dataclass(frozen=True)
class ConditionDropout:
    """Probabilities that a sample loses a condition, for classifier-free guidance; independent of each other."""

    text: float
    vit: float
    vae: float


@dataclass(frozen=True)
class GeneratorLora:
    """Low-rank adapters on the generation expert, where `adapter` is `lora`."""

    rank: int
    alpha: int
    dropout: float


@dataclass(frozen=True)
class DoundoTraining:
    """One fine-tuning; `batch_size` counts samples of any kind, over all ranks."""

    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    warmup_steps: int
    scheduler: str
    precision: str


@dataclass(frozen=True)
class Doundo:
    """Do-Undo fine-tuning, with and without the consistency loss; the keys are those of `train_bagel`."""

    base: str
    variants: tuple[str, ...]
    seeds: tuple[int, ...]
    adapter: str
    lora: GeneratorLora
    mixture: Mixture
    long_share: float
    dropout: ConditionDropout
    timestep_shift: float
    average_decay: float
    latents: str
    mse_weight: float
    ce_weight: float
    consistency_weight: float
    condition: str
    space: str
    t_gate: float
    training: DoundoTraining


@dataclass(frozen=True)
class GeneratorModel:
    """Shape of the small BAGEL that stands for the public one: section `base_models.generator_model`."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    latent_patch_size: int
    vocab_size: int
    timestep_shift: float
