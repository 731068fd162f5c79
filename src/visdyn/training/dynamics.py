"""Recipes for the unified token model: the base, and the IDM and FDM that are fine-tuned from it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from visdyn.models.adapters import make_portable
from visdyn.models.sequences import TokenSequence, collate
from visdyn.models.unified import UnifiedModel
from visdyn.training.fit import Recipe, fit
from visdyn.training.losses import normalise_weights, token_distances, weighted_cross_entropy

# All seven linear maps of a decoder layer; the papers name none.
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class CompletionLoss(nn.Module):
    """A language model with the weighted loss of its completions; what the Trainer trains.

    Takes the batches of `visdyn.models.sequences.collate`.
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


class SequenceDataset(Dataset):
    """A list of sequences.

    With `grouped`, batches hold sequences of like length. That is for mixtures of tasks only: the length of an action
    gives the action away, and an IDM trained on batches of one length learns the last length it saw.
    """

    def __init__(self, sequences: Sequence[TokenSequence], grouped: bool = False) -> None:
        self.sequences = list(sequences)
        if grouped:
            self.lengths = [len(item.prompt) + len(item.completion) for item in self.sequences]

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitem__(self, index: int) -> TokenSequence:
        return self.sequences[index]


def load_triplets(path: str | Path, rows: Sequence[int] | None = None) -> dict[str, np.ndarray]:
    """Read a triplet file: `sources`, `targets` int (N, h, w), `weights` float (N, h * w), `actions` text (N,)."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in ("sources", "targets", "weights", "actions")}
    return arrays if rows is None else {name: values[list(rows)] for name, values in arrays.items()}


def save_triplets(
    path: str | Path, model: UnifiedModel, sources: Sequence, targets: Sequence, actions: Sequence[str]
) -> None:
    """Encode image pairs once and write a triplet file; the weights are the raw squared feature distances (Eq. 2)."""
    from visdyn.images import to_array, to_pixels

    arrays = {"sources": to_array(sources), "targets": to_array(targets)}
    features, codes = {}, {}
    with torch.inference_mode():
        for name, images in arrays.items():
            batches = [model.vqgan.features(to_pixels(images[i : i + 128])) for i in range(0, len(images), 128)]
            features[name] = torch.cat(batches)
            codes[name] = model.vqgan.quantize(features[name]).cpu().numpy()
    weights = token_distances(features["sources"], features["targets"]).cpu().numpy()
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **codes, weights=weights, actions=np.asarray(actions))


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
    """Fine-tune a base model as IDM or FDM on triplet files and save it to `output`.

    Args:
        base: folder of the base model.
        triplets: triplet files (`save_triplets`), concatenated.
        task: `idm` (images to action) or `fdm` (image and action to image).
        weighting: `uniform`, or `recognition` (Bootstrapping, Eq. 2) with `floor`; FDM only.
        adapter: `full`, or `lora` with the settings in `lora` (r, lora_alpha, lora_dropout, modules_to_save).
    """
    model = UnifiedModel.from_pretrained(base)
    data = [load_triplets(path) for path in triplets]
    sequences = [item for part in data for item in _sequences(model, part, task, weighting, floor)]
    torch.manual_seed(Recipe.of(recipe).seed)
    if adapter == "lora":
        from peft import LoraConfig, get_peft_model

        model.lm = get_peft_model(
            model.lm, LoraConfig(target_modules=list(LORA_TARGETS), task_type="CAUSAL_LM", **(lora or {}))
        )
    elif adapter != "full":
        raise ValueError(f"unknown adapter {adapter!r}; one of full, lora")
    fit_and_save(model, sequences, recipe, output, scratch, hardware)
    make_portable(Path(output), base)


def _sequences(model: UnifiedModel, data: dict, task: str, weighting: str, floor: float) -> list[TokenSequence]:
    rows = zip(data["sources"], data["targets"], data["actions"], _loss_weights(data, weighting, floor), strict=True)
    if task == "idm":
        if weighting != "uniform":
            raise ValueError(f"weighting {weighting!r} is for image tokens; an IDM's actions are weighted uniformly")
        return [model.builder.inverse(source, target, str(action)) for source, target, action, _ in rows]
    if task != "fdm":
        raise ValueError(f"unknown task {task!r}; one of idm, fdm")
    return [model.builder.forward(source, str(action), target, weights) for source, target, action, weights in rows]


def _loss_weights(data: dict, weighting: str, floor: float) -> list:
    if weighting == "uniform":
        return [None] * len(data["actions"])
    if weighting != "recognition":
        raise ValueError(f"unknown weighting {weighting!r}; one of uniform, recognition")
    return list(normalise_weights(torch.from_numpy(data["weights"]), floor).numpy())


def fit_and_save(
    model: UnifiedModel,
    sequences: list[TokenSequence],
    recipe: dict,
    output: str,
    scratch: str,
    hardware: dict | None,
    grouped: bool = False,
) -> None:
    """Train on sequences and save the model with its `training.csv`."""
    pad = model.layout.pad
    loss = CompletionLoss(model.lm)
    history = fit(
        loss,
        SequenceDataset(sequences, grouped),
        Recipe.of(recipe),
        scratch,
        lambda items: collate(items, pad),
        hardware,
    )
    model.save(output)
    history.to_csv(Path(output) / "training.csv", index=False)
