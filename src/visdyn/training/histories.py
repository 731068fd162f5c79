"""Training curves of all runs of a stage in one table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd


def histories(folder: Path, names: Sequence[str]) -> pd.DataFrame:
    """Gather `training.csv` of every run folder `<name>-s<seed>`: its columns after those of `names`."""
    tables = []
    for path in sorted(folder.glob("*/training.csv")):
        run, _, seed = path.parent.name.rpartition("-s")
        tables.append(pd.read_csv(path).assign(**dict(zip(names, (run, int(seed)), strict=True))))
    table = pd.concat(tables, ignore_index=True)
    return table[[*names, *[column for column in table if column not in names]]]
