"""Editing images by prompt: what an editor must answer, the small editor, and doing and undoing with either."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from visdyn.images import ImageRef, from_pixels, to_array, to_pixels
from visdyn.models.flow_editor import FlowEditor
from visdyn.models.flow_text import encode_texts
from visdyn.trajectory import ReversiblePair

RENORMS = ("none", "global", "channel", "text_channel")
REVERSE_FROM = ("gt", "generated")
# uint8 (N, H, W, 3) where all images have one size, else a list of uint8 (H, W, 3)
Images = np.ndarray | list[np.ndarray]


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance in BAGEL's formula.

    Attributes:
        text, image: scales s_t and s_i; a scale of 1 or less switches its branch off.
        low, high: guidance acts where low < t <= high.
        renorm: `none`; `global`, one norm for each image; `channel`, one for each latent position; `text_channel`,
            one for each position, after the text step only.
        renorm_min: smallest factor by which the guided velocity is scaled back.
    """

    text: float = 1.0
    image: float = 1.0
    low: float = 0.0
    high: float = 1.0
    renorm: str = "global"
    renorm_min: float = 0.0

    def __post_init__(self) -> None:
        if self.renorm not in RENORMS:
            raise ValueError(f"unknown guidance renorm {self.renorm!r}; one of {', '.join(RENORMS)}")

    def acts_at(self, t: float) -> bool:
        """Whether any branch is on at time t."""
        return self.low < t <= self.high and (self.text > 1 or self.image > 1)


class ImageEditor(Protocol):
    """Anything that edits images by prompt: the small editor here, BAGEL, a diffusers pipeline."""

    def edit(
        self,
        sources: Sequence[ImageRef | None],
        prompts: Sequence[str | None],
        seeds: Sequence[int],
        steps: int | None = None,
        guidance: Guidance | None = None,
    ) -> list[np.ndarray]:
        """Return one uint8 image (H, W, 3) for each source and prompt.

        Args:
            sources: images; None generates from the prompt alone.
            prompts: texts; None leaves the text out.
            seeds: one for each item: an item's result does not depend on the other items, up to float rounding (about
                one grey level where the batches differ).
            steps: network evaluations of the sampler; None is the editor's own default.
            guidance: None is the editor's own default.
        """
        ...


class LatentEditor:
    """A `FlowEditor` with its tokenizer and autoencoder: images in, images out.

    The folder (`save_pretrained`) holds config.json, model.safetensors, the tokenizer's files, and the autoencoder
    in `autoencoder/`.
    """

    default_steps = 12

    def __init__(self, model: FlowEditor, tokenizer, autoencoder, batch_size: int = 32) -> None:
        self.model, self.tokenizer, self.autoencoder = model.eval(), tokenizer, autoencoder
        self.batch_size = batch_size

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str = "cpu", batch_size: int = 32) -> LatentEditor:
        """Load an editor written by `save_pretrained`.

        Raises:
            FileNotFoundError: the folder does not exist.
        """
        from visdyn.models.flow_checkpoints import load_flow_editor

        return cls(*load_flow_editor(folder, device), batch_size=batch_size)

    @torch.no_grad()
    def edit(
        self,
        sources: Sequence[ImageRef | None],
        prompts: Sequence[str | None],
        seeds: Sequence[int],
        steps: int | None = None,
        guidance: Guidance | None = None,
    ) -> list[np.ndarray]:
        """See `ImageEditor.edit`; `steps` Euler steps are as many network evaluations (12 by default)."""
        if not len(sources) == len(prompts) == len(seeds):
            raise ValueError(f"{len(sources)} sources, {len(prompts)} prompts and {len(seeds)} seeds must be as many")
        edited: list[np.ndarray] = []
        for first in range(0, len(sources), self.batch_size):
            part = slice(first, first + self.batch_size)
            edited.extend(self._edit_batch(sources[part], prompts[part], seeds[part], steps, guidance))
        return edited

    def _edit_batch(self, sources, prompts, seeds, steps: int | None, guidance: Guidance | None) -> list[np.ndarray]:
        device = self.model.device
        source, has_source = self._encode_sources(sources)
        text_ids = encode_texts(self.tokenizer, prompts).to(device)
        noise = torch.stack([initial_noise(seed, source.shape[1:]) for seed in seeds]).to(device)
        steps = self.default_steps if steps is None else steps
        latents = sample_latents(self.model, noise, text_ids, source, has_source, steps, guidance or Guidance())
        return list(from_pixels(self.autoencoder.decode_latents(self.model.denormalise(latents))))

    def _encode_sources(self, sources: Sequence[ImageRef | None]) -> tuple[Tensor, Tensor]:
        """Return normalised latents, zero where there is no source, and which have one."""
        config, device = self.model.config, self.model.device
        shape = (len(sources), config.latent_channels, config.latent_size, config.latent_size)
        latents = torch.zeros(shape, device=device)
        has_source = torch.tensor([source is not None for source in sources], device=device)
        if has_source.any():
            pixels = to_pixels(to_array([source for source in sources if source is not None])).to(device)
            latents[has_source] = self.model.normalise(self.autoencoder.encode_latents(pixels))
        return latents, has_source


def initial_noise(seed: int, shape: Sequence[int]) -> Tensor:
    """Draw one item's noise on the CPU, so that neither its batch nor the device changes it."""
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def sample_latents(
    model: FlowEditor,
    noise: Tensor,
    text_ids: Tensor,
    source: Tensor,
    has_source: Tensor,
    steps: int = 12,
    guidance: Guidance | None = None,
) -> Tensor:
    """Integrate dx/dt = v from t = 1 to 0 in `steps` equal Euler steps; normalised latents (N, C, h, w)."""
    if steps < 1:
        raise ValueError(f"an edit needs at least one sampling step, not {steps}")
    guidance = guidance or Guidance()
    latents, times = noise, torch.linspace(1, 0, steps + 1)
    for now, then in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        timesteps = torch.full((len(noise),), now, device=noise.device)
        velocity = _guided(model, latents, timesteps, text_ids, source, has_source, guidance)
        latents = latents - (now - then) * velocity
    return latents


def _guided(model, latents, timesteps, text_ids, source, has_source, guidance: Guidance) -> Tensor:
    """Evaluate the network once, or once more for each guidance branch that is on."""
    velocity = model(latents, timesteps, text_ids, source, has_source)
    if not guidance.acts_at(float(timesteps[0])):
        return velocity
    without_text = without_image = None
    if guidance.text > 1:
        without_text = model(latents, timesteps, model.no_text(text_ids), source, has_source)
    if guidance.image > 1:
        without_image = model(latents, timesteps, text_ids, source, torch.zeros_like(has_source))
    return guide(velocity, without_text, without_image, guidance)


def guide(velocity: Tensor, without_text: Tensor | None, without_image: Tensor | None, guidance: Guidance) -> Tensor:
    """Combine velocities (N, C, h, w): v_t = v_ct + s_t (v - v_ct), v' = v_ci + s_i (v_t - v_ci), then renorm.

    v_ct and v_ci are the velocities without text and without image (None: that branch is off). The renorm factor is
    clamp(|v| / |v'|, renorm_min, 1), so guidance never lengthens the velocity.
    """
    guided = velocity if without_text is None else without_text + guidance.text * (velocity - without_text)
    if guidance.renorm == "text_channel":
        guided = _renormed(velocity, guided, (1,), guidance.renorm_min)
    if without_image is not None:
        guided = without_image + guidance.image * (guided - without_image)
    if guidance.renorm == "global":
        return _renormed(velocity, guided, (1, 2, 3), guidance.renorm_min)
    return _renormed(velocity, guided, (1,), guidance.renorm_min) if guidance.renorm == "channel" else guided


def _renormed(velocity: Tensor, guided: Tensor, dims: tuple[int, ...], smallest: float) -> Tensor:
    norms = [torch.linalg.vector_norm(v, dim=dims, keepdim=True) for v in (velocity, guided)]
    return guided * (norms[0] / (norms[1] + 1e-8)).clamp(smallest, 1)


def item_seed(seed: int, *parts: str) -> int:
    """Derive an item's seed from a run's seed and the item's names, whatever its place in the data set."""
    digest = hashlib.sha256("/".join((str(seed), *parts)).encode()).digest()
    return int.from_bytes(digest[:7], "big")


def do_and_undo(
    editor: ImageEditor,
    pairs: Sequence[ReversiblePair],
    prompt_length: str = "long",
    reverse_from: str = "gt",
    seed: int = 0,
    steps: int | None = None,
    guidance: Guidance | None = None,
) -> tuple[Images, Images]:
    """Perform each pair's action and undo it (Do-Undo, section 3.2).

    Args:
        pairs: of different ids; images of any sizes.
        prompt_length: `long` or `short`.
        reverse_from: undo from `gt`, the true end image I_F, as the released benchmark does; or from `generated`,
            the edited image itself: a chain.
        seed: run seed; the forward image does not depend on `reverse_from`.

    Returns:
        forward images I_F^ and reverse images I_R^: uint8 (N, H, W, 3) each where all have one size, else lists of
        uint8 (H, W, 3). Their size is the editor's (BAGEL: 912 x 512 for a source of 456 x 256).

    Raises:
        ValueError: unknown prompt length or reverse source, or two pairs of one id (they would share their noise).
    """
    if reverse_from not in REVERSE_FROM:
        raise ValueError(f"unknown reverse source {reverse_from!r}; one of {', '.join(REVERSE_FROM)}")
    done = do(editor, pairs, prompt_length, seed, steps, guidance)
    return done, undo(editor, pairs, done, prompt_length, reverse_from, seed, steps, guidance)


def do(
    editor: ImageEditor,
    pairs: Sequence[ReversiblePair],
    prompt_length: str = "long",
    seed: int = 0,
    steps: int | None = None,
    guidance: Guidance | None = None,
) -> Images:
    """Return the forward images of `do_and_undo`."""
    if prompt_length not in ("long", "short"):
        raise ValueError(f"unknown prompt length {prompt_length!r}; one of long, short")
    halves = [pair.forward(prompt_length) for pair in pairs]
    return _edit(editor, [half.source for half in halves], halves, seed, steps, guidance)


def undo(
    editor: ImageEditor,
    pairs: Sequence[ReversiblePair],
    done: Images,
    prompt_length: str = "long",
    reverse_from: str = "gt",
    seed: int = 0,
    steps: int | None = None,
    guidance: Guidance | None = None,
) -> Images:
    """Return the reverse images of `do_and_undo`, given its forward images `done`."""
    halves = [pair.reverse(prompt_length) for pair in pairs]
    sources = [half.source for half in halves] if reverse_from == "gt" else list(done)
    return _edit(editor, sources, halves, seed, steps, guidance)


def _edit(editor: ImageEditor, sources, halves, seed: int, steps: int | None, guidance: Guidance | None) -> Images:
    if len({half.id for half in halves}) < len(halves):
        raise ValueError("two reversible pairs have the same id; ids name the noise and must differ")
    seeds = [item_seed(seed, half.id) for half in halves]
    images = editor.edit(sources, [half.action for half in halves], seeds, steps, guidance)
    return np.stack(images) if len({image.shape for image in images}) == 1 else images
