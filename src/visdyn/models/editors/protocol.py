"""Editing images by prompt: what an editor is asked, and what it must answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch

from visdyn.images import ImageRef
from visdyn.models.protocols import ForwardDynamics

RENORMS = ("none", "global", "channel", "text_channel")
REVERSE_FROM = ("gt", "generated")


@dataclass(frozen=True)
class Request:
    """Which image of a benchmark: the key of whatever is kept of it.

    Attributes:
        prompt: length of the prompt, `long` or `short`; empty where a benchmark has one.
        direction: `forward` or `reverse`.
        reverse_from: what a reverse image is made from, `gt` (the true end) or `generated` (the forward image); empty
            for a forward one.
        item: id of the item; empty for the images of all items together.
    """

    prompt: str = ""
    direction: str = "forward"
    reverse_from: str = ""
    item: str = ""


@dataclass(frozen=True)
class Edit:
    """One image to be made: which, from what, by which prompt, with which noise."""

    request: Request
    source: ImageRef
    prompt: str
    seed: int


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance in BAGEL's formula.

    Attributes:
        text, image: scales s_t and s_i; a scale of 1 or less switches its branch off.
        low, high: guidance acts where low < t <= high.
        renorm: `none`; `global`, one norm for each image; `channel`, one for each latent position; `text_channel`,
            one for each position, after the text step only.
        renorm_min: smallest factor by which the guided velocity is scaled back.
    """

    text: float = 1.0
    image: float = 1.0
    low: float = 0.0
    high: float = 1.0
    renorm: str = "global"
    renorm_min: float = 0.0

    def __post_init__(self) -> None:
        if self.renorm not in RENORMS:
            raise ValueError(f"unknown guidance renorm {self.renorm!r}; one of {', '.join(RENORMS)}")


@runtime_checkable
class ImageEditor(Protocol):
    """Anything that edits images by prompt: BAGEL, a diffusers pipeline."""

    def edit(
        self,
        sources: Sequence[ImageRef | None],
        prompts: Sequence[str | None],
        seeds: Sequence[int],
        steps: int | None = None,
        guidance: Guidance | None = None,
    ) -> list[np.ndarray | None]:
        """Return one uint8 image (H, W, 3) for each source and prompt, None for one that could not be made.

        Args:
            sources: images; None generates from the prompt alone.
            prompts: texts; None leaves the text out.
            seeds: one for each item: an item's result does not depend on the other items, up to float rounding (about
                one grey level where the batches differ).
            steps: network evaluations of the sampler; None is the editor's own default.
            guidance: None is the editor's own default.
        """
        ...


class SamplingEditor:
    """A forward-dynamics model as an editor: the prompt is the action, and one image is sampled by the item's seed."""

    def __init__(self, model: ForwardDynamics) -> None:
        self.model = model

    def edit(self, sources, prompts, seeds, steps=None, guidance=None) -> list[np.ndarray]:
        """Return one sample for each source and action; steps and guidance are a sampler's, and ignored."""
        check_items(sources, prompts, seeds)
        return [
            self.model.sample(source, prompt, 1, torch.Generator().manual_seed(seed))[0]
            for source, prompt, seed in zip(sources, prompts, seeds, strict=True)
        ]


def check_items(sources: Sequence, prompts: Sequence, seeds: Sequence) -> None:
    """Refuse items of which an `ImageEditor` could not make one image each.

    Raises:
        ValueError: there are not as many sources, prompts and seeds.
    """
    if not len(sources) == len(prompts) == len(seeds):
        raise ValueError(
            f"{len(sources)} sources, {len(prompts)} prompts and {len(seeds)} seeds must be as many; give one of each "
            "for every image (None for a source or a prompt to leave out)"
        )
