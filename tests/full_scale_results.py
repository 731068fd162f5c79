"""Results of the shape that a run of profiles/paper leaves: 248 items, nine VLMs, C- or L-systems, GPT-4o as recorded.

No model runs. Where the papers print a number, every item has that number, so that its mean is met; the judge of B is
played by the authors' recorded replies (`data/recorded`), of which some meet the printed scores and some do not.
"""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import reporting_extra
import reporting_results
import yaml

from visdyn.evaluation.metrics import registry
from visdyn.evaluation.recorded import evidence
from visdyn.inference.candidates import VERIFIERS
from visdyn.paths import repository_root
from visdyn.reporting import names, published
from visdyn.reporting.tables.comparison import items_of
from visdyn.result_tables import TABLES
from visdyn.stages.human_study import COLUMNS as STUDY
from visdyn.stages.probing import labels
from visdyn.stages.spatial import ACCURACY

SUBSETS = reporting_results.SUBSETS
VLMS = {
    "Qwen2-VL-2B-Instruct": "Qwen2-VL-2B", "Qwen2-VL-7B-Instruct": "Qwen2-VL-7B",
    "Qwen2.5-VL-3B-Instruct": "Qwen2.5-VL-3B", "Qwen2.5-VL-7B-Instruct": "Qwen2.5-VL-7B",
    "llava-v1.6-mistral-7b-hf": "LLaVA-Next-7B", "llava-interleave-qwen-7b-hf": "LLaVA-Interleave",
    "Qwen2.5-Omni-3B": "Qwen-Omni-3B", "Qwen2.5-Omni-7B": "Qwen-Omni-7B", "chameleon-7b": "Chameleon-7B",
}  # fmt: skip
# System of results -> its column of Tables 2 and 6; a profile of Liquid has the unified models' second names.
UNIFIED = {"zero_shot": ("C-ZS", "CM"), "supervised": ("C-FT", "C-FT"), "synthetic_weighted": ("C-FDM", "C-FDM")}
BEST = {f"{arm}_best_of_3_by_oracle": ("", f"{name} +Best-of-3")
        for arm, name in (("supervised", "C-FT"), ("synthetic_weighted", "C-FDM"))}  # fmt: skip
LIQUID = {"zero_shot": ("L-ZS", "L-ZS"), "supervised": ("L-FT", "L-FT"), "synthetic_weighted": ("L-FDM", "L-FDM")}
EDITORS = {"InstructPix2Pix": ("PixInst", "PixInstruct"), "GoT": ("GoT", "GoT"), "SmartEdit": ("SE", "SE")}
RECORDED = {"C-FDM": "synthetic_weighted", "C-FDM w/o LW": "synthetic", "C-FT": "supervised", "SE": "SmartEdit",
            "GoT": "GoT", "PixInstruct": "InstructPix2Pix"}  # fmt: skip
PAGE = {"base": "BAGEL", "doundo": "BAGEL-DoUndo (Ours)", "Qwen-Image": "Qwen-Image", "FLUX Kontext": "Flux Kontext"}
METRICS = {"l1_paper": "L1", "clip_i": "CLIP-I", "clip_t": "CLIP-T", "clip_t_edited": "CLIP-T", "dino": "DINO"}
NEWER = ("dino", "clip_prompt", "action_accuracy", "noun_accuracy", "epe_f", "epe_r")  # of D's newer version
DOUNDO = {
    "base": ("Bagel", "BAGEL"), "doundo": ("Do-Undo", "Do-Undo"), "doundo_c": ("Do-Undo(c)", "Do-Undo(c)"),
    "Qwen-Image": ("Qwen-Image", "Qwen Image"), "FLUX Kontext": ("Flux Kontext", "Flux Kontext"),
}  # fmt: skip


def write(profile: Path, name: str = "paper") -> Path:
    """Write the results of profiles/<name> (`paper` or `paper_liquid`) into `profile`, and return it."""
    liquid = name == "paper_liquid"
    reporting_results.write(profile)
    shutil.copy(repository_root() / "profiles" / name / "params.yaml", profile / "params.yaml")
    params = yaml.safe_load((profile / "params.yaml").read_text())
    tables = {
        "probing/likelihoods.csv": _likelihoods(list(labels(params["probing"]["models"])), "b_figure2"),
        "idm_evaluation/likelihoods.csv": _likelihoods(["zero_shot", "idm"], ""),
        "idm_evaluation/text_metrics.csv": _text_metrics(liquid),
        "evaluation/fdm_scores.csv": _fdm_scores(liquid),
        "evaluation/judge_scores.csv": _judge_scores(liquid),
        **_candidates(),
        "evaluation/measures.csv": _measures("B", [*METRICS, "l1_matched"]),
        "evaluation/systems.csv": _systems(liquid),
        "annotation/summary.csv": _summary(),
        "mining/test_split.csv": _test_split(),
        "evaluation_doundo/doundo_scores.csv": _doundo_scores(),
        "evaluation_doundo/judge_scores.csv": _doundo_judge_scores(),
        "evaluation_doundo/measures.csv": _measures("D", [*NEWER, "clip_t", "epe", "epe_norm", "of_f"]),
        "spatial/accuracy.csv": _spatial(liquid),
        "spatial/missing.csv": pd.DataFrame([("idm", "no folder models/idm")], columns=["model", "reason"]),
        "human_study/table5.csv": _people(),
    }
    for name, frame in tables.items():
        path = profile / "reports" / "results" / name
        frame.to_csv(path, index=False, float_format="%.6g")
    for name, old, new in (("segments", "kitchen-", "epic-100-"), ("prompts", "kitchen,", "epic-100-test,")):
        path = profile / f"reports/results/mining/{name}.csv"
        path.write_text(path.read_text().replace(old, new))
    return profile


def rewrite(profile: Path, name: str, change) -> None:
    """Write a result of a profile again, changed."""
    path = profile / "reports" / "results" / name
    change(pd.read_csv(path, keep_default_na=False, dtype={"id": str})).to_csv(path, index=False)


def printed(table: str, **where: str) -> float:
    """Return the value that a table prints in a cell, NaN where it prints none."""
    cells = _load(table)
    for column, value in where.items():
        cells = cells[cells[column].str.startswith(value) if column == "panel" else cells[column] == value]
    return float(cells["value"].iloc[0]) if len(cells) else float("nan")


_load = cache(published.load)


def _items() -> pd.DataFrame:
    rows = [(subset, f"{item:03d}") for subset in SUBSETS for item in range(items_of("aurora", subset))]
    return pd.DataFrame(rows, columns=["subset", "id"])


def _likelihoods(models: list[str], table: str) -> pd.DataFrame:
    """Each model prefers as many references as the table prints per cent of (half of them where it prints none)."""
    items, parts = _items(), []
    panels = {"fdp": "Forward", "idp": "Inverse"}
    for model in models:
        for task, panel in panels.items():
            definition = "action" if task == "idp" else "D1" if "chameleon" in model or not table else "D2"
            rows = items.assign(model=model, chain=0, definition=definition, task=task, num_tokens=64)
            parts.append(rows.assign(kind="reference", log_likelihood=-2.0))
            for kind, row in names.NEGATIVES.items():
                percent = printed(table, panel=panel, row=row, column=VLMS.get(model, "")) if table else 50.0
                count = round((50.0 if np.isnan(percent) else percent) * len(items) / 100)
                lower = np.where(np.arange(len(items)) < count, -2.5, -1.5)
                parts.append(rows.assign(kind=kind, log_likelihood=lower))
    order = ["model", "chain", "definition", "task", "subset", "id", "kind", "log_likelihood", "num_tokens"]
    return pd.concat(parts)[order]


def _text_metrics(liquid: bool) -> pd.DataFrame:
    columns = {"bert_score": "BS", "rouge1": "R-1", "rougeL": "R-L", "bleu": "BLEU"}
    models = {"idm": "Liquid IDM"} if liquid else {"zero_shot": "Chameleon ZS", "idm": "Chameleon IDM"}
    rows = [(model, 0, metric, printed("b_table1", row=row, column=column), 198, np.nan, np.nan)
            for model, row in models.items() for metric, column in columns.items()]  # fmt: skip
    return pd.DataFrame(rows, columns=["model", "chain", "metric", "value", "n", "low", "high"])


def _systems_of(liquid: bool) -> dict[str, tuple[str, str]]:
    return (LIQUID if liquid else UNIFIED | BEST) | EDITORS | {"copy": ("", "Copy")}


def _fdm_scores(liquid: bool) -> pd.DataFrame:
    items, parts = _items(), []
    for system, (_, column) in (_systems_of(liquid) | {"oracle": ("", ""), "shuffled": ("", "")}).items():
        for metric, row in {**METRICS, "l1_matched": ""}.items():
            for subset, group in items.groupby("subset", sort=False):
                value = printed("b_table6", panel=names.SUBSETS[subset][0], row=row, column=column)
                value = 0.5 if np.isnan(value) else value
                parts.append(group.assign(system=system, chain=0, metric=metric, value=value))
    return pd.concat(parts)[["system", "chain", "subset", "id", "metric", "value"]]


def _judge_scores(liquid: bool) -> pd.DataFrame:
    """GPT-4o: the authors' recorded replies of their systems; the printed score of those that they did not record."""
    replies = evidence.load(repository_root() / "data/recorded").replies
    replies = replies[replies["system"].isin(RECORDED)]
    replies = replies.assign(system=replies["system"].map(RECORDED), id=replies["item"].map("{:03d}".format))
    systems = _systems_of(liquid)
    if liquid:
        replies = replies[replies["system"].isin(EDITORS)]
    parts = [replies.melt(["system", "subset", "id"], list(evidence.CRITERIA), "criterion", "value")]
    for system in set(systems) - set(replies["system"]):
        in_table2, in_table6 = systems[system]
        for subset, group in _items().groupby("subset", sort=False):
            name = names.SUBSETS[subset][0]
            value = printed("b_table6", panel=name, row="GPT-4o", column=in_table6)
            if in_table2:
                value = printed("b_table2", panel="Forward", row=name, column=in_table2)
            parts += [group.assign(system=system, criterion=criterion, value=value) for criterion in evidence.CRITERIA]
    asked = {"judge": "GPT-4o", "judge_prompt": "paper", "prompt_version": "1-0a1b2c3d", "paper": "B"}
    where = {"chain": 0, "direction": "forward", "reverse_from": "", "prompt": "", "repeat": 0}
    frame = pd.concat(parts).assign(**asked, **where)
    return frame[list(reporting_extra.judge_scores(np.random.default_rng(0)).columns)]


def _candidates() -> dict[str, pd.DataFrame]:
    """Eight candidates of each of 248 items, drawn twice by C-FT and C-FDM; GPT-4o gives whole scores, and one none."""
    rng, items = np.random.default_rng(0), _items()
    keys = pd.MultiIndex.from_product([("supervised", "synthetic_weighted"), (0, 1), items.index, range(8)],
                                      names=["arm", "draw", "item", "candidate"]).to_frame(index=False)  # fmt: skip
    drawn = keys.join(items, on="item").drop(columns="item").assign(chain=0)
    score = rng.integers(0, 11, len(drawn)) * rng.integers(0, 2, len(drawn)).astype(float)
    own, where = score / 5 + rng.normal(-3, 1, len(drawn)), ["arm", "chain", "draw", "subset", "id", "candidate"]
    said = dict.fromkeys(VERIFIERS.values(), np.nan) | {"idm_log_likelihood": own, "fdm_log_likelihood": -2.0}
    verified = drawn[where].assign(**said)
    values = {"l1_paper": 0.2 - score / 100, "clip_i": 0.8 + score / 100, "clip_t": 0.25, "dino": 0.7 + score / 50}
    metrics = drawn[where].assign(**values).melt(where, var_name="metric")
    asked = {"judge": "GPT-4o", "judge_prompt": "paper", "prompt_version": "1-0a1b2c3d", "paper": "B"}
    asked |= {"direction": "forward", "reverse_from": "", "prompt": "", "repeat": 0, "criterion": "score"}
    score[0] = np.nan  # refused
    judged = drawn.assign(**asked, value=score)[list(TABLES["evaluation/candidate_judge_scores.csv"])]
    return {"verification/candidates.csv": verified, "evaluation/candidate_scores.csv": metrics,
            "evaluation/candidate_judge_scores.csv": judged}  # fmt: skip


def _measures(paper: str, metrics: list[str]) -> pd.DataFrame:
    def facts(metric: str) -> tuple[str, str, str]:
        if metric in ("epe", "epe_norm", "of_f"):
            return "raft", "interpretation", "flow by raft at 512 pixels"
        if metric in ("epe_f", "epe_r"):
            return "raft", "full scale", ""
        if metric.startswith("clip_t"):
            return "clip", "interpretation", "caption of the target or of the edited image"
        return metric, "full scale", ""

    rows = [(paper, metric, *facts(metric)[:2], 248, 0, facts(metric)[2]) for metric in metrics]
    return pd.DataFrame(rows, columns=["paper", "metric", "measured_with", "status", "n", "empty", "note"])


def _systems(liquid: bool) -> pd.DataFrame:
    origins = {"InstructPix2Pix": "diffusers", "GoT": "imported", "SmartEdit": "imported", "copy": "baseline"}
    rows = [("B", name, name, origins.get(name, "trained"), "", 248, 248, 0, "") for name in _systems_of(liquid)]
    return pd.DataFrame(rows, columns=list(reporting_extra.systems().columns))


def _summary() -> pd.DataFrame:
    columns = {"mean_seconds": "Avg. Length (seconds)", "total_hours": "Total Length (hours)", "videos": "#Samples",
               "observations_per_video": "#Avg. OPV", "actions_per_video": "#Avg. APV",
               "words_per_action": "#Avg. WPA"}  # fmt: skip
    rows = []
    for dataset, row in {"moments": "MIT", "ucf": "UCF-101", "kinetics": "Kinetics700"}.items():
        values = {name: printed("b_table7", row=row, column=column) for name, column in columns.items()}
        rows.append({"chain": 0, "dataset": dataset, **values, "pairs": 20_000, "selected": 7000})
    order = list(reporting_results._summary().columns)
    return pd.DataFrame(rows)[order].astype({"videos": int})


def _test_split() -> pd.DataFrame:
    """Eight verbs in equal numbers and three that no training pair has: 662 pairs, as printed."""
    trained = [*reporting_results.VERBS[:7], "move"]
    seen = [(verb, 0, 200, 100, 79, 79) for verb in trained]
    unseen = [(verb, 1, count, count, 79, count) for verb, count in (("rotate", 2), ("remove-from", 25), ("stack", 3))]
    names = ["verb", "unseen", "mined", "passed", "wanted", "chosen"]
    rows = pd.DataFrame([*seen, *unseen], columns=names).assign(source="epic-100-test")
    return rows[list(TABLES["mining/test_split.csv"])]


def _doundo_scores() -> pd.DataFrame:
    pairs = pd.DataFrame({"verb": np.resize(reporting_results.VERBS, 662), "id": [f"P{n:03d}" for n in range(662)]})
    parts = []
    for system, spellings in (DOUNDO | {"copy": ("", ""), "oracle": ("", ""), "shuffled": ("", "")}).items():
        for prompt, table, row in (("long", "d_table1", spellings[0]), ("short", "d_table2", spellings[1])):
            for direction, origin, suffix in (("forward", "", "F"), ("reverse", "gt", "R")):
                heads = {"dino": [f"DINO-{suffix}"], "clip_t": [f"CLIP-T-{suffix}", f"CLIP-T {suffix}"]}
                heads |= {"of_f": ["OF-F"]} if suffix == "F" else {"epe": [], "epe_norm": []}
                for metric, columns in heads.items():
                    values = [printed(table, row=row, column=column) for column in columns]
                    value = next((value for value in values if not np.isnan(value)), 0.5)
                    where = {"system": system, "chain": 0, "direction": direction, "reverse_from": origin}
                    where["familiarity"] = "common"
                    parts.append(pairs.assign(**where, prompt=prompt, metric=metric, value=value))
                for (metric, on), head in registry.NEWER_COLUMNS.items():
                    if metric != "dino" and on == direction:
                        value = printed("d_page", row=PAGE.get(system, ""), column=head)
                        value = 0.5 if np.isnan(value) else value / (100 if head[:2] in ("A-", "N-") else 1)
                        parts.append(pairs.assign(**where, prompt=prompt, metric=metric, value=value))
    order = ["system", "chain", "direction", "reverse_from", "prompt", "verb", "familiarity", "id", "metric", "value"]
    return pd.concat(parts)[order]


def _doundo_judge_scores() -> pd.DataFrame:
    criteria = {"instruction": "IF", "identity": "IDP", "temporal": "TC", "objects": "OC"}
    rows = []
    for system, label in {"base": "Bagel", "doundo": "Do-Undo"}.items():
        for verb in reporting_results.VERBS:
            for direction, origin, suffix in (("forward", "", "F"), ("reverse", "gt", "R")):
                for criterion, head in criteria.items():
                    value = printed("d_table6", row=label, column=f"{head}-{suffix}")
                    value = 8.0 if np.isnan(value) else value
                    asked = ("Gemini", "kit", "1-4e5f6a7b", "D", system, 0, verb, f"{verb}-1", direction, origin)
                    rows.append((*asked, "long", 0, criterion, value))
    return pd.DataFrame(rows, columns=list(reporting_extra.judge_scores(np.random.default_rng(0)).columns))


def _spatial(liquid: bool) -> pd.DataFrame:
    rows = []
    # profiles/paper asks Liquid too, by the name of its folder; so does profiles/paper_liquid, as its zero-shot model.
    for model, (column, _) in (LIQUID if liquid else UNIFIED | {"liquid": LIQUID["zero_shot"]}).items():
        for benchmark, row in (("spatialmqa", "SpatialMQA"), ("embspatial", "EmbodiedSpatial-Bench")):
            value = printed("b_table2", panel="Spatial", row=row, column=column) / 100
            counts = (items_of(benchmark), value, value, 0.26, 0.0, value - 0.02, value + 0.02, 0.5, 0.27)
            rows.append((model, 0, benchmark, "generation", *counts))
    return pd.DataFrame(rows, columns=ACCURACY)


def _people() -> pd.DataFrame:
    rows = []
    for subset, row in [*((name, short) for name, (_, short) in names.SUBSETS.items()), ("All", "All")]:
        for system, column in {"GoT": "GoT", "SmartEdit": "SE", "supervised": "C-FT",
                               "synthetic_weighted": "C-FDM"}.items():  # fmt: skip
            score = printed("b_table5", row=row, column=column)
            score = 0.0 if np.isnan(score) else score
            tests = (np.nan,) * 5 if system == "synthetic_weighted" else (0.01, 0.01, 0.01, 40, 1)
            rows.append(("study", "overall", subset, system, score, score - 0.1, score + 0.1, "annotators", 70, 14,
                         *tests))  # fmt: skip
    return pd.DataFrame(rows, columns=STUDY["table5"])
