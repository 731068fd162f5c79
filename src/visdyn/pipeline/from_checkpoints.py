"""`visdyn report --from-checkpoints [FOLDER]`: sample and score again with trained models, train nothing, report.

    visdyn report --from-checkpoints                # the profile's own models, after `dvc pull`
    visdyn report --from-checkpoints ../other       # those of another run: its folder, or its models/

Without a folder the stages that measure run in the profile, through DVC (`--single-item`: none of them asks for what it
waits for), so that `make repro` then finds them done. With a folder they run in a profile of their own below
`.visdyn/from_checkpoints`, on links to the folder's models, and touch no result of this one; the report is written
there. A model that is missing is named with the stage that would train it, and nothing runs.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from os.path import relpath
from pathlib import Path

from visdyn.models.weight_files import find_fault
from visdyn.params import Params, load_params
from visdyn.paths import digest_of, profile_root, repository_root
from visdyn.pipeline.console import PLANNED
from visdyn.pipeline.errors import StageError
from visdyn.pipeline.guards import Entry, read_entries
from visdyn.pipeline.run_stages import main as run_stages
from visdyn.pipeline.run_stages import run_command
from visdyn.training.runs import of_chain, requested_runs

SCRATCH = ".visdyn/from_checkpoints"
REPORT = "figures"  # the stage that is only the report


@dataclass(frozen=True)
class Kinds:
    """A profile's stages, each in DVC's order.

    Attributes:
        train: those that write models.
        feed: what a training waits for: the world, mined pairs, labels.
        measure: what waits for models and no training waits for; the report is the last of them.
    """

    train: tuple[str, ...]
    feed: tuple[str, ...]
    measure: tuple[str, ...]


def sort_stages(entries: Mapping[str, Entry]) -> Kinds:
    """Tell the stages that train from those that measure, by what dvc.yaml says they read and write."""
    train = tuple(name for name, entry in entries.items() if any(Path(out).parts[0] == "models" for out in entry.outs))
    waits = _wait_for(entries)
    before = {other for name in train for other in waits[name]} | set(train)
    measure = (name for name in entries if name not in before and waits[name] & set(train))
    return Kinds(train, tuple(name for name in entries if name in before and name not in train), tuple(measure))


def _wait_for(entries: Mapping[str, Entry]) -> dict[str, set[str]]:
    """Return by stage all stages that it waits for, whose outputs it reads or which made those."""
    waits: dict[str, set[str]] = {}
    for name, entry in entries.items():  # DVC's order: what a stage waits for stands before it
        inside = [dep for dep in entry.deps if dep.startswith(("data/", "models/", "reports/"))]
        own = {other for other in waits if any(_writes(entries[other], dep) for dep in inside)}
        waits[name] = own | {further for other in own for further in waits[other]}
    return waits


def measure_again(profile: str, folder: Path | None = None) -> int:
    """Run every stage that measures, and the report; return the first exit status that is not 0.

    Raises:
        StageError: a model is missing or not whole, or a stage needs what only a training writes.
    """
    root, params = profile_root(profile), load_params(profile)
    entries = read_entries(root)
    kinds = sort_stages(entries)
    if folder is None:
        refuse_missing(root, params, params.chains)
        stages = plan_measuring(root, entries, kinds.measure)
        print(f"{len(stages)} stages measure with the models of {profile}; none trains", flush=True)
        return run_stages([*stages, "--profile", profile, "--only", "--force"])
    place = make_profile(profile, folder)
    wanted = [name for name in kinds.measure if name != REPORT]
    stages = plan_measuring(place, entries, wanted)
    print(f"{len(stages)} stages measure with the models of {folder}, none trains; all in {relpath(place)}", flush=True)
    for stage in stages:
        command = [sys.executable, "-m", "visdyn.pipeline", stage, "--profile", str(place)]
        if status := run_command(command, repository_root(), {PLANNED: " ".join(stages)}):
            return status
    from visdyn.reporting.__main__ import main as report  # which calls this module

    return report(["--profile", str(place)])


def plan_measuring(root: Path, entries: Mapping[str, Entry], wanted: Sequence[str]) -> list[str]:
    """Return `wanted` and the stages that make what they read and is not there, in DVC's order; none of them trains.

    Raises:
        StageError: what is not there is written by a training, or by no stage.
    """
    train, run, waiting = sort_stages(entries).train, set(wanted), list(wanted)
    while waiting:
        entry = entries[waiting.pop()]
        for dep in (dep for dep in entry.deps if not (root / dep).exists()):
            maker = next((name for name, other in entries.items() if _writes(other, dep)), None)
            needs = f"stage {entry.stage} needs {dep}, which is not in {root}"
            if maker is None:
                raise StageError(f"{needs}; restore it from git")
            if maker in train:
                fetch = f"{'git restore' if dep.startswith('reports/') else 'dvc pull'} {dep}"
                raise StageError(f"{needs}: stage {maker} writes it when it trains; `{fetch}` brings it back")
            waiting += [] if maker in run else [maker]
            run.add(maker)
    return [name for name in entries if name in run]


def _writes(entry: Entry, dep: str) -> bool:
    return any(Path(dep).is_relative_to(out) for out in entry.outs)


def missing_models(root: Path, params: Params, chain: int) -> Iterator[str]:
    """Yield a sentence for each model of a chain that the parameters ask for and that is not whole below `root`."""
    for stage, path in expected_models(params, chain):
        try:
            own = of_chain(root / path, chain) or root / path
        except FileNotFoundError:  # other chains have one
            own = root / path
        named = (own / "reference.json").is_file()
        if not any(own.glob("*")) or (own == root / path and any(own.glob("s[0-9]*"))):
            yield f"{path} of chain {chain} is not in {root} (stage {stage} would train it)"
        elif not named and (fault := find_fault(own)):
            yield f"{path} of chain {chain} is not whole: {fault}"


def expected_models(params: Params, chain: int) -> Iterator[tuple[str, str]]:
    """Yield (stage that trains it, path without chain) of every model that a chain has, by the parameters."""
    for name in (*params.base_models.references.named, *params.base_models.references.trained):
        yield "base_models", f"models/{name}"
    yield "idm", "models/idm"
    if params.idm.same_labels:
        yield "idm", "models/idm_same_labels"
    for arm, own in requested_runs(params.fdm, params.chains):
        if own == chain:
            yield "fdm", f"models/fdm/{arm}"
    for variant in params.doundo.lambdas:
        yield "doundo", f"models/doundo/{variant}"


def refuse_missing(root: Path, params: Params, chains: Sequence[int]) -> None:
    """Refuse models that are not there, all of them in one sentence.

    Raises:
        StageError: naming them.
    """
    if missing := [line for chain in chains for line in missing_models(root, params, chain)]:
        shown = "; ".join(missing[:5]) + (f"; and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise StageError(f"nothing was measured, because this trains nothing: {shown}. `dvc pull models` fetches them")


def make_profile(profile: str, folder: Path) -> Path:
    """Make a profile of a folder's models, with the parameters and stages of `profile`, and return where it lies.

    Models and data are links; of results the folder's own histories of training are copied, and what no model changes.
    A chain whose models are not all there is left out, which is printed.

    Args:
        folder: of a run, with models/ in it, or that models/ itself.

    Raises:
        StageError: no chain is whole.
    """
    root, params = profile_root(profile), load_params(profile)
    run = folder.resolve()
    models = run / "models" if (run / "models").is_dir() else run
    if not models.is_dir():
        raise StageError(f"{folder} is no folder; give one of a run, with models/ in it, or that models/ itself")
    place = root / SCRATCH / f"{run.name}-{digest_of([str(run), profile])[:8]}"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    (place / "models").symlink_to(models)
    chains, left = [], []
    for chain in params.chains:
        missing = list(missing_models(place, params, chain))
        chains += [] if missing else [chain]
        left += [f"chain {chain} is left out: {missing[0]}"] if missing else []
    if not chains or chains[0] != params.chains[0]:  # the first has what is measured once
        refuse_missing(place, params, params.chains[:1])
    print("\n".join(left), end="\n" if left else "")
    text = (root / "params.yaml").read_text(encoding="utf-8")
    for key, value in (("root", str(repository_root())), ("chains", str(chains))):
        text = re.sub(rf"(?m)^{key}: [^#\n]*", f"{key}: {value} ", text, count=1)
    (place / "params.yaml").write_text(text, encoding="utf-8")
    shutil.copy(root / "dvc.yaml", place)
    _bring_results(place, models.parent if models != run else None, root)
    return place


def _bring_results(place: Path, run: Path | None, root: Path) -> None:
    """Link the data that trainings and measures read, and copy the results that this will not make.

    Args:
        run: the folder's run, where it is one: its data, and the histories of its trainings.
        root: of the profile, for what depends on no model.
    """
    entries = read_entries(place)
    kinds, waits = sort_stages(entries), _wait_for(entries)
    of_models = {name for name in entries if name in kinds.train or waits[name] & set(kinds.train)}
    (place / "data").mkdir()
    for name in kinds.feed:
        for source in [source for source in (run, None if name in of_models else root) if source is not None]:
            for out in entries[name].outs:
                if out.startswith("data/") and (source / out).exists() and not (place / out).exists():
                    (place / out).symlink_to((source / out).resolve())
    results = place / "reports/results"
    results.mkdir(parents=True)
    for name in (name for name in entries if name not in kinds.measure):
        source = run if name in of_models else root
        if source is not None and (source / "reports/results" / name).is_dir():
            shutil.copytree(source / "reports/results" / name, results / name)
