"""Recipes of the embedded Do-Undo generator: a zero-shot base from scratch, then fine-tuning on reversible pairs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import Dataset

from visdyn.images import to_array, to_pixels
from visdyn.models.autoencoder import load_autoencoder
from visdyn.models.flow_checkpoints import load_flow_editor, save_flow_editor
from visdyn.models.flow_editor import FlowEditor, FlowEditorConfig
from visdyn.models.flow_text import build_tokenizer, encode_texts
from visdyn.training.fit import Recipe, fit
from visdyn.training.flow_objectives import Consistency, DoUndoObjective, GenerationObjective, LatentDecoder, Noising
from visdyn.trajectory import ReversiblePair

PROMPTS = ("forward_short", "reverse_short", "forward_prompt", "reverse_prompt")


def train_base_generator(
    *,
    autoencoder: str,
    images: str,
    captions: str,
    pairs: str,
    output: str,
    recipe: dict,
    scratch: str,
    text_slots: int = 72,
    sizes: dict | None = None,
    timestep_shift: float = 3.0,
    hardware: dict | None = None,
) -> pd.DataFrame:
    """Train the zero-shot base from scratch: captioned frames (text-to-image) and unlabelled frame pairs, half each.

    It never sees an action's text between two frames, so that zero-shot rows are honest.

    Args:
        autoencoder: folder of the trained autoencoder; copied into `output`.
        images: .npy, uint8 (N, H, W, 3) single frames.
        captions: JSON lines with `caption`, one for each image.
        pairs: .npy, uint8 (M, 2, H, W, 3) frames of one scene before and after something happened, unlabelled.
        output: folder of the trained editor (`LatentEditor.from_pretrained`), with `training.csv`.
        recipe: keys of `visdyn.training.fit.Recipe`.
        scratch: folder for resume state.
        text_slots: longest text in words, prompts of later training included.
        sizes: changes to `FlowEditorConfig`, such as {"hidden_size": 64}.
        timestep_shift: of the timesteps drawn.
        hardware: see `fit`.

    Returns:
        the history of `fit`.

    Raises:
        ValueError: another number of captions than of images.
    """
    settings, vae = Recipe.of(recipe), load_autoencoder(autoencoder)
    texts = [json.loads(line)["caption"] for line in Path(captions).read_text().splitlines()]
    tokenizer = build_tokenizer(texts, text_slots)
    frames, both = encode_images(vae, np.load(images)), np.load(pairs)
    if len(texts) != len(frames):
        raise ValueError(f"{captions} has {len(texts)} captions for the {len(frames)} images of {images}")
    before, after = (encode_images(vae, both[:, place]) for place in (0, 1))
    torch.manual_seed(settings.seed)
    editor = new_editor(frames, len(tokenizer), text_slots, sizes or {})
    latents = [editor.normalise(part) for part in (frames, before, after)]
    dataset = FramesAndPairs(latents[0], encode_texts(tokenizer, texts), *latents[1:])
    history = fit(GenerationObjective(editor, Noising(timestep_shift)), dataset, settings, scratch, hardware=hardware)
    return _save(output, editor, tokenizer, vae, history)


def train_doundo(
    *,
    base: str,
    pairs: str,
    output: str,
    recipe: dict,
    scratch: str,
    consistency_weight: float = 0.0,
    condition: str = "gt",
    space: str = "latent",
    t_gate: float | None = None,
    weight_function: str = "uniform",
    detach: bool = True,
    long_share: float = 0.5,
    timestep_shift: float = 3.0,
    text_dropout: float = 0.0,
    source_dropout: float = 0.0,
    hardware: dict | None = None,
) -> pd.DataFrame:
    """Fine-tune a base on reversible pairs (Do-Undo, section 3.2); each pair gives a forward and a reverse sample.

    Args:
        base: folder of an editor (`train_base_generator`); words it lacks are added.
        pairs: file of `save_pairs`.
        output, scratch, hardware: as for the base.
        recipe: keys of `visdyn.training.fit.Recipe`; `batch_size` counts pairs.
        consistency_weight: lambda: 0 is Do-Undo, the paper's 0.5 Do-Undo(c). With 0 the loss is measured only.
        condition, space, t_gate, weight_function, detach: see `flow_objectives.Consistency`.
        long_share: share of pairs shown with their long prompts; the others show the short ones.
        timestep_shift, text_dropout, source_dropout: see `flow_objectives.Noising`.

    Returns:
        the history of `fit` with columns step, loss, flow, consistency; also `training.csv` in `output`.
    """
    settings = Recipe.of(recipe)
    options = Consistency(consistency_weight, condition, space, t_gate, weight_function, detach)
    editor, tokenizer, vae = load_flow_editor(base)
    start, end, prompts = load_pairs(pairs)
    torch.manual_seed(settings.seed)
    tokenizer = build_tokenizer(prompts.flatten().tolist(), tokenizer.model_max_length, tokenizer.get_vocab())
    editor.grow_vocabulary(len(tokenizer))
    latents = [editor.normalise(encode_images(vae, part)) for part in (start, end)]
    text_ids = encode_texts(tokenizer, prompts.flatten().tolist()).unflatten(0, (-1, 2, 2))
    noising = Noising(timestep_shift, text_dropout, source_dropout)
    decoder = LatentDecoder(editor, vae) if space == "pixel" else None
    objective = DoUndoObjective(editor, noising, options, long_share, decoder)
    history = fit(objective, LatentPairs(*latents, text_ids), settings, scratch, hardware=hardware)
    return _save(output, editor, tokenizer, vae, history)


def new_editor(latents: Tensor, vocab_size: int, text_slots: int, sizes: dict) -> FlowEditor:
    """Build an untrained editor for latents (N, C, h, h) and normalise by their statistics."""
    shape = {"latent_channels": latents.shape[1], "latent_size": latents.shape[2]}
    editor = FlowEditor(FlowEditorConfig(**shape, vocab_size=vocab_size, text_slots=text_slots, **sizes))
    editor.set_statistics(latents)
    return editor


def _save(output: str, editor: FlowEditor, tokenizer, vae, history: pd.DataFrame) -> pd.DataFrame:
    save_flow_editor(output, editor, tokenizer, vae)
    history.to_csv(Path(output) / "training.csv", index=False, float_format="%.6g", lineterminator="\n")
    return history


@torch.no_grad()
def encode_images(autoencoder, images: np.ndarray, batch_size: int = 64) -> Tensor:
    """Return the latents of uint8 images (N, H, W, 3), float32 (N, C, h, w), on the CPU."""
    parts = [images[first : first + batch_size] for first in range(0, len(images), batch_size)]
    return torch.cat([autoencoder.encode_latents(to_pixels(part)).float() for part in parts])


def save_pairs(path: str | Path, pairs: Sequence[ReversiblePair]) -> None:
    """Write what `train_doundo` reads: a .npz with start, end uint8 (N, H, W, 3) and prompts (N, 2, 2).

    Prompts are short or long, then forward or reverse.

    Raises:
        ValueError: there is no pair, or one lacks a prompt; the message names it.
    """
    if not pairs:
        raise ValueError("there are no reversible pairs to train on")
    prompts = [[getattr(pair, name) for name in PROMPTS] for pair in pairs]
    for pair, own in zip(pairs, prompts, strict=True):
        if not all(prompt.strip() for prompt in own):
            raise ValueError(
                f"reversible pair {pair.id} lacks a prompt; complete it with mining.reversible.with_short_prompts"
            )
    images = {end: to_array(getattr(pair, end) for pair in pairs) for end in ("start", "end")}
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **images, prompts=np.array(prompts).reshape(-1, 2, 2))


def load_pairs(path: str | Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read start, end and prompts from a file of `save_pairs`."""
    with np.load(path, allow_pickle=False) as file:
        return file["start"], file["end"], file["prompts"]


class FramesAndPairs(Dataset):
    """Captioned frames at even places, unlabelled pairs at odd ones; the shorter list repeats."""

    def __init__(self, frames: Tensor, captions: Tensor, before: Tensor, after: Tensor) -> None:
        self.frames, self.captions, self.before, self.after = frames, captions, before, after
        self.no_text = FlowEditor.no_text(captions[:1])[0]

    def __len__(self) -> int:
        return 2 * max(len(self.frames), len(self.before))

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        place, is_pair = divmod(index, 2)
        if is_pair:
            place %= len(self.before)
            return _sample(self.after[place], self.before[place], True, self.no_text)
        place %= len(self.frames)
        frame = self.frames[place]
        return _sample(frame, torch.zeros_like(frame), False, self.captions[place])


def _sample(target: Tensor, source: Tensor, has_source: bool, text_ids: Tensor) -> dict[str, Tensor]:
    return {"target": target, "source": source, "has_source": torch.tensor(has_source), "text_ids": text_ids}


class LatentPairs(Dataset):
    """Latents of start and end, and the prompts of both directions and lengths."""

    def __init__(self, start: Tensor, end: Tensor, text_ids: Tensor) -> None:
        self.start, self.end, self.text_ids = start, end, text_ids

    def __len__(self) -> int:
        return len(self.start)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"start": self.start[index], "end": self.end[index], "text_ids": self.text_ids[index]}
