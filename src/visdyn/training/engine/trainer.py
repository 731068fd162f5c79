"""The transformers Trainer with what the recipes need: diagnostics, small checkpoints, losses that split exactly."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import nn
from transformers import Trainer, TrainerCallback

from visdyn.compute.progress import Interval, format_duration
from visdyn.training.engine.batching import LengthGroupedSampler
from visdyn.training.engine.curves import count_tokens
from visdyn.training.engine.muon import make_muon
from visdyn.training.engine.sharding import find_non_finite

COMPLETE = "complete"
_CPU = torch.device("cpu")


class DivergedError(RuntimeError):
    """Training met a loss, gradients or weights that are no numbers; the message says where, and what to do."""


class RecipeTrainer(Trainer):
    """Trains a module whose forward returns a mapping with `loss`.

    Args:
        loss_normalizer: see `visdyn.training.engine.fit.fit`.
        orthogonal: the layers' matrices step by Muon.
    """

    def __init__(self, *args, loss_normalizer: Callable | None = None, orthogonal: bool = False, **kwargs) -> None:
        self.loss_normalizer, self.micro_batches, self.orthogonal = loss_normalizer, 1, orthogonal
        self.diagnostics, self.tokens = _Diagnostics(), 0
        super().__init__(*args, **kwargs)

    def _get_train_sampler(self, train_dataset=None):
        dataset = self.train_dataset if train_dataset is None else train_dataset
        if hasattr(dataset, "lengths"):
            ranks_batch = self.args.train_batch_size * self.args.world_size
            return LengthGroupedSampler(dataset.lengths, ranks_batch, self.args.seed)
        return super()._get_train_sampler(train_dataset)

    def create_optimizer(self, model=None):
        if self.orthogonal and self.optimizer is None:
            _, options = self.get_optimizer_cls_and_kwargs(self.args)
            self.optimizer = make_muon(self.model if model is None else model, self.args.weight_decay, **options)
        return super().create_optimizer(model)

    def _get_num_items_in_batch(self, batch_samples, device):
        """Return the normalizer of one optimiser step's batch, over all ranks; None where the batch is in one piece."""
        self.micro_batches = len(batch_samples)
        if self.loss_normalizer is None or not batch_samples or len(batch_samples) * self.args.world_size == 1:
            return None
        return self.accelerator.gather(sum(self.loss_normalizer(batch) for batch in batch_samples).to(device)).sum()

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None, **_):
        outputs = model(**inputs)
        self.diagnostics.add(outputs)
        self.tokens += count_tokens(inputs)
        loss = outputs["loss"]
        if num_items_in_batch is not None:
            # Ranks and accumulation steps are averaged: each part counts by its share of the normalizer.
            parts = self.micro_batches * self.args.world_size
            loss = loss * (self.loss_normalizer(inputs) * parts / num_items_in_batch)
        return (loss, outputs) if return_outputs else loss

    def _get_grad_norm(self, model, grad_norm=None):
        """Return the norm before the optimiser's step, which is not taken where norm or loss are no numbers.

        What lies on a GPU is looked at when it is logged: each look would wait for the device.
        """
        grad_norm = super()._get_grad_norm(model, grad_norm)
        seen = {"loss": self._tr_loss, "norm of the gradients": grad_norm}
        self._require_numbers({k: v for k, v in seen.items() if getattr(v, "device", _CPU).type == "cpu"}, 1)
        return grad_norm

    def _require_numbers(self, values: dict[str, torch.Tensor | float], ahead: int) -> None:
        """Refuse to go on with a value that is no number; `ahead` is 1 within a step, 0 after it."""
        for name, value in values.items():
            if not math.isfinite(value):
                raise DivergedError(
                    f"training diverged at step {self.state.global_step + ahead}: the {name} is {float(value)}; lower "
                    f"the learning rate, or look for bad examples (its last whole checkpoint is in "
                    f"{self.args.output_dir})"
                )

    def require_finite_weights(self) -> None:
        """Refuse to save weights that are no numbers.

        Raises:
            DivergedError: a parameter that trains holds NaN or infinity.
        """
        if wrong := find_non_finite(self.model):
            more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
            raise DivergedError(
                f"training diverged by step {self.state.global_step}: {', '.join(wrong[:3])}{more} hold NaN or "
                "infinity and are not saved; lower the learning rate, or look for bad examples"
            )

    def save_model(self, output_dir=None, _internal_call=False):
        self.require_finite_weights()
        # DeepSpeed's own checkpoint holds the weights; a second copy is read by no one.
        if self.is_deepspeed_enabled:
            Path(output_dir).mkdir(parents=True, exist_ok=True)
        else:
            super().save_model(output_dir, _internal_call)

    def _save(self, output_dir=None, state_dict=None):
        state = self.model.state_dict() if state_dict is None else state_dict
        frozen = {name for name, value in self.model.named_parameters() if not value.requires_grad}
        tied = dict(self.model.named_parameters(remove_duplicate=False)).keys()
        tied -= dict(self.model.named_parameters()).keys()
        # safetensors refuses channels-last weights, and tied ones
        kept = {name: value.contiguous() for name, value in state.items() if name not in frozen | tied}
        super()._save(output_dir, kept)

    def _save_optimizer_and_scheduler(self, output_dir):
        engine = self.model_wrapped
        if not self.is_deepspeed_enabled:
            return super()._save_optimizer_and_scheduler(output_dir)
        engine.save_checkpoint = partial(engine.save_checkpoint, exclude_frozen_parameters=True)
        try:
            return super()._save_optimizer_and_scheduler(output_dir)
        finally:
            del engine.save_checkpoint

    def log(self, logs, *args, **kwargs):
        if "loss" in logs:
            found = {"loss": logs["loss"], "norm of the gradients": logs.get("grad_norm", 0.0)}
            self._require_numbers(found, 0)
            logs = {**logs, **self.diagnostics.means()}
        super().log(logs, *args, **kwargs)


def trained_only(model: nn.Module) -> None:
    """Let a module take state without its frozen parameters, which checkpoints leave out; what trains must be there."""

    def load(state, strict: bool = True, assign: bool = False):
        result = type(model).load_state_dict(model, state, strict=False, assign=assign)
        names = {name for name, value in model.named_parameters() if value.requires_grad}
        if lacking := sorted(names & set(result.missing_keys)):
            raise RuntimeError(f"the checkpoint lacks {', '.join(lacking[:3])}, which trains")
        return result._replace(missing_keys=[])  # the library would ask the module which of them it expects

    model.load_state_dict = load


class MarkComplete(TrainerCallback):
    """Marks a checkpoint once all its files are there."""

    def on_save(self, args, state, control, **_):
        if torch.distributed.is_initialized():
            torch.distributed.barrier()  # every rank writes its own files
        if state.is_world_process_zero:
            (Path(args.output_dir) / f"checkpoint-{state.global_step}" / COMPLETE).touch()


class AlreadyTrained(Exception):
    """A run went on from the checkpoint of its last step; the weights are loaded, and nothing is left to do."""


class EndAtLastStep(TrainerCallback):
    """Ends a run that goes on from its last step; the library would take one more."""

    def on_step_begin(self, args, state, control, **_):
        if state.global_step >= state.max_steps:
            raise AlreadyTrained


class _Diagnostics:
    """Running means of the scalars that a model returns beside its loss."""

    def __init__(self) -> None:
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


class LogLine(TrainerCallback):
    """Prints one line every few seconds, with the time left, for logs; nothing per step."""

    def __init__(self, steps: int, seconds: float = 2.0) -> None:
        self.steps, self.interval = steps, Interval(seconds)

    def on_train_begin(self, args, state, control, **_):
        self.began, self.first = time.monotonic(), state.global_step  # a resumed run has steps that took no time here

    def on_log(self, args, state, control, logs=None, **_):
        if not logs or "loss" not in logs or not state.is_world_process_zero:
            return
        step = state.global_step
        if step >= self.steps or self.interval.is_due():
            left = (time.monotonic() - self.began) / max(step - self.first, 1) * (self.steps - step)
            print(f"step {step}/{self.steps} loss {logs['loss']:.4f}, {format_duration(left)} left", flush=True)
