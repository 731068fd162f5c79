"""The types of params.yaml's sections `evaluation` and `evaluation_doundo` (see `visdyn.params`).

Each paper's benchmark has a section, with systems, judges and encoders of its own: what a stage reads is all that DVC
hashes for it. Entries of their lists may leave out what has a default here; the keys of a section itself stand in every
params.yaml.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from visdyn.params.sampling import Sampling


@dataclass(frozen=True)
class EncoderSet:
    """What images and texts are compared with: a preset of `models.encoder_preprocess`, and its two checkpoints."""

    preset: str
    clip: str
    dino: str


@dataclass(frozen=True)
class Captions:
    """Where CLIP-T's captions come from where the true states are unknown."""

    file: str
    model: str


@dataclass(frozen=True)
class Flow:
    """Optical flow of Do-Undo's errors."""

    backend: str
    size: int
    weights: str


@dataclass(frozen=True)
class EditorEntry:
    """An image editor that is measured as a baseline: a diffusers pipeline or a BAGEL, by folder or hub id.

    With `think`, a BAGEL writes a plan before each image (`BagelEditor`); no other editor does.
    """

    name: str
    model: str
    preset: str = ""
    steps: int = 0
    size: str = "native"
    dtype: str = ""
    offload: bool = False
    batch_size: int = 8
    think: bool = False
    call: dict = field(default_factory=dict)


@dataclass(frozen=True)
class ApiEditorEntry:
    """An image editor behind an OpenAI-compatible `images/edits` endpoint; the key is read from the environment."""

    name: str
    model: str
    base_url: str
    key_variable: str = ""
    size: str = ""
    fields: dict = field(default_factory=dict)
    concurrency: int = 2
    requests_per_minute: float = 0.0
    timeout_s: float = 300.0
    price_per_image: float = 0.0
    allow_http: bool = False


@dataclass(frozen=True)
class ImportedEntry:
    """A folder of images that another program made (`inference.image_folder` has the layouts)."""

    name: str
    folder: str
    prompt: str = "long"


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

    kind: str
    name: str = ""
    model: str = ""
    base_url: str = ""
    key_variable: str = ""
    repeats: int = 1
    concurrency: int = 4
    requests_per_minute: float = 0.0
    timeout_s: float = 120.0
    max_attempts: int = 6
    backoff_s: float = 1.0
    max_side: int = 0
    prompt: str = ""
    prompt_clone: str = ""
    sampling: dict = field(default_factory=dict)
    allow_http: bool = False
    price_in: float = 0.0
    price_out: float = 0.0
    systems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """Which systems a benchmark compares, by which judges and encoders."""

    trained: tuple[str, ...]
    editors: tuple[EditorEntry, ...]
    api_editors: tuple[ApiEditorEntry, ...]
    imported: tuple[ImportedEntry, ...]
    judges: tuple[JudgeEntry, ...]
    encoders: EncoderSet
    captions: Captions
    keep_images: tuple[str, ...]
    reference: str
    gallery: int

    @property
    def asks_region(self) -> bool:
        """Whether the region judge is among the judges."""
        return any(judge.kind == "region" for judge in self.judges)


@dataclass(frozen=True)
class ActionSequence:
    """A photograph of one's own and the actions that an FDM does to it, one after the other (Bootstrapping, Fig. 5)."""

    photograph: str
    actions: tuple[str, ...]


@dataclass(frozen=True)
class Evaluation(Comparison):
    """AURORA-Bench (Bootstrapping)."""

    sampling: Sampling  # of the kit's own systems
    items_per_subset: int
    sequence: ActionSequence | None


@dataclass(frozen=True)
class EvaluationDoundo(Comparison):
    """The Do-Undo benchmark."""

    annotations: str
    pairs: int
    prompts: tuple[str, ...]
    reverse_from: tuple[str, ...]
    flow_steps: int
    flow: Flow
    classifier: str
