"""BAGEL as an image editor: batched, seeded per item, guided in its own way."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from visdyn.images import ImageRef, load
from visdyn.models.bagel import Bagel, SamplerSettings
from visdyn.models.bagel import context as contexts
from visdyn.models.bagel.embeddings import unpatchify
from visdyn.models.bagel.sampler import Branches, decode_images, sample_latents
from visdyn.models.bagel.text_decoding import continue_text
from visdyn.models.bagel.transforms import resize, to_normalised, transform
from visdyn.models.editors.protocol import Guidance, check_items
from visdyn.models.strict_load import load_adapter, require_finite

# BAGEL's think mode puts a system prompt first; upstream's wording is not at hand, so this one is ours.
THINK_PROMPT = (
    "Before an image is generated, write down a plan between <think> and </think>: what the picture shows, what the "
    "instruction changes in it, and what stays as it is."
)
# Latent tokens that are sampled together where no batch size is given: 8 images of 912 x 512.
MOST_TOKENS = 8 * 1824


class BagelEditor:
    """A `Bagel` behind the `ImageEditor` protocol: `visdyn.models.bagel.generate_image` for many items at once.

    The result has the size that BAGEL works at, not the source's: 456 x 256 comes back as 912 x 512.

    Attributes:
        unmeasured: how many images were NaN or infinite so far; None stands in their place.
    """

    def __init__(
        self,
        model: Bagel,
        batch_size: int | None = None,
        settings: SamplerSettings | None = None,
        image_size: tuple[int, int] | None = None,
        think: str | bool = False,
        most_thoughts: int = 512,
    ) -> None:
        """Wrap a model.

        Args:
            model: with its autoencoder, and a tokenizer if prompts are texts.
            batch_size: most items that are sampled together; only items of one size are. None takes as many as
                `MOST_TOKENS` allows, 64 at most.
            settings: where a call says nothing; by default those that the checkpoint asks for, else those of the
                released Do-Undo script (49 evaluations, guidance 4 and 2 in (.4, 1], one norm per image).
            image_size: (height, width) of images generated without a source.
            think: let the model write a plan before each image (BAGEL's think mode), by `THINK_PROMPT` or a system
                prompt of your own; `thoughts` then holds the plans of the last call. Items go one at a time.
            most_thoughts: most tokens of a plan.
        """
        self.model, self.batch_size = model.eval(), batch_size
        self.think = THINK_PROMPT if think is True else think
        self.most_thoughts, self.thoughts = most_thoughts, {}
        self.unmeasured = 0
        self.settings, self.image_size = settings or model.sampling or SamplerSettings(), image_size

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        adapter: str | Path | None = None,
        device: str = "cpu",
        dtype: torch.dtype | None = None,
        **options,
    ) -> BagelEditor:
        """Load a checkpoint folder, with a LoRA folder of `train_bagel` merged into it where one is given."""
        model = Bagel.from_pretrained(folder, dtype=dtype, device=device)
        if adapter is not None:
            model = load_adapter(model, Path(adapter)).merge_and_unload()
            require_finite(model, f"{folder} with {adapter} merged")
        return cls(model, **options)

    @torch.no_grad()
    def edit(
        self,
        sources: Sequence[ImageRef | None],
        prompts: Sequence[str | None],
        seeds: Sequence[int],
        steps: int | None = None,
        guidance: Guidance | None = None,
    ) -> list[np.ndarray | None]:
        """See `ImageEditor.edit`; each item equals `visdyn.models.bagel.generate_image` with a generator of its seed.

        Raises:
            ValueError: numbers of items differ, guidance that BAGEL does not have, or an item without a source where
                `image_size` is unset.
        """
        check_items(sources, prompts, seeds)
        settings = sampler_settings(steps, guidance, self.settings)
        limits = self.model.config.transforms["vae"]
        images = [None if source is None else resize(load(source), limits) for source in sources]
        self.thoughts = {}
        # Items of one batch are laid out equally: one size, and all with a prompt or all without.
        groups = defaultdict(list)
        for index, (image, prompt) in enumerate(zip(images, prompts, strict=True)):
            groups[None if image is None else image.size, prompt is None].append(index)
        edited: dict[int, np.ndarray | None] = {}
        for members in groups.values():
            size = self._choose_batch_size(images[members[0]])
            for first in range(0, len(members), size):
                part = members[first : first + size]
                chosen = ([values[i] for i in part] for values in (images, prompts, seeds))
                edited.update(zip(part, self._edit_batch(*chosen, settings), strict=True))
                if self.think:
                    self.thoughts[part[0]] = self._thought
        return [edited[index] for index in range(len(sources))]

    def _choose_batch_size(self, image) -> int:
        if self.think:
            return 1
        if self.batch_size is not None:
            return self.batch_size
        width, height = (self._require_image_size()[::-1]) if image is None else image.size
        tokens = (width // self.model.config.latent_downsample) * (height // self.model.config.latent_downsample)
        return max(1, min(64, MOST_TOKENS // tokens))

    def _edit_batch(self, images, prompts, seeds, settings: SamplerSettings) -> list[np.ndarray | None]:
        """Sample items of one layout: sources of one size or none, all with a prompt or all without."""
        self._thought = ""
        size = self._require_image_size() if images[0] is None else images[0].size[::-1]
        step, dim = self.model.config.latent_downsample, self.model.config.latent_dim
        grid = (size[0] // step, size[1] // step)
        # (B, h * w, latent_dim); each item has a CPU generator of its own, so its noise depends on its seed only
        noise = torch.stack(
            [torch.randn(grid[0] * grid[1], dim, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        )
        latents = sample_latents(self.model, self._read_inputs(images, prompts), grid, noise, settings)
        decoded = decode_images(self.model, unpatchify(latents, grid, self.model.config.latent_patch_size))
        if lost := sum(image is None for image in decoded):
            self.unmeasured += lost
            warnings.warn(
                f"{lost} of {len(decoded)} edits are NaN or infinite; there is no image of them", stacklevel=3
            )
        return [None if image is None else np.asarray(image) for image in decoded]

    def _require_image_size(self) -> tuple[int, int]:
        step = self.model.config.latent_downsample
        if self.image_size is None:
            raise ValueError("an item without a source does not say how large its image should be; set image_size")
        if any(side % step for side in self.image_size):
            raise ValueError(f"image_size {self.image_size} is no multiple of {step} pixels")
        return self.image_size

    def _read_inputs(self, images, prompts) -> Branches:
        """Read sources (VAE, then ViT) and prompts into the branches: all, without text, without image."""
        model = self.model
        empty = contexts.new_context(model, len(prompts))
        if self.think:
            empty = contexts.add_text(model, empty, model.encode_text(self.think))
        source = empty
        if images[0] is not None:
            pixels = torch.stack([to_normalised(image) for image in images]).to(model.device)  # (B, 3, H, W)
            source = contexts.add_vae_image(model, empty, model.require_vae().encode(pixels))
            if model.config.vision is not None:
                # As in `generate_image`, the ViT sees the image that was already resized for the VAE.
                views = torch.stack([transform(image, model.config.transforms["vit"]) for image in images])
                source = contexts.add_vit_image(model, source, views)
        if prompts[0] is None:
            return Branches(gen=source, cfg_text=source, cfg_img=empty)
        ids, lengths = self._tokenize_prompts(prompts)
        gen = contexts.add_text(model, source, ids, lengths)
        return Branches(
            gen=self._add_thought(gen) if self.think else gen,
            cfg_text=source,
            cfg_img=contexts.add_text(model, empty, ids, lengths),
        )

    def _add_thought(self, context: contexts.Context) -> contexts.Context:
        """Let the model write its plan and read it back; the guidance branches never see it."""
        plan = continue_text(self.model, context, self.most_thoughts)
        self._thought = plan.text if plan.text is not None else plan.ids
        return contexts.add_text(self.model, context, plan.ids)

    def _tokenize_prompts(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        """Return padded token ids (B, n), and their lengths where they differ."""
        rows = [torch.tensor(self.model.encode_text(prompt), dtype=torch.int64) for prompt in prompts]
        lengths = torch.tensor([len(row) for row in rows])
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(self.model.device)
        return ids, None if len(lengths.unique()) == 1 else lengths


def sampler_settings(
    steps: int | None, guidance: Guidance | None, default: SamplerSettings | None = None
) -> SamplerSettings:
    """Translate steps (network evaluations) and guidance to BAGEL's sampler; None keeps the default's.

    Raises:
        ValueError: fewer than one step, or image guidance alone: BAGEL applies it only on top of text guidance.
    """
    settings = default or SamplerSettings()
    if steps is not None:
        if steps < 1:
            raise ValueError(f"an edit needs at least one sampling step, not {steps}")
        settings = replace(settings, num_timesteps=steps + 1)
    if guidance is None:
        return settings
    if guidance.image > 1 and guidance.text <= 1:
        raise ValueError("BAGEL applies image guidance only on top of text guidance; set guidance.text above 1")
    return replace(
        settings,
        cfg_text_scale=guidance.text,
        cfg_img_scale=guidance.image,
        cfg_interval=(guidance.low, guidance.high),
        # The sampler has no switch for the renormalisation; a smallest factor of 1 leaves velocities as they are.
        cfg_renorm_type="global" if guidance.renorm == "none" else guidance.renorm,
        cfg_renorm_min=1.0 if guidance.renorm == "none" else guidance.renorm_min,
    )
