"""Training curves: a plain file of every run, and the tracker that the hardware file names.

They lie in `.visdyn/curves/<stage>/<run>/` of the profile, outside of everything that DVC hashes: they hold speeds,
which differ from run to run. `curves.tsv` is always written, by this module and at no cost; a tracker's library is
imported where a hardware file asks for it (`trainer: {report_to: [dvclive]}`), since importing one takes longer than
the embedded default's short trainings can spare.
"""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Sequence
from pathlib import Path

from transformers import TrainerCallback

COLUMNS = ("step", "loss", "learning_rate", "grad_norm", "examples_per_second", "tokens_per_second")
TRACKERS = ("dvclive", "tensorboard", "wandb", "trackio")


def find_curves(scratch: Path) -> Path | None:
    """Return the folder of a run's curves, from its resume folder in `.visdyn/scratch/<stage>/`; None if not there."""
    for folder in scratch.absolute().parents:
        if folder.name == "scratch" and folder.parent.name == ".visdyn":
            stage = scratch.absolute().relative_to(folder).parts[0]
            return folder.parent / "curves" / stage / scratch.absolute().parent.name
    return None


def count_tokens(inputs: dict) -> int:
    """Return the tokens of one batch of this rank, padding included; 0 where a recipe has none (pixels)."""
    if "input_ids" in inputs:
        return inputs["input_ids"].numel()  # (B, T)
    return len(inputs["batch"].pack) if hasattr(inputs.get("batch"), "pack") else 0


def make_trackers(names: Sequence[str], folder: Path | None) -> list[TrainerCallback]:
    """Return the callbacks of the trackers of a hardware file; none on other ranks than the first, or without a folder.

    Nothing is sent anywhere by `dvclive`, `tensorboard` and `trackio`; `wandb` sends to the account of whoever is
    logged in, or nothing with WANDB_MODE=offline.

    Args:
        names: of `TRACKERS`.
        folder: of `find_curves`.

    Raises:
        ImportError: a tracker's library is not installed; the message has the command.
    """
    if folder is None or int(os.environ.get("RANK", "0")):
        return []
    return [_make_tracker(name, folder) for name in names]


def _make_tracker(name: str, folder: Path) -> TrainerCallback:
    from transformers import integrations

    try:
        if name == "dvclive":
            from dvclive import Live

            # No dvc.yaml and no experiment of its own: by default it writes both into the repository.
            live = Live(dir=str(folder / name), dvcyaml=None, save_dvc_exp=False, resume=True)
            return integrations.DVCLiveCallback(live=live)
        if name == "tensorboard":
            from torch.utils.tensorboard import SummaryWriter

            return integrations.TensorBoardCallback(SummaryWriter(log_dir=str(folder / name)))
        return {"wandb": integrations.WandbCallback, "trackio": integrations.TrackioCallback}[name]()
    except (ImportError, RuntimeError) as error:  # transformers says RuntimeError for what is not installed
        raise ImportError(
            f"the hardware file's trainer.report_to has {name}, which is not installed or does not load ({error}); "
            f"pip install {name}, or take it out"
        ) from error


class CurveFile(TrainerCallback):
    """Writes `curves.tsv`: a row at every row of the history, flushed at once, so that it can be watched.

    A run that goes on after a kill keeps the rows up to the step from which it goes on.

    Args:
        folder: made when training begins; None writes nothing.
        batch_size: examples of a step, over all ranks.
        tokens: returns how many tokens this rank has seen.
        ranks: over how many the tokens are spread.
    """

    def __init__(self, folder: Path | None, batch_size: int, tokens, ranks: int) -> None:
        self.path = folder / "curves.tsv" if folder else None
        self.batch_size, self.tokens, self.ranks = batch_size, tokens, ranks

    def on_train_begin(self, args, state, control, **_):
        self.then, self.step, self.seen = time.monotonic(), state.global_step, self.tokens()
        if self.path is None or not state.is_world_process_zero:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = self.path.read_text().splitlines() if self.path.is_file() and state.global_step else []
        whole = [line for line in lines[1:] if line.count("\t") == lines[0].count("\t")]  # a full disk cuts a row short
        kept = [line for line in whole if int(line.partition("\t")[0]) <= state.global_step]
        self.path.write_text("".join(f"{line}\n" for line in [*lines[:1], *kept]))

    def on_log(self, args, state, control, logs=None, **_):
        if self.path is None or not logs or "loss" not in logs or not state.is_world_process_zero:
            return
        now, seen = time.monotonic(), self.tokens()
        seconds = max(now - self.then, 1e-9)
        examples = (state.global_step - self.step) * self.batch_size / seconds
        tokens = (seen - self.seen) * self.ranks / seconds
        self.then, self.step, self.seen = now, state.global_step, seen
        row = {**logs, "step": state.global_step, "examples_per_second": examples, "tokens_per_second": tokens or ""}
        names = [*COLUMNS, *sorted(set(row) - set(COLUMNS) - {"epoch"})]
        with self.path.open("a", newline="") as file:
            writer = csv.writer(file, delimiter="\t", lineterminator="\n")
            if file.tell() == 0:
                writer.writerow(names)
            values = [row.get(name, "") for name in names]
            writer.writerow([f"{value:.6g}" if isinstance(value, float) else value for value in values])
