"""Is a cell of ours the papers' own measurement, and is the printed value met? Statuses are earned here, cell by cell.

    interpretation   another instrument, or a definition that the papers leave open
    smaller scale    the same measurement on other data, on fewer items, of a smaller model or another training
    full scale       the papers' own measurement, of something that they print no value of
    reproduced       the papers' own measurement, within the tolerance of its metric
    contradicts      the papers' own measurement, beyond it

Nothing is compared that is not the papers' own measurement. `data/published/comparison.yaml` has the recipes, numbers
of items and tolerances; what a profile ran stands in its params.yaml, what measured it in measures.csv.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import pandas as pd

from visdyn.params.reading import read_values
from visdyn.reporting import published
from visdyn.reporting.names import CHAMELEON
from visdyn.yaml_files import read_yaml

REPRODUCED, CONTRADICTS = "reproduced", "contradicts"
INTERPRETATION, SMALLER, FULL = "interpretation", "smaller scale", "full scale"
NOT_RUN = "not run"
COMPARED = (REPRODUCED, CONTRADICTS)  # with a printed value
_SLACK = 1e-9  # a difference of exactly the tolerance is within it, whatever its last bits
_KITCHEN = "the kitchen's data"
DOUNDO = "doundo"  # whose base is BAGEL


@dataclass(frozen=True)
class Setting:
    """What a profile measures on and with, by its params.yaml.

    Attributes:
        data: how its data differ from the papers', "" where they do not.
        family: of its unified model, `chameleon` or `liquid`; decides its arms' printed names.
        models: stage (`base`, `generator`, `idm`, `fdm`, `doundo`) -> how its model differs from the papers', "" where
            it does not.
        base: what results of another profile call its base model: the last part of its path or hub id.
        judges: stage of an evaluation -> name of a judge that answers in words -> its model.
        motion: the optical flow that key-frames were chosen by, "" where it is the kit's `farneback`.
    """

    data: str = _KITCHEN
    family: str = CHAMELEON
    models: Mapping[str, str] = field(default_factory=dict)
    base: str = ""
    judges: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    motion: str = ""

    def differs_in_model(self, *stages: str) -> str:
        """Return how the first of these stages' models that is not the papers' differs, "" where all are."""
        return next(filter(None, (self.models.get(stage, f"no {stage}") for stage in stages)), "")


def read_setting(profile: str | Path, bases: Mapping[str, str]) -> Setting:
    """Read a profile's setting.

    Args:
        bases: last part of a checkpoint's path or hub id -> whose base it is (`chameleon`, `liquid`, `doundo`).
    """
    content = read_values(Path(profile))
    references = content.get("base_models", {}).get("references") or {}
    names = {stage: Path(references.get(stage) or "").name for stage in ("base", "generator")}
    family = bases.get(names["base"], CHAMELEON)
    models = {}
    for stage, whose in {"base": family, "generator": DOUNDO}.items():
        known = bases.get(names[stage]) == whose
        models[stage] = "" if known else f"the model {references.get(stage) or 'trained here'}"
    for stage, recipe in _content()["recipes"].items():
        training = content.get(stage, {}).get("training", {})
        other = [
            f"{key} {training.get(key)}, not {value}" for key, value in recipe.items() if training.get(key) != value
        ]
        base = models["generator" if stage == DOUNDO else "base"]
        models[stage] = base or (f"{stage} trained with {', '.join(other)}" if other else "")
    data = "" if content.get("world", {}).get("kind") == "external" else _KITCHEN
    judges = {
        stage: {entry.get("name") or Path(entry["model"]).name: entry["model"]
                for entry in section.get("judges") or () if entry.get("model")}
        for stage, section in content.items() if isinstance(section, dict) and "judges" in section
    }  # fmt: skip
    flow = content.get("mining", {}).get("flow", "")
    motion = "" if flow == "farneback" else flow
    return Setting(data, family, models, names["base"], judges, motion)


def fewer_items(n: float, wanted: int) -> str:
    """Return how a number of items differs from the papers', "" where it is within a tenth."""
    return "" if abs(n - wanted) <= 0.1 * wanted else f"n = {n:.0f}, not {wanted}"


def items_of(bench: str, subset: str | None = None) -> int:
    """Return how many items the papers measured: of a benchmark, of AURORA-Bench's subset, or of all its subsets."""
    items = _content()["items"][bench]
    if isinstance(items, int):
        return items
    return items[subset] if subset in items else sum(items.values())


def tolerance_of(metric: str, value: float, drawn: bool = True, average: bool = False) -> float:
    """Return the largest distance at which a printed value is met.

    Raises:
        KeyError: comparison.yaml has no such metric.
    """
    entry = _content()["tolerances"][metric]
    if "share" in entry:
        return entry["share"] * abs(value)
    if not drawn and "fixed" in entry:  # a judge is drawn anew, whatever it looks at
        return entry["fixed"]
    return entry.get("average", entry["drawn"]) if average else entry["drawn"]


def earn(value: float, printed: float, instrument: str, scale: str, tolerance: float) -> str:
    """Return the status of one cell.

    Args:
        value, printed: ours and the papers', NaN where there is none.
        instrument, scale: how they differ from the papers', "" where they do not.
        tolerance: NaN only where nothing is compared.

    Raises:
        ValueError: a comparison without a tolerance.
    """
    if pd.isna(value):
        return NOT_RUN
    if instrument:
        return INTERPRETATION
    if scale:
        return SMALLER
    if pd.isna(printed):
        return FULL
    if pd.isna(tolerance):
        raise ValueError(f"a cell of ours ({value}) is to be compared with {printed}, but has no tolerance")
    return REPRODUCED if abs(value - printed) <= tolerance + _SLACK else CONTRADICTS


@lru_cache(maxsize=1)
def _content() -> dict:
    return read_yaml(published.folder() / "comparison.yaml")
