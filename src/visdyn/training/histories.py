"""Training curves of all runs of a stage in one table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from visdyn.readers import read_frame
from visdyn.training.runs import runs_in


def histories(folder: Path, names: Sequence[str]) -> pd.DataFrame:
    """Gather `training.csv` of every run folder `<name>-s<chain>`: its columns after those of `names`."""
    tables = []
    for *run, path in runs_in(folder):
        tables.append(read_frame(path / "training.csv").assign(**dict(zip(names, run, strict=True))))
    table = pd.concat(tables, ignore_index=True)
    return table[[*names, *[column for column in table if column not in names]]]
