"""What one training step of the rectified-flow editor computes: noise, the network, the losses.

All randomness comes from torch's global generators, which the trainer seeds, saves and restores. Two runs that
differ only in the consistency loss see the same timesteps, noise and prompts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from visdyn.models.flow_editor import FlowEditor
from visdyn.training.flow_losses import (
    SPACES,
    consistency_loss,
    interpolate,
    predict_clean,
    rectified_flow_loss,
    sample_timesteps,
)

CONDITIONS = ("gt", "generated")


@dataclass(frozen=True)
class Noising:
    """How samples are noised and conditions dropped.

    Attributes:
        timestep_shift: shift of the logit-normal timesteps. Near the noise it is decided what changes: on the kitchen
            a shift of 3 (BAGEL trains with 1 to 4) copies the source far less often than 1.
        text_dropout, source_dropout: probabilities, independent of each other, that a sample loses its text or its
            source; they train the branches of classifier-free guidance.
    """

    timestep_shift: float = 3.0
    text_dropout: float = 0.0
    source_dropout: float = 0.0


@dataclass(frozen=True)
class Consistency:
    """The Do-Undo consistency loss (`flow_losses.consistency_loss`) and where its prediction comes from.

    Attributes:
        weight: lambda; the paper's 0.5. With 0 the loss is only measured.
        condition: `gt`, the reverse prediction from the true I_F, as the paper trains; or `generated`, from the
            one-step I_F^ of the forward half, the variant that ties undoing to doing (a further half pass).
        space: `latent` or `pixel`.
        t_gate, weight_function: see `consistency_loss`.
        detach: with `generated`, keep the gradient out of the forward half.
    """

    weight: float = 0.5
    condition: str = "gt"
    space: str = "latent"
    t_gate: float | None = None
    weight_function: str = "uniform"
    detach: bool = True

    def __post_init__(self) -> None:
        if self.condition not in CONDITIONS:
            raise ValueError(f"unknown consistency condition {self.condition!r}; one of {', '.join(CONDITIONS)}")
        if self.space not in SPACES:
            raise ValueError(f"unknown consistency space {self.space!r}; one of {', '.join(SPACES)}")
        if self.weight < 0:
            raise ValueError(f"the consistency weight must not be negative, got {self.weight}")


class GenerationObjective(nn.Module):
    """Rectified flow on single samples: text-to-image, or an image from an earlier one."""

    def __init__(self, editor: FlowEditor, noising: Noising) -> None:
        super().__init__()
        self.editor, self.noising = editor, noising

    def forward(self, target: Tensor, source: Tensor, has_source: Tensor, text_ids: Tensor) -> dict[str, Tensor]:
        """Return the loss; target and source are normalised latents (N, C, h, w), text_ids (N, slots)."""
        timesteps, noise = _draw(target, self.noising)
        velocity = self.editor(interpolate(target, noise, timesteps), timesteps, text_ids, source, has_source)
        return {"loss": rectified_flow_loss(velocity, target, noise)}


class DoUndoObjective(nn.Module):
    """Rectified flow on both halves of reversible pairs, plus lambda times the consistency of the reverse half."""

    def __init__(
        self,
        editor: FlowEditor,
        noising: Noising,
        consistency: Consistency,
        long_share: float = 0.5,
        decode: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.editor, self.noising, self.consistency = editor, noising, consistency
        self.long_share, self.decode = long_share, decode

    def forward(self, start: Tensor, end: Tensor, text_ids: Tensor) -> dict[str, Tensor]:
        """Return loss, flow and consistency.

        Args:
            start, end: normalised latents of I_o and I_F, (N, C, h, w).
            text_ids: (N, 2, 2, slots): short or long, then forward or reverse.
        """
        target, source = torch.cat([end, start]), torch.cat([start, end])
        prompts = self._choose_lengths(text_ids)
        timesteps, noise = _draw(target, self.noising)
        prompts, has_source = _drop_conditions(prompts, self.noising)
        noisy = interpolate(target, noise, timesteps)
        velocity = self.editor(noisy, timesteps, prompts, source, has_source)
        flow = rectified_flow_loss(velocity, target, noise)
        with torch.set_grad_enabled(self.consistency.weight > 0 and torch.is_grad_enabled()):
            consistency = self._consistency(noisy, velocity, timesteps, prompts, start)
        return {"loss": flow + self.consistency.weight * consistency, "flow": flow, "consistency": consistency}

    def _choose_lengths(self, text_ids: Tensor) -> Tensor:
        """Pick the short or the long prompts of each pair; (2N, slots), the forward half first."""
        long = (torch.rand(len(text_ids)) < self.long_share).long().to(text_ids.device)
        chosen = text_ids[torch.arange(len(text_ids), device=text_ids.device), long]
        return torch.cat([chosen[:, 0], chosen[:, 1]])

    def _consistency(
        self, noisy: Tensor, velocity: Tensor, timesteps: Tensor, prompts: Tensor, start: Tensor
    ) -> Tensor:
        n, options = len(start), self.consistency
        reverse_velocity = velocity[n:]
        if options.condition == "generated":
            end = predict_clean(noisy[:n], velocity[:n], timesteps[:n])
            end = end.detach() if options.detach else end
            given = torch.ones(n, dtype=torch.bool, device=start.device)
            reverse_velocity = self.editor(noisy[n:], timesteps[n:], prompts[n:], end, given)
        return consistency_loss(
            noisy[n:],
            reverse_velocity,
            timesteps[n:],
            start,
            space=options.space,
            decode=self.decode,
            t_gate=options.t_gate,
            weight_function=options.weight_function,
        )


class LatentDecoder:
    """Normalised latents to pixels; a plain callable, so that a checkpoint of the objective leaves the decoder out."""

    def __init__(self, editor: FlowEditor, autoencoder) -> None:
        self.editor, self.autoencoder = editor, autoencoder

    def __call__(self, latents: Tensor) -> Tensor:
        """Decode (N, C, h, w); gradients flow to the latents only."""
        return self.autoencoder.to(latents.device).decode_latents(self.editor.denormalise(latents))


def _draw(target: Tensor, noising: Noising) -> tuple[Tensor, Tensor]:
    timesteps = sample_timesteps(len(target), noising.timestep_shift).to(target.device)
    return timesteps, torch.randn_like(target)


def _drop_conditions(prompts: Tensor, noising: Noising) -> tuple[Tensor, Tensor]:
    """Return the prompts, some replaced by "no text", and which samples keep their source."""
    drop_text = (torch.rand(len(prompts)) < noising.text_dropout).to(prompts.device)
    has_source = (torch.rand(len(prompts)) >= noising.source_dropout).to(prompts.device)
    return torch.where(drop_text[:, None], FlowEditor.no_text(prompts), prompts), has_source
