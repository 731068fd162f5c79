"""Trials of choices: a model trained with another parameter by the kit's own recipes, measured on the dev items.

Each kind of trial starts from the chain's own checkpoints and trains with the chain's own seed, so that its values
differ by the parameter alone. Nothing of the profile is written: what a trial makes lies in the choice's folder.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from visdyn.compute.pool import map_processes
from visdyn.compute.seeds import sampling_seed
from visdyn.datasets.aurora import load_bench
from visdyn.datasets.clips import find_clips
from visdyn.datasets.doundo_bench import load
from visdyn.evaluation.benches.bench_aurora import ForwardEvaluation
from visdyn.evaluation.benches.bench_doundo import EditingEvaluation
from visdyn.evaluation.benches.inverse import describe
from visdyn.evaluation.metrics.text_metrics import exact_match
from visdyn.evaluation.systems.doundo_systems import edit_with_models, score_doundo
from visdyn.evaluation.systems.forward_systems import sample_models
from visdyn.evaluation.systems.outputs import FORWARD, Checkpoint, SystemImages
from visdyn.inference.annotation import Decoding, annotate
from visdyn.inference.probing import preferences, probe
from visdyn.kitchen.truth import open_truth
from visdyn.mining.clip_mining import ClipSettings, mine_clips
from visdyn.mining.mined_files import ImagePair, read_pairs, write_pairs
from visdyn.models import load_model
from visdyn.params import Params
from visdyn.params.reading import read_values
from visdyn.pipeline.errors import StageError
from visdyn.pipeline.stage import Stage
from visdyn.stages.base_models import base_jobs
from visdyn.stages.doundo import doundo_jobs
from visdyn.stages.fdm import arm_jobs
from visdyn.stages.idm import idm_jobs
from visdyn.training.engine.launch import Job, run_jobs
from visdyn.training.runs import run_name
from visdyn.trajectory import Trajectory
from visdyn.yaml_files import read_yaml

DEV = "data/dev"
Row = tuple[str, float, int]  # metric, score, number of items


@dataclass(frozen=True)
class Trial(Stage):
    """The stages of one trial: their parameters changed, one chain, nothing of the profile written.

    Attributes:
        value: the value tried, as results name it.
        folder: of all trials of the choice; scratch, models and images lie there.
        own: whether the value is the one that the profile has.
        dev: whether items and known states are the dev items'.
    """

    value: str
    folder: Path
    own: bool
    dev: bool = False

    @property
    def chain(self) -> int:
        """The one chain of the trial."""
        return self.settings.chains[0]

    @property
    def run(self) -> str:
        """What the trial's model is called."""
        return run_name(re.sub(r"[^\w.]+", "_", self.value), self.chain)

    @property
    def kitchen(self) -> Path | None:
        """The rendered world, or the dev items, which are written like one."""
        return self.path(DEV) if self.dev else super().kitchen

    def open(self, name: str) -> Trial:
        """Return the same trial as stage `name`."""
        return replace(self, name=name, params=getattr(self.settings, name))

    def scratch(self, key: str = "") -> Path:
        """Return a folder of the choice, created; its trials share encoded triplets."""
        folder = self.folder / key
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def results(self, name: str | None = None) -> Path:
        """Return where a stage of the trial leaves its tables: not among the profile's results."""
        return self.scratch(f"results/{name or self.name}")


def open_trial(stage: Stage, settings: Params, value: str, chain: int, folder: Path, arm: str, own: bool) -> Trial:
    """Open a trial of a profile.

    Args:
        settings: the profile's, with the value in place.
        arm: of an FDM.
        own: whether the value is the one that the profile has.

    Raises:
        StageError: the profile has no dev items.
    """
    if not (stage.path(DEV) / "aurora/test.json").is_file():
        raise StageError(f"{stage.path(DEV)} holds no dev items; run `dvc repro world` in a profile of the kitchen")
    settings = replace(
        settings,
        chains=(chain,),
        fdm=replace(settings.fdm, arms=(arm,), first_chain_arms=()),
        doundo=replace(settings.doundo, variants=("doundo",), weights=()),
    )
    return Trial("choices", stage.profile, stage.root, stage.repository, settings, settings, value, folder, own)


def on_dev(trial: Trial) -> Trial:
    """Return a trial whose data are the dev items."""
    places = {name: f"{DEV}/{name}" for name in ("aurora", "epic", "clips", "doundo")}
    settings = replace(trial.settings, data=replace(trial.settings.data, **places))
    return replace(trial, settings=settings, params=settings, dev=True)


def run_trials(kind: str, trials: Sequence[Trial], first_chain: int) -> pd.DataFrame:
    """Train and measure the trials of one choice: columns value, chain, metric, score, n, steps.

    Trainings go side by side, one a core, and go on where a killed run left them. What the pipeline trained with these
    very parameters is measured as it is.

    Args:
        first_chain: of the profile; what is one for all chains is measured there alone.

    Raises:
        StageError: a checkpoint that the trials start from is not there.
    """
    make, measure = KINDS[kind]
    made, models, waiting = [make(trial) for trial in trials], [], []
    for trial, (jobs, model) in zip(trials, made, strict=True):
        trained = find_trained(kind, trial)
        models.append(trained or model)
        waiting += [] if trained else jobs
    if waiting:
        run_jobs(waiting, trials[0].scratch("jobs"), trials[0].settings.runtime.hardware)
    found = measure([on_dev(trial) for trial in trials], models, first_chain)
    tables = []
    for trial, (jobs, _), rows in zip(trials, made, found, strict=True):
        table = pd.DataFrame(rows, columns=["metric", "score", "n"])
        steps = sum(map(_count_steps, jobs)) or float("nan")
        tables.append(table.assign(value=trial.value, chain=trial.chain, steps=steps))
    return pd.concat(tables, ignore_index=True)


def find_trained(kind: str, trial: Trial) -> str | None:
    """Return the model that the pipeline has of a trial, or None: another value, other parameters, or not trained.

    Seeds, data and recipe of a trial are the chain's, so that the chain's own model is what the trial would make, as
    long as dvc.lock says that it was trained with the parameters of today.
    """
    if not trial.own or kind not in TRAINED:
        return None
    sections, name = TRAINED[kind]
    try:
        model = trial.reference(name.format(arm=trial.settings.fdm.arms[0]), trial.chain)
    except FileNotFoundError:  # other chains have one
        return None
    lock = trial.root / "dvc.lock"
    if not Path(model).is_dir() or not lock.is_file():
        return None
    stages, now = read_yaml(lock)["stages"], read_values(trial.root)
    used = [stages.get(section, {}).get("params", {}).get("params.yaml", {}).get(section) for section in sections]
    return model if used == [now[section] for section in sections] else None


# The stages that train what a kind of trial makes, and where they write it.
TRAINED = {
    "idm": (("idm",), "models/idm"),
    "fdm": (("fdm",), "models/fdm/{arm}"),
    "doundo": (("doundo",), "models/doundo/doundo"),
    "generator": (("base_models", "doundo"), "models/doundo/doundo"),
    "base": (("base_models",), "models/base"),
}


def _count_steps(job: Job) -> int:
    recipe = job.arguments["recipe"] if "recipe" in job.arguments else job.arguments["config"]["training"]
    return recipe["steps"]


# ------------------------------------------------------------------------------------------------------- what is made


def _require(trial: Trial, model: str) -> str:
    """Return the folder of the chain's model of that name.

    Raises:
        StageError: it is not there.
    """
    found = trial.reference(model, trial.chain)
    if not Path(found).is_dir():
        raise StageError(f"a trial of chain {trial.chain} needs {model}, which is not in {trial.root}; run its stage")
    return found


def _placed(trial: Trial, job: Job, suffix: str = "", after: tuple[str, ...] = (), **arguments) -> Job:
    """Return a stage's job under the trial's name, writing to the choice's folder."""
    name = trial.run + suffix
    output = {"output": str(trial.folder / "models" / name)}
    return replace(job, name=name, after=after, arguments={**job.arguments, **arguments, **output})


Made = tuple[list[Job], str]  # training jobs of a trial, and the folder of the model that is measured


def _made(*jobs: Job) -> Made:
    return list(jobs), jobs[-1].arguments["output"]


def _make_idm(trial: Trial) -> Made:
    _require(trial, trial.settings.idm.base)
    return _made(_placed(trial, idm_jobs(trial.open("idm"))[0][0]))


def _make_fdm(trial: Trial) -> Made:
    _require(trial, trial.settings.fdm.base)
    return _made(_placed(trial, arm_jobs(trial.open("fdm"))[0][0]))


def _make_doundo(trial: Trial) -> Made:
    _require(trial, trial.settings.doundo.base)
    return _made(_placed(trial, doundo_jobs(trial.open("doundo"))[0]))


def _make_generator(trial: Trial) -> Made:
    """The base generator anew, and Do-Undo from it."""
    _require(trial, "models/autoencoder")
    base, tuned = _placed(trial, _find_job(trial, "generator"), "-base"), doundo_jobs(trial.open("doundo"))[0]
    config = {**tuned.arguments["config"], "base": base.arguments["output"]}
    return _made(base, _placed(trial, tuned, after=(base.name,), config=config))


def _make_base(trial: Trial) -> Made:
    tokenizer = Path(_require(trial, "models/base")) / "vqgan"
    return _made(_placed(trial, _find_job(trial, "base"), vqgan=str(tokenizer)))


def _take_doundo(trial: Trial) -> Made:
    return [], _require(trial, "models/doundo/doundo")


def _take_idm(trial: Trial) -> Made:
    return [], _require(trial, trial.settings.annotation.model)


def _find_job(trial: Trial, kind: str) -> Job:
    found = [job for job in base_jobs(trial.open("base_models")) if job.name == run_name(kind, trial.chain)]
    if not found:
        raise StageError(f"base_models.references names the {kind}, so that none is trained here; nothing can be tried")
    return found[0]


# --------------------------------------------------------------------------------------------------- what is measured


def _measure_idm(trials: Sequence[Trial], models: Sequence[str], first_chain: int) -> list[list[Row]]:
    items = load_bench(trials[0].data("aurora"))
    longest = trials[0].settings.idm_evaluation.max_new_tokens
    answers = map_processes(_predict, models, (items, longest, trials[0].device))
    metrics = [exact_match(predictions, [item.action for item in items]) for predictions in answers]
    return [[(metric.metric, metric.value, metric.n)] for metric in metrics]


def _predict(shared: tuple[list[Trajectory], int, str], path: str) -> list[str]:
    items, longest, device = shared
    return describe(load_model(path, device=device), items, "", 0, longest)["prediction"].tolist()


def _measure_fdm(trials: Sequence[Trial], models: Sequence[str], first_chain: int) -> list[list[Row]]:
    items, truth = load_bench(trials[0].data("aurora")), open_truth(trials[0].kitchen)
    candidates = truth.reachable_images("aurora_test", [item.id for item in items])
    evaluation = ForwardEvaluation(items, [None] * len(items), candidates, None, None)
    checkpoints = list(map(_checkpoint, trials, models))
    settings, outputs = trials[0].settings, trials[0].scratch("outputs")
    drawn, prompts = settings.evaluation.sampling, settings.prompts
    systems = sample_models(items, checkpoints, outputs, trials[0].device, drawn, prompts)
    verdicts = [evaluation.judge(_check_images(system).images[FORWARD]) for system in systems]
    return [[(name, table[name].mean(), len(table)) for name in ("score", "success")] for table in verdicts]


def _measure_doundo(trials: Sequence[Trial], models: Sequence[str], first_chain: int) -> list[list[Row]]:
    pairs = load(trials[0].data("doundo") / "annotations_test.json", trials[0].data("epic") / "frames")
    truth, ids, unknown = open_truth(trials[0].kitchen), [pair.id for pair in pairs], [None] * len(pairs)
    ways = tuple(truth.reachable_images("epic_validation", ids, backwards) for backwards in (False, True))
    evaluation, found = EditingEvaluation(pairs, (unknown, unknown), ways, None, None), []
    for trial, model in zip(trials, models, strict=True):  # one after another: the sampler's steps may differ
        settings, outputs = trial.settings.evaluation_doundo, trial.scratch("outputs")
        named, prompts, steps = [_checkpoint(trial, model)], settings.prompts, settings.flow_steps or None
        systems = edit_with_models(pairs, named, outputs, trial.device, prompts, ("generated",), steps)
        scores = score_doundo(evaluation, list(map(_check_images, systems)))
        joint = scores[scores["metric"] == "joint"].groupby("prompt")["value"]
        found.append([(f"joint_{prompt}", values.mean(), len(values)) for prompt, values in joint])
    return found


def _measure_base(trials: Sequence[Trial], models: Sequence[str], first_chain: int) -> list[list[Row]]:
    items = load_bench(trials[0].data("aurora"))
    return map_processes(_prefer, models, (items, trials[0].seed, trials[0].device))


def _prefer(shared: tuple[list[Trajectory], int, str], path: str) -> list[Row]:
    items, seed, device = shared
    table = preferences(probe(load_model(path, device=device), items, seed, "base"))
    # Each negative has as many comparisons as the others, so that means of rates are rates of all.
    return [(f"preferred_{task}", part["preferred"].mean() / 100, int(part["n"].sum()))
            for task, part in table.groupby("task")]  # fmt: skip


def _measure_mining(trials: Sequence[Trial], models: Sequence[str], first_chain: int) -> list[list[Row]]:
    """Share of pairs between two settled states that differ, and of right labels where one true action is known."""
    truth, found = open_truth(trials[0].kitchen), []
    settled = truth.settled_ranges()
    for trial, model in zip(trials, models, strict=True):
        mining, own = trial.settings.mining, trial.scratch(f"mined/{trial.run}")
        selection = (mining.top_k, mining.min_interval, (mining.mode,), mining.flow)
        settings = ClipSettings(*selection, mining.frame_rate, mining.mode, mining.flow_size, mining.first_pass)
        mined = mine_clips(find_clips(trial.data("clips")), settings, settled, images=own / "images")
        write_pairs(mined, mining.mode, own / "images", own)
        pairs, counts = read_pairs(own), mined.stats[["num_pairs", "num_clean_pairs"]].sum()
        truths = truth.true_actions([pair.frames for pair in pairs])
        known = [(pair, action) for pair, action in zip(pairs, truths, strict=True) if action]
        right = _label_rightly(trial, model, known)
        rows = [("right_labels", float(np.mean(right)) if right else float("nan"), len(right))]
        if trial.chain == first_chain and counts["num_pairs"]:
            rows.append(("clean_pairs", counts["num_clean_pairs"] / counts["num_pairs"], int(counts["num_pairs"])))
        found.append(rows)
    return found


def _label_rightly(trial: Trial, model: str, known: Sequence[tuple[ImagePair, str]]) -> list[bool]:
    """Return, for each pair and its true action, whether the chain's IDM gives that action."""
    params = trial.settings.annotation
    seed = sampling_seed(trial.seed, "labels", trial.chain)
    decoding = Decoding(params.decoding, params.temperature, params.max_new_tokens, seed)
    idm, right = load_model(model, device=trial.device).inverse_dynamics, []
    for start in range(0, len(known), params.batch_size):
        pairs, truths = zip(*known[start : start + params.batch_size], strict=True)
        sources, targets = ([getattr(pair, end) for pair in pairs] for end in ("source", "target"))
        labels = annotate(idm, sources, targets, decoding, [pair.id for pair in pairs])
        right += [label.action == true for label, true in zip(labels, truths, strict=True)]
    return right


def _checkpoint(trial: Trial, model: str) -> Checkpoint:
    return Checkpoint(trial.run, trial.chain, model, trial.run, sampling_seed(trial.seed, "images", trial.chain))


def _check_images(system: SystemImages) -> SystemImages:
    if not system.images:
        raise StageError(f"trial {system.name} made no images: {system.note}")
    return system


Make = Callable[[Trial], Made]
Measure = Callable[[Sequence[Trial], Sequence[str], int], list[list[Row]]]
# Of each kind of trial (`params.choices.TrialName`): what is made of the chain's checkpoints, and how it is measured.
KINDS: dict[str, tuple[Make, Measure]] = {
    "idm": (_make_idm, _measure_idm),
    "fdm": (_make_fdm, _measure_fdm),
    "doundo": (_make_doundo, _measure_doundo),
    "generator": (_make_generator, _measure_doundo),
    "sampling": (_take_doundo, _measure_doundo),
    "base": (_make_base, _measure_base),
    "mining": (_take_idm, _measure_mining),
}
