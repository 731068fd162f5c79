"""Recipes for the unified token model: the base, and the IDM and FDM that are fine-tuned from it."""

from __future__ import annotations

import os
from collections.abc import Sequence
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
from visdyn.training.engine.fit import Recipe, fit
from visdyn.training.engine.sharding import gathered, widen_trained
from visdyn.training.losses import weighted_cross_entropy
from visdyn.training.triplets import dynamics_dataset

# All seven linear maps of a decoder layer; the papers name none.
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class CompletionLoss(nn.Module):
    """A language model with the weighted loss of its completions; what the Trainer trains.

    Takes the batches of `visdyn.models.token.sequences.collate`.
    """

    def __init__(self, lm: nn.Module) -> None:
        super().__init__()
        self.lm = lm

    def forward(self, input_ids, attention_mask, targets, weights) -> dict[str, torch.Tensor]:
        """Return `loss`: sum(w * nll) / sum(w) over the completions."""
        lm = self.lm.get_base_model() if hasattr(self.lm, "get_base_model") else self.lm
        hidden = lm.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
        hidden = hidden[:, -targets.shape[1] - 1 : -1]
        return {"loss": weighted_cross_entropy(hidden, lm.lm_head.weight, targets, weights)}

    def activation_checkpointing_enable(self, **options) -> None:
        """Let the Trainer's `gradient_checkpointing` reach the language model."""
        self.lm.activation_checkpointing_enable(**options)


def train_dynamics(
    *,
    base: str,
    triplets: Sequence[str],
    task: str,
    output: str,
    recipe: dict,
    scratch: str,
    weighting: str = "uniform",
    floor: float = 0.5,
    adapter: str = "full",
    lora: dict | None = None,
    hardware: dict | None = None,
) -> None:
    """Fine-tune a base model (Chameleon or Liquid) as IDM or FDM on triplets and save it to `output`.

    `full` writes a whole model, `lora` the adapter alone, both with `training.csv`. The image tokenizer never trains.
    In precision `bf16` a LoRA's base is kept in bfloat16 and its adapter in float32 (by DeepSpeed: bfloat16 with a
    float32 master copy); full fine-tuning keeps float32 weights under autocast.

    Args:
        base: folder or hub id of the base model.
        triplets: what `visdyn.training.triplets` wrote, concatenated.
        task: `idm` (images to action) or `fdm` (image and action to image).
        weighting: `uniform`, or `recognition` (Bootstrapping, Eq. 2) with `floor`; FDM only.
        adapter: `full`, or `lora` with the settings in `lora` (r, lora_alpha, lora_dropout, modules_to_save).

    Raises:
        ValueError: an unknown setting, or one that does not fit the task.
    """
    if adapter not in ("full", "lora"):
        raise ValueError(f"unknown adapter {adapter!r}; one of full, lora")
    settings = Recipe.of(recipe)
    model = _load_base(base, settings, adapter)
    data = dynamics_dataset(triplets, model.builder, task, weighting, floor)
    torch.manual_seed(settings.seed)
    if adapter == "lora":
        add_adapter(model, base, lora or {})
        widen_trained(model.lm)
    fit_and_save(model, data, recipe, output, scratch, hardware, base)


def add_adapter(model: UnifiedModel, base: str, lora: dict) -> None:
    """Put a LoRA on all linear maps of the decoder's layers, in place.

    Args:
        base: what the adapter's folder names as its base.
        lora: settings of `peft.LoraConfig`.
    """
    from peft import LoraConfig, get_peft_model

    if lora.get("modules_to_save") and model.lm.config.tie_word_embeddings:
        lora = {"ensure_weight_tying": True, **lora}  # else the head would train and the embeddings stay behind
    config = LoraConfig(target_modules=list(LORA_TARGETS), task_type="CAUSAL_LM", **lora)
    model.lm = get_peft_model(model.lm, config)
    model.lm.peft_config["default"].base_model_name_or_path = base


def _load_base(base: str, settings: Recipe, adapter: str) -> UnifiedModel:
    """Load a base straight to this rank's device."""
    device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    narrow = settings.precision == "bf16" and adapter == "lora"
    model = load_model(base, device=device, dtype=torch.bfloat16 if narrow else torch.float32)
    if not isinstance(model, UnifiedModel):
        raise ValueError(f"{base} cannot write images; a dynamics model starts from a Chameleon, Anole or Liquid")
    return model


def _first_rank() -> bool:
    return int(os.environ.get("RANK", "0")) == 0


def fit_and_save(
    model: UnifiedModel,
    data: Dataset,
    recipe: dict,
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
    fit(loss, data, Recipe.of(recipe), scratch, together, hardware, mass, save)


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
