"""Synthetic annotation: the IDM labels key-frame pairs with actions and with its own confidence (section 3.2)."""

from __future__ import annotations

import hashlib
import math
import multiprocessing
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from visdyn.compute.rows import Execution, compute_rows
from visdyn.compute.seeds import label_generator
from visdyn.compute.workers import Task
from visdyn.datasets.bad_items import collecting
from visdyn.images import ImageError, ImageRef, load
from visdyn.mining.mined_files import ImagePair
from visdyn.models import load_model
from visdyn.models.protocols import InverseDynamics
from visdyn.models.token.decoding import uniforms
from visdyn.params.prompts import SENTENCES, Prompts
from visdyn.quarantine import Quarantine


@dataclass(frozen=True)
class Annotation:
    """A label of the IDM: the action and its mean log-probability per generated token, in nats."""

    action: str
    score: float


@dataclass(frozen=True)
class Decoding:
    """How a label is decoded.

    Attributes:
        kind: `greedy`, or `sample` ("sampled from p_IDM", the paper's Eq. 1).
        temperature: of sampling.
        max_new_tokens: longest label.
        seed: of sampling; each pair draws from a stream of its own, so that batches and processes do not matter.
    """

    kind: str = "greedy"
    temperature: float = 1.0
    max_new_tokens: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in ("greedy", "sample"):
            raise ValueError(f"annotation.decoding is {self.kind!r}; one of greedy, sample")
        if self.kind == "sample" and not self.temperature > 0:
            raise ValueError("sampling needs a temperature above 0; for the most likely label set decoding: greedy")

    def draws(self, names: Sequence[str]) -> torch.Tensor | None:
        """Return one uniform number for each token of each pair (N, max_new_tokens); None where nothing is drawn."""
        if self.kind == "greedy":
            return None
        streams = [label_generator(self.seed, name) for name in names]
        return torch.cat([uniforms(1, self.max_new_tokens, stream) for stream in streams])


def annotate(
    idm: InverseDynamics,
    sources: Sequence[ImageRef],
    targets: Sequence[ImageRef],
    decoding: Decoding | None = None,
    names: Sequence[str] | None = None,
) -> list[Annotation]:
    """Label each pair (source, target); an empty answer scores minus infinity, so it is never selected.

    Args:
        idm: of the token families (Chameleon, Liquid); others are asked greedily, and then for the likelihood.
        names: of the pairs, which seed their draws.
    """
    decoding = decoding or Decoding()
    if not hasattr(idm, "predict_codes"):
        return _annotate_by_text(idm, sources, targets, decoding)
    draws = decoding.draws(names or [str(index) for index in range(len(sources))])
    options = {"max_new_tokens": decoding.max_new_tokens}
    if draws is not None:
        options |= {"temperature": decoding.temperature, "draws": draws}
    actions, scores = idm.predict_codes(idm.model.encode(sources), idm.model.encode(targets), **options)
    return [_make_annotation(action, float(score)) for action, score in zip(actions, scores, strict=True)]


def _annotate_by_text(idm, sources, targets, decoding: Decoding) -> list[Annotation]:
    if decoding.kind != "greedy":
        raise ValueError("only the token models (Chameleon, Liquid) sample labels; set annotation.decoding: greedy")
    actions = idm.predict(sources, targets)
    # The likelihood of an empty action is not defined: only what was answered is scored.
    answered = [index for index, action in enumerate(actions) if action.strip()]
    parts = [[items[index] for index in answered] for items in (sources, targets, actions)]
    scores = dict(zip(answered, idm.log_likelihood(*parts).tolist() if answered else (), strict=True))
    return [_make_annotation(action, scores.get(index, 0.0)) for index, action in enumerate(actions)]


def _make_annotation(action: str, score: float) -> Annotation:
    return Annotation(action.strip(), score if action.strip() or math.isnan(score) else float("-inf"))


@dataclass(frozen=True)
class Labelled:
    """A key-frame pair with the IDM's label; what Algorithm 1 selects from."""

    pair: ImagePair
    action: str
    score: float

    @property
    def id(self) -> str:
        return self.pair.id

    @property
    def class_name(self) -> str:
        return self.pair.class_name


@dataclass(frozen=True)
class Labeller:
    """An IDM to be loaded in each process, and how it labels; `prompts` are for one that brings no words."""

    model: str
    device: str = "cpu"
    decoding: Decoding = Decoding()
    prompts: Prompts = SENTENCES

    def load(self, place: int) -> tuple[InverseDynamics, Decoding]:
        """Load the model, on GPU number `place` where there are several."""
        if self.device == "cuda" and place < torch.cuda.device_count():
            return load_model(self.model, "idp", device=f"cuda:{place}", prompts=self.prompts), self.decoding
        if multiprocessing.parent_process() is not None:
            torch.set_num_threads(1)  # one process a core
        return load_model(self.model, "idp", device=self.device, prompts=self.prompts), self.decoding


def annotate_pairs(
    labeller: Labeller,
    pairs: Sequence[ImagePair],
    folder: str | Path,
    batch_size: int = 64,
    execution: Execution | None = None,
    quarantine: Quarantine | None = None,
) -> list[Labelled]:
    """Label every pair, in order; over the GPUs or cores of a machine, or a Ray cluster, resumed after a kill.

    A batch is decoded as a whole wherever it is, so that every executor gives the same scores.

    Args:
        folder: where finished batches are kept; it belongs to these images and this model.
        quarantine: takes the pairs of which an image cannot be read (a warning counts them where it is None).
    """
    batches = [list(pairs[start : start + batch_size]) for start in range(0, len(pairs), batch_size)]
    names = [_hash_ids(batch) for batch in batches]
    settings = {"model": labeller.model, "prompts": asdict(labeller.prompts), **asdict(labeller.decoding)}
    task = Task(label_batch, labeller, Labeller.load, heavy=True)
    rows = compute_rows(task, batches, names, folder, settings, execution or Execution(processes=1), "batches of pairs")
    labelled: list[Labelled] = []
    with collecting(quarantine, "annotation", labelled) as bad:
        for batch, row in zip(batches, rows, strict=True):
            if "labels" not in row:
                raise RuntimeError(f"the process that labelled {batch[0].id} and {len(batch) - 1} more {row['error']}")
            for pair, label in zip(batch, row["labels"], strict=True):
                if "error" in label:
                    bad.add(pair.id, label["error"])
                else:
                    score = float("-inf") if label["score"] is None else label["score"]
                    labelled.append(Labelled(pair, label["action"], score))
    return labelled


def label_batch(state: tuple[InverseDynamics, Decoding], batch: Sequence[ImagePair]) -> dict:
    """Return the row of a batch: for each pair its action and score (None: no answer), or why it cannot be read."""
    idm, decoding = state
    images = [_load_pair(pair) for pair in batch]
    good = [index for index, found in enumerate(images) if not isinstance(found, str)]
    sources, targets = ([images[index][place] for index in good] for place in (0, 1))
    labels = annotate(idm, sources, targets, decoding, [batch[index].id for index in good]) if good else []
    found = dict(zip(good, labels, strict=True))
    return {"labels": [_label_row(found.get(index), images[index]) for index in range(len(batch))]}


def _label_row(label: Annotation | None, image) -> dict:
    if label is None:
        return {"error": image}
    if math.isnan(label.score):
        return {"error": "the likelihood of its label is no number; load the IDM in another precision"}
    return {"action": label.action, "score": label.score if math.isfinite(label.score) else None}


def _load_pair(pair: ImagePair) -> tuple | str:
    try:
        return load(pair.source), load(pair.target)
    except ImageError as error:
        return str(error)


def _hash_ids(batch: Sequence[ImagePair]) -> str:
    return hashlib.sha256("\n".join(pair.id for pair in batch).encode()).hexdigest()[:24]
