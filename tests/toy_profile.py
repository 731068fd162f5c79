"""A profile of toy models for the explorer: kitchen items, random Chameleons, an editor, scores."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
from conftest import build_tiny_model

from visdyn.images import load
from visdyn.kitchen.render import ImageSettings
from visdyn.kitchen.text import vocabulary
from visdyn.kitchen.truth import MARKER
from visdyn.kitchen.write.aurora_files import write_aurora_test
from visdyn.paths import repository_root

PER_SUBSET = 3
FDMS = ("supervised", "synthetic_weighted")


class NegativeEditor:
    """Answers with the source's negative, a little darker with each seed."""

    @classmethod
    def from_pretrained(cls, folder, device="cpu", dtype=None):
        return cls()

    def edit(self, sources, prompts, seeds, steps=None, guidance=None):
        return [
            255 - np.asarray(load(source)) - np.uint8(seed % 7) for source, seed in zip(sources, seeds, strict=True)
        ]


def make_profile(root: Path, models: bool = True) -> Path:
    """Write the profile's folder: the repository's parameters with few items; its models, where asked for."""
    text = (repository_root() / "params.yaml").read_text()
    few = text.replace("aurora_test_per_subset: 40", f"aurora_test_per_subset: {PER_SUBSET}")
    assert few != text
    root.mkdir(parents=True)
    (root / "params.yaml").write_text(few)
    kitchen, image = root / "data/kitchen", ImageSettings()
    write_aurora_test(kitchen, "test", PER_SUBSET, 0, image)
    (kitchen / MARKER).write_text(json.dumps({"image": asdict(image)}))
    write_scores(root / "reports/results/evaluation/fdm_scores.csv", kitchen)
    if models:
        write_models(root / "models")
    return root


def write_models(folder: Path) -> None:
    """Save models of chain 0 with one image tokenizer; every second is of other weights."""
    words = [*vocabulary(), "edit", "infer"]
    base = build_tiny_model(0, words)
    base.save(folder / "base/s0")
    for seed, name in enumerate(("idm/s0", *(f"fdm/{arm}-s0" for arm in FDMS)), 1):
        build_tiny_model(seed, words, base.vqgan).save(folder / name)
    editor = folder / "doundo/doundo-s0"
    editor.mkdir(parents=True)
    (editor / "config.json").write_text('{"model_type": "negative"}')


def write_scores(path: Path, kitchen: Path) -> None:
    """Write scores that follow from an item's number: `supervised` falls, `synthetic_weighted` is 5 or unknown."""
    rows = []
    for index, item in enumerate(json.loads((kitchen / "aurora/test.json").read_text())):
        values = {"supervised": 10 - index / 2, "synthetic_weighted": 5.0 if index != 1 else None}
        for system, value in values.items():
            key = {"system": system, "chain": 0, "subset": item["task"], "id": str(index)}
            rows += [{**key, "metric": "score", "value": value}, {**key, "metric": "l1_paper", "value": index / 100}]
    path.parent.mkdir(parents=True)
    pd.DataFrame(rows).to_csv(path, index=False)
