"""A clone of the authors' repository: its replies through the kit's parser, its pictures through the kit's L1.

Layout: `outputs/<folder>/all_evaluation_metrics.json` and `outputs/<folder>/<index>.png`, each read from the commit
that `data/recorded/systems.yaml` names, whatever the clone has checked out. The JSON holds for each subset the recorded
aggregates and `GPT4o_all_predictions`, a list of {"response": text, "final_score": number} in test.json's order from
which dropped replies are missing. Nothing is written into the clone, and none of its texts leaves this module.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from visdyn.evaluation.judges.judge_answers import parse_scores
from visdyn.evaluation.metrics.similarity import l1
from visdyn.evaluation.recorded.evidence import CRITERIA, IMAGE_METRICS, SUBSETS, Evidence, RecordedSystem
from visdyn.images import decode, load
from visdyn.readers import decode_text, parse_json
from visdyn.trajectory import Trajectory

METRICS_FILE = "all_evaluation_metrics.json"
REPLIES = ["system", "subset", "replies", "unread", "recorded", "different", "aggregates", "aggregates_different"]
PICTURES = ["system", "subset", "index", "l1", "mean_l1", "recorded_l1", "counts", "reason"]
_AGGREGATES = (*IMAGE_METRICS, "GPT4o", "#sample", "#gpt4o_valid")


class RepositoryError(ValueError):
    """A clone is not what it should be; the message says what to do."""


def read_blob(clone: str | Path, commit: str, path: str) -> bytes | None:
    """Return a file's bytes at a commit, or None where that commit has no such file.

    Raises:
        RepositoryError: `clone` is no git clone, or does not have the commit.
    """
    git = ["git", "-C", str(clone), "--no-replace-objects"]
    if subprocess.run([*git, "cat-file", "-e", f"{commit}^{{commit}}"], capture_output=True).returncode:
        raise RepositoryError(
            f"{clone} is no git clone with commit {commit}; clone the repository whole (data/external/"
            "grounding_human_eval.yaml has the command), not as an archive and without --depth"
        )
    found = subprocess.run([*git, "cat-file", "blob", f"{commit}:{path}"], capture_output=True)
    return None if found.returncode else found.stdout


def compare_replies(clone: str | Path, evidence: Evidence) -> pd.DataFrame:
    """Read every system's replies with the kit's parser, and compare them with `data/recorded` one by one.

    Returns:
        Columns `REPLIES`, one row a system and subset: replies (in the file), unread (by the kit's parser), recorded
        (in data/recorded), different (places in the list where the two scores, or the final score, are not the same,
        unread ones and those of one list alone among them), aggregates (compared), aggregates_different.

    Raises:
        RepositoryError: as for `read_blob`, or a file that is missing or has another layout.
    """
    rows = []
    for system in evidence.systems:
        content = _read_metrics(clone, system)
        for subset in SUBSETS:
            theirs = _parse_predictions(content[subset]["GPT4o_all_predictions"])
            own = evidence.replies[(evidence.replies["system"] == system.name) & (evidence.replies["subset"] == subset)]
            ours = own.sort_values("item")[list(CRITERIA)].to_numpy(float)  # (n, 3)
            shared = min(len(theirs), len(ours))
            different = int((theirs[:shared] != ours[:shared]).any(axis=1).sum()) + abs(len(theirs) - len(ours))
            unread = int(np.isnan(theirs[:, 1]).sum())
            apart = [name for name in _AGGREGATES
                     if abs(content[subset][name] - evidence.aggregate(system.name, subset, name)) > 1e-9]  # fmt: skip
            counts = (len(theirs), unread, len(ours), different, len(_AGGREGATES), len(apart))
            rows.append((system.name, subset, *counts))
    return pd.DataFrame(rows, columns=REPLIES)


def check_pictures(
    clone: str | Path, evidence: Evidence, items: Sequence[Trajectory], tolerance: float
) -> pd.DataFrame:
    """Measure every picture's L1 to its target, and say which pictures count as their system's.

    Stored versions of pictures are mixed there, and only subsets' means are recorded: a subset's pictures count where
    all that the file's samples need are there and their mean L1 is the recorded one. Two wrong pictures whose errors
    cancel would not be noticed.

    Args:
        clone: the authors' repository.
        evidence: with the recorded L1.
        items: AURORA-Bench's items with targets (`datasets.aurora.load_bench`); ids are indices in test.json.
        tolerance: largest distance of the mean from the recorded L1 (of values in [0, 1]).

    Returns:
        Columns `PICTURES`, one row a picture that is asked for: l1 (empty where there is no picture), mean_l1 and
        recorded_l1 of its subset, counts (0, 1), reason ("" where it counts).
    """
    parts = []
    for system in evidence.systems:
        for subset in SUBSETS:
            asked = [item for item in items if item.subset == subset]
            values = np.array([_measure_picture(clone, system, item) for item in asked], float)
            recorded = evidence.aggregate(system.name, subset, "L1")
            samples = int(evidence.aggregate(system.name, subset, "#sample"))
            mean = values.mean() if len(values) and np.isfinite(values).all() else np.nan
            reason = ""
            if np.isnan(values).any() or len(values) != samples:
                reason = f"{int(np.isfinite(values).sum())} of {samples} pictures with a target are at hand"
            elif abs(mean - recorded) > tolerance:
                reason = "the subset's mean L1 is not the recorded one"
            part = pd.DataFrame({"index": [int(item.id) for item in asked], "l1": values})
            parts.append(part.assign(system=system.name, subset=subset, mean_l1=mean, recorded_l1=recorded,
                                     counts=int(not reason), reason=reason)[PICTURES])  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def _read_metrics(clone: str | Path, system: RecordedSystem) -> dict:
    path = f"outputs/{system.folder}/{METRICS_FILE}"
    blob = read_blob(clone, system.commit, path)
    if blob is None:
        raise RepositoryError(f"{clone} has no {path} at commit {system.commit}; is it a clone of another repository?")
    content = parse_json(decode_text(blob, path, RepositoryError), path, dict, RepositoryError)
    for subset in SUBSETS:
        if missing := [name for name in (*_AGGREGATES, "GPT4o_all_predictions") if name not in content.get(subset, {})]:
            raise RepositoryError(f"{path} at commit {system.commit}: {subset} lacks {missing[0]!r}")
    return content


def _parse_predictions(predictions: Sequence[dict]) -> np.ndarray:
    """Return (n, 3): final score as recorded, editing success and minimal editing as the kit reads them (or NaN)."""
    found = [(one["final_score"], *(parse_scores(one["response"]) or (np.nan, np.nan))) for one in predictions]
    return np.array(found, float).reshape(-1, 3)


def _measure_picture(clone: str | Path, system: RecordedSystem, item: Trajectory) -> float:
    blob = read_blob(clone, system.commit, f"outputs/{system.folder}/{item.id}.png")
    if blob is None:
        return np.nan
    picture = decode(blob, f"picture {item.id} of {system.name}", profiles=False)  # as the recorded numbers were made
    return l1(picture, load(item.target, profiles=False), "paper")
