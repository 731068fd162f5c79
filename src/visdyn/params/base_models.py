"""The section `base_models` of params.yaml."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from visdyn.params.reading import Count, Name, Positive
from visdyn.params.training import Training


@dataclass(frozen=True)
class TokenizerModel:
    """What of the image tokenizer is a matter of choice."""

    n_embed: Count  # codes


@dataclass(frozen=True)
class BaseModel:
    """Shape of the unified language model."""

    hidden_size: Count
    intermediate_size: Count  # of its gated MLP
    num_layers: Count
    num_heads: Count


@dataclass(frozen=True)
class GeneratorModel:
    """Shape of the small BAGEL that stands for the public one."""

    hidden_size: Count  # of both experts
    intermediate_size: Count  # of their gated MLPs
    num_layers: Count
    num_heads: Count  # as many for keys and values
    latent_patch_size: Count  # side of a token, in latents
    vocab_size: Count  # of the phrase tokenizer
    timestep_shift: Positive  # above 1 towards the noise


@dataclass(frozen=True)
class References:
    """Checkpoints to use instead of training small ones, hub ids or local paths; None trains it here."""

    base: Name | None  # unified model
    autoencoder: Name | None
    generator: Name | None  # BAGEL
    clip: Name | None  # image and text encoder
    dino: Name | None  # image encoder

    @property
    def named(self) -> dict[str, str]:
        """The models that are checkpoints: name -> checkpoint."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @property
    def trained(self) -> list[str]:
        """The models that are trained here."""
        return [name for name, value in asdict(self).items() if value is None]


@dataclass(frozen=True)
class BaseModels:
    """The small models that stand for released checkpoints and encoders, or the checkpoints themselves."""

    references: References
    tokenizer_model: TokenizerModel
    base_model: BaseModel
    generator_model: GeneratorModel
    tokenizer: Training  # of images
    autoencoder: Training  # of images
    base: Training  # captions, text to image, pairs of frames
    generator: Training  # captions and pairs of frames
    clip: Training  # contrastive
    dino: Training  # self-supervised
