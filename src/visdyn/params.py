"""A typed view of params.yaml: one frozen dataclass a section; a key too many, too few or mistyped is an error.

The comments in params.yaml give each value's unit and reason; the classes here give its type.
"""

from __future__ import annotations

import difflib
import types
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import yaml

from visdyn.params_doundo import Doundo, GeneratorModel
from visdyn.params_evaluation import Evaluation
from visdyn.paths import profile_root

T = TypeVar("T")


class ParamsError(ValueError):
    """params.yaml does not fit its types; the message names file, section, key and the nearest valid key."""


@dataclass(frozen=True)
class Runtime:
    """Where and how fast; never what. Not tracked by DVC."""

    hardware: str
    device: str
    threads: int
    offline: bool
    log_seconds: float
    codes: str


@dataclass(frozen=True)
class Data:
    """Roots of the public layouts: folders in the profile or absolute paths; the last two are files or empty."""

    aurora: str
    epic: str
    clips: str
    doundo: str
    captions: str
    questions: str


@dataclass(frozen=True)
class Training:
    """One optimisation: AdamW with linear warm-up and cosine decay."""

    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    warmup_steps: int


@dataclass(frozen=True)
class World:
    """The kitchen world on disk; the counts are `datasets.kitchen.writer.KitchenSizes`."""

    kind: str
    jitter: float
    noise: float
    aurora_train_per_subset: int
    aurora_test_per_subset: int
    epic_train: int
    epic_validation: int
    clips_per_dataset: int
    captions: int
    pairs: int
    spatial: int


@dataclass(frozen=True)
class TokenizerModel:
    """What of the image tokenizer is a matter of choice."""

    n_embed: int


@dataclass(frozen=True)
class BaseModel:
    """Shape of the unified language model."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int


@dataclass(frozen=True)
class References:
    """Checkpoints to use instead of training small ones: hub ids or local paths; empty text trains it here."""

    base: str
    autoencoder: str
    generator: str
    clip: str
    dino: str


@dataclass(frozen=True)
class BaseModels:
    """The small models that stand for released checkpoints and encoders, or the checkpoints themselves."""

    references: References
    tokenizer_model: TokenizerModel
    base_model: BaseModel
    generator_model: GeneratorModel
    tokenizer: Training
    autoencoder: Training
    base: Training
    generator: Training
    clip: Training
    dino: Training


@dataclass(frozen=True)
class Probing:
    """Preference for real trajectories (Bootstrapping, section 2)."""

    models: tuple[str, ...]
    definitions: tuple[str, ...]
    draws: int
    shared_prefixes: bool
    batch_size: int


@dataclass(frozen=True)
class Mining:
    """Key-frames from clips and reversible pairs from EPIC-KITCHENS-100."""

    top_k: int
    min_interval: int
    modes: tuple[str, ...]
    mode: str
    flow: str
    flow_size: int
    vocabulary: str
    executor: str
    clip_timeout: float
    clips_per_dataset: int
    frame_rate: float
    curator: str
    filter_model: str
    expansion_model: str
    vlm_batch: int
    test_split: str
    test_per_verb: int


@dataclass(frozen=True)
class FineTuning(Training):
    """Training of an IDM or FDM; with `epochs` above 0 the steps follow from the data and the batch size."""

    epochs: int
    precision: str


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters on all linear maps of the decoder; rank 0 fine-tunes everything."""

    rank: int
    alpha: int
    dropout: float
    modules_to_save: tuple[str, ...]


@dataclass(frozen=True)
class Limits:
    """Most triplets of each AURORA subset, a seeded sample; 0 takes all."""

    magicbrush: int
    ag: int
    something: int
    kubric: int


@dataclass(frozen=True)
class IdmLimits(Limits):
    """The same, and the EPIC-KITCHENS segments that the IDM alone sees."""

    epic: int


@dataclass(frozen=True)
class Idm:
    """Inverse-dynamics model."""

    base: str
    bert_score: str
    lora: Lora
    limits: IdmLimits
    training: FineTuning


@dataclass(frozen=True)
class Annotation:
    """Labelling key-frame pairs and the stratified selection (Bootstrapping, Algorithm 1)."""

    model: str
    top_k_per_dataset: int
    decoding: str
    temperature: float
    max_new_tokens: int
    batch_size: int
    executor: str


@dataclass(frozen=True)
class Fdm:
    """Forward-dynamics model; its arms are listed in docs/architecture.md."""

    base: str
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    single_seed_arms: tuple[str, ...]
    floor: float
    lora: Lora
    limits: Limits
    training: FineTuning


@dataclass(frozen=True)
class Verification:
    """Best of K by the IDM (Bootstrapping, Figure 4)."""

    candidates: tuple[int, ...]
    arms: tuple[str, ...]
    items_per_subset: int
    decoding: str
    block: int
    shared_prefixes: bool
    batch_size: int


@dataclass(frozen=True)
class Spatial:
    """Multiple-choice questions about where things are (Bootstrapping, Table 2)."""

    models: tuple[str, ...]
    modes: tuple[str, ...]
    spatialmqa: str
    spatialmqa_images: str
    embspatial: str


@dataclass(frozen=True)
class HumanStudy:
    """Exported answers of annotators (Bootstrapping, Table 5; Do-Undo, Table 7)."""

    exports: tuple[str, ...]
    reference: str


@dataclass(frozen=True)
class Figures:
    """Looks of the figures."""

    examples: int


@dataclass(frozen=True)
class Params:
    """All of params.yaml."""

    root: str
    seed: int
    runtime: Runtime
    data: Data
    world: World
    base_models: BaseModels
    probing: Probing
    mining: Mining
    idm: Idm
    annotation: Annotation
    fdm: Fdm
    doundo: Doundo
    verification: Verification
    evaluation: Evaluation
    spatial: Spatial
    human_study: HumanStudy
    figures: Figures


def load_params(profile: str = ".") -> Params:
    """Read the params.yaml of a profile.

    Raises:
        FileNotFoundError: no such profile.
        ParamsError: an unknown key, a missing key or a wrong type; the message names file, section and key.
    """
    path = profile_root(profile) / "params.yaml"
    try:
        values = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ParamsError(f"{path} is no valid YAML: {error}") from error
    return from_mapping(Params, values, path)


def from_mapping(kind: type[T], values: Any, path: Path | str, section: str = "") -> T:
    """Build the dataclass `kind` from a mapping read from `path`; `section` is its dotted place in the file."""
    where = f"{path}: section {section!r}" if section else f"{path}"
    if not isinstance(values, dict):
        raise ParamsError(f"{where} must be a mapping of keys, not {_shown(values)}")
    names = [one.name for one in fields(kind)]
    for key in values:
        if key not in names:
            raise ParamsError(f"{where} has the unknown key {key!r}; {_nearest(str(key), names)}")
    if missing := [one.name for one in fields(kind) if one.name not in values and not _has_default(one)]:
        raise ParamsError(f"{where} lacks the key {missing[0]!r}; add it as the root params.yaml has it")
    hints = get_type_hints(kind)
    prefix = f"{section}." if section else ""
    return kind(
        **{name: _converted(hints[name], values[name], path, f"{prefix}{name}") for name in names if name in values}
    )


def _has_default(one: Field) -> bool:
    # Sections have none: every key stands in every params.yaml. Entries of a list may leave out what they do not need.
    return one.default is not MISSING or one.default_factory is not MISSING


def _converted(hint: Any, value: Any, path: Path | str, key: str) -> Any:
    if is_dataclass(hint):
        return from_mapping(hint, value, path, key)
    if get_origin(hint) is tuple and isinstance(value, list):
        return tuple(_converted(get_args(hint)[0], item, path, f"{key}[{n}]") for n, item in enumerate(value))
    if hint is float and type(value) is int:
        return float(value)
    if get_origin(hint) is tuple or type(value) is not hint:
        raise ParamsError(f"{path}: {key!r} must be {_named(hint)}, not {_shown(value)}{_hint(hint, value)}")
    return value


def _named(hint: Any) -> str:
    if isinstance(hint, types.GenericAlias):
        return f"a list of {get_args(hint)[0].__name__}"
    return {"int": "an int", "float": "a float", "bool": "true or false", "str": "text", "dict": "a mapping"}[
        hint.__name__
    ]


def _hint(hint: Any, value: Any) -> str:
    # YAML 1.1 reads 2e-3 as text, DVC's YAML 1.2 reads it as a number: only one spelling is safe in both.
    return " (write 0.002 or 2.0e-3)" if hint is float and isinstance(value, str) else ""


def _shown(value: Any) -> str:
    return f"{value!r} ({type(value).__name__})"


def _nearest(key: str, names: list[str]) -> str:
    close = difflib.get_close_matches(key, names, n=1, cutoff=0.4)
    return f"did you mean {close[0]!r}?" if close else f"it may have {', '.join(names)}"
