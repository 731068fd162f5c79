"""A unified token model in its two roles: inverse dynamics and forward dynamics."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer

from visdyn.images import ImageRef, from_pixels, to_array, to_pixels
from visdyn.models.decoding import generate_text, sample_images, uniforms
from visdyn.models.scoring import Scores, score_completions
from visdyn.models.sequences import SequenceBuilder
from visdyn.models.tokens import TokenLayout
from visdyn.models.vqgan import VQGAN


@dataclass
class UnifiedModel:
    """A decoder over text and image tokens, its tokenizer and its VQGAN.

    Attributes:
        lm: language model with unmasked image logits.
        builder: writes the token sequences of the tasks.
        vqgan: image tokenizer, fp32.
    """

    lm: torch.nn.Module
    builder: SequenceBuilder
    vqgan: VQGAN
    name: str = ""

    @property
    def layout(self) -> TokenLayout:
        return self.builder.layout

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str = "cpu", attention: str = "sdpa") -> UnifiedModel:
        """Load a folder with the decoder (save_pretrained layout), the tokenizer, `vqgan/` and `dynamics.json`."""
        from visdyn.models.chameleon import load_lm

        folder = Path(folder)
        tokenizer = AutoTokenizer.from_pretrained(str(folder))
        settings = folder / "dynamics.json"
        prompts = json.loads(settings.read_text()) if settings.is_file() else {}
        builder = SequenceBuilder(tokenizer, TokenLayout.of(tokenizer), **prompts)
        lm = load_lm(folder, device=device, attention=attention).eval()
        vqgan = VQGAN.from_checkpoint(folder / "vqgan" if (folder / "vqgan").is_dir() else folder)
        return cls(lm, builder, vqgan.to(device).eval(), folder.name)

    def save(self, folder: str | Path) -> None:
        """Write the folder that `from_pretrained` reads."""
        folder = Path(folder)
        self.lm.save_pretrained(str(folder))
        self.builder.tokenizer.save_pretrained(str(folder))
        self.vqgan.save(folder / "vqgan")
        prompts = {"fdm_prompt": self.builder.fdm_prompt, "idm_prompt": self.builder.idm_prompt}
        (folder / "dynamics.json").write_text(json.dumps(prompts, indent=2) + "\n")

    @torch.inference_mode()
    def encode(self, images: Sequence[ImageRef], batch_size: int = 128) -> np.ndarray:
        """Return int64 (N, h, w) image codes."""
        device = next(self.vqgan.parameters()).device
        array = to_array(images)
        batches = [array[start : start + batch_size] for start in range(0, len(array), batch_size)]
        return np.concatenate([self.vqgan.encode(to_pixels(batch).to(device)).cpu().numpy() for batch in batches])

    @torch.inference_mode()
    def decode(self, codes: np.ndarray, batch_size: int = 128) -> np.ndarray:
        """Return uint8 (N, H, W, 3) images of codes (N, h, w)."""
        device = next(self.vqgan.parameters()).device
        batches = [torch.as_tensor(codes[start : start + batch_size]) for start in range(0, len(codes), batch_size)]
        return np.concatenate([from_pixels(self.vqgan.decode(batch.to(device))) for batch in batches])

    @property
    def inverse_dynamics(self) -> TokenInverseDynamics:
        return TokenInverseDynamics(self)

    @property
    def forward_dynamics(self) -> TokenForwardDynamics:
        return TokenForwardDynamics(self)


@dataclass
class TokenInverseDynamics:
    """The inverse-dynamics role of a unified model; implements `InverseDynamics`."""

    model: UnifiedModel

    def score(self, sources: Sequence[ImageRef], targets: Sequence[ImageRef], actions: Sequence[str]) -> Scores:
        """Score the action's tokens, eos left out."""
        return self.score_codes(self.model.encode(sources), self.model.encode(targets), actions)

    def score_codes(self, sources: np.ndarray, targets: np.ndarray, actions: Sequence[str]) -> Scores:
        """As `score`, from image codes (N, h, w)."""
        build = self.model.builder.inverse
        sequences = [
            build(source, target, action) for source, target, action in zip(sources, targets, actions, strict=True)
        ]
        return score_completions(self.model.lm, sequences, slice(0, -1), self.model.layout.pad)

    def log_likelihood(self, sources, targets, actions) -> torch.Tensor:
        """Return float32 (N,): mean log-probability per action token, in nats."""
        return self.score(sources, targets, actions).mean

    def predict(self, sources: Sequence[ImageRef], targets: Sequence[ImageRef]) -> list[str]:
        """Return one greedily decoded action for each pair."""
        return self.predict_codes(self.model.encode(sources), self.model.encode(targets))[0]

    def predict_codes(
        self,
        sources: np.ndarray,
        targets: np.ndarray,
        max_new_tokens: int = 16,
        temperature: float = 0.0,
        draws: torch.Tensor | None = None,
    ) -> tuple[list[str], torch.Tensor]:
        """As `predict`, from image codes; also the mean log-probability per generated token (N,).

        Args:
            temperature, draws: as of `visdyn.models.decoding.generate_text`; 0 is greedy.
        """
        build, model = self.model.builder.inverse_prompt, self.model
        prompts = [build(source, target) for source, target in zip(sources, targets, strict=True)]
        ids, scores = generate_text(
            model.lm, model.layout, prompts, max_new_tokens, temperature=temperature, draws=draws
        )
        return [model.builder.tokenizer.decode(text, skip_special_tokens=True) for text in ids], scores


@dataclass
class TokenForwardDynamics:
    """The forward-dynamics role of a unified model; implements `ForwardDynamics`.

    Attributes:
        temperature, top_p: of sampling; the paper samples at temperature 1 without truncation (0 is greedy).
    """

    model: UnifiedModel
    temperature: float = 1.0
    top_p: float = 1.0

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
        return score_completions(self.model.lm, sequences, slice(1, -2), layout.pad, restrict_to=block)

    def log_likelihood(self, sources, actions, targets) -> torch.Tensor:
        """Return float32 (N,): mean log-probability per image token, in nats."""
        return self.score(sources, actions, targets).mean

    def sample(self, source: ImageRef, action: str, num_samples: int, generator: torch.Generator | None = None):
        """Return `num_samples` uint8 images (H, W, 3)."""
        codes = self.model.encode([source])
        draws = uniforms(num_samples, codes[0].size, generator)[None]
        return list(self.model.decode(self.sample_codes(codes, [action], draws)[0]))

    def sample_codes(self, sources: np.ndarray, actions: Sequence[str], draws: torch.Tensor) -> np.ndarray:
        """Sample int64 codes (N, K, h, w) for N sources (N, h, w), from uniform numbers (N, K, h * w)."""
        build = self.model.builder.forward_prompt
        prompts = [build(source, action) for source, action in zip(sources, actions, strict=True)]
        codes = sample_images(self.model.lm, self.model.layout, prompts, draws, self.temperature, self.top_p)
        return codes.reshape(*codes.shape[:2], *sources.shape[1:])
