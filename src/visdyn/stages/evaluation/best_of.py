"""The candidates of stage `verification` under every metric and judge, and the systems that choose among them."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from visdyn.evaluation.benches.bench import AURORA_BENCH
from visdyn.evaluation.benches.bench_aurora import ForwardEvaluation
from visdyn.evaluation.judges.run import RUNS, judge_all, judge_name
from visdyn.evaluation.judges.run import SCORES as JUDGED
from visdyn.evaluation.systems.candidate_systems import (
    SCORES,
    best_of_rows,
    candidate_systems,
    judges_of_candidates,
    of_candidates,
    with_copies,
)
from visdyn.evaluation.systems.forward_systems import score_forward
from visdyn.inference.candidates import FOLDER, KEYS
from visdyn.pipeline.stage import Stage

# Of judge_scores.csv, with arm in place of system: which of its candidates, of which draw.
CANDIDATE_JUDGED = ["arm", "draw", "candidate", *(column for column in JUDGED if column != "system")]


@dataclass(frozen=True)
class ScoredCandidates:
    """What is known of the candidates.

    Attributes:
        drawn: `verification/candidates.csv`, and `same_as`.
        scores: `evaluation/candidate_scores.csv`.
        judged: `evaluation/candidate_judge_scores.csv`.
        runs: rows of judge_runs.csv, an arm's candidates together.
    """

    drawn: pd.DataFrame
    scores: pd.DataFrame
    judged: pd.DataFrame
    runs: pd.DataFrame


def score_candidates(stage: Stage, evaluation: ForwardEvaluation) -> ScoredCandidates:
    """Score the kept candidates by every metric and every judge of the section, where `trained` names `best_of`."""
    if "best_of" not in stage.params.trained:
        return ScoredCandidates(*(pd.DataFrame(columns=names) for names in (SCORES, SCORES, CANDIDATE_JUDGED, RUNS)))
    items, kept = evaluation.trajectories, stage.path(FOLDER)
    drawn = with_copies(stage.read_table("verification/candidates.csv"), kept)
    systems = candidate_systems(drawn, kept, items)
    scores = of_candidates(score_forward(evaluation, systems), drawn)[SCORES]
    judges = judges_of_candidates(stage.params.judges, systems)
    judged, runs = judge_all(judges, AURORA_BENCH, items, systems, stage.root / "data/kept/replies", stage.device)
    sums = dict.fromkeys(("asked", "reused", "invalid", "refused", "failed", "cost_usd"), "sum")
    by = [column for column in RUNS if column not in (*sums, "note")]
    if len(runs):
        runs = runs.assign(system=runs["system"].str.partition("/")[0] + "_candidates")
        runs = runs.groupby(by, as_index=False, sort=False).agg({**sums, "note": _join_notes})[RUNS]
    judged = of_candidates(judged, drawn) if len(judged) else judged
    return ScoredCandidates(drawn, scores, judged.reindex(columns=CANDIDATE_JUDGED), runs)


def best_of_scores(stage: Stage, candidates: ScoredCandidates) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows of fdm_scores.csv and of judge_scores.csv of the systems `<arm>_best_of_<K>`."""
    ks, oracle = stage.settings.verification.candidates, _oracle(stage, candidates)
    scores, judged = (
        best_of_rows(candidates.drawn, table, ks, oracle) for table in (candidates.scores, candidates.judged)
    )
    return scores, judged.reindex(columns=JUDGED)


def _join_notes(notes: pd.Series) -> str:
    return "; ".join(dict.fromkeys(note for note in notes if note))


def _oracle(stage: Stage, candidates: ScoredCandidates) -> pd.DataFrame | None:
    """Return the score that the oracle chooses by: of the first judge that scored a candidate, the region judge last.

    The region judge stands for judges that answer in words, which the paper's own is one of.
    """
    for entry in sorted(stage.params.judges, key=lambda entry: entry.kind == "region"):
        if entry.kind == "region":
            table = candidates.scores[candidates.scores["metric"] == "score"]
        else:
            table = candidates.judged[candidates.judged["judge"] == judge_name(entry)]
            table = table[table["criterion"] == "score"]
        if table["value"].notna().any():
            by = [*KEYS, "candidate"]
            return table.groupby(by)["value"].mean().rename("oracle").reset_index()
    return None
