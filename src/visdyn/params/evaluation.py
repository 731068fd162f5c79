"""The types of params.yaml's sections `evaluation` and `evaluation_doundo` (see `visdyn.params`).

Each paper's benchmark has a section, with systems, judges and encoders of its own: what a stage reads is all that DVC
hashes for it. Entries of their lists may leave out what has a default here; the keys of a section itself stand in every
params.yaml.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from visdyn.params.reading import (
    Filled,
    Free,
    Like,
    Name,
    NotNegative,
    OneOrMore,
    Prose,
    Seconds,
    Several,
    Text,
    Whole,
    Within,
)
from visdyn.params.sampling import Sampling

Encoders = Literal["embedded", "magicbrush", "bootstrapping", "doundo"]
EditorPreset = Literal["", "instruct-pix2pix", "flux-kontext", "flux-kontext-diffusers", "qwen-image-edit",
                       "qwen-image-edit-2509", "qwen-image-edit-2509-diffusers"]  # fmt: skip
Length = Literal["long", "short"]
AtOnce = Annotated[int, Within(1, 256)]  # requests
Times = Annotated[int, Within(1, 1000)]
Few = Annotated[int, Within(0, 10_000)]
# `EndpointSettings` checks these, and quotes none: what is wrong with them may be that they are a key.
Unquoted = Annotated[str, Free("an address, or a variable's name", checked=False)]


@dataclass(frozen=True)
class EncoderSet:
    """What images and texts are compared with: a preset of `models.encoder_preprocess`, and its two checkpoints."""

    preset: Encoders
    clip: Text
    dino: Text


@dataclass(frozen=True)
class Captions:
    """Where CLIP-T's captions come from where the true states are unknown."""

    file: Text
    model: Text


@dataclass(frozen=True)
class Flow:
    """Optical flow of Do-Undo's errors."""

    backend: Literal["farneback", "dis", "raft", "auto"]
    size: Annotated[int, Within(16, 8192, zero=True)]
    weights: Text


@dataclass(frozen=True)
class EditorEntry:
    """An image editor that is measured as a baseline: a diffusers pipeline or a BAGEL, by folder or hub id.

    With `think`, a BAGEL writes a plan before each image (`BagelEditor`); no other editor does.
    """

    name: Name
    model: Name
    preset: EditorPreset = ""
    steps: Few = 0
    size: Literal["native", "source"] = "native"
    dtype: Literal["", "float32", "bfloat16", "float16"] = ""
    offload: bool = False
    batch_size: Times = 8
    think: bool = False
    call: Annotated[dict, Free("arguments of the pipeline's call")] = field(default_factory=dict)


@dataclass(frozen=True)
class ApiEditorEntry:
    """An image editor behind an OpenAI-compatible `images/edits` endpoint; the key is read from the environment."""

    name: Name
    model: Name
    base_url: Unquoted
    key_variable: Unquoted = ""
    size: Annotated[str, Like(r"(auto|\d+x\d+)?", "auto, a width and height such as 1024x1024, or empty")] = ""
    fields: Annotated[dict, Free("fields of the form, sent as they are")] = field(default_factory=dict)
    concurrency: AtOnce = 2
    requests_per_minute: NotNegative = 0.0
    timeout_s: Seconds = 300.0
    price_per_image: NotNegative = 0.0
    allow_http: bool = False


@dataclass(frozen=True)
class ImportedEntry:
    """A folder of images that another program made (`inference.image_folder` has the layouts)."""

    name: Name
    folder: Name
    prompt: Length = "long"


@dataclass(frozen=True)
class JudgeEntry:
    """A judge: `region` (reference-based), `endpoint` (any OpenAI-compatible server), `transformers` (local VLM) or
    `plugin` (an `endpoint.plugin_judge.AnsweringJudge` of your own, `model` names it).

    Attributes:
        prompt: what it is asked: `paper`, `viescore`, `kit`, or any file of that form
            (`evaluation.judges.judge_prompts`); empty is the paper's where one is printed, else the kit's.
        prompt_clone: your clone of the repository whose words a prompt uses (`viescore`).
        sampling: further fields of each request, such as {temperature: 1, max_completion_tokens: 4000}; null leaves out
            one of those that are sent by default (`evaluation.judges.run.SAMPLING`, `response_format`).
    """

    kind: Literal["region", "endpoint", "transformers", "plugin"]
    name: Text = ""
    model: Text = ""
    base_url: Unquoted = ""
    key_variable: Unquoted = ""
    repeats: Times = 1
    concurrency: AtOnce = 4
    requests_per_minute: NotNegative = 0.0
    timeout_s: Seconds = 120.0
    max_attempts: Annotated[int, Within(1, 100)] = 6
    backoff_s: Annotated[float, Within(0, 600)] = 1.0
    max_side: Annotated[int, Within(16, 65_536, zero=True)] = 0
    prompt: Text = ""
    prompt_clone: Text = ""
    sampling: Annotated[dict, Free("fields of each request, sent as they are")] = field(default_factory=dict)
    allow_http: bool = False
    price_in: NotNegative = 0.0
    price_out: NotNegative = 0.0
    systems: Several[Name] = ()


@dataclass(frozen=True)
class Comparison:
    """Which systems a benchmark compares, by which judges and encoders."""

    trained: Several[Name]
    editors: tuple[EditorEntry, ...]
    api_editors: tuple[ApiEditorEntry, ...]
    imported: tuple[ImportedEntry, ...]
    judges: tuple[JudgeEntry, ...]
    encoders: EncoderSet
    captions: Captions
    keep_images: Several[Name]
    reference: Name
    gallery: Few

    def __post_init__(self) -> None:
        _check_names("editors, api_editors and imported", (
            entry.name for entries in (self.editors, self.api_editors, self.imported) for entry in entries
        ))  # fmt: skip
        _check_names("judges", (
            entry.name or Path(entry.model).name for entry in self.judges if entry.kind != "region"
        ))  # fmt: skip
        if unnamed := next((one for one in self.judges if one.kind != "region" and not one.model), None):
            raise ValueError(f"judges: one of kind {unnamed.kind} lacks its model")

    @property
    def asks_region(self) -> bool:
        """Whether the region judge is among the judges."""
        return any(judge.kind == "region" for judge in self.judges)


@dataclass(frozen=True)
class ActionSequence:
    """A photograph of one's own and the actions that an FDM does to it, one after the other (Bootstrapping, Fig. 5)."""

    photograph: Name
    actions: Annotated[tuple[Prose, ...], Filled()]


@dataclass(frozen=True)
class Evaluation(Comparison):
    """AURORA-Bench (Bootstrapping)."""

    trained: Several[Literal["zero_shot", "tokenizer_ceiling", "fdm", "best_of"]]
    sampling: Sampling  # of the kit's own systems
    items_per_subset: Whole
    sequence: ActionSequence | None


@dataclass(frozen=True)
class EvaluationDoundo(Comparison):
    """The Do-Undo benchmark."""

    trained: Several[Literal["doundo"]]
    annotations: Name
    pairs: Whole
    prompts: OneOrMore[Length]
    reverse_from: Several[Literal["gt", "generated"]]
    flow_steps: Few
    flow: Flow
    classifier: Text


def _check_names(where: str, names: Iterable[str]) -> None:
    """Refuse a name given twice: in tables and folders one would stand for the other."""
    seen = list(names)
    if twice := next((name for name in seen if seen.count(name) > 1), None):
        raise ValueError(f"two of {where} are called {twice!r}; give one another name")
