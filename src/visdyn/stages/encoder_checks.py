"""How good the embedded evaluation encoders are, measured on scenes that they were not trained on.

Every measure comes as {"value": ..., "n": ...}, n being the number of comparisons behind it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from visdyn.images import ImageRef


def clip_measures(encoder, images: Sequence[ImageRef], captions: Sequence[str], group: int = 50) -> dict[str, dict]:
    """Measure retrieval at 1 in both directions among `group` image-caption pairs (chance: 1 / group).

    A caption names only some facts of its image, so another image of the group can fit it as well: 1 is not
    reachable. A remainder smaller than `group` is left out, and `n` says how many were used.

    Raises:
        ValueError: fewer pairs than `group`, or as many captions as images are not given.
    """
    if len(images) != len(captions) or len(images) < group:
        raise ValueError(f"{len(images)} images and {len(captions)} captions: expected equal numbers, {group} or more")
    used = len(images) // group * group
    pictures = encoder.embed_images(images[:used]).reshape(-1, group, encoder.model.config.projection_dim)
    texts = encoder.embed_texts(captions[:used]).reshape(pictures.shape)
    cosines = np.einsum("gid,gtd->git", pictures, texts)
    own = np.arange(group)
    return {
        f"image_to_text_at_1_of_{group}": _share(cosines.argmax(axis=2) == own),
        f"text_to_image_at_1_of_{group}": _share(cosines.argmax(axis=1) == own),
    }


def dino_measures(
    encoder, sources: Sequence[ImageRef], targets: Sequence[ImageRef], targets_again: Sequence[ImageRef]
) -> dict[str, dict]:
    """Measure whether an encoder sees what an action changed.

    Args:
        encoder: an `ImageEncoder`.
        sources, targets: images before and after an action.
        targets_again: the state of `targets` photographed again (another noise and camera shift).

    Returns:
        `ordered`: share of items whose target is more like `targets_again` than the source is;
        `nearest_is_same_state`: share of items whose nearest image, among all sources and targets, is the own target;
        `cosine_same_state`, `cosine_after_action`: mean cosines of (targets_again, target) and (targets_again, source).
    """
    before, after, again = (encoder.embed_images(images) for images in (sources, targets, targets_again))
    same, changed = (again * after).sum(axis=1), (again * before).sum(axis=1)
    nearest = (again @ np.concatenate([after, before]).T).argmax(axis=1)
    return {
        "ordered": _share(same > changed),
        "nearest_is_same_state": _share(nearest == np.arange(len(again))),
        "cosine_same_state": {"value": float(same.mean()), "n": len(same)},
        "cosine_after_action": {"value": float(changed.mean()), "n": len(changed)},
    }


def _share(correct: np.ndarray) -> dict:
    return {"value": float(np.mean(correct)), "n": int(np.size(correct))}
