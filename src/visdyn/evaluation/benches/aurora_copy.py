"""The Copy row of the paper's Table 6, from the real AURORA-Bench: it pins how L1 was computed.

And what that way of computing costs a model whose input is cropped: its perfect copy of the source.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pandas as pd
from PIL import Image

from visdyn.evaluation.metrics.similarity import GEOMETRIES, l1
from visdyn.images import ImageRef, load
from visdyn.quarantine import Quarantine

PUBLISHED_COPY_L1 = {"magicbrush": 0.027, "ag": 0.069, "something": 0.135, "whatsup": 0.039, "kubric": 0.011}


def copy_rows(root: str | Path, quarantine: Quarantine | None = None) -> pd.DataFrame:
    """Return the L1 between source and target of AURORA-Bench in both geometries.

    Expected in geometry `paper`: .0274, .0694, .1351, .0392, .0110 with n = 50, 50, 48, 50, 50 (two Something
    items name a target that was never published). About half a minute on one core.

    Args:
        root: AURORA's root, with test.json and data/.
        quarantine: receives the items that lack an image.

    Returns:
        Columns subset, geometry, n, l1, published (Table 6; NaN for `matched`, which the paper does not report),
        five rows for each geometry in the paper's order of subsets.
    """
    from visdyn.datasets.aurora import load_bench

    values = defaultdict(list)
    for item in load_bench(root, subsets=list(PUBLISHED_COPY_L1), quarantine=quarantine):
        source, target = _stored(item.source), _stored(item.target)
        for geometry in GEOMETRIES:
            values[geometry, item.subset].append(l1(source, target, geometry))
    rows = [_row(subset, geometry, values[geometry, subset]) for geometry in GEOMETRIES for subset in PUBLISHED_COPY_L1]
    return pd.DataFrame(rows)


def crop_rows(root: str | Path, quarantine: Quarantine | None = None, size: int = 512) -> pd.DataFrame:
    """Return the L1 of the source as Chameleon sees it (`centre_crop`), for a prediction that changes nothing.

    The paper's geometry stretches the target to the prediction's square, so that a crop meets what it never saw. On
    AURORA-Bench: .162 (AG), .173 (Something), .064 (WhatsUp), where the whole source costs .069, .135, .039.

    Args:
        root: AURORA's root, with test.json and data/.
        quarantine: receives the items that lack an image.
        size: of the square, pixels.

    Returns:
        Columns subset, n, copy (the whole source), crop (the cropped source against the stretched target), crop_both
        (against the target cropped alike), in the paper's order of subsets.
    """
    from visdyn.datasets.aurora import load_bench
    from visdyn.models.vqgan.preprocess import centre_crop

    rows = []
    items = load_bench(root, subsets=list(PUBLISHED_COPY_L1), quarantine=quarantine)
    for subset in PUBLISHED_COPY_L1:
        values = []
        for item in [item for item in items if item.subset == subset]:
            whole, true = _stored(item.source), _stored(item.target)
            cropped, target = (centre_crop(image, size) for image in (whole, true))
            values.append((l1(whole, true), l1(cropped, true), l1(cropped, target)))
        means = pd.DataFrame(values, columns=["copy", "crop", "crop_both"]).mean()
        rows.append({"subset": subset, "n": len(values), **means})
    return pd.DataFrame(rows)


def _stored(image: ImageRef) -> Image.Image:
    # WhatsUp's photographs are in Display P3. The printed .039 is of their stored numbers; a viewer shows .0400.
    return load(image, profiles=False)


def _row(subset: str, geometry: str, values: list[float]) -> dict:
    mean = sum(values) / len(values) if values else float("nan")
    published = PUBLISHED_COPY_L1[subset] if geometry == "paper" else float("nan")
    return {"subset": subset, "geometry": geometry, "n": len(values), "l1": mean, "published": published}
