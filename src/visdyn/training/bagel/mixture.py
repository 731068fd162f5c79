"""Training data of BAGEL: any mixture of edits, undone edits, captioned images and questions about images.

Every random choice of item i (which record, what is dropped, timestep, noise) is a pure function of the seed and i:
batches, ranks, workers and a resumed run change nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from visdyn.compute.seeds import training_generator
from visdyn.images import ImageRef
from visdyn.models.bagel import (
    BagelConfig,
    Dropout,
    Pack,
    conversation_sample,
    edit_sample,
    pack_samples,
    text_to_image_sample,
)
from visdyn.models.bagel.samples import ANSWER, IMAGE, QUESTION, TEXT, VAE, VIT, Part, Posteriors, Sample
from visdyn.models.bagel.transforms import transform
from visdyn.training.bagel.posteriors import pad, sample_padded
from visdyn.trajectory import ReversiblePair, Trajectory

KINDS = ("edit", "undo", "text_to_image", "understanding")
IDLE = "idle"
# Arguments of upstream's training script; its data class falls back to .1, .4, .1, the BAGEL paper says .1, .5, .1.
DROPOUT = Dropout(text=0.1, vit=0.3, vae=0.3)


@dataclass(frozen=True)
class Caption:
    """An image and the text to generate it from."""

    image: ImageRef
    text: str


@dataclass(frozen=True)
class FramePair:
    """A frame and a later one of the same scene; nothing says what happened between them."""

    source: ImageRef
    target: ImageRef


@dataclass(frozen=True)
class Question:
    """A question about an image, and the answer to learn."""

    image: ImageRef
    question: str
    answer: str

    @property
    def turns(self) -> tuple[tuple[str, ImageRef | str], ...]:
        """The question as a conversation of one round."""
        return (IMAGE, self.image), (QUESTION, self.question), (ANSWER, self.answer)


@dataclass(frozen=True)
class Conversation:
    """Rounds of questions about images, and the answers to learn.

    Attributes:
        turns: (`image`, reference), (`question`, text) or (`answer`, text), in the order in which they stand.
    """

    turns: tuple[tuple[str, ImageRef | str], ...]


@dataclass(frozen=True)
class Example:
    """One drawn sample.

    Attributes:
        kind: one of `KINDS`.
        parts: the plan of the sample (`visdyn.models.bagel.samples`).
        dropout_draws: one uniform number per droppable part; timestep_draws: one standard normal number per target.
        noise: per VAE part, dropped ones included, flow noise (h * w, latent_dim).
        posterior: per VAE part, noise of the posterior (z, height, width).
        forward: of an undo, the edit that it undoes; only where the consistency loss chains both.
        original: of an undo, the pixels of I_o (3, H, W); only where the consistency loss compares pixels.
    """

    kind: str
    parts: Sample
    dropout_draws: list[float]
    timestep_draws: list[float]
    noise: list[Tensor]
    posterior: list[Tensor]
    forward: Example | None = None
    original: Tensor | None = None


class BagelMixture(Dataset):
    """`length` draws from a weighted mixture of record lists.

    The kind of each draw is drawn by weight; the records of a kind come in random order, each once before any comes
    again. Map-style: an item is computed from its number alone.
    """

    def __init__(
        self,
        records: Mapping[str, Sequence],
        weights: Mapping[str, float],
        encode: Callable[[str], Sequence[int]],
        config: BagelConfig,
        length: int,
        *,
        seed: int = 0,
        dropout: Dropout = DROPOUT,
        long_share: float = 1.0,
        chained: bool = False,
        originals: bool = False,
        posteriors: Posteriors | None = None,
    ) -> None:
        """Plan the draws.

        Args:
            records: per kind: `edit` Trajectory, ReversiblePair or FramePair, `undo` ReversiblePair, `text_to_image`
                Caption, `understanding` Question or Conversation.
            weights: relative weights of the kinds; a kind that is absent or weighs 0 is left out.
            encode: text to token ids, without begin and end markers.
            length: how many items, usually steps x batch size.
            dropout: of conditions, for classifier-free guidance; independent per text, ViT image and VAE image.
            long_share: share of reversible pairs shown with their long prompts; the others show the short ones.
            chained: give every undo the edit that it undoes (consistency conditioned on the generated image).
            originals: give every undo the pixels of I_o (consistency in pixel space).
            posteriors: of the autoencoder (`posteriors.PosteriorCache`); None encodes the images in every step.

        Raises:
            ValueError: unknown kind, no positive weight, a weighted kind without records, or a pair without the
                prompts that `long_share` asks for.
        """
        _check_mixture(records, weights, long_share)
        self.records, self.encode, self.config, self.seed = records, encode, config, seed
        self.dropout, self.long_share, self.posteriors = dropout, long_share, posteriors
        self.chained, self.originals = chained, originals
        self.kinds, self.rows = _plan_draws({kind: len(records.get(kind, ())) for kind in KINDS}, weights, length, seed)

    def __len__(self) -> int:
        return len(self.kinds)

    def __getitem__(self, index: int) -> Example:
        kind = KINDS[self.kinds[index]]
        record, generator = self.records[kind][self.rows[index]], training_generator(self.seed, index)
        prompts = "long" if torch.rand((), generator=generator).item() < self.long_share else "short"
        example = self._draw_example(kind, self._plan_sample(kind, record, prompts), generator)
        if kind == "undo" and self.chained:
            example = replace(
                example, forward=self._draw_example("edit", self._plan_sample("edit", record, prompts), generator)
            )
        if kind == "undo" and self.originals:
            example = replace(example, original=transform(record.start, self.config.transforms["vae"]))
        return example

    def _plan_sample(self, kind: str, record, prompts: str) -> Sample:
        if kind == "understanding":
            said = ((kind, part if kind == IMAGE else self.encode(part)) for kind, part in record.turns)
            return conversation_sample(list(said), self.config)
        if kind == "text_to_image":
            return text_to_image_sample(self.encode(record.text), record.image, self.config, self.posteriors)
        if isinstance(record, ReversiblePair):
            record = record.forward(prompts) if kind == "edit" else record.reverse(prompts)
        text = None if isinstance(record, FramePair) else self.encode(record.action)
        return edit_sample([record.source, record.target], [text], self.config, self.posteriors)

    def _draw_example(self, kind: str, parts: Sample, generator: torch.Generator) -> Example:
        # Dropped parts draw too: what one part does never shifts the random numbers of the next.
        droppable = sum(part.droppable for part in parts)
        images = [part for part in parts if part.kind == VAE]
        targets = sum(part.loss for part in images)
        grids = [grid_of(part.content, self.config) for part in images]
        z, patch = self.config.autoencoder.z_channels, self.config.latent_patch_size
        return Example(
            kind,
            parts,
            torch.rand(droppable, generator=generator, dtype=torch.float64).tolist(),
            torch.randn(targets, generator=generator, dtype=torch.float64).tolist(),
            [torch.randn(h * w, self.config.latent_dim, generator=generator) for h, w in grids],
            [torch.randn(z, h * patch, w * patch, generator=generator) for h, w in grids],
        )


def _check_mixture(records: Mapping[str, Sequence], weights: Mapping[str, float], long_share: float) -> None:
    if unknown := (set(records) | set(weights)) - set(KINDS):
        raise ValueError(f"unknown kind(s) of training sample {sorted(unknown)}; known: {', '.join(KINDS)}")
    if not any(weights.values()) or min(weights.values()) < 0:
        raise ValueError(f"mixture weights {dict(weights)} must not be negative, and one must be positive")
    if empty := [kind for kind, weight in weights.items() if weight and not len(records.get(kind, ()))]:
        raise ValueError(f"the mixture asks for {', '.join(empty)} but has no such records; give them or weigh them 0")
    if weights.get("undo") and any(isinstance(record, Trajectory | FramePair) for record in records["undo"]):
        raise ValueError("undo needs reversible pairs; a trajectory or a frame pair has no reverse prompt")
    for kind in ("edit", "undo") if long_share < 1 else ():
        name = "forward_short" if kind == "edit" else "reverse_short"
        for pair in records.get(kind, ()) if weights.get(kind) else ():
            if isinstance(pair, ReversiblePair) and not getattr(pair, name).strip():
                raise ValueError(f"pair {pair.id} has no {name}; write it (with_short_prompts) or set long_share to 1")


def _plan_draws(
    sizes: Mapping[str, int], weights: Mapping[str, float], length: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the kind of each draw, and its record's row in that kind's list."""
    shares = np.array([weights.get(kind, 0.0) for kind in KINDS], dtype=np.float64)
    kinds = np.random.default_rng([seed, 0]).choice(len(KINDS), size=length, p=shares / shares.sum())
    rows = np.zeros(length, dtype=np.int64)
    for number, kind in enumerate(KINDS):
        places = np.flatnonzero(kinds == number)  # the draws of this kind, ascending
        # A stream of its own for each kind: another kind's weight or size never reorders this one's records.
        random = np.random.default_rng([seed, 1 + number])
        # Whole permutations one after another, the last cut short: no record comes again before all have come.
        passes = -(-len(places) // max(1, sizes[kind]))
        orders = [random.permutation(sizes[kind]) for _ in range(passes)]
        rows[places] = np.concatenate([np.zeros(0, dtype=np.int64), *orders])[: len(places)]
    return kinds, rows


def grid_of(pixels: Tensor, config: BagelConfig) -> tuple[int, int]:
    """Return the grid (h, w) in latent tokens of pixels (3, H, W)."""
    return pixels.shape[-2] // config.latent_downsample, pixels.shape[-1] // config.latent_downsample


@dataclass(frozen=True)
class Chain:
    """What the chained consistency loss needs: the edits of a batch's undos, and the undos read without ViT images.

    Attributes:
        edits: the forward halves, in the order of the undos; nothing is dropped.
        undo: pack of [source latents][text][noised target] per undo; undo_noise: its flow noise (k, latent_dim).
    """

    edits: BagelBatch
    undo: Pack
    undo_noise: Tensor

    def to(self, device: torch.device | str) -> Chain:
        """Return the chain with its tensors on a device."""
        return Chain(self.edits.to(device), self.undo.to(device), self.undo_noise.to(device))


@dataclass(frozen=True)
class BagelBatch:
    """One pack with all its noise, ready for `BagelObjective`.

    Attributes:
        pack: the packed samples, at the end the idle one (see `idle_example`).
        noise: flow noise (k, latent_dim) per latent token.
        posterior: (m, z, height, width) per VAE image, padded with zeros; None without real images.
        latents: where the autoencoder need not run: of posteriors that are known, padded, or of the idle image where
            it is the only one; else None.
        targets: per noised target in order, whether it belongs to an undo, and its grid (h, w).
        answer_tokens: how many of the tokens with cross entropy are real.
        originals: pixels of I_o (3, H, W) of the undos, in their order; None where nothing compares pixels.
        chain: see `Chain`; None where nothing is chained.
    """

    pack: Pack
    noise: Tensor
    posterior: Tensor | None
    latents: Tensor | None
    targets: list[tuple[bool, tuple[int, int]]]
    answer_tokens: int
    originals: list[Tensor] | None = None
    chain: Chain | None = None

    def to(self, device: torch.device | str) -> BagelBatch:
        """Return the batch with its tensors on a device."""
        moved = {
            name: getattr(self, name).to(device)
            for name in ("pack", "noise", "posterior", "latents", "chain")
            if getattr(self, name) is not None
        }
        if self.originals is not None:
            moved["originals"] = [pixels.to(device) for pixels in self.originals]
        return replace(self, **moved)


def collate(
    examples: Sequence[Example], config: BagelConfig, dropout: Dropout = DROPOUT, whole: bool = True
) -> dict[str, BagelBatch]:
    """Pack examples into the one argument of `BagelObjective.forward`.

    Args:
        whole: add what a batch lacks (`idle_example`), so that every batch runs the whole model; a single process
            without DeepSpeed can leave it out, as long as every batch has an image to generate.
    """
    chained = [example for example in examples if example.forward is not None]
    idle = idle_example(_pack_examples(examples, config, dropout), config) if whole else []
    batch = _batch_examples([*examples, *idle], config, dropout)
    return {"batch": replace(batch, chain=_chain_undos(chained, config)) if chained else batch}


def idle_example(pack: Pack, config: BagelConfig) -> list[Example]:
    """Return a sample of the smallest parts that a pack lacks (ViT image, answer, noised image); it never counts.

    With it every batch runs the whole model in one order. DeepSpeed sums gradients over the ranks in the order in
    which each rank finds them: where one rank's batch has answers and another's has none, it would add up gradients
    of different parameters (ZeRO-2) or wait for ever (ZeRO-3).
    """
    parts: Sample = []
    if config.vision is not None and not pack.vit_lengths:
        parts.append(Part(VIT, torch.zeros(3, config.vision.patch_size, config.vision.patch_size)))
    if not len(pack.ce_index):
        parts.append(Part(TEXT, [], loss=True))
    noise = []
    if not len(pack.mse_index):
        parts.append(Part(VAE, torch.zeros(3, config.latent_downsample, config.latent_downsample), loss=True))
        noise.append(torch.zeros(1, config.latent_dim))
    return [Example(IDLE, parts, [], [0.0] * len(noise), noise, [])] if parts else []


def _pack_examples(examples: Sequence[Example], config: BagelConfig, dropout: Dropout) -> Pack:
    return pack_samples(
        [example.parts for example in examples],
        config,
        dropout,
        dropout_draws=[draw for example in examples for draw in example.dropout_draws],
        timestep_draws=[draw for example in examples for draw in example.timestep_draws],
    )


def _batch_examples(examples: Sequence[Example], config: BagelConfig, dropout: Dropout) -> BagelBatch:
    # What packing drops must not be drawn for: noise and posteriors are those of the VAE images that stay, in order.
    kept = [(example, place) for example in examples for place in _kept_images(example, dropout)]
    # (z, h, w) of noise and (2 z, h, w) of mean and log-variance (None where unknown) per real image.
    posterior = [example.posterior[place] for example, place in kept if example.kind != IDLE]
    moments = [_vae_parts(example)[place].moments for example, place in kept if example.kind != IDLE]
    patch, pack = config.latent_patch_size, _pack_examples(examples, config, dropout)
    latents = torch.zeros(1, config.autoencoder.z_channels, patch, patch)
    if posterior:
        latents = sample_padded(moments, posterior, config.autoencoder)
    idle_answers = sum(part.kind == TEXT for example in examples if example.kind == IDLE for part in example.parts)
    targets = [
        (example.kind == "undo", grid_of(part.content, config))
        for example in examples
        if example.kind != IDLE
        for part in example.parts
        if part.kind == VAE and part.loss
    ]
    return BagelBatch(
        pack,
        torch.cat([example.noise[place] for example, place in kept]),  # (k, latent_dim), an idle token last
        pad(posterior) if posterior and latents is None else None,
        latents,
        targets,
        len(pack.ce_index) - idle_answers,
        [example.original for example in examples if example.original is not None] or None,
    )


def _vae_parts(example: Example) -> list[Part]:
    return [part for part in example.parts if part.kind == VAE]


def _kept_images(example: Example, dropout: Dropout) -> list[int]:
    """Return which of an example's VAE parts packing keeps, by the rule of `pack_samples`."""
    kept, draws, place = [], iter(example.dropout_draws), 0
    for part in example.parts:
        dropped = part.droppable and next(draws) < getattr(dropout, part.kind)
        if part.kind == VAE:
            kept += [] if dropped else [place]
            place += 1
    return kept


def _chain_undos(undos: Sequence[Example], config: BagelConfig) -> Chain:
    # The ViT would need the decoded image; the facts leave the choice, and dropping it costs no decoder pass.
    kept = [replace(example, dropout_draws=[0.5] * len(example.dropout_draws)) for example in undos]
    pack = _pack_examples(kept, config, Dropout(vit=1.0))
    noise = torch.cat([part for example in undos for part in example.noise])  # (k, latent_dim), sources included
    return Chain(_batch_examples([example.forward for example in undos], config, Dropout()), pack, noise)
