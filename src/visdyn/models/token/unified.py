"""A unified token model in its two roles: inverse dynamics and forward dynamics."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from visdyn.images import ImageRef, from_pixels, to_pixels
from visdyn.models.checkpoints import Checkpoint, locate
from visdyn.models.strict_load import load_tokenizer
from visdyn.models.token.decoding import generate_text, require_finite_states, uniforms
from visdyn.models.token.image_decoder import sample_images, sample_images_from_draft
from visdyn.models.token.scoring import Scores, score_completions
from visdyn.models.token.sequences import SequenceBuilder, TokenSequence
from visdyn.models.token.shared_prefix import score_shared
from visdyn.models.token.tokens import TokenLayout
from visdyn.models.vqgan import VQGAN
from visdyn.models.vqgan.preprocess import centre_crop
from visdyn.models.vqgan.preprocess import to_pixels as public_pixels
from visdyn.models.weight_files import read_settings
from visdyn.params.prompts import SENTENCES, DynamicsPrompts, Prompts

DECODINGS = ("plain", "draft")
_PIXELS_AT_ONCE = 2**21  # of the VQGAN's input: 8 images at 512 pixels, whose largest feature maps take 1 GiB


@dataclass
class UnifiedModel:
    """A decoder over text and image tokens, its tokenizer and its VQGAN.

    A new token model is a subclass that overrides `_get_lm_class`, `_make_builder` and, where it differs from
    Chameleon, `_own_prompts`, `_find_vqgan`, `_check_vocabulary`, `preprocessing`, `square` and `restore`; it is
    registered in `visdyn.models.TOKEN_MODELS`.

    Attributes:
        lm: language model with unmasked image logits.
        builder: writes the token sequences of the tasks.
        vqgan: image tokenizer, fp32.
        public_pixels: pixels are computed in float64 first, as the public tokenizers do; the embedded ones were trained
            on float32 arithmetic, which differs in the last bit. A folder without dynamics.json is a public checkpoint.
        batch_size: sequences scored at a time; twice as many are decoded at a time, because decoding keeps no logits.
        shared_prefixes: what several sequences of a call begin with is computed once
            (`visdyn.models.token.shared_prefix`); scores are equal up to rounding.
    """

    lm: torch.nn.Module
    builder: SequenceBuilder
    vqgan: VQGAN
    name: str = ""
    public_pixels: bool = False
    batch_size: int = 64
    shared_prefixes: bool = False

    @property
    def layout(self) -> TokenLayout:
        return self.builder.layout

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        device: str = "cpu",
        attention: str = "sdpa",
        dtype: str | torch.dtype = "auto",
        vqgan: str | Path | None = None,
        batch_size: int = 64,
        shared_prefixes: bool = False,
        prompts: Prompts | None = None,
    ) -> UnifiedModel:
        """Load the decoder, the tokenizer, the VQGAN and the prompts (`dynamics.json`) of a folder or hub id.

        Args:
            name_or_path: `save_pretrained` layout of the decoder and the tokenizer, or of a peft adapter, which takes
                what it lacks from its base.
            dtype: of the decoder; `auto` is the checkpoint's own. The VQGAN stays in float32.
            vqgan: a VQGAN checkpoint; None takes `vqgan/` of the folder or the weights inside it (Anole's).
            prompts: the words for a folder without dynamics.json, as a public checkpoint is; None takes the sentences
                of `visdyn.params.prompts`.

        Raises:
            FileNotFoundError: a part is missing; the message names it.
            ValueError: the parts do not fit together.
        """
        checkpoint = locate(name_or_path)
        tokenizer = load_tokenizer(checkpoint.holder("tokenizer.json", "tokenizer.model"))
        tokens = VQGAN.from_checkpoint(cls._find_vqgan(checkpoint, vqgan), decoder=False)
        lm = checkpoint.load_lm(cls._get_lm_class(), dtype, attention, device)
        settings = checkpoint.holder("dynamics.json") / "dynamics.json"
        words = cls._own_prompts(prompts or SENTENCES)
        options = {"fdm_prompt": words.fdm, "idm_prompt": words.idm, "public_pixels": True}
        if settings.is_file():  # it was trained with the words that stand there
            options = read_settings(settings)
        public = options.pop("public_pixels", False)
        builder = cls._make_builder(tokenizer, tokens.config.n_embed, **options)
        cls._check_vocabulary(checkpoint, lm, builder.layout)
        return cls(lm, builder, tokens.to(device).eval(), checkpoint.name, public, batch_size, shared_prefixes)

    @staticmethod
    def _own_prompts(prompts: Prompts) -> DynamicsPrompts:
        return prompts.chameleon

    @staticmethod
    def _get_lm_class():
        from visdyn.models.token.chameleon import ChameleonLM

        return ChameleonLM

    @staticmethod
    def _make_builder(tokenizer, num_image_codes: int, **prompts) -> SequenceBuilder:
        return SequenceBuilder(tokenizer, TokenLayout.of(tokenizer), **prompts)

    @staticmethod
    def _find_vqgan(checkpoint: Checkpoint, vqgan: str | Path | None) -> Path:
        if vqgan is not None:
            return Path(vqgan)
        holder = checkpoint.holder("vqgan")
        return holder / "vqgan" if (holder / "vqgan").is_dir() else holder

    @staticmethod
    def _check_vocabulary(checkpoint: Checkpoint, lm, layout: TokenLayout) -> None:
        """Refuse a vocabulary that cannot hold the image codes."""

    def save(self, folder: str | Path, state: dict[str, torch.Tensor] | None = None) -> None:
        """Write the folder that `from_pretrained` reads; of an adapter (peft) only what its base has not.

        Args:
            state: weights of the decoder, where they lie elsewhere (cut apart over ranks).
        """
        folder = Path(folder)
        self.lm.save_pretrained(str(folder), state_dict=state)
        if not hasattr(self.lm, "peft_config"):
            self.builder.tokenizer.save_pretrained(str(folder))
            self.vqgan.save(folder / "vqgan")
        settings = {"fdm_prompt": self.builder.fdm_prompt, "idm_prompt": self.builder.idm_prompt}
        if self.public_pixels:
            settings["public_pixels"] = True
        (folder / "dynamics.json").write_text(json.dumps(settings, indent=2) + "\n")

    @property
    def preprocessing(self) -> str:
        """A name of what `pixels` does, for cache keys: other pixels, another name."""
        return f"centre-crop-{self.vqgan.config.resolution}{'' if self.public_pixels else '-float32'}"

    def square(self, image: ImageRef) -> np.ndarray:
        """Return the part of an image that the tokenizer sees: uint8 (S, S, 3), S being its resolution.

        Chameleon: shorter side to S by Lanczos, then the centre; an image of S x S pixels as it is.
        """
        return centre_crop(image, self.vqgan.config.resolution)

    def pixels(self, images: Sequence[ImageRef]) -> torch.Tensor:
        """Return the tokenizer's input of images of any sizes: float32 (N, 3, S, S) in [-1, 1]."""
        squares = np.stack([self.square(image) for image in images])
        return public_pixels(squares) if self.public_pixels else to_pixels(squares)

    def restore(self, image: np.ndarray, source: ImageRef) -> np.ndarray:
        """Bring a decoded square uint8 (S, S, 3) back to its source's geometry, where that is defined.

        A centre crop stays one: what it cut off was never predicted.
        """
        return image

    @torch.inference_mode()
    def encode(self, images: Sequence[ImageRef], batch_size: int = 128) -> np.ndarray:
        """Return int64 (N, h, w) codes of images of any sizes; large ones fewer at a time."""
        codes = []
        for part in _split_slices(len(images), self._limit_batch_size(batch_size)):
            pixels = self.pixels(images[part]).to(self.vqgan.device)  # (B, 3, S, S)
            codes.append(self.vqgan.encode(pixels).cpu().numpy())  # (B, h, w)
        return np.concatenate(codes)

    @torch.inference_mode()
    def decode(self, codes: np.ndarray, batch_size: int = 128) -> np.ndarray:
        """Return uint8 (N, S, S, 3) images of codes (N, h, w)."""
        images = []
        for part in _split_slices(len(codes), self._limit_batch_size(batch_size)):
            grids = torch.as_tensor(codes[part]).to(self.vqgan.device)  # (B, h, w)
            images.append(from_pixels(self.vqgan.decode(grids)))  # (B, S, S, 3)
        return np.concatenate(images)

    def _limit_batch_size(self, batch_size: int) -> int:
        return max(1, min(batch_size, _PIXELS_AT_ONCE // self.vqgan.config.resolution**2))

    def score(self, sequences: Sequence[TokenSequence], scored: slice, restrict_to: slice | None = None) -> Scores:
        """Score the tokens `scored` of every completion, as `visdyn.models.token.scoring.score_completions` defines
        it.
        """
        arguments = self.lm, sequences, scored, self.layout.pad, self.batch_size, restrict_to
        return score_shared(*arguments) if self.shared_prefixes else score_completions(*arguments)

    @property
    def inverse_dynamics(self) -> TokenInverseDynamics:
        return TokenInverseDynamics(self)

    @property
    def forward_dynamics(self) -> TokenForwardDynamics:
        return TokenForwardDynamics(self)


@dataclass
class TokenInverseDynamics:
    """The inverse-dynamics role of a unified model; implements `InverseDynamics`.

    Attributes:
        max_new_tokens: longest predicted action; a longer answer is cut there.
    """

    model: UnifiedModel
    max_new_tokens: int = 64

    def score(self, sources: Sequence[ImageRef], targets: Sequence[ImageRef], actions: Sequence[str]) -> Scores:
        """Score the action's tokens, eos left out; a source that stands before several targets is encoded once."""
        sources = list(sources)
        unique = {id(source): source for source in sources}
        codes = dict(zip(unique, self.model.encode(list(unique.values())), strict=True))
        repeated = np.stack([codes[id(source)] for source in sources])  # (N, h, w)
        return self.score_codes(repeated, self.model.encode(targets), actions)

    def score_codes(self, sources: np.ndarray, targets: np.ndarray, actions: Sequence[str]) -> Scores:
        """As `score`, from image codes (N, h, w)."""
        build = self.model.builder.inverse
        sequences = [
            build(source, target, action) for source, target, action in zip(sources, targets, actions, strict=True)
        ]
        return self.model.score(sequences, slice(0, -1))

    def log_likelihood(self, sources, targets, actions) -> torch.Tensor:
        """Return float32 (N,): mean log-probability per action token, in nats."""
        return self.score(sources, targets, actions).mean

    def predict(self, sources: Sequence[ImageRef], targets: Sequence[ImageRef]) -> list[str]:
        """Return one greedily decoded action for each pair.

        Raises:
            ValueError: a likelihood of an action is no number, so that its words mean nothing.
        """
        actions, scores = self.predict_codes(self.model.encode(sources), self.model.encode(targets))
        require_finite_states(scores)
        return actions

    def predict_codes(
        self,
        sources: np.ndarray,
        targets: np.ndarray,
        max_new_tokens: int | None = None,
        temperature: float = 0.0,
        draws: torch.Tensor | None = None,
    ) -> tuple[list[str], torch.Tensor]:
        """As `predict`, from image codes; also the mean log-probability per generated token (N,).

        Args:
            max_new_tokens: None takes the attribute.
            temperature, draws: as of `visdyn.models.token.decoding.generate_text`; 0 is greedy.
        """
        build, model = self.model.builder.inverse_prompt, self.model
        prompts = [build(source, target) for source, target in zip(sources, targets, strict=True)]
        ids, scores = generate_text(
            model.lm,
            model.layout,
            prompts,
            max_new_tokens or self.max_new_tokens,
            model.batch_size,
            temperature=temperature,
            draws=draws,
        )
        return [model.builder.tokenizer.decode(text, skip_special_tokens=True) for text in ids], scores


@dataclass
class TokenForwardDynamics:
    """The forward-dynamics role of a unified model; implements `ForwardDynamics`.

    Attributes:
        temperature, top_p: of sampling; the paper samples at temperature 1 without truncation (0 is greedy).
        decoding: `plain`, or `draft`: the source's codes are a free draft (`visdyn.models.token.speculative`), from
            which other samples of the same distribution come in fewer passes.
        block: codes that are checked in one pass of draft decoding.

    Raises:
        ValueError: another decoding.
    """

    model: UnifiedModel
    temperature: float = 1.0
    top_p: float = 1.0
    decoding: str = "plain"
    block: int = 16

    def __post_init__(self) -> None:
        if self.decoding not in DECODINGS:
            raise ValueError(f"unknown decoding {self.decoding!r}; one of {', '.join(DECODINGS)}")

    def score(self, sources: Sequence[ImageRef], actions: Sequence[str], targets: Sequence[ImageRef]) -> Scores:
        """Score the target's codes, renormalised over the image vocabulary (definition D1)."""
        return self.score_codes(self.model.encode(sources), actions, self.model.encode(targets))

    def score_codes(self, sources: np.ndarray, actions: Sequence[str], targets: np.ndarray) -> Scores:
        """As `score`, from image codes (N, h, w)."""
        build, layout = self.model.builder.forward, self.model.layout
        sequences = [
            build(source, action, target) for source, action, target in zip(sources, actions, targets, strict=True)
        ]
        block = slice(layout.image_offset, layout.image_offset + layout.num_image_codes)
        # Without begin-of-image before the codes, and end-of-image and eos after them.
        return self.model.score(sequences, slice(1, -2), block)

    def log_likelihood(self, sources, actions, targets) -> torch.Tensor:
        """Return float32 (N,): mean log-probability per image token, in nats."""
        return self.score(sources, actions, targets).mean

    def sample(self, source: ImageRef, action: str, num_samples: int, generator: torch.Generator | None = None):
        """Return `num_samples` uint8 images (H, W, 3), in the source's geometry where the model can restore it."""
        codes = self.model.encode([source])
        draws = uniforms(num_samples, codes[0].size, generator)[None]
        images = self.model.decode(self.sample_codes(codes, [action], draws)[0])
        return [self.model.restore(image, source) for image in images]

    def sample_codes(self, sources: np.ndarray, actions: Sequence[str], draws: torch.Tensor) -> np.ndarray:
        """Sample int64 codes (N, K, h, w) for N sources (N, h, w), from uniform numbers (N, K, h * w)."""
        build = self.model.builder.forward_prompt
        prompts = [build(source, action) for source, action in zip(sources, actions, strict=True)]
        options = {"temperature": self.temperature, "top_p": self.top_p, "batch_size": 2 * self.model.batch_size}
        arguments = self.model.lm, self.model.layout, prompts
        if self.decoding == "draft":
            drafts = sources.reshape(len(sources), -1)
            codes = sample_images_from_draft(*arguments, drafts, draws, block=self.block, **options).codes
        else:
            codes = sample_images(*arguments, draws, **options)
        return codes.reshape(*codes.shape[:2], *sources.shape[1:])


def _split_slices(length: int, step: int) -> list[slice]:
    return [slice(start, start + step) for start in range(0, length, step)]
