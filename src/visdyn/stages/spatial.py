"""Stage `spatial`: which questions a profile asks, of which models, and the tables it leaves."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from visdyn.compute.gpus import map_gpus
from visdyn.compute.progress import say
from visdyn.datasets.spatial_questions import SpatialQuestion, load_embspatial, load_spatialmqa
from visdyn.evaluation.benches import bench_spatial as spatial
from visdyn.evaluation.benches.spatial_models import answers_of
from visdyn.models import load_model
from visdyn.models.understanding.chat_cache import CachedVLM
from visdyn.params.spatial import Spatial
from visdyn.pipeline.errors import StageError
from visdyn.pipeline.stage import Stage
from visdyn.quarantine import Quarantine, Quarantined
from visdyn.training.runs import run_name

ANSWERS = ["model", "chain", "benchmark", "mode", "rule", "prompt", "group", "relation", "id", "answer", "output",
           "choice", "correct", "invalid", "ambiguous", "chance", "reason"]  # fmt: skip
ACCURACY = ["model", "chain", "benchmark", "mode", "n", "accuracy", "strict_accuracy", "chance", "invalid_rate", "low",
            "high", "p_chance", "constant_accuracy"]  # fmt: skip
# One row of accuracy.csv: its mode, and the rules behind `accuracy` and `strict_accuracy`. Likelihoods need no
# matching, so their two are one; per token and in total are two ways to choose, hence two rows.
_ROWS = (
    ("generation", "lenient", "strict"),
    ("likelihood_sum", "sum", "sum"),
    ("likelihood_mean", "mean", "mean"),
)


def load_questions(stage: Stage, quarantine: Quarantine | None = None) -> list[SpatialQuestion]:
    """Read the kitchen's questions where it was rendered, and those of every benchmark that the parameters name.

    Returns:
        The questions; none where the data are real and no benchmark is named.

    Raises:
        StageError: SpatialMQA without its images.
        DatasetError: a file is missing or holds no usable question.
    """
    params, questions = stage.params, []
    if stage.kitchen is not None:
        folder = stage.kitchen / "spatial"
        questions += load_spatialmqa(folder / "test.jsonl", folder / "images", quarantine, benchmark="kitchen")
    if params.spatialmqa:
        if not params.spatialmqa_images:
            raise StageError("spatial.spatialmqa needs spatial.spatialmqa_images: the folder of COCO's test2017 images")
        images = stage.located(params.spatialmqa_images, "spatial.spatialmqa_images")
        questions += load_spatialmqa(stage.located(params.spatialmqa, "spatial.spatialmqa"), images, quarantine)
    if params.embspatial:
        questions += load_embspatial(stage.located(params.embspatial, "spatial.embspatial"), quarantine)
    return questions


def model_name(reference: str) -> str:
    """Return how results name a model: `zero_shot` for the base, an FDM's arm, else the last part of the reference."""
    name = re.sub(r"-s\d+$", "", Path(reference).name)
    return "zero_shot" if name == "base" else name


def ask_all(
    stage: Stage, questions: Sequence[SpatialQuestion], quarantine: Quarantine | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Put all questions to every model of the parameters, in each chain that has its own (`Stage.in_chains`).

    Where there are several GPUs, each takes one model after another. A model that cannot be loaded is listed with its
    reason, and the others are asked.

    Returns:
        answers: columns `ANSWERS`, no rows where there is no question.
        missing: columns model, reason.
    """
    tables, missing, folder = [], [], stage.scratch("answers")
    bare = None if quarantine is None else replace(quarantine, items=[])
    jobs = [
        _Job(name, chain, reference, folder / f"{run_name(name, chain)}.sqlite", stage.params, stage.device, bare)
        for given, name in (model_names(stage.params.models).items() if questions else ())
        for chain, reference in stage.in_chains(given)
    ]
    # On cores one after another, with all of a stage's threads and one model's memory.
    for job, found in zip(jobs, map_gpus(_ask_model, jobs, list(questions), processes=1), strict=True):
        if isinstance(found, str):
            missing.append({"model": job.name, "reason": found})
            continue
        tables.append(found[0])
        if quarantine is not None:
            quarantine.items += found[1]
    answers = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=ANSWERS)
    return answers, pd.DataFrame(missing, columns=["model", "reason"]).drop_duplicates()


def model_names(references: Sequence[str]) -> dict[str, str]:
    """Return each reference's name in the results; runs of one arm keep their endings, so that none are pooled.

    Raises:
        StageError: two references end alike.
    """
    short = [model_name(reference) for reference in references]
    names = {reference: name if short.count(name) == 1 else Path(reference).name
             for reference, name in zip(references, short, strict=True)}  # fmt: skip
    if len(set(names.values())) < len(references):
        twice = max(names.values(), key=list(names.values()).count)
        raise StageError(f"two of spatial.models are called {twice!r}; results tell models apart by their last part")
    return names


@dataclass(frozen=True)
class _Job:
    """One chain's model, called `name` in the results; pickled to the process that asks it.

    Attributes:
        kept: store of what it answered in words, so that a run that was killed goes on where it stopped.
        quarantine: an empty one, as the stage's; None where a question whose image cannot be read is an error.
    """

    name: str
    chain: int
    reference: str
    kept: Path
    settings: Spatial
    device: str
    quarantine: Quarantine | None


def _ask_model(questions: list[SpatialQuestion], job: _Job) -> tuple[pd.DataFrame, list[Quarantined]] | str:
    """Put all questions to a model in every mode of the parameters.

    Returns:
        one row a question, mode and rule (columns `ANSWERS`), and what was set aside; or why it cannot be loaded.
    """
    try:
        model = answers_of(load_model(job.reference, device=job.device), job.settings.max_new_tokens)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        say(f"spatial {job.name}: left out, {reason}")
        return reason
    quarantine = None if job.quarantine is None else replace(job.quarantine, items=[])
    parts = []
    for benchmark in dict.fromkeys(question.benchmark for question in questions):
        asked = [question for question in questions if question.benchmark == benchmark]
        if "likelihood" in job.settings.modes:
            parts.append(spatial.score_likelihoods(model, asked, None, quarantine))
        if "generation" in job.settings.modes:
            parts.append(spatial.generate_answers(CachedVLM(model, job.kept), asked, None, quarantine))
    answers = pd.concat(parts, ignore_index=True)
    if quarantine is not None:
        usable = answers[["benchmark", "id"]].drop_duplicates().shape[0]
        quarantine.refuse_most(f"questions to {job.name}", usable)
    return answers.assign(model=job.name, chain=job.chain)[ANSWERS], [] if quarantine is None else quarantine.items


def accuracy_table(answers: pd.DataFrame) -> pd.DataFrame:
    """Return accuracy with what it must be read beside: columns `ACCURACY`, one row a model, chain, benchmark and mode.

    accuracy is by the papers' lenient match in generation mode, low and high are Wilson's 95 % interval of it; chance,
    invalid_rate and p_chance (one-sided, of doing as well by drawing) are of the strict rule; constant_accuracy is that
    of always giving the answer that is most often right. All are shares from 0 to 1.
    """
    if answers.empty:
        return pd.DataFrame(columns=ACCURACY)
    rows = []
    for chain, own in answers.groupby("chain"):
        summary = spatial.summarise(own).set_index("rule")
        for mode, rule, strict in _ROWS:
            if rule not in summary.index:
                continue
            keys = ["model", "benchmark"]
            lenient, exact = (summary.loc[[name]].set_index(keys) for name in (rule, strict))
            rows += [{**_row(mode, key, lenient.loc[key], exact.loc[key]), "chain": chain} for key in lenient.index]
    return pd.DataFrame(rows, columns=ACCURACY)


def _row(mode: str, key: tuple[str, str], lenient: pd.Series, strict: pd.Series) -> dict:
    return {"model": key[0], "benchmark": key[1], "mode": mode, "n": lenient["n"], "accuracy": lenient["accuracy"],
            "strict_accuracy": strict["accuracy"], "chance": strict["chance"], "invalid_rate": strict["invalid"],
            "low": lenient["low"], "high": lenient["high"], "p_chance": strict["p_chance"],
            "constant_accuracy": strict["constant_accuracy"]}  # fmt: skip
