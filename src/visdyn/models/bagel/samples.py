"""Training samples as plans: edit, text-to-image and understanding samples, before packing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from visdyn.images import ImageRef
from visdyn.models.bagel.config import BagelConfig
from visdyn.models.bagel.transforms import transform

Posteriors = Callable[[ImageRef], Tensor]
TEXT, VIT, VAE = "text", "vit", "vae"
IMAGE, QUESTION, ANSWER = "image", "question", "answer"  # turns of a conversation


@dataclass(frozen=True)
class Part:
    """One element of a sample.

    Attributes:
        kind: `text`, `vit` or `vae`.
        content: token ids without begin and end markers (text), or pixels float32 (3, H, W) in [-1, 1].
        loss: text: predict it (cross entropy); vae: it is the noised target (velocity loss).
        droppable: may be dropped for classifier-free guidance; takes one dropout draw when packed.
        moments: of a vae part whose posterior (2 z, h, w) is known: its content then has the shape of the pixels only.
    """

    kind: str
    content: Sequence[int] | Tensor
    loss: bool = False
    droppable: bool = False
    moments: Tensor | None = None


Sample = list[Part]


def edit_sample(
    images: Sequence[ImageRef],
    instructions: Sequence[Sequence[int] | None],
    config: BagelConfig,
    posteriors: Posteriors | None = None,
) -> Sample:
    """Return the plan of an edit, or of a chain of edits.

    The first image is a condition, the last a target; a middle one is first the target of one edit, then the
    condition of the next. Conditions appear as clean latents and, if the model has a ViT, as ViT tokens.

    Args:
        images: n >= 2 images, in the order in which they arise.
        instructions: n - 1 lists of token ids; None where nothing is said between two images.
        posteriors: gives mean and log-variance (2 z, h, w) of an image; its pixels are then not read for the VAE.

    Raises:
        ValueError: the numbers of images and instructions do not fit.
    """
    if len(images) < 2 or len(instructions) != len(images) - 1:
        raise ValueError(f"{len(images)} images need {len(images) - 1} instructions, not {len(instructions)}")
    parts = _make_condition_parts(images[0], config, posteriors)
    for index, ids in enumerate(instructions, start=1):
        if ids is not None:
            parts.append(Part(TEXT, list(ids), droppable=True))
        parts.append(_make_vae_part(images[index], config, posteriors, loss=True))
        if index < len(instructions):
            parts += _make_condition_parts(images[index], config, posteriors)
    return parts


def _make_vae_part(image: ImageRef, config: BagelConfig, posteriors: Posteriors | None, **flags: bool) -> Part:
    if posteriors is None:
        return Part(VAE, transform(image, config.transforms["vae"]), **flags)
    moments = posteriors(image)
    size = [side * config.autoencoder.downsample for side in moments.shape[-2:]]
    return Part(VAE, torch.zeros(1, 1, 1).expand(3, *size), moments=moments, **flags)


def _make_condition_parts(image: ImageRef, config: BagelConfig, posteriors: Posteriors | None) -> Sample:
    parts = [_make_vae_part(image, config, posteriors, droppable=True)]
    if config.vision is not None:
        parts.append(Part(VIT, transform(image, config.edit_vit), droppable=True))
    return parts


def text_to_image_sample(
    ids: Sequence[int], image: ImageRef, config: BagelConfig, posteriors: Posteriors | None = None
) -> Sample:
    """Return the plan of a caption (droppable) and the image to generate; `posteriors` as in `edit_sample`."""
    return [
        Part(TEXT, list(ids), droppable=True),
        _make_vae_part(image, config, posteriors, loss=True),
    ]


def understanding_sample(
    image: ImageRef, question: Sequence[int], answer: Sequence[int], config: BagelConfig
) -> Sample:
    """Return the plan of an image, a question without loss, and an answer with cross entropy."""
    return conversation_sample([(IMAGE, image), (QUESTION, question), (ANSWER, answer)], config)


def conversation_sample(turns: Sequence[tuple[str, ImageRef | Sequence[int]]], config: BagelConfig) -> Sample:
    """Return the plan of a conversation about images, in any number of rounds.

    As upstream packs its understanding data: every image and every text is a part of its own, in the order in which
    they stand; questions have no loss, each answer has cross entropy; nothing is dropped.

    Args:
        turns: (`image`, reference), (`question`, token ids) or (`answer`, token ids).
    """
    limits, count = config.transforms["vlm_vit"], sum(kind == IMAGE for kind, _ in turns)
    return [
        Part(VIT, transform(content, limits, count)) if kind == IMAGE else Part(TEXT, list(content), kind == ANSWER)
        for kind, content in turns
    ]
