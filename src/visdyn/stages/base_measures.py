"""Stage `base_measures`: the tokenizer's ceiling, and what the encoders see, on scenes that neither was trained on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from visdyn.datasets.aurora import load_bench
from visdyn.evaluation.metrics.region_judge import changed_regions, judge_batch
from visdyn.images import ImageRef, to_array
from visdyn.kitchen.truth import open_truth
from visdyn.models import load_model
from visdyn.models.encoders import ImageEncoder, ImageTextEncoder
from visdyn.pipeline.stage import Stage


def measure_tokenizer(stage: Stage) -> pd.DataFrame:
    """Judge encoded and decoded targets of the held-out test items: columns measure, value, n.

    Without the kitchen (real data) the table is empty, and the model is not loaded.

    `ceiling_*`: the region judge on the decoded target. `codes_*`: the share of codes that differ between source
    and target, where the image changed and where it did not (there, only noise and camera shift flip them).
    """
    truth = open_truth(stage.kitchen)
    if not truth.known:
        return pd.DataFrame(columns=["measure", "value", "n"])
    model, items = load_model(stage.reference("models/base")), load_bench(truth.kitchen / "aurora")
    candidates = truth.reachable_images("aurora_test", [item.id for item in items])
    sources, targets = to_array([item.source for item in items]), to_array([item.target for item in items])
    codes = [model.encode(list(part)) for part in (sources, targets)]
    decoded = model.decode(codes[1])
    verdict = judge_batch(sources, decoded, targets, candidates)
    names = ("editing_success", "minimal_editing", "score", "success")
    rows = {f"ceiling_{name}": np.mean(getattr(verdict, name)) for name in names}
    height, width = codes[0].shape[1:]
    regions = changed_regions(sources, targets)
    # The codes whose patch of pixels changed anywhere: (N, h, w).
    cells = regions.reshape(len(items), height, regions.shape[1] // height, width, -1).any(axis=(2, 4))
    flipped = codes[0] != codes[1]
    rows |= {"codes_changed_inside": flipped[cells].mean(), "codes_changed_outside": flipped[~cells].mean()}
    rows |= {"codes_used": len(np.unique(codes)), "l1": np.abs(decoded.astype(float) - targets).mean() / 255}
    return pd.DataFrame([{"measure": name, "value": float(value), "n": len(items)} for name, value in rows.items()])


def measure_encoders(stage: Stage) -> pd.DataFrame:
    """Measure the stand-ins for CLIP and DINO: columns encoder, measure, value, n (no row without the kitchen)."""
    truth, seed = open_truth(stage.kitchen), stage.seed
    if not truth.known:
        return pd.DataFrame(columns=["encoder", "measure", "value", "n"])
    clip, dino = (stage.reference(f"models/{name}") for name in ("clip", "dino"))
    items = load_bench(truth.kitchen / "aurora")
    ids = [item.id for item in items]
    sources, targets = [item.source for item in items], [item.target for item in items]
    captions = truth.captions("aurora_test", ids, seed=seed)
    measures = {"clip": {}, "dino": {}}
    if len(items) >= 50:  # retrieval is measured among 50
        measures["clip"] = clip_measures(ImageTextEncoder.from_pretrained(clip, "embedded"), targets, captions)
    again = truth.photograph_again("aurora_test", ids, seed)
    measures["dino"] = dino_measures(ImageEncoder.from_pretrained(dino, "embedded"), sources, targets, again)
    rows = [
        {"encoder": encoder, "measure": name, **value}
        for encoder, part in measures.items()
        for name, value in part.items()
    ]
    return pd.DataFrame(rows)[["encoder", "measure", "value", "n"]]


def clip_measures(encoder, images: Sequence[ImageRef], captions: Sequence[str], group: int = 50) -> dict[str, dict]:
    """Measure retrieval at 1 in both directions among `group` image-caption pairs (chance: 1 / group).

    Every measure is {"value": ..., "n": ...}, n being the number of comparisons behind it.

    A caption names only some facts of its image, so another image of the group can fit it as well: 1 is not
    reachable. A remainder smaller than `group` is left out, and `n` says how many were used.

    Raises:
        ValueError: fewer pairs than `group`, or as many captions as images are not given.
    """
    if len(images) != len(captions) or len(images) < group:
        raise ValueError(f"{len(images)} images and {len(captions)} captions: expected equal numbers, {group} or more")
    used = len(images) // group * group
    # (G, group, D): G groups
    pictures = encoder.embed_images(images[:used]).reshape(-1, group, encoder.model.config.projection_dim)
    texts = encoder.embed_texts(captions[:used]).reshape(pictures.shape)
    cosines = np.einsum("gid,gtd->git", pictures, texts)
    own = np.arange(group)
    return {
        f"image_to_text_at_1_of_{group}": _share_of(cosines.argmax(axis=2) == own),
        f"text_to_image_at_1_of_{group}": _share_of(cosines.argmax(axis=1) == own),
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
        "ordered": _share_of(same > changed),
        "nearest_is_same_state": _share_of(nearest == np.arange(len(again))),
        "cosine_same_state": {"value": float(same.mean()), "n": len(same)},
        "cosine_after_action": {"value": float(changed.mean()), "n": len(changed)},
    }


def _share_of(correct: np.ndarray) -> dict:
    return {"value": float(np.mean(correct)), "n": int(np.size(correct))}
