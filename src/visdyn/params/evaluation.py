"""The types of params.yaml's section `evaluation` (see `visdyn.params`): systems, judges, encoders.

Entries of its lists may leave out what has a default here; the keys of the section itself stand in every params.yaml.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class EncoderSet:
    """What images and texts are compared with: a preset of `models.encoder_preprocess`, and its two checkpoints."""

    preset: str
    clip: str
    dino: str


@dataclass(frozen=True)
class Encoders:
    """One set for each benchmark."""

    aurora: EncoderSet
    doundo: EncoderSet


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
    """An image editor that is measured as a baseline: a diffusers pipeline or a BAGEL, by folder or hub id."""

    name: str
    model: str
    preset: str = ""
    steps: int = 0
    size: str = "native"
    dtype: str = ""
    offload: bool = False
    batch_size: int = 8
    call: dict = field(default_factory=dict)
    benches: tuple[str, ...] = ("aurora", "doundo")


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
    benches: tuple[str, ...] = ("aurora", "doundo")


@dataclass(frozen=True)
class ImportedEntry:
    """A folder of images that another program made (`inference.image_folder` has the layouts)."""

    name: str
    folder: str
    bench: str = "aurora"
    prompt: str = "long"


@dataclass(frozen=True)
class JudgeEntry:
    """A judge: `region` (reference-based), `endpoint` (any OpenAI-compatible server) or `transformers` (local VLM)."""

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
    max_tokens: int = 400
    temperature: float = 0.0
    seeded: bool = True
    allow_http: bool = False
    price_in: float = 0.0
    price_out: float = 0.0
    benches: tuple[str, ...] = ("aurora", "doundo")
    systems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Evaluation:
    """Which systems are scored, by which judges and metrics."""

    trained: tuple[str, ...]
    editors: tuple[EditorEntry, ...]
    api_editors: tuple[ApiEditorEntry, ...]
    imported: tuple[ImportedEntry, ...]
    judges: tuple[JudgeEntry, ...]
    encoders: Encoders
    captions: Captions
    flow: Flow
    doundo_annotations: str
    prompts: tuple[str, ...]
    reverse_from: tuple[str, ...]
    items_per_subset: int
    flow_steps: int
    keep_images: tuple[str, ...]
    reference_aurora: str
    reference_doundo: str
    gallery: int
