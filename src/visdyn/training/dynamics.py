"""Recipes for the unified token model: the base, and the IDM and FDM that are fine-tuned from it."""

from __future__ import annotations

import os
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from torch import nn
from torch.utils.data import Dataset

from visdyn.models import load_model
from visdyn.models.adapters import make_portable
from visdyn.models.token.sequences import collate
from visdyn.models.token.unified import UnifiedModel
from visdyn.params.dynamics import DynamicsFineTuning, Lora
from visdyn.params.prompts import SENTENCES, Prompts
from visdyn.training.engine.fit import Recipe, count_steps, fit
from visdyn.training.engine.sharding import gathered, widen_trained
from visdyn.training.losses import weighted_cross_entropy
from visdyn.training.triplets import DynamicsTriplets, dynamics_dataset

# All seven linear maps of a decoder layer; the papers name none.
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class CompletionLoss(nn.Module):
    """A language model with the weighted loss of its completions; what the Trainer trains.

    Takes the batches of `visdyn.models.token.sequences.collate`.
    """

    def __init__(self, lm: nn.Module) -> None:
        super().__init__()
        self.lm = lm

    def forward(self, input_ids, places, targets, weights) -> dict[str, torch.Tensor]:
        """Return `loss`: sum(w * nll) / sum(w) over the completions."""
        lm = self.lm.get_base_model() if hasattr(self.lm, "get_base_model") else self.lm
        states = lm.model(input_ids=input_ids, use_cache=False).last_hidden_state  # (B, T, D)
        hidden = states[torch.arange(len(places), device=places.device)[:, None], places]  # (B, K, D)
        return {"loss": weighted_cross_entropy(hidden, lm.lm_head.weight, targets, weights)}

    def activation_checkpointing_enable(self, **options) -> None:
        """Let the Trainer's `gradient_checkpointing` reach the language model."""
        self.lm.activation_checkpointing_enable(**options)

    def compile_layers(self) -> int:
        """Let a hardware file's `compile_layers` reach the language model; return how many layers there are."""
        from visdyn.training.engine.compiled import compile_layers

        return compile_layers(self.lm)


def train_dynamics(
    config: DynamicsFineTuning,
    data: DynamicsTriplets,
    *,
    seed: int,
    output: str,
    scratch: str,
    hardware: dict | None = None,
    prompts: Prompts = SENTENCES,
) -> None:
    """Fine-tune a base model (Chameleon or Liquid) as IDM or FDM on triplets and save it to `output`.

    Without a LoRA a whole model is written, with one the adapter alone, both with `training.csv`. The image tokenizer
    never trains. In precision `bf16` a LoRA's base is kept in bfloat16 and its adapter in float32 (by DeepSpeed:
    bfloat16 with a float32 master copy); full fine-tuning keeps float32 weights under autocast.

    Args:
        config: what is trained and how, of section `idm` or `fdm` of params.yaml; its steps are known (`run_config`).
        data: what it learns from, and how that is weighted.
        seed: of the adapter's first weights, dropout and the order of the triplets.
        scratch: folder for resume state.
        hardware: see `fit`.
        prompts: the words for a base that brings none of its own; they are saved with the model.

    Raises:
        ValueError: a base that cannot write images, or a setting that does not fit the task.
    """
    values = {name: value for name, value in asdict(config.training).items() if name != "epochs"}
    settings = Recipe.of({**values, "seed": seed})
    model = _load_base(config, settings.precision, prompts)
    triplets = dynamics_dataset(data.paths, model.builder, data.task, data.weighting, data.floor, data.seed)
    torch.manual_seed(seed)
    if config.lora is not None:
        add_adapter(model, config.base, config.lora)
        widen_trained(model.lm)
    fit_and_save(model, triplets, settings, output, scratch, hardware, config.base)


def run_config(config: DynamicsFineTuning, base: str, examples: int) -> DynamicsFineTuning:
    """Return a run's configuration out of a section's: the base found, epochs turned into steps.

    Args:
        base: folder or hub id of the base model.
        examples: that the run learns from.
    """
    training = replace(config.training, steps=count_steps(config.training, examples), epochs=None)
    return DynamicsFineTuning(base=base, lora=config.lora, training=training)


def add_adapter(model: UnifiedModel, base: str, lora: Lora) -> None:
    """Put a LoRA on all linear maps of the decoder's layers, in place.

    Args:
        base: what the adapter's folder names as its base.
    """
    from peft import LoraConfig, get_peft_model

    options = {"r": lora.rank, "lora_alpha": lora.alpha, "lora_dropout": lora.dropout}
    if lora.modules_to_save:
        options["modules_to_save"] = list(lora.modules_to_save)
        # Else the head would train and the embeddings stay behind.
        options |= {"ensure_weight_tying": True} if model.lm.config.tie_word_embeddings else {}
    config = LoraConfig(target_modules=list(LORA_TARGETS), task_type="CAUSAL_LM", **options)
    model.lm = get_peft_model(model.lm, config)
    model.lm.peft_config["default"].base_model_name_or_path = base


def _load_base(config: DynamicsFineTuning, precision: str, prompts: Prompts) -> UnifiedModel:
    """Load a base straight to this rank's device."""
    device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    narrow = precision == "bf16" and config.lora is not None
    dtype = torch.bfloat16 if narrow else torch.float32
    model = load_model(config.base, device=device, dtype=dtype, prompts=prompts)
    if not isinstance(model, UnifiedModel):
        raise ValueError(
            f"{config.base} cannot write images; a dynamics model starts from a Chameleon, Anole or Liquid"
        )
    return model


def _first_rank() -> bool:
    return int(os.environ.get("RANK", "0")) == 0


def fit_and_save(
    model: UnifiedModel,
    data: Dataset,
    recipe: Recipe,
    output: str,
    scratch: str,
    hardware: dict | None,
    base: str | None = None,
) -> None:
    """Train on a dataset of sequences and save the model with its `training.csv`, on the first rank.

    Args:
        base: what the model was fine-tuned from; an adapter then finds it also where both have been moved.
    """
    together = partial(collate, pad=model.layout.pad)
    save = partial(_save, model, Path(output), base)
    loss, mass = CompletionLoss(model.lm), (lambda batch: batch["weights"].sum())
    fit(loss, data, recipe, scratch, together, hardware, mass, save)


def _save(model: UnifiedModel, output: Path, base: str | None, history: pd.DataFrame) -> None:
    """Write the model on the first rank; every rank must call this, for sharded weights are gathered."""
    state = None
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        state = gathered(model.lm, keep=_first_rank(), trained_only=hasattr(model.lm, "peft_config"))
    if not _first_rank():
        return
    model.save(output, state)
    history.to_csv(output / "training.csv", index=False)
    if base is not None:
        make_portable(output, base)
        (output / "README.md").unlink(missing_ok=True)  # peft's empty model card, with this machine's paths
