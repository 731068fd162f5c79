"""What a sceptic asks for beyond the default's half hour (`make robust`), on what a finished run left.

Each *experiment* changes a few parameters of the default, trains in every chain from the chain's own base (or
generator), and is measured as the default's systems are. It lives in a folder of its own that looks like a profile,
`data/kept/robust/<name>-<digest>`: links to what the run made, and what it makes itself. The digest is of its
parameters and of what it starts from, so what exists is kept and what a new run made stale is made anew.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from visdyn.compute.seeds import sampling_seed
from visdyn.datasets.annotated import read_annotated, write_annotated
from visdyn.evaluation.benches.bench import DOUNDO_BENCH
from visdyn.evaluation.leaderboard import leaderboard
from visdyn.evaluation.systems.doundo_systems import edit_with_models, score_doundo
from visdyn.evaluation.systems.forward_systems import sample_models, score_forward
from visdyn.evaluation.systems.outputs import Checkpoint, code_digest, model_digest
from visdyn.params import Params
from visdyn.paths import digest_of
from visdyn.pipeline.stage import Stage, open_stage
from visdyn.result_tables import read_columns
from visdyn.stages.annotation import label_pairs, load_pairs, select_pairs, write_selected
from visdyn.stages.doundo import doundo_jobs
from visdyn.stages.evaluation.load_aurora import forward_evaluation
from visdyn.stages.evaluation.load_doundo import doundo_evaluation
from visdyn.stages.evaluation.system_specs import checkpoint, outputs_folder
from visdyn.stages.fdm import arm_jobs
from visdyn.stages.mining import mine_key_frames
from visdyn.training.arms import arms_table
from visdyn.training.dynamics_data import sample
from visdyn.training.engine.launch import Job
from visdyn.training.runs import member, run_name

FOLDER = "data/kept/robust"
MADE = ("models/base", "models/idm", "models/generator", "models/autoencoder", "data/kitchen")
MADE += ("data/mined", "data/annotated")
PAPER_SHARE = 0.12  # of synthetic triplets among all that the paper's C-FDM learns from
DRAWS = 3  # sampling seeds of one checkpoint; the first is the default's own
# Arms of the default, or of its first chain alone, in every chain: the two negative controls, Eq. 2 without a floor,
# and the upper bound of labels.
WHOLE = ("weights_permuted", "labels_shuffled", "synthetic_weighted_nofloor", "synthetic_weighted_true")
DRAWN = ("supervised", "synthetic_weighted")
LAMBDAS = (0.4, 0.6, 0.8, 1.0)  # Do-Undo, appendix A; the default trains 0 (`doundo`) and 0.5 (`doundo_c`)
RUNS = ["system", "run", "chain", "num_supervised", "num_synthetic", "weighting", "floor", "steps", "mode"]
_CODE = ("training", "models", "mining", "inference/annotation.py", "stages/robust.py")


@dataclass(frozen=True)
class Experiment:
    """One change to the default run.

    Attributes:
        name: of the system that it makes.
        run: the arm (`training.arms.ARMS`) or variant of Do-Undo that is trained.
        changes: section of params.yaml -> keys and what they hold instead, sections within sections too.
        share: of synthetic triplets among all; None takes every selected pair.
    """

    name: str
    run: str
    changes: dict[str, dict[str, Any]] = field(default_factory=dict)
    share: float | None = None

    @property
    def makes(self) -> set[str]:
        """The data that it does not take from the run."""
        mined = {"data/mined"} if "mining" in self.changes else set()
        return mined | ({"data/annotated"} if mined or self.share is not None else set())

    @property
    def section(self) -> str:
        """`fdm` or `doundo`."""
        return "doundo" if "doundo" in self.changes else "fdm"


@dataclass(frozen=True)
class ExperimentStage(Stage):
    """A stage as an experiment has it, in the experiment's folder, whose name already says what it depends on."""

    def scratch(self, key: str = "") -> Path:
        """Return `.visdyn/scratch/<stage>/<key>`, created; a later run finds what lies there."""
        folder = self.root / ".visdyn/scratch" / self.name / key
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def list_experiments(settings: Params, num_supervised: int) -> list[Experiment]:
    """Return what is tried, in order.

    Args:
        num_supervised: triplets that C-FT learns from; its epochs are those of `*_same_epochs`.
    """
    training = settings.fdm.training
    epochs = training.epochs or max(1, round(training.steps * training.batch_size / num_supervised))
    same = {"fdm": {"training": {"steps": None, "epochs": epochs}}}
    grid = [
        Experiment(f"doundo_c_{weight:g}", "doundo_c", {"doundo": {"consistency": {"weight": weight}}})
        for weight in LAMBDAS
    ]
    return [
        *(Experiment(arm, arm) for arm in WHOLE),
        Experiment("floor_0.25", "synthetic_weighted", {"fdm": {"floor": 0.25}}),
        Experiment("letter", "synthetic_weighted_nofloor", {"mining": {"mode": "top_then_space"}}),
        Experiment("synthetic_same_epochs", "synthetic", same),
        Experiment("synthetic_weighted_same_epochs", "synthetic_weighted", same),
        Experiment("synthetic_weighted_paper_share", "synthetic_weighted", share=PAPER_SHARE),
        *(grid if settings.doundo.consistency else []),
    ]


def changed(section: Any, values: dict[str, Any]) -> Any:
    """Return a section of the parameters with other values; a mapping changes a section within it."""
    inner = {
        name: changed(getattr(section, name), value) if isinstance(value, dict) else value
        for name, value in values.items()
    }
    return replace(section, **inner)


def open_experiment(stage: Stage, experiment: Experiment, section: str) -> ExperimentStage:
    """Return stage `section` as the experiment has it: its parameters, in its folder, which is made where needed."""
    settings = stage.settings
    for name, values in experiment.changes.items():
        settings = replace(settings, **{name: changed(getattr(settings, name), values)})
    if experiment.section == "fdm":
        settings = replace(settings, fdm=replace(settings.fdm, arms=(experiment.run,), first_chain_arms=()))
    else:
        settings = replace(settings, doundo=replace(settings.doundo, variants=(experiment.run,), weights=()))
    used = {name: asdict(getattr(settings, name)) for name in ("mining", "annotation", "fdm", "doundo", "world")}
    starts = [name for name in MADE if (stage.root / name).exists()]
    made = {name: _digest_folder(stage.root / name) for name in starts}
    digest = digest_of([used, experiment.share, settings.seed, list(settings.chains), made, code_digest(*_CODE)])
    root = stage.root / FOLDER / f"{experiment.name}-{digest[:10]}"
    for name in set(starts) - experiment.makes:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if not (root / name).exists():
            os.symlink(stage.root / name, root / name)
    params = getattr(settings, section)
    return ExperimentStage(section, stage.profile, root, stage.repository, params, settings)


@cache
def _digest_folder(folder: Path) -> str:
    return model_digest(str(folder))


def make_labels(stage: Stage, experiments: Sequence[Experiment], num_supervised: int) -> pd.DataFrame:
    """Make the labelled pairs of the experiments that have their own; what was mined or labelled is kept.

    Returns:
        columns system, chain, pairs, selected, correct (robust/labels.csv): labels of newly mined pairs, and the share
        of right ones among those selected whose true action is known.
    """
    rows = []
    for experiment in experiments:
        if experiment.share is not None:
            thin_labels(stage, experiment, num_supervised)
        elif "data/mined" in experiment.makes:
            for chain, pairs in mine_labels(stage, experiment).groupby("chain"):
                chosen = pairs[pairs["selected"] == 1]
                rows.append([experiment.name, chain, len(pairs), len(chosen), chosen["correct"].mean()])
    return pd.DataFrame(rows, columns=["system", "chain", "pairs", "selected", "correct"])


def mine_labels(stage: Stage, experiment: Experiment) -> pd.DataFrame:
    """Mine an experiment's key-frame pairs and label them with every chain's IDM; return the labels."""
    mining, annotation = (open_experiment(stage, experiment, name) for name in ("mining", "annotation"))
    mine_key_frames(mining, mining.quarantine())
    labelled = label_pairs(annotation, load_pairs(annotation), annotation.quarantine())
    return write_selected(annotation, labelled, select_pairs(annotation, labelled))


def thin_labels(stage: Stage, experiment: Experiment, num_supervised: int) -> None:
    """Write each chain's labelled triplets, but only so many that they are the experiment's share of all."""
    own = open_experiment(stage, experiment, "fdm")
    count = round(experiment.share / (1 - experiment.share) * num_supervised)
    for chain in stage.chains:
        rows = read_annotated(member(stage.path("data/annotated"), chain))
        write_annotated(sample(rows, count, stage.seed, f"share-{chain}"), member(own.path("data/annotated"), chain))


def training_jobs(stage: Stage, experiments: Sequence[Experiment]) -> tuple[list[Job], pd.DataFrame]:
    """Return every experiment's jobs, named by folder and chain, and what each run learns from (robust/runs.csv)."""
    jobs, tables = [], []
    for experiment in experiments:
        own = open_experiment(stage, experiment, experiment.section)
        mode = own.settings.mining.mode
        if experiment.section == "fdm":
            made, inputs, _ = arm_jobs(own)
            table = arms_table(own.params, inputs).rename(columns={"arm": "run"}).assign(mode=mode)
        else:
            made = doundo_jobs(own)
            table = pd.DataFrame({"run": experiment.run, "chain": own.chains, "steps": own.params.training.steps})
        tables.append(table.assign(system=experiment.name))
        jobs += [replace(job, name=run_name(own.root.name, chain)) for job, chain in zip(made, own.chains, strict=True)]
    table = pd.concat(tables, ignore_index=True)
    return jobs, table.reindex(columns=RUNS).fillna({"weighting": "", "mode": ""})


def trained(stage: Stage, experiments: Sequence[Experiment], section: str) -> list[Checkpoint]:
    """Return the checkpoints of one section's experiments, each with the noise of its chain's other systems."""
    found = []
    for experiment in experiments:
        if experiment.section == section:
            own = open_experiment(stage, experiment, section)
            for chain in stage.chains:
                path = own.path(f"models/{section}") / run_name(experiment.run, chain)
                found.append(checkpoint(stage, experiment.name, chain, str(path), str(path.relative_to(stage.root))))
    return found


def _sibling(stage: Stage, section: str) -> Stage:
    return open_stage(section, stage.profile)


def forward_scores(stage: Stage, experiments: Sequence[Experiment]) -> pd.DataFrame:
    """Sample and score every FDM on AURORA-Bench; and the first chain's own C-FT and C-FDM with further noise.

    Returns:
        columns system, chain, draw, subset, id, metric, value (robust/fdm_scores.csv).
    """
    evaluation, outputs = forward_evaluation(_sibling(stage, "evaluation")), outputs_folder(stage, "aurora")
    first, parts = stage.chains[0], []
    for draw in range(DRAWS):
        seed = sampling_seed(stage.seed, f"images/{draw}" if draw else "images", first)
        again = [
            replace(checkpoint(stage, name, first, str(stage.path("models/fdm") / run_name(name, first)), name),
                    noise_seed=seed)
            for name in DRAWN
        ]  # fmt: skip
        asked = again if draw else [*trained(stage, experiments, "fdm"), *again]
        drawn, prompts = stage.settings.evaluation.sampling, stage.settings.prompts
        systems = sample_models(evaluation.trajectories, asked, outputs, stage.device, drawn, prompts)
        parts.append(score_forward(evaluation, systems).assign(draw=draw))
    return pd.concat(parts, ignore_index=True)[["system", "chain", "draw", "subset", "id", "metric", "value"]]


def doundo_scores(stage: Stage, experiments: Sequence[Experiment]) -> pd.DataFrame:
    """Edit and score every weight of the consistency loss on the Do-Undo benchmark (robust/doundo_scores.csv)."""
    measuring = _sibling(stage, "evaluation_doundo")
    evaluation, params = doundo_evaluation(measuring), measuring.params
    options = ("long",), params.reverse_from, params.flow_steps or None
    checkpoints, outputs = trained(stage, experiments, "doundo"), outputs_folder(stage, "doundo")
    return score_doundo(evaluation, edit_with_models(evaluation.pairs, checkpoints, outputs, stage.device, *options))


def boards(stage: Stage, forward: pd.DataFrame, doundo: pd.DataFrame) -> pd.DataFrame:
    """Compare the experiments with the default's own systems: C-FDM, and Do-Undo without the consistency loss.

    Further draws of a checkpoint stand as `<system>_draw_<draw>`.
    """
    drawn = forward["system"] + ("_draw_" + forward["draw"].astype(str)).where(forward["draw"] > 0, "")
    default = _default_scores(stage, "evaluation/fdm_scores.csv", stage.settings.fdm.arms)
    # The first draw of a default system is the default's own.
    ours = forward.assign(system=drawn)[(forward["draw"] > 0) | ~forward["system"].isin(DRAWN)]
    tables = [leaderboard(pd.concat([ours.drop(columns="draw"), default]), "B", "synthetic_weighted", stage.seed)]
    if len(doundo):
        kept = ("base", *stage.settings.doundo.variants)
        default = _default_scores(stage, "evaluation_doundo/doundo_scores.csv", kept)
        both = pd.concat([doundo, default[default["prompt"] == "long"]])
        tables.append(leaderboard(both, "D", "doundo", stage.seed, DOUNDO_BENCH.label_columns))
    return pd.concat(tables, ignore_index=True)


def _default_scores(stage: Stage, name: str, systems: Sequence[str]) -> pd.DataFrame:
    table = read_columns(name, stage.results(name.partition("/")[0]) / name.partition("/")[2])
    return table[table["system"].isin(systems)]
