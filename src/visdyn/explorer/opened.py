"""A profile as the explorer sees it: its models, loaded when they are asked for, its test items and their scores."""

from __future__ import annotations

import gc
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from visdyn.compute.seeds import sampling_seed
from visdyn.datasets.aurora import load_bench
from visdyn.evaluation.metrics.registry import AURORA, metric
from visdyn.explorer.pack import find_pack, unpack
from visdyn.images import load
from visdyn.kitchen.state import KitchenError, inverse
from visdyn.kitchen.text import all_actions, canonical, parse_action
from visdyn.kitchen.truth import load_truth, open_truth
from visdyn.models import load_model
from visdyn.models.checkpoints import locate
from visdyn.models.dynamics_pair import load_dynamics
from visdyn.models.editors import load_editor
from visdyn.models.protocols import ForwardDynamics, InverseDynamics
from visdyn.models.token.unified import TokenForwardDynamics
from visdyn.params.sampling import Sampling
from visdyn.pipeline import open_stage
from visdyn.pipeline.stage import Stage
from visdyn.reporting.names import DOUNDO_SYSTEMS, FDM_SYSTEMS, doundo_system, fdm_system, system_order
from visdyn.training.runs import of_chain, runs_in
from visdyn.trajectory import Trajectory

TOKENS, EDITOR = "tokens", "editor"  # what an arm is: a forward-dynamics model, or an image editor
OWN = "own"  # the subset of images that the user brought
_ROOM = 4 * 2**30  # bytes of weights that stay in memory; the model in use always does
_MOST_ACTIONS = 32  # that an IDM is asked about where the world has no list of its own


@dataclass(frozen=True)
class Arm:
    """A model that makes the next image.

    Attributes:
        name: as result tables call it.
        label: as the papers print it.
        kind: `tokens` (a `ForwardDynamics`) or `editor` (an `ImageEditor`).
        reference: what `load_model` or `load_editor` takes.
    """

    name: str
    label: str
    kind: str
    reference: str


@dataclass
class Shelf:
    """Models by key; those used longest ago are let go while together they hold more than `room` bytes."""

    room: int = _ROOM
    _kept: OrderedDict[Any, tuple[Any, int]] = field(default_factory=OrderedDict)

    def take(self, key: Any, make: Callable[[], Any], size: int) -> Any:
        """Return the model of a key, made where it is not kept; `size` is its weights' bytes."""
        if key not in self._kept:
            self._release(self.room - size)  # before the next one comes: a GPU has no room for both
            self._kept[key] = make(), size
        self._kept.move_to_end(key)
        return self._kept[key][0]

    def _release(self, room: int) -> None:
        while self._kept and sum(size for _, size in self._kept.values()) > max(room, 0):
            self._kept.popitem(last=False)
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


@dataclass
class Opened:
    """A profile's models of one chain with the test items of AURORA-Bench.

    Attributes:
        stage: where results and parameters are.
        place: the same stage where models and data are: the profile, or what was unpacked from `data/pack`.
        chain: whose models are shown.
        note: a sentence on where the models come from; empty where they are the profile's own.
        added: models that the caller named, label -> reference.
    """

    stage: Stage
    place: Stage
    chain: int
    note: str = ""
    added: Mapping[str, str] = field(default_factory=dict)
    shelf: Shelf = field(default_factory=Shelf)

    @cached_property
    def items(self) -> list[Trajectory]:
        """The test items; in the kitchen each has a target, elsewhere it may be None."""
        bad = self.place.quarantine()
        targets = "required" if self.truth.known else "optional"
        return load_bench(self.place.data("aurora"), quarantine=bad, targets=targets)

    def item(self, subset: str, name: str) -> Trajectory:
        """Return the test item of a subset and an id.

        Raises:
            KeyError: there is none.
        """
        found = next((item for item in self.items if (item.subset, item.id) == (subset, name)), None)
        if found is None:
            raise KeyError(f"profile {self.stage.profile!r} has no test item {subset}/{name}")
        return found

    @cached_property
    def truth(self):
        """What is known of the kitchen's images; of real data nothing is."""
        return open_truth(self.place.kitchen)

    @cached_property
    def arms(self) -> dict[str, Arm]:
        """The models that make images, by name: the base, the FDMs, the generators, in the papers' order."""
        found = {name: Arm(name, name, TOKENS, reference) for name, reference in self.added.items()}
        base = self.place.reference(self.stage.settings.fdm.base, self.chain)
        runs = {name: str(folder) for name, chain, folder in runs_in(self.place.path("models/fdm"))
                if chain == self.chain}  # fmt: skip
        runs |= {"zero_shot": base} if self._has(self.stage.settings.fdm.base) or not runs else {}
        for name in system_order(runs, FDM_SYSTEMS):
            found[name] = Arm(name, fdm_system(name), TOKENS, runs[name])
        editors = {name: str(folder) for name, chain, folder in runs_in(self.place.path("models/doundo"))
                   if chain == self.chain}  # fmt: skip
        if self._has("models/generator"):
            editors["base"] = self.place.reference("models/generator", self.chain)
        editors |= {entry.name: self.place.reference(entry.model) for entry in self.stage.settings.evaluation.editors}
        for name in system_order(editors, DOUNDO_SYSTEMS):
            found[name] = Arm(name, doundo_system(name), EDITOR, editors[name])
        return found

    @cached_property
    def actions(self) -> list[str]:
        """The actions offered in lists: all of the kitchen's, elsewhere those of the test items."""
        if self.truth.known:
            return [canonical(action) for action in all_actions()]
        return sorted({item.action for item in self.items})

    def asked_actions(self, item: Trajectory) -> list[str]:
        """Return the actions that an IDM is asked about: all of the kitchen's, elsewhere some of the item's subset."""
        if self.truth.known:
            return self.actions
        return sorted({one.action for one in self.items if item.subset in (one.subset, OWN)})[:_MOST_ACTIONS]

    def undoing(self, action: str) -> str:
        """Return the action that undoes one of the kitchen's; empty where none is known."""
        try:
            return canonical(inverse(parse_action(action))) if self.truth.known else ""
        except KitchenError:
            return ""

    @cached_property
    def scores(self) -> pd.DataFrame:
        """Scores of the chain's systems, `evaluation/fdm_scores.csv`; without rows where none were measured yet.

        Columns: system, subset, id, metric, value.
        """
        columns = ["system", "subset", "id", "metric", "value"]
        try:
            table = self.stage.read_table("evaluation/fdm_scores.csv")
        except FileNotFoundError:
            return pd.DataFrame(columns=columns)
        table = table[(table["chain"] == self.chain) & table["system"].isin(list(self.arms))]
        return table[columns].reset_index(drop=True)

    def is_better_high(self, name: str) -> bool:
        """Tell which way a metric of `scores` is read."""
        return metric(name, AURORA).higher_is_better

    def reachable(self, item: Trajectory) -> dict[str, np.ndarray]:
        """Return, by action, the true image of every state that one valid action leads to; empty on real data."""
        if not self.truth.known or item.subset == OWN:
            return {}
        texts = [one["text"] for one in self._true_records[item.id]["candidates"]]
        (images,) = self.truth.reachable_images("aurora_test", [item.id])
        return dict(zip(texts, images, strict=True))

    @cached_property
    def _true_records(self) -> dict[str, dict[str, Any]]:
        return {record["id"]: record for record in load_truth(self.place.kitchen, "aurora_test")}

    def seed_of(self, what: str, number: int) -> int:
        """Return the seed of `images` or `candidates`; number 0 is the one that the tables' images were drawn with."""
        return sampling_seed(self.stage.seed, f"{what}/{number}" if number else what, self.chain)

    @property
    def image_sampling(self) -> Sampling:
        """How stage `evaluation` samples."""
        return self.stage.settings.evaluation.sampling

    @property
    def idm_reference(self) -> str:
        """What `load_model` takes for the chain's IDM."""
        return self.place.reference("models/idm", self.chain)

    def forward_model(self, name: str) -> ForwardDynamics:
        """Load an arm as stage `evaluation` does.

        Raises:
            ValueError: it is an editor.
        """
        arm = self.arms[name]
        if arm.kind == EDITOR:
            raise ValueError(f"{arm.label} is an image editor: it has no image tokens and no likelihood; choose an FDM")
        model = self.shelf.take((TOKENS, name), lambda: load_model(arm.reference, "fdp", **self._options),
                                weights_size(arm.reference))  # fmt: skip
        return with_sampling(model, self.image_sampling)

    def inverse_model(self) -> InverseDynamics:
        """Load the chain's IDM."""
        reference = self.idm_reference
        return self.shelf.take("idm", lambda: load_model(reference, "idp", **self._options), weights_size(reference))

    def dynamics(self, name: str) -> tuple[ForwardDynamics, InverseDynamics]:
        """Load an arm and the IDM as stage `verification` does: over one base where both are adapters of it."""
        arm, settings = self.arms[name], self.stage.settings.verification
        if arm.kind == EDITOR:
            raise ValueError(f"{arm.label} is an image editor: candidates are drawn from a forward-dynamics model")
        references = arm.reference, self.idm_reference
        size = sum(map(weights_size, references))
        pair = self.shelf.take(("pair", name), lambda: load_dynamics(*references, **self._options), size)
        forward = with_sampling(pair[0], settings.sampling)
        if isinstance(forward, TokenForwardDynamics):
            forward = replace(forward, decoding=settings.decoding, block=settings.block)
        return forward, pair[1]

    def editor(self, name: str):
        """Load an arm that is an image editor."""
        arm = self.arms[name]
        return self.shelf.take((EDITOR, name), lambda: load_editor(arm.reference, device=self.stage.device),
                               weights_size(arm.reference))  # fmt: skip

    @property
    def is_small(self) -> bool:
        """Whether everything can be shown at once, without being asked for."""
        return all(weights_size(arm.reference) < _ROOM / 100 for arm in self.arms.values())

    @property
    def _options(self) -> dict[str, Any]:
        return {"device": self.stage.device, "prompts": self.stage.settings.prompts,
                "batch_size": self.stage.settings.verification.batch_size}  # fmt: skip

    def _has(self, name: str) -> bool:
        path = self.place.path(name)
        return (of_chain(path, self.chain) or path).exists()


def open_profile(profile: str = ".", chain: int | None = None, models: Mapping[str, str] | None = None) -> Opened:
    """Open a profile's models of one chain; where it has none, those of its pack (`data/pack`) in its place.

    Args:
        profile: folder with params.yaml, from the repository's root.
        chain: whose models; None takes the first.
        models: further ones to show, label -> folder, hub id or plug-in (`my_model.py:MyModel`).

    Raises:
        FileNotFoundError: the profile has neither models nor a pack, nor were any named.
    """
    stage = open_stage("explore", profile)
    chain, given = stage.chains[0] if chain is None else chain, dict(models or {})
    own = stage.path("models").is_dir() or stage.settings.world.kind != "kitchen"
    pack = None if own else find_pack(stage.root)
    if own or (given and pack is None):
        return Opened(stage, stage, chain, added=given)
    if pack is None:
        raise FileNotFoundError(
            f"{stage.root} has neither models nor {stage.root / 'data/pack'}; run `make repro`, or fetch them by "
            "`dvc pull models`, or name models of your own"
        )
    root, sentence = unpack(pack, stage.root / ".visdyn/pack")
    return Opened(stage, replace(stage, root=root), stage.chains[0], sentence, given)


def with_sampling(model: ForwardDynamics, sampling: Sampling) -> ForwardDynamics:
    """Return a token model that samples as the parameters say; another model samples as it was written to."""
    return replace(model, **asdict(sampling)) if isinstance(model, TokenForwardDynamics) else model


def weights_size(reference: str) -> int:
    """Return the bytes of a checkpoint's weight files, an adapter's base included; 0 where it is no local folder."""
    if not Path(reference).is_dir():
        return 0
    try:
        folders = {locate(reference).folder, locate(reference).base}
    except FileNotFoundError:
        return 0
    return sum(path.stat().st_size for folder in folders for path in folder.rglob("*.safetensors"))


def own_item(source, action: str, target=None) -> Trajectory:
    """Make an item of images that the user brought; their pixels are read now, so that a bad file is refused here."""
    images = [image if image is None else np.asarray(load(image)) for image in (source, target)]
    name = OWN if not isinstance(source, str | Path) else Path(source).stem
    kept = [source if isinstance(source, str | Path) else images[0], target if target is None else images[1]]
    return Trajectory(kept[0], action, target if isinstance(target, str | Path) else kept[1], OWN, name)
