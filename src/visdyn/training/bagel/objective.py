"""What one training step of BAGEL computes: velocity and text losses, the Do-Undo consistency loss, EMA weights.

The paper (Do-Undo v1, Eq. 1) gives L_c = || I_o - I_R^ ||_1 and its weight 0.5, but neither the space nor the timestep
nor where I_R^ comes from; hence the options of `Consistency`. In the default (latent, true I_F) L_c equals
mean(t |v^ - v|) over the reverse samples: a t-weighted L1 velocity loss that couples nothing between doing and undoing.
The paper's own table agrees: Do-Undo(c) scores below Do-Undo on DINO-R (.795 and .807), above it on flow only.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from visdyn.models.bagel import Bagel, BagelOutput
from visdyn.models.bagel.embeddings import unpatchify
from visdyn.params.doundo import Consistency
from visdyn.training.bagel.mixture import BagelBatch
from visdyn.training.bagel.posteriors import pad
from visdyn.training.losses import consistency_loss, predict_clean, rectified_flow_loss

AVERAGE = "average."  # prefix of the EMA weights in a checkpoint


class BagelObjective(nn.Module):
    """The loss of a BAGEL over mixed packs.

    A state dict of it holds what trains (and its EMA), nothing frozen: checkpoints of a LoRA run are
    small, and the frozen rest comes back from the base.
    """

    def __init__(
        self,
        model: Bagel,
        *,
        mse_weight: float = 1.0,
        ce_weight: float = 1.0,
        reweight_ce: bool = False,
        timestep_shift: float = 1.0,
        consistency: Consistency | None = None,
        average: RunningAverage | None = None,
    ) -> None:
        """Set the loss up.

        Args:
            model: the model; parameters with `requires_grad` train.
            mse_weight, ce_weight: 1 and 1 in upstream's code; 1 and 0.25 in the BAGEL paper's last stage.
            reweight_ce: weigh answers by 1 / sqrt(length).
            timestep_shift: s in t <- s t / (1 + (s - 1) t) of t = sigmoid(N(0, 1)); 1 in upstream's code, 4 in the
                BAGEL paper's last stage.
            consistency: None leaves L_c out; weight 0 measures it without a gradient.
            average: keeps the EMA of what trains; None for none.
        """
        super().__init__()
        if timestep_shift <= 0:
            raise ValueError(f"timestep shift must be positive, not {timestep_shift}")
        self.model = model
        self.mse_weight, self.ce_weight, self.reweight_ce = mse_weight, ce_weight, reweight_ce
        self.timestep_shift, self.consistency, self.average = timestep_shift, consistency, average
        self.register_state_dict_post_hook(_keep_trained)
        self.register_load_state_dict_pre_hook(_load_ema)
        self.register_load_state_dict_post_hook(_ignore_missing_frozen)

    def activation_checkpointing_enable(self, **_: object) -> None:
        """Let the Trainer's `activation_checkpointing` reach the decoder layers."""
        self.model.gradient_checkpointing_enable()

    def forward(self, batch: BagelBatch) -> dict[str, Tensor]:
        """Return scalars loss, mse, ce and consistency.

        loss = mse_weight * mse + ce_weight * ce + lambda * consistency. Each is a mean over the tokens (consistency:
        the undos) of all ranks together, scaled so that the ranks' mean is right. A part that the batch does not have
        is 0; a history's means over steps count it as such.

        Args:
            batch: of `mixture.collate`.
        """
        if self.average is not None and self.training and torch.is_grad_enabled():
            self.average.before_forward(self.trained())
        batch = batch.to(self.model.device)
        output = self._run_model(batch)
        parts = {
            "mse": self._mean_flow_loss(batch, output),
            "ce": self._mean_cross_entropy(batch, output),
            "consistency": self._mean_consistency(batch, output),
        }
        loss = self.mse_weight * parts["mse"] + self.ce_weight * parts["ce"]
        if self.consistency is not None and self.consistency.weight > 0:
            loss = loss + self.consistency.weight * parts["consistency"]
        return {"loss": loss, **over_ranks(parts)}

    def trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield name and tensor of each parameter that trains, under the model's own names."""
        return ((name, tensor) for name, tensor in self.model.named_parameters() if tensor.requires_grad)

    def _run_model(self, batch: BagelBatch) -> BagelOutput:
        return self.model(
            batch.pack,
            noise=batch.noise,
            posterior_noise=batch.posterior,
            latents=batch.latents,
            timestep_shift=self.timestep_shift,
            targets_only=True,
        )

    def _mean_flow_loss(self, batch: BagelBatch, output: BagelOutput) -> Tensor:
        if output.velocity is None:  # only without other ranks, which would wait: see `mixture.idle_example`
            return output.hidden.new_zeros((), dtype=torch.float32)
        count = sum(h * w for _, (h, w) in batch.targets)  # latent tokens, each part below is (k, latent_dim)
        tokens = (part[:count] for part in (output.velocity, output.clean, output.noise))  # the idle one stands last
        return global_mean(rectified_flow_loss(*tokens, reduction="sum"), count)

    def _mean_cross_entropy(self, batch: BagelBatch, output: BagelOutput) -> Tensor:
        if output.ce is None:
            return output.hidden.new_zeros((), dtype=torch.float32)
        # (answer_tokens,) each; the idle answer's token stands behind them.
        losses, weights = output.ce[: batch.answer_tokens], output.ce_weights[: batch.answer_tokens]
        weights = weights if self.reweight_ce else torch.ones_like(weights)
        return global_mean((losses * weights).sum(), weights.sum())

    def _mean_consistency(self, batch: BagelBatch, output: BagelOutput) -> Tensor:
        """Return L_c over the undos that pass the time gate."""
        zero = output.hidden.new_zeros((), dtype=torch.float32)
        if self.consistency is None:
            return zero
        with torch.set_grad_enabled(self.consistency.weight > 0 and torch.is_grad_enabled()):
            undos = self._undo_maps(batch, output)
            if self.consistency.space == "pixel":
                # One image after another: the decoder's activations of a batch would not fit.
                found = [
                    self._losses_of_undos([undo], pixels[None]) for undo, pixels in self._with_pixels(batch, undos)
                ]
            else:
                found = [self._losses_of_undos(group) for group in _group_by_size(undos)]
            losses = [loss for loss in found if len(loss)]
            # The sum of each group, as its size times its mean: a plain sum would round differently.
            sums = [len(loss) * loss.mean() for loss in losses]
            return global_mean(torch.stack([zero, *sums]).sum(), sum(map(len, losses)))

    def _undo_maps(self, batch: BagelBatch, output: BagelOutput) -> list[tuple[Tensor, ...]]:
        """Return (noised, velocity, clean) maps (1, z, H, W) and t (1,) of the undos."""
        found, targets = output, [target for target in batch.targets if target[0]]
        if self.consistency.condition == "gt" or not targets:
            targets = batch.targets
        elif batch.chain is None:
            raise ValueError("consistency on generated images needs the edits of the undos; set BagelMixture's chained")
        else:
            found = self._undo_generated(batch, output)
        return [maps for is_undo, *maps in target_maps(self.model, found, targets) if is_undo]

    @staticmethod
    def _with_pixels(batch: BagelBatch, undos: list) -> Iterator[tuple[list[Tensor], Tensor]]:
        """Yield each undo's maps with the pixels of its I_o."""
        if undos and batch.originals is None:
            raise ValueError("consistency in pixel space needs the images themselves; set BagelMixture's originals")
        return zip(undos, batch.originals or (), strict=True)

    def _losses_of_undos(self, undos: list[list[Tensor]], pixels: Tensor | None = None) -> Tensor:
        """Return L_c (m,) of the m of these undos, all of one size, that pass the time gate.

        Args:
            pixels: of I_o (N, 3, H, W), in pixel space: the images themselves, not what the autoencoder makes of them.
        """
        # (m, z, H, W) three times, and t (m,)
        noised, velocity, clean, t = (torch.cat(parts) for parts in zip(*undos, strict=True))
        return consistency_loss(
            noised,
            velocity,
            t,
            clean,
            space=self.consistency.space,
            decode=None if pixels is None else self._decode_latents,
            target_pixels=pixels,
            t_gate=self.consistency.t_gate,
            weight_function=self.consistency.weight_function,
            reduction="none",
        )

    def _decode_latents(self, latents: Tensor) -> Tensor:
        decode = self.model.require_vae().decode
        # The decoder's activations of one image take gigabytes at the public size.
        return checkpoint(decode, latents, use_reentrant=False) if torch.is_grad_enabled() else decode(latents)

    def _undo_generated(self, batch: BagelBatch, output: BagelOutput) -> BagelOutput:
        """Do, then undo what was done: read the one-step I_F^ of each edit as the source of its undo."""
        edits = batch.chain.edits
        # detach: the undo's loss then trains the undo alone, not the edit whose image it reads.
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.consistency.detach):
            done = self._run_model(edits)
            ends = [predict_clean(x, v, t) for _, x, v, _, t in target_maps(self.model, done, edits.targets)]
        starts = [clean for is_undo, _, _, clean, _ in target_maps(self.model, output, batch.targets) if is_undo]
        # Per undo the source, then the target: (z, H, W) each, in the order of the pack's VAE parts.
        latents = pad([maps[0] for pair in zip(ends, starts, strict=True) for maps in pair])
        return self.model(
            batch.chain.undo, latents=latents, noise=batch.chain.undo_noise, timestep_shift=self.timestep_shift
        )


def _group_by_size(undos: list[list[Tensor]]) -> list[list[list[Tensor]]]:
    """Group undos whose maps have one size."""
    groups: dict[torch.Size, list[list[Tensor]]] = {}
    for undo in undos:
        groups.setdefault(undo[0].shape, []).append(undo)
    return list(groups.values())


def target_maps(model: Bagel, output: BagelOutput, targets: list[tuple[bool, tuple[int, int]]]) -> Iterator[tuple]:
    """Yield, per noised target, the flag of `targets` and noised, velocity, clean (1, z, H, W) and t (1,)."""
    if not targets:
        return
    lengths = [h * w for _, (h, w) in targets]
    # (k, latent_dim) -> one (h * w, latent_dim) per target; all tokens of a target share its timestep.
    tokens = [part.float().split(lengths) for part in (output.noised, output.velocity, output.clean)]
    times, patch = output.timesteps.split(lengths), model.config.latent_patch_size
    for (flag, grid), t, *parts in zip(targets, times, *tokens, strict=True):
        yield flag, *(unpatchify(part, grid, patch).unsqueeze(0) for part in parts), t[:1]


def global_mean(total: Tensor, count: float | Tensor) -> Tensor:
    """Return total / count with the count of all ranks, times the ranks: gradients averaged over ranks are then right.

    Ranks whose batch has none still take part, else the others would wait for them.
    """
    import torch.distributed as dist

    # A count that stands on the device stays there: to read it would make the host wait for all work before it.
    counts, ranks = torch.as_tensor(count, dtype=torch.float32, device=total.device), 1
    if dist.is_available() and dist.is_initialized():
        ranks = dist.get_world_size()
        dist.all_reduce(counts)
    return total * ranks / counts.clamp_min(1e-12)


def over_ranks(parts: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the ranks' means, for the history that one rank keeps; on one rank, the parts themselves."""
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()):
        return parts
    means = torch.stack([part.detach().float() for part in parts.values()])
    dist.all_reduce(means)
    return dict(zip(parts, means / dist.get_world_size(), strict=True))


class RunningAverage:
    """An exponential moving average of what trains, in float32: bfloat16 cannot hold steps of 1 - decay.

    It is brought up to date at the start of the forward that follows an optimiser step, and once at the end of
    training (`update`). At decay .9999 it has taken in 10 % of the change after 1,000 steps; compare it with the
    raw weights before using it.
    """

    def __init__(self, decay: float, forwards_per_step: int = 1) -> None:
        """Keep a decay in (0, 1); with gradient accumulation, an optimiser step takes several forwards."""
        if not 0 < decay < 1:
            raise ValueError(f"the decay of a running average lies between 0 and 1, not {decay}")
        self.decay, self.forwards_per_step, self.forwards = decay, forwards_per_step, 0
        self.values: dict[str, Tensor] = {}

    def before_forward(self, trained: Iterator[tuple[str, Tensor]]) -> None:
        """Count a forward; start the average at the first, update it after each optimiser step."""
        if self.forwards == 0:
            self.values = {name: value.detach().float().clone() for name, value in trained}
        elif self.forwards % self.forwards_per_step == 0:
            self.update(trained)
        self.forwards += 1

    @torch.no_grad()
    def update(self, trained: Iterator[tuple[str, Tensor]]) -> None:
        """Move the average towards the current values by 1 - decay."""
        for name, value in trained:
            self.values[name] = self.values[name].to(value.device).lerp_(value.detach().float(), 1 - self.decay)


def _keep_trained(module: BagelObjective, state: dict, prefix: str, _: dict) -> None:
    trained = {f"{prefix}model.{name}" for name, _ in module.trained()}
    for name in [name for name in state if name.startswith(f"{prefix}model.") and name not in trained]:
        del state[name]
    if module.average is not None:
        state[f"{prefix}{AVERAGE}forwards"] = torch.tensor(module.average.forwards)
        # Keys differ from the parameters' so that nothing takes the average for the weights.
        state.update({f"{prefix}{AVERAGE}{name}": value for name, value in module.average.values.items()})


def _load_ema(module: BagelObjective, state: dict, prefix: str, *_: object) -> None:
    found = {name: state.pop(name) for name in list(state) if name.startswith(f"{prefix}{AVERAGE}")}
    if module.average is not None and found:
        values = {name.removeprefix(f"{prefix}{AVERAGE}"): value for name, value in found.items()}
        module.average.forwards = int(values.pop("forwards"))
        module.average.values = {name: value.float().clone() for name, value in values.items()}


def _ignore_missing_frozen(module: BagelObjective, keys) -> None:
    """Allow for frozen tensors, which are not in a checkpoint; anything else that is missing still is an error."""
    frozen = {f"model.{name}" for name, tensor in module.model.named_parameters() if not tensor.requires_grad}
    keys.missing_keys[:] = [name for name in keys.missing_keys if name not in frozen]
