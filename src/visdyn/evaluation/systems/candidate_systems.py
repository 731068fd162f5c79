"""The K candidates of test-time verification, scored like the images of any system, and the systems that choose one.

A candidate of every item is a folder of images (`inference/candidates.py`), so that every metric and judge takes it as
it takes any system. Candidates of one item that are the same image are scored once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from visdyn.evaluation.benches.bench import AURORA_BENCH
from visdyn.evaluation.systems.outputs import FORWARD, SystemImages
from visdyn.inference.candidates import KEYS, VERIFIERS, candidate_folder, verifiers_of
from visdyn.inference.verification import select_best_candidates
from visdyn.params.evaluation import JudgeEntry
from visdyn.trajectory import Trajectory

SCORES = [*KEYS, "candidate", "metric", "value"]
COMPARED_K = 3  # Table 6's best of 3: here all ways to choose stand beside the IDM's
_SEPARATOR = "/"  # in no system's name, for that is a folder's


def with_copies(candidates: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """Add `same_as` to `verification/candidates.csv`: the first candidate of the item that is the same image.

    Args:
        folder: of the kept candidates.

    Raises:
        FileNotFoundError: an image is not there.
    """
    table = candidates.assign(digest=[_digest(folder, row) for row in candidates.itertuples()])
    same_as = table.groupby([*KEYS, "digest"])["candidate"].transform("min")
    return candidates.assign(same_as=same_as)


def candidate_systems(candidates: pd.DataFrame, folder: Path, items: Sequence[Trajectory]) -> list[SystemImages]:
    """Return each candidate of each arm, chain and draw as a system `<arm>/<draw>/<candidate>`.

    It has an image of the items that were drawn, None where an earlier candidate is the same image.

    Args:
        candidates: from `with_copies`.
        items: what the evaluation measures; other items that were drawn are left out.
    """
    systems = []
    for (arm, chain, draw, candidate), own in candidates.groupby(["arm", "chain", "draw", "candidate"]):
        distinct = own[own["same_as"] == candidate]
        found = set(zip(distinct["subset"], distinct["id"], strict=True))
        place = candidate_folder(folder, arm, chain, draw, candidate)
        images = [
            place / AURORA_BENCH.file(item, FORWARD) if (item.subset, item.id) in found else None for item in items
        ]
        name = _SEPARATOR.join(map(str, (arm, draw, candidate)))
        systems.append(SystemImages(AURORA_BENCH.name, name, chain, "trained", arm, {FORWARD: images}))
    return systems


def of_candidates(scores: pd.DataFrame, candidates: pd.DataFrame) -> pd.DataFrame:
    """Return scores of `candidate_systems` with arm, draw and candidate for their names, those of copies filled in.

    Args:
        scores: columns system, chain, subset, id, and others, such as metric and value.
        candidates: from `with_copies`.
    """
    names = scores["system"].str.split(_SEPARATOR, expand=True).reindex(columns=range(3))
    named = scores.drop(columns="system").assign(
        arm=names[0], draw=names[1].astype("int64"), same_as=names[2].astype("int64")
    )
    copies = candidates[[*KEYS, "candidate", "same_as"]]
    return copies.merge(named, on=[*KEYS, "same_as"]).drop(columns="same_as")


def judges_of_candidates(judges: Sequence[JudgeEntry], systems: Sequence[SystemImages]) -> list[JudgeEntry]:
    """Return the judges with the names of the candidates that each is meant for.

    A judge that names its systems is asked about an arm's candidates where it names one that chooses among them
    (`<arm>_best_of_<K>`), and is left out where it names none; one that names none is asked about all.
    """
    entries = []
    for entry in judges:
        chosen = [
            one.name for one in systems if any(name.startswith(f"{one.model}_best_of_") for name in entry.systems)
        ]
        if chosen or not entry.systems:
            entries.append(replace(entry, systems=tuple(chosen)))
    return entries


def best_of_rows(
    candidates: pd.DataFrame, scores: pd.DataFrame, ks: Sequence[int], oracle: pd.DataFrame | None
) -> pd.DataFrame:
    """Return the scores of the systems `<arm>_best_of_<K>`, whose image of an item is the best of its first K.

    The IDM chooses; of the best of 3 there are also `<arm>_best_of_3_by_<verifier>` for the other verifiers,
    `_by_random` (the first candidate, which no score chose) and `_by_oracle`. Values are means over the draws; NaN is
    not counted.

    Args:
        candidates: rows of `verification/candidates.csv`.
        scores: of candidates: `KEYS`, candidate, value, and columns that name what was measured.
        ks: numbers of candidates.
        oracle: `KEYS`, candidate and `oracle`, the score that an oracle chooses by; None where there is none. An item
            whose candidates all have an unknown one is not chosen for.

    Returns:
        the columns of `scores` with system in place of arm, draw and candidate.
    """
    columns = [column for column in ("system", *scores.columns) if column not in ("arm", "draw", "candidate")]
    if scores.empty:
        return pd.DataFrame(columns=columns)
    parts = [(f"_best_of_{k}", select_best_candidates(candidates, k, VERIFIERS["idm"])) for k in ks if k > 1]
    if COMPARED_K in ks:
        ending = f"_best_of_{COMPARED_K}_by_"
        others = {name: column for name, column in verifiers_of(candidates).items() if name != "idm"}
        parts += [(ending + name, select_best_candidates(candidates, COMPARED_K, others[name])) for name in others]
        parts.append((f"{ending}random", candidates[candidates["candidate"] == 0]))
        if oracle is not None:
            known = candidates.merge(oracle, on=[*KEYS, "candidate"])
            best = select_best_candidates(known, COMPARED_K, "oracle")
            parts.append((f"{ending}oracle", best.dropna(subset=["oracle"])))
    chosen = []
    for ending, rows in parts:
        own = rows[[*KEYS, "candidate"]].merge(scores, on=[*KEYS, "candidate"])
        chosen.append(own.assign(system=own["arm"] + ending))
    if not chosen:
        return pd.DataFrame(columns=columns)
    named = [column for column in columns if column != "value"]
    table = pd.concat(chosen, ignore_index=True)
    return table.groupby(named, sort=False, dropna=False)["value"].mean().reset_index()[columns]


def _digest(folder: Path, row) -> bytes:
    path = candidate_folder(folder, row.arm, row.chain, row.draw, row.candidate) / f"{row.subset}/{row.id}.png"
    if not path.is_file():
        raise FileNotFoundError(f"the candidate {path} is not there; run stage verification again")
    return hashlib.sha256(path.read_bytes()).digest()
