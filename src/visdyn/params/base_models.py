"""The section `base_models` of params.yaml."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Literal

from visdyn.params.doundo import Shift
from visdyn.params.reading import Name, Within
from visdyn.params.training import Training

Width = Annotated[int, Within(1, 65_536)]
Depth = Annotated[int, Within(1, 1_000)]


@dataclass(frozen=True)
class TokenizerModel:
    """What of the image tokenizer is a matter of choice."""

    n_embed: Annotated[int, Within(2, 65_536)]  # codes


@dataclass(frozen=True)
class BaseModel:
    """Shape of the unified language model."""

    hidden_size: Width
    intermediate_size: Width  # of its gated MLP
    num_layers: Depth
    num_heads: Depth

    def __post_init__(self) -> None:
        _check_heads(self.hidden_size, self.num_heads)


@dataclass(frozen=True)
class GeneratorModel:
    """Shape of the small BAGEL that stands for the public one."""

    hidden_size: Width  # of both experts
    intermediate_size: Width  # of their gated MLPs
    num_layers: Depth
    num_heads: Depth  # as many for keys and values
    latent_patch_size: Literal[1, 2, 4, 8]  # side of a token, in latents
    vocab_size: Width  # of the phrase tokenizer
    timestep_shift: Shift  # above 1 towards the noise

    def __post_init__(self) -> None:
        _check_heads(self.hidden_size, self.num_heads)


def _check_heads(hidden_size: int, num_heads: int) -> None:
    """Refuse what cannot be shared out to heads of an even size: rotary positions turn pairs of numbers."""
    if hidden_size % (2 * num_heads):
        raise ValueError(f"hidden_size ({hidden_size}) must be an even multiple of num_heads ({num_heads})")


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
