"""One training loop for every recipe: the transformers Trainer, resumable after a kill at any moment."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import pandas as pd
import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments

from visdyn.training.batching import LengthGroupedSampler

COMPLETE = "complete"


@dataclass(frozen=True)
class Recipe:
    """The science settings of one training run.

    Attributes:
        steps: optimiser steps.
        batch_size: examples in one step, over all ranks.
        learning_rate: peak learning rate of AdamW.
        warmup_steps: linear warm-up.
        scheduler: name of a transformers schedule, decaying to zero at `steps`.
        weight_decay: decoupled weight decay.
        max_grad_norm: gradients are clipped to this norm.
        precision: `fp32` or `bf16` (autocast).
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
    seed: int = 0
    log_every: int = 20
    save_every: int = 100

    def __post_init__(self) -> None:
        # Running means are not part of a checkpoint: one between two rows would change the history of a resumed run.
        if self.save_every % self.log_every:
            raise ValueError(
                f"save_every ({self.save_every}) must be a multiple of log_every ({self.log_every}), "
                "else a resumed run would log other losses than an uninterrupted one"
            )

    @classmethod
    def of(cls, values: dict) -> Recipe:
        """Build a recipe from a mapping; an unknown key is an error that lists the known ones."""
        known = {field.name for field in fields(cls)}
        if unknown := set(values) - known:
            raise ValueError(f"unknown recipe key(s) {sorted(unknown)}; known: {sorted(known)}")
        return cls(**values)


class ScratchError(RuntimeError):
    """The resume state in a scratch folder belongs to another run."""


def fit(
    model: nn.Module,
    dataset: Dataset,
    recipe: Recipe,
    scratch: str | Path,
    collate: Callable | None = None,
    hardware: dict | None = None,
) -> pd.DataFrame:
    """Train `model` in place and return its history (columns step, loss and the model's diagnostics).

    `model(**batch)` returns a mapping with a scalar `loss`; further scalars are averaged into the history.
    Checkpoints go to `scratch`; called again after a kill, the same call continues from the last one and ends
    with the same weights. Scratch is removed at the end.

    Args:
        model: a module; for a distributed run every rank passes its own copy.
        dataset: map-style; its order is shuffled by `recipe.seed`. One with `lengths` (one number for each item) is
            batched by like length.
        recipe: the science settings.
        scratch: folder for resume state, not shared with another run.
        collate: makes a batch from a list of items.
        hardware: extra `TrainingArguments` (for example `deepspeed`, `gradient_checkpointing`).

    Raises:
        ScratchError: `scratch` holds the state of a run with another recipe or world size.
    """
    scratch = Path(scratch)
    arguments = _arguments(recipe, scratch, hardware or {})
    _claim(scratch, recipe, arguments)
    diagnostics = _Diagnostics(arguments.logging_steps)
    trainer = _DiagnosticTrainer(
        model=model,
        args=arguments,
        train_dataset=dataset,
        data_collator=collate,
        callbacks=[_LogLine(recipe), _MarkComplete()],
    )
    trainer.diagnostics = diagnostics
    trainer.remove_callback(_printer())
    trainer.train(resume_from_checkpoint=_last_complete(scratch, arguments))
    history = pd.DataFrame([row for row in trainer.state.log_history if "loss" in row])
    history = history.drop(columns=[name for name in ("epoch", "grad_norm", "learning_rate") if name in history])
    if trainer.is_world_process_zero():
        _remove(scratch)
    return history[["step", "loss", *[name for name in history if name not in ("step", "loss")]]]


def _printer():
    from transformers import PrinterCallback

    return PrinterCallback


def _arguments(recipe: Recipe, scratch: Path, hardware: dict) -> TrainingArguments:
    ranks = max(1, int(os.environ.get("WORLD_SIZE", "1")))
    accumulation = hardware.get("gradient_accumulation_steps", 1)
    per_rank, rest = divmod(recipe.batch_size, ranks * accumulation)
    if rest or per_rank == 0:
        raise ValueError(
            f"batch_size {recipe.batch_size} cannot be split over {ranks} ranks x {accumulation} accumulation steps"
        )
    accelerated = torch.cuda.is_available()
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
        save_steps=recipe.save_every,
        save_total_limit=2,
        save_strategy="steps",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=accelerated,
        **hardware,
    )


def _claim(scratch: Path, recipe: Recipe, arguments: TrainingArguments) -> None:
    """Refuse resume state of another recipe or world size; else mark the folder as this run's."""
    claim = {**asdict(recipe), "world_size": arguments.world_size}
    marker = scratch / "run.json"
    if marker.is_file() and (found := json.loads(marker.read_text())) != claim:
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


def _remove(scratch: Path) -> None:
    """Delete resume state, marks first, so that a kill half-way leaves nothing that looks complete."""
    for mark in scratch.glob(f"checkpoint-*/{COMPLETE}"):
        mark.unlink()
    shutil.rmtree(scratch, ignore_errors=True)


class _MarkComplete(TrainerCallback):
    """Marks a checkpoint once all its files are there."""

    def on_save(self, args, state, control, **_):
        if state.is_world_process_zero:
            (Path(args.output_dir) / f"checkpoint-{state.global_step}" / COMPLETE).touch()


class _Diagnostics:
    """Running means of the scalars that a model returns beside its loss."""

    def __init__(self, window: int) -> None:
        self.window = window
        self.sums: dict[str, float] = {}
        self.count = 0

    def add(self, outputs: dict) -> None:
        self.count += 1
        for name, value in outputs.items():
            if name != "loss" and isinstance(value, torch.Tensor) and value.ndim == 0:
                self.sums[name] = self.sums.get(name, 0.0) + float(value.detach())

    def means(self) -> dict[str, float]:
        means = {name: total / max(1, self.count) for name, total in self.sums.items()}
        self.sums, self.count = {}, 0
        return means


class _DiagnosticTrainer(Trainer):
    """Adds the model's diagnostics to the rows that the Trainer logs."""

    diagnostics: _Diagnostics

    def _get_train_sampler(self, train_dataset=None):
        dataset = self.train_dataset if train_dataset is None else train_dataset
        if hasattr(dataset, "lengths"):
            ranks_batch = self.args.train_batch_size * self.args.world_size
            return LengthGroupedSampler(dataset.lengths, ranks_batch, self.args.seed)
        return super()._get_train_sampler(train_dataset)

    def compute_loss(self, model, inputs, return_outputs=False, **_):
        outputs = model(**inputs)
        self.diagnostics.add(outputs)
        return (outputs["loss"], outputs) if return_outputs else outputs["loss"]

    def _save(self, output_dir=None, state_dict=None):
        # safetensors refuses channels-last weights
        state = self.model.state_dict() if state_dict is None else state_dict
        super()._save(output_dir, {name: value.contiguous() for name, value in state.items()})

    def log(self, logs, *args, **kwargs):
        if "loss" in logs:
            logs = {**logs, **self.diagnostics.means()}
        super().log(logs, *args, **kwargs)


class _LogLine(TrainerCallback):
    """Prints one line every few seconds, for logs; nothing per step."""

    def __init__(self, recipe: Recipe, seconds: float = 10.0) -> None:
        self.recipe, self.seconds, self.last = recipe, seconds, time.monotonic()

    def on_log(self, args, state, control, logs=None, **_):
        finished = state.global_step >= self.recipe.steps
        if (
            logs
            and "loss" in logs
            and state.is_world_process_zero
            and (finished or time.monotonic() - self.last >= self.seconds)
        ):
            self.last = time.monotonic()
            print(f"step {state.global_step}/{self.recipe.steps} loss {logs['loss']:.4f}", flush=True)
