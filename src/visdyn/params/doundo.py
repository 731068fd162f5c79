"""The section `doundo` of params.yaml: Do-Undo fine-tuning of a BAGEL, small or public.

`BagelFineTuning` is what the recipe `training.bagel.recipe.train_bagel` takes: an option is a line of params.yaml and a
field here. Fields with a default may be left out of params.yaml.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from visdyn.params.reading import Count, Name, NotNegative, OneOrMore, PartOf, Positive, Several, Share, Within
from visdyn.params.training import Training, check_pace

Scheduler = Literal["cosine", "linear", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt"]
Shift = Annotated[float, Within(0, 100, above=True)]  # of timesteps; above 1 towards the noise


@dataclass(frozen=True)
class Mixture:
    """Relative weights of the kinds of training samples; 0 leaves a kind out."""

    edit: NotNegative
    undo: NotNegative
    text_to_image: NotNegative
    understanding: NotNegative

    def __post_init__(self) -> None:
        if not any((self.edit, self.undo, self.text_to_image, self.understanding)):
            raise ValueError("the weights are all 0, so there is nothing to train on; give a kind of sample a weight")


@dataclass(frozen=True)
class ConditionDropout:
    """Probabilities that a sample loses a condition, for classifier-free guidance; independent of each other."""

    text: Share
    vit: Share
    vae: Share


@dataclass(frozen=True)
class GeneratorLora:
    """Low-rank adapters on the generation expert, where `adapter` is `lora`."""

    rank: Count
    alpha: Count  # the scale is alpha / rank
    dropout: PartOf  # of the adapters' inputs


@dataclass(frozen=True)
class BagelTraining(Training):
    """One optimisation (`training.engine.fit.Recipe` says what each is)."""

    scheduler: Scheduler  # of transformers
    precision: Literal["fp32", "bf16"]
    log_every: Count = 20
    save_every: Count = 100

    def __post_init__(self) -> None:
        check_pace(self.log_every, self.save_every)


@dataclass(frozen=True)
class Consistency:
    """The Do-Undo consistency loss (Do-Undo, Eq. 1) and where its prediction comes from.

    Attributes:
        weight: lambda; the paper's 0.5. With 0 the loss is only measured.
        condition: `gt`, the reverse prediction from the true I_F, as the paper trains; or `generated`, from the
            one-step I_F^ of the forward half, the variant that ties undoing to doing (a further pass).
        space: of the L1, `latent`, or `pixel`: the decoded prediction against I_o itself.
        t_gate: only samples with t below it count; None counts all.
        weight_function: of t, a name of `WEIGHT_FUNCTIONS` beside `consistency_loss`.
        detach: with `generated`, keep the gradient out of the forward half.
    """

    weight: NotNegative = 0.5
    condition: Literal["gt", "generated"] = "gt"
    space: Literal["latent", "pixel"] = "latent"
    t_gate: Share | None = None
    weight_function: Literal["uniform", "one_minus_t"] = "uniform"
    detach: bool = True


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

    base: Name
    adapter: Literal["full", "generation_expert", "lora"]
    lora: GeneratorLora | None
    mixture: Mixture
    long_share: Share
    dropout: ConditionDropout
    timestep_shift: Shift
    average_decay: PartOf | None
    latents: Name | None
    mse_weight: NotNegative
    ce_weight: NotNegative
    consistency: Consistency | None
    training: BagelTraining
    reweight_ce: bool = False

    def __post_init__(self) -> None:
        if self.adapter == "lora" and self.lora is None:
            raise ValueError("adapter is lora, but lora is null; give it rank, alpha and dropout")


@dataclass(frozen=True, kw_only=True)
class Doundo(BagelFineTuning):
    """Do-Undo fine-tuning, with and without the consistency loss: a run for each variant and chain."""

    variants: OneOrMore[Literal["doundo", "doundo_c"]]
    weights: Several[Positive]  # further lambda of the consistency loss, each a variant `doundo_c_<weight>`

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weights and self.consistency is None:
            raise ValueError(f"weights has {list(self.weights)}, but consistency is null; give it space and condition")
        if len(set(self.lambdas)) < len(self.variants) + len(self.weights):
            raise ValueError("variants and weights must not repeat themselves")

    @property
    def lambdas(self) -> dict[str, float]:
        """Every variant by name, with its weight of the consistency loss: 0 where it is only measured."""
        weight = 0.0 if self.consistency is None else self.consistency.weight
        named = {name: weight if name == "doundo_c" else 0.0 for name in self.variants}
        return named | {f"doundo_c_{weight:g}": weight for weight in self.weights}
