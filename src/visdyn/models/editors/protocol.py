"""Editing images by prompt: what an editor must answer, and doing and undoing with any."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from visdyn.compute.seeds import item_seed
from visdyn.images import ImageRef
from visdyn.trajectory import ReversiblePair

RENORMS = ("none", "global", "channel", "text_channel")
REVERSE_FROM = ("gt", "generated")
# uint8 (N, H, W, 3) where all images have one size, else a list of uint8 (H, W, 3)
Images = np.ndarray | list[np.ndarray]


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


class ImageEditor(Protocol):
    """Anything that edits images by prompt: BAGEL, a diffusers pipeline."""

    def edit(
        self,
        sources: Sequence[ImageRef | None],
        prompts: Sequence[str | None],
        seeds: Sequence[int],
        steps: int | None = None,
        guidance: Guidance | None = None,
    ) -> list[np.ndarray]:
        """Return one uint8 image (H, W, 3) for each source and prompt.

        Args:
            sources: images; None generates from the prompt alone.
            prompts: texts; None leaves the text out.
            seeds: one for each item: an item's result does not depend on the other items, up to float rounding (about
                one grey level where the batches differ).
            steps: network evaluations of the sampler; None is the editor's own default.
            guidance: None is the editor's own default.
        """
        ...


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


def do_and_undo(
    editor: ImageEditor,
    pairs: Sequence[ReversiblePair],
    prompt_length: str = "long",
    reverse_from: str = "gt",
    seed: int = 0,
    steps: int | None = None,
    guidance: Guidance | None = None,
) -> tuple[Images, Images]:
    """Perform each pair's action and undo it (Do-Undo, section 3.2).

    Args:
        pairs: of different ids; images of any sizes.
        prompt_length: `long` or `short`.
        reverse_from: undo from `gt`, the true end image I_F, as the released benchmark does; or from `generated`,
            the edited image itself: a chain.
        seed: run seed; the forward image does not depend on `reverse_from`.

    Returns:
        forward images I_F^ and reverse images I_R^: uint8 (N, H, W, 3) each where all have one size, else lists of
        uint8 (H, W, 3). Their size is the editor's (BAGEL: 912 x 512 for a source of 456 x 256).

    Raises:
        ValueError: unknown prompt length or reverse source, or two pairs of one id (they would share their noise).
    """
    _check_reverse(reverse_from)  # before the forward images are paid for
    done = do(editor, pairs, prompt_length, seed, steps, guidance)
    return done, undo(editor, pairs, done, prompt_length, reverse_from, seed, steps, guidance)


def do(
    editor: ImageEditor,
    pairs: Sequence[ReversiblePair],
    prompt_length: str = "long",
    seed: int = 0,
    steps: int | None = None,
    guidance: Guidance | None = None,
) -> Images:
    """Return the forward images of `do_and_undo`."""
    _check_length(prompt_length)
    halves = [pair.forward(prompt_length) for pair in pairs]
    return _edit(editor, [half.source for half in halves], halves, seed, steps, guidance)


def undo(
    editor: ImageEditor,
    pairs: Sequence[ReversiblePair],
    done: Images,
    prompt_length: str = "long",
    reverse_from: str = "gt",
    seed: int = 0,
    steps: int | None = None,
    guidance: Guidance | None = None,
) -> Images:
    """Return the reverse images of `do_and_undo`, given its forward images `done`.

    Raises:
        ValueError: as `do_and_undo`, or not one forward image for each pair.
    """
    _check_length(prompt_length)
    _check_reverse(reverse_from)
    halves = [pair.reverse(prompt_length) for pair in pairs]
    sources = [half.source for half in halves] if reverse_from == "gt" else list(done)
    return _edit(editor, sources, halves, seed, steps, guidance)


def _check_length(prompt_length: str) -> None:
    if prompt_length not in ("long", "short"):
        raise ValueError(f"unknown prompt length {prompt_length!r}; one of long, short")


def _check_reverse(reverse_from: str) -> None:
    if reverse_from not in REVERSE_FROM:
        raise ValueError(f"unknown reverse source {reverse_from!r}; one of {', '.join(REVERSE_FROM)}")


def _edit(editor: ImageEditor, sources, halves, seed: int, steps: int | None, guidance: Guidance | None) -> Images:
    if len({half.id for half in halves}) < len(halves):
        raise ValueError("two reversible pairs have the same id; ids name the noise and must differ")
    seeds = [item_seed(seed, half.id) for half in halves]
    prompts = [half.action for half in halves]
    check_items(sources, prompts, seeds)  # a chain's images are the caller's, and editors of others may not look
    images = editor.edit(sources, prompts, seeds, steps, guidance)
    return np.stack(images) if len({image.shape for image in images}) == 1 else images
