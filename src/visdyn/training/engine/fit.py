"""One training loop for every recipe: the transformers Trainer, resumable after a kill at any moment."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import pandas as pd
import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import PrinterCallback, TrainingArguments
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from visdyn.params.dynamics import FineTuning
from visdyn.params.training import check_pace
from visdyn.readers import read_json
from visdyn.training.engine.curves import CurveFile, find_curves, make_trackers
from visdyn.training.engine.sharding import resolve_hardware
from visdyn.training.engine.trainer import (
    COMPLETE,
    AlreadyTrained,
    DivergedError,
    EndAtLastStep,
    LogLine,
    MarkComplete,
    RecipeTrainer,
    trained_only,
)

__all__ = ["COMPLETE", "DivergedError", "Recipe", "ScratchError", "count_steps", "fit", "write_history"]


@dataclass(frozen=True)
class Recipe:
    """The science settings of one training run.

    Attributes:
        steps: optimiser steps.
        batch_size: examples in one step, over all ranks.
        learning_rate: peak learning rate of the optimiser.
        warmup_steps: linear warm-up.
        scheduler: name of a transformers schedule, decaying to zero at `steps`.
        weight_decay: decoupled weight decay.
        max_grad_norm: gradients are clipped to this norm.
        precision: `fp32` or `bf16` (autocast).
        optimizer: `adamw`, or `muon` (`visdyn.training.engine.muon`), which DeepSpeed does not know.
        seed: of initialisation-free randomness: data order, dropout, noise.
        log_every: steps between two rows of the history; a shorter run gets one row, at its end.
        save_every: steps between two resumable checkpoints; a multiple of `log_every`.
    """

    steps: int
    batch_size: int
    learning_rate: float
    warmup_steps: int = 0
    scheduler: str = "cosine"
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    precision: str = "fp32"
    optimizer: str = "adamw"
    seed: int = 0
    log_every: int = 20
    save_every: int = 100

    def __post_init__(self) -> None:
        check_pace(self.log_every, self.save_every)

    @classmethod
    def of(cls, values: dict) -> Recipe:
        """Build a recipe from a mapping; an unknown key is an error that lists the known ones."""
        known = {field.name for field in fields(cls)}
        if unknown := set(values) - known:
            raise ValueError(f"unknown recipe key(s) {sorted(unknown)}; known: {sorted(known)}")
        return cls(**values)


def count_steps(training: FineTuning, examples: int) -> int:
    """Return the optimiser steps of a run: `steps`, or as many as `epochs` of the data take."""
    if training.epochs is None:
        return training.steps
    return training.epochs * math.ceil(examples / training.batch_size)


class ScratchError(RuntimeError):
    """The resume state in a scratch folder belongs to another run."""


def fit(
    model: nn.Module,
    dataset: Dataset,
    recipe: Recipe,
    scratch: str | Path,
    collate: Callable | None = None,
    hardware: dict | None = None,
    loss_normalizer: Callable | None = None,
    save: Callable[[pd.DataFrame], None] | None = None,
) -> pd.DataFrame:
    """Train `model` in place and return its history (columns step, loss and the model's diagnostics).

    `model(**batch)` returns a mapping with a scalar `loss`; further scalars are averaged into the history.
    Checkpoints go to `scratch`; called again after a kill, the same call continues from the last one and ends
    with the same weights. They hold what trains: of a LoRA, no copy of its base. Scratch is removed at the end, after
    `save`: a kill or a full disk while a model is being written costs no training.

    Args:
        model: a module; for a distributed run every rank passes its own copy.
        dataset: map-style; its order is shuffled by `recipe.seed`. One with `lengths` (one number for each item) is
            batched by like length.
        recipe: the science settings.
        scratch: folder for resume state, not shared with another run.
        collate: makes a batch from a list of items.
        hardware: extra `TrainingArguments` (for example `deepspeed`, `activation_checkpointing`), and `report_to`: the
            trackers of the run's curves (see `visdyn.training.engine.curves`), and `compile_layers`,
            of a model that has a method of that name.
        loss_normalizer: of a batch, what its loss is a mean over (a sum of weights). With it a batch that is split
            over ranks and accumulation steps has the loss of the whole, also where the parts weigh differently.
        save: writes the trained model; called with the history, on every rank.

    Raises:
        ValueError: the batch cannot be split over the ranks and accumulation steps; Muon under DeepSpeed.
        ScratchError: `scratch` holds the state of a run with another recipe or world size.
        DivergedError: a loss, the gradients or the trained weights are no numbers; nothing of them is saved.
    """
    scratch = Path(scratch)
    hardware = resolve_hardware(hardware or {})
    curves, trackers = find_curves(scratch), hardware.pop("report_to", ())
    if hardware.pop("compile_layers", False) and hasattr(model, "compile_layers"):
        print(f"{model.compile_layers()} decoder layers are compiled at the first step", flush=True)
        hardware["activation_checkpointing"] = False  # they choose themselves what they compute again
    if recipe.optimizer == "muon" and "deepspeed" in hardware:
        raise ValueError(
            "optimizer muon takes whole matrices, which DeepSpeed cuts apart; set optimizer: adamw in params.yaml, or "
            "take a hardware file without deepspeed"
        )
    arguments = _training_arguments(recipe, scratch, hardware)
    _claim_scratch(scratch, recipe, arguments)
    trained_only(model)
    trainer = RecipeTrainer(
        model=model,
        args=arguments,
        train_dataset=dataset,
        data_collator=collate,
        callbacks=[LogLine(recipe.steps), MarkComplete(), EndAtLastStep(), *make_trackers(trackers, curves)],
        loss_normalizer=loss_normalizer,
        orthogonal=recipe.optimizer == "muon",
    )
    trainer.add_callback(CurveFile(curves, recipe.batch_size, lambda: trainer.tokens, arguments.world_size))
    trainer.remove_callback(PrinterCallback)
    try:
        trainer.train(resume_from_checkpoint=_last_complete(scratch, arguments))
    except AlreadyTrained:
        pass
    finally:
        # The library remembers ZeRO-3, and would cut apart the next model that this process loads.
        unset_hf_deepspeed_config()
    trainer.require_finite_weights()
    history = _loss_history(trainer.state.log_history)
    if save is not None:
        save(history)
    if trainer.is_world_process_zero():
        _remove_scratch(scratch)
    return history


def write_history(history: pd.DataFrame, output: str | Path) -> None:
    """Write `training.csv` into a model's folder, six digits a number."""
    history.to_csv(Path(output) / "training.csv", index=False, float_format="%.6g", lineterminator="\n")


def _loss_history(rows: list[dict]) -> pd.DataFrame:
    history = pd.DataFrame([row for row in rows if "loss" in row])
    history = history.drop(columns=[name for name in ("epoch", "grad_norm", "learning_rate") if name in history])
    # Sorted: the file that a run resumes from keeps its keys in another order than a run in one go.
    return history[["step", "loss", *sorted(set(history) - {"step", "loss"})]]


def _training_arguments(recipe: Recipe, scratch: Path, hardware: dict) -> TrainingArguments:
    ranks = max(1, int(os.environ.get("WORLD_SIZE", "1")))
    accumulation = hardware.get("gradient_accumulation_steps", 1)
    per_rank = split_batch(recipe.batch_size, ranks, accumulation)
    accelerated = torch.cuda.is_available()
    os.environ["ACCELERATE_MIXED_PRECISION"] = "no"  # transformers reads it where neither fp16 nor bf16 is asked for
    return TrainingArguments(
        output_dir=str(scratch),
        max_steps=recipe.steps,
        per_device_train_batch_size=per_rank,
        learning_rate=recipe.learning_rate,
        warmup_steps=recipe.warmup_steps,
        lr_scheduler_type=recipe.scheduler,
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.max_grad_norm,
        adam_beta2=0.95,
        bf16=recipe.precision == "bf16",
        use_cpu=not accelerated,
        seed=recipe.seed,
        data_seed=recipe.seed,
        logging_steps=min(recipe.log_every, recipe.steps),
        logging_nan_inf_filter=False,  # it writes the mean of the steps before in place of a loss that is none
        save_steps=recipe.save_every,
        save_total_limit=2,
        save_strategy="steps",
        report_to="none",  # `make_trackers` makes those of the hardware file; "all" would take whatever is installed
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=accelerated,
        **hardware,
    )


def split_batch(batch_size: int, ranks: int, accumulation: int) -> int:
    """Return the examples that a rank takes at a time.

    Raises:
        ValueError: the batch cannot be split evenly.
    """
    per_rank, rest = divmod(batch_size, ranks * accumulation)
    if rest or per_rank == 0:
        raise ValueError(
            f"batch_size {batch_size} cannot be split over {ranks} ranks x {accumulation} accumulation steps; change "
            "the batch size in params.yaml, or gradient_accumulation_steps in the hardware file"
        )
    return per_rank


def _claim_scratch(scratch: Path, recipe: Recipe, arguments: TrainingArguments) -> None:
    """Refuse resume state of another recipe or world size; else mark the folder as this run's."""
    claim = {**asdict(recipe), "world_size": arguments.world_size}
    marker = scratch / "run.json"
    if marker.is_file() and (found := read_json(marker, dict, ScratchError, "delete the folder")) != claim:
        differing = sorted(key for key in claim if found.get(key) != claim[key])
        raise ScratchError(
            f"{scratch} holds the unfinished state of another run (different {', '.join(differing)}); "
            "finish that run with its own settings or delete the folder"
        )
    if arguments.process_index == 0:
        scratch.mkdir(parents=True, exist_ok=True)
        draft = scratch / "run.json.tmp"
        draft.write_text(json.dumps(claim))
        draft.replace(marker)


def _last_complete(scratch: Path, arguments: TrainingArguments) -> str | None:
    """Return the newest checkpoint that was written to its end; delete those that a kill cut short."""
    checkpoints = sorted(scratch.glob("checkpoint-*"), key=lambda folder: int(folder.name.rpartition("-")[2]))
    complete = [folder for folder in checkpoints if (folder / COMPLETE).is_file()]
    if arguments.process_index == 0:
        for folder in set(checkpoints) - set(complete):
            shutil.rmtree(folder)
    return str(complete[-1]) if complete else None


def _remove_scratch(scratch: Path) -> None:
    """Delete resume state, marks first, so that a kill half-way leaves nothing that looks complete."""
    for mark in scratch.glob(f"checkpoint-*/{COMPLETE}"):
        mark.unlink()
    shutil.rmtree(scratch, ignore_errors=True)
