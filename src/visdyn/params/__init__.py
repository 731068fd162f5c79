"""A typed view of params.yaml: one frozen dataclass a section; a key too many, too few or mistyped is an error.

The comments in params.yaml give each value's unit and reason; the classes here give its type.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import yaml

from visdyn.params.doundo import Doundo, GeneratorModel
from visdyn.params.evaluation import Evaluation
from visdyn.params.reading import ParamsError, from_mapping
from visdyn.paths import profile_root

__all__ = ["Params", "ParamsError", "from_mapping", "load_params"]


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

    @property
    def named(self) -> dict[str, str]:
        """The models that are checkpoints: name -> checkpoint."""
        return {name: value for name, value in asdict(self).items() if value}

    @property
    def trained(self) -> list[str]:
        """The models that are trained here."""
        return [name for name, value in asdict(self).items() if not value]


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
    lora: Lora
    limits: IdmLimits
    training: FineTuning


@dataclass(frozen=True)
class IdmEvaluation:
    """Measures of the inverse-dynamics models."""

    bert_score: str


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
    idm_evaluation: IdmEvaluation
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
