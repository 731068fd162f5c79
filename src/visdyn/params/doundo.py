"""The section `doundo` of params.yaml: Do-Undo fine-tuning of a BAGEL, small or public.

`BagelFineTuning` is what the recipe `training.bagel.recipe.train_bagel` takes: an option is a line of params.yaml and a
field here. Fields with a default may be left out of params.yaml.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mixture:
    """Relative weights of the kinds of training samples; 0 leaves a kind out."""

    edit: float
    undo: float
    text_to_image: float
    understanding: float


@dataclass(frozen=True)
class ConditionDropout:
    """Probabilities that a sample loses a condition, for classifier-free guidance; independent of each other."""

    text: float
    vit: float
    vae: float


@dataclass(frozen=True)
class GeneratorLora:
    """Low-rank adapters on the generation expert, where `adapter` is `lora`."""

    rank: int
    alpha: int
    dropout: float


@dataclass(frozen=True)
class BagelTraining:
    """One optimisation (`training.engine.fit.Recipe` says what each is); `batch_size`: over all ranks."""

    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    warmup_steps: int
    scheduler: str
    precision: str
    log_every: int = 20
    save_every: int = 100


CONDITIONS = ("gt", "generated")
SPACES = ("latent", "pixel")


@dataclass(frozen=True)
class Consistency:
    """The Do-Undo consistency loss (Do-Undo, Eq. 1) and where its prediction comes from.

    Attributes:
        weight: lambda; the paper's 0.5. With 0 the loss is only measured.
        condition: `gt`, the reverse prediction from the true I_F, as the paper trains; or `generated`, from the
            one-step I_F^ of the forward half, the variant that ties undoing to doing (a further pass).
        space: of the L1, `latent` or `pixel`.
        t_gate: only samples with t below it count; None counts all.
        weight_function: of t, a name of `WEIGHT_FUNCTIONS` beside `consistency_loss`.
        detach: with `generated`, keep the gradient out of the forward half.
    """

    weight: float = 0.5
    condition: str = "gt"
    space: str = "latent"
    t_gate: float | None = None
    weight_function: str = "uniform"
    detach: bool = True

    def __post_init__(self) -> None:
        if self.condition not in CONDITIONS:
            raise ValueError(f"unknown consistency condition {self.condition!r}; one of {', '.join(CONDITIONS)}")
        if self.space not in SPACES:
            raise ValueError(f"unknown consistency space {self.space!r}; one of {', '.join(SPACES)}")
        if self.weight < 0:
            raise ValueError(f"the consistency weight must not be negative, got {self.weight}")


@dataclass(frozen=True, kw_only=True)
class BagelFineTuning:
    """How a BAGEL is fine-tuned (Do-Undo, section 3.2): the configuration of `train_bagel`.

    Attributes:
        base: folder of a checkpoint (`Bagel.from_pretrained`).
        adapter: `full` (all but the fixed position tables and the autoencoder), `generation_expert`, or `lora` on
            the generation expert's linear maps (rank 64: 161 M of 14.6 B parameters).
        mixture: relative weights of the kinds of samples.
        long_share: share of reversible pairs shown with their long prompts.
        dropout: of conditions; .1, .3, .3 in upstream's training code.
        timestep_shift, mse_weight, ce_weight, reweight_ce: see `BagelObjective`.
        average_decay: of the exponential moving average of the weights, written beside them (.9999 upstream, .995 in
            the BAGEL paper's last stage); None keeps none.
        latents: keeps the autoencoder's posteriors instead of encoding in every step (`posteriors`): `memory`, or a
            folder that runs and ranks share (.93 MB an image at 912 x 512); None encodes.
        consistency: None leaves the consistency loss out, unmeasured too.
        training: precision `bf16` keeps what trains in float32 and what is frozen in bfloat16, and saves bfloat16.
    """

    base: str
    adapter: str
    lora: GeneratorLora
    mixture: Mixture
    long_share: float
    dropout: ConditionDropout
    timestep_shift: float
    average_decay: float | None
    latents: str | None
    mse_weight: float
    ce_weight: float
    consistency: Consistency | None
    training: BagelTraining
    reweight_ce: bool = False


@dataclass(frozen=True, kw_only=True)
class Doundo(BagelFineTuning):
    """Do-Undo fine-tuning, with and without the consistency loss: a run for each variant and seed."""

    variants: tuple[str, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class GeneratorModel:
    """Shape of the small BAGEL that stands for the public one: section `base_models.generator_model`."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    latent_patch_size: int
    vocab_size: int
    timestep_shift: float
