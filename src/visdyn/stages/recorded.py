"""Stage `recorded`: what the authors' own recorded replies say of their tables; reads data/recorded, asks no model."""

from __future__ import annotations

from dataclasses import asdict

import pandas as pd

from visdyn.datasets.aurora import load_bench
from visdyn.evaluation.recorded import repository_files
from visdyn.evaluation.recorded.evidence import Evidence, load
from visdyn.evaluation.recorded.published_cells import compare_cells, identify_systems
from visdyn.pipeline.errors import StageError
from visdyn.pipeline.stage import Stage
from visdyn.quarantine import Quarantine
from visdyn.reporting import published


def load_evidence(stage: Stage) -> Evidence:
    """Read and check the repository's `data/recorded`."""
    return load(stage.repository / "data/recorded")


def compare_tables(stage: Stage, evidence: Evidence) -> pd.DataFrame:
    """Compare the printed cells of the tables named in `recorded.averages`, by the tolerances of the parameters."""
    averages = asdict(stage.params.averages)
    cells = {table: published.load(table, stage.repository) for table in averages}
    return compare_cells(evidence, cells, asdict(stage.params.tolerances), averages)


def identify_files(stage: Stage, evidence: Evidence) -> pd.DataFrame:
    """Count which recorded file agrees with which column of Table 6, by the tolerances of the parameters."""
    table6 = published.load("b_table6", stage.repository)
    return identify_systems(evidence, table6, asdict(stage.params.tolerances))


def compare_repository(stage: Stage, evidence: Evidence) -> pd.DataFrame:
    """Compare the replies of the clone that `recorded.repository` names; no rows where it names none."""
    if stage.params.repository is None:
        return pd.DataFrame(columns=repository_files.REPLIES)
    clone = stage.located(stage.params.repository, "recorded.repository")
    return repository_files.compare_replies(clone, evidence)


def check_pictures(stage: Stage, evidence: Evidence, quarantine: Quarantine | None = None) -> pd.DataFrame:
    """Measure the clone's pictures against AURORA-Bench's targets; no rows without a clone and `recorded.aurora`.

    Raises:
        StageError: `recorded.aurora` without a clone.
    """
    params = stage.params
    if params.aurora is None:
        return pd.DataFrame(columns=repository_files.PICTURES)
    if params.repository is None:
        raise StageError("recorded.aurora is there to check a clone's pictures: name the clone in recorded.repository")
    items = load_bench(stage.located(params.aurora, "recorded.aurora"), quarantine=quarantine)
    clone = stage.located(params.repository, "recorded.repository")
    return repository_files.check_pictures(clone, evidence, items, params.pictures_l1)
