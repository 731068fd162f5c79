"""Whether the embedded base models are fit for use: the tokenizer's ceiling and the encoders' measures."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from visdyn.datasets.aurora import load_bench
from visdyn.evaluation.metrics.region_judge import changed_regions, judge_batch
from visdyn.images import to_array
from visdyn.kitchen.truth import Truth
from visdyn.models.encoders import ImageEncoder, ImageTextEncoder
from visdyn.models.token.unified import UnifiedModel
from visdyn.stages.encoder_checks import clip_measures, dino_measures


def tokenizer_measures(load: Callable[[], UnifiedModel], truth: Truth) -> pd.DataFrame:
    """Judge encoded and decoded targets of the held-out test items: columns measure, value, n.

    Without the kitchen (real data) the table is empty, and the model is not loaded.

    `ceiling_*`: the region judge on the decoded target. `codes_*`: the share of codes that differ between source
    and target, where the image changed and where it did not (there, only noise and camera shift flip them).
    """
    if not truth.known:
        return pd.DataFrame(columns=["measure", "value", "n"])
    model, items = load(), load_bench(truth.kitchen / "aurora")
    candidates = truth.reachable_images("aurora_test", [item.id for item in items])
    sources, targets = to_array([item.source for item in items]), to_array([item.target for item in items])
    codes = [model.encode(list(part)) for part in (sources, targets)]
    decoded = model.decode(codes[1])
    verdict = judge_batch(sources, decoded, targets, candidates)
    names = ("editing_success", "minimal_editing", "score", "success")
    rows = {f"ceiling_{name}": np.mean(getattr(verdict, name)) for name in names}
    height, width = codes[0].shape[1:]
    regions = changed_regions(sources, targets)
    cells = regions.reshape(len(items), height, regions.shape[1] // height, width, -1).any(axis=(2, 4))
    flipped = codes[0] != codes[1]
    rows |= {"codes_changed_inside": flipped[cells].mean(), "codes_changed_outside": flipped[~cells].mean()}
    rows |= {"codes_used": len(np.unique(codes)), "l1": np.abs(decoded.astype(float) - targets).mean() / 255}
    return pd.DataFrame([{"measure": name, "value": float(value), "n": len(items)} for name, value in rows.items()])


def encoder_measures(clip: str, dino: str, truth: Truth, seed: int) -> pd.DataFrame:
    """Measure the stand-in encoders on held-out scenes: columns encoder, measure, value, n (no row without kitchen)."""
    if not truth.known:
        return pd.DataFrame(columns=["encoder", "measure", "value", "n"])
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
