"""Training samples as plans: edit, text-to-image and understanding samples, before packing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from visdyn.images import ImageRef

from .config import BagelConfig
from .transforms import transform

TEXT, VIT, VAE = "text", "vit", "vae"


@dataclass(frozen=True)
class Part:
    """One element of a sample.

    Attributes:
        kind: `text`, `vit` or `vae`.
        content: token ids without begin and end markers (text), or pixels float32 (3, H, W) in [-1, 1].
        loss: text: predict it (cross entropy); vae: it is the noised target (velocity loss).
        droppable: may be dropped for classifier-free guidance; takes one dropout draw when packed.
    """

    kind: str
    content: Sequence[int] | Tensor
    loss: bool = False
    droppable: bool = False


Sample = list[Part]


def edit_sample(
    images: Sequence[ImageRef], instructions: Sequence[Sequence[int] | None], config: BagelConfig
) -> Sample:
    """Return the plan of an edit, or of a chain of edits.

    The first image is a condition, the last a target; a middle one is first the target of one edit, then the
    condition of the next. Conditions appear as clean latents and, if the model has a ViT, as ViT tokens.

    Args:
        images: n >= 2 images, in the order in which they arise.
        instructions: n - 1 lists of token ids; None where nothing is said between two images.

    Raises:
        ValueError: the numbers of images and instructions do not fit.
    """
    if len(images) < 2 or len(instructions) != len(images) - 1:
        raise ValueError(f"{len(images)} images need {len(images) - 1} instructions, not {len(instructions)}")
    parts = _condition(images[0], config)
    for index, ids in enumerate(instructions, start=1):
        if ids is not None:
            parts.append(Part(TEXT, list(ids), droppable=True))
        parts.append(Part(VAE, transform(images[index], config.transforms["vae"]), loss=True))
        if index < len(instructions):
            parts += _condition(images[index], config)
    return parts


def _condition(image: ImageRef, config: BagelConfig) -> Sample:
    parts = [Part(VAE, transform(image, config.transforms["vae"]), droppable=True)]
    if config.vision is not None:
        parts.append(Part(VIT, transform(image, config.transforms["vit"]), droppable=True))
    return parts


def text_to_image_sample(ids: Sequence[int], image: ImageRef, config: BagelConfig) -> Sample:
    """Return the plan of a caption (droppable) and the image to generate."""
    return [
        Part(TEXT, list(ids), droppable=True),
        Part(VAE, transform(image, config.transforms["vae"]), loss=True),
    ]


def understanding_sample(
    image: ImageRef, question: Sequence[int], answer: Sequence[int], config: BagelConfig
) -> Sample:
    """Return the plan of an image, a question without loss, and an answer with cross entropy."""
    return [
        Part(VIT, transform(image, config.transforms["vlm_vit"])),
        Part(TEXT, list(question)),
        Part(TEXT, list(answer), loss=True),
    ]
