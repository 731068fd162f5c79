"""A small rectified-flow image editor in the latents of an autoencoder: the embedded stand-in for BAGEL.

What it keeps of BAGEL: the objective, latents of a frozen autoencoder, one network for text-to-image and editing,
and classifier-free guidance over text and image. What it leaves out: the language model. The source latent is
concatenated on channels with the noised target, which at this size learns far faster than in-context source tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from visdyn.models.flow_text import NULL_ID, PAD_ID


class FlowEditorConfig(PretrainedConfig):
    """Sizes of a `FlowEditor`.

    Attributes:
        latent_channels, latent_size: C and side h = w of the autoencoder's latents.
        vocab_size, text_slots: of the tokenizer (`models.flow_text`); ids 0 = pad, 2 = no text.
        hidden_size, num_layers, num_heads, mlp_ratio: of the transformer.
    """

    model_type = "visdyn_flow_editor"

    def __init__(
        self,
        latent_channels: int = 16,
        latent_size: int = 8,
        vocab_size: int = 256,
        text_slots: int = 72,
        hidden_size: int = 128,
        num_layers: int = 4,
        num_heads: int = 4,
        mlp_ratio: int = 4,
        **kwargs,
    ) -> None:
        self.latent_channels = latent_channels
        self.latent_size = latent_size
        self.vocab_size = vocab_size
        self.text_slots = text_slots
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.num_heads = num_heads
        self.mlp_ratio = mlp_ratio
        super().__init__(**kwargs)


class FlowEditor(PreTrainedModel):
    """Predicts the velocity eps - x_0 of a noised target from a source image and a text.

    The precision is the caller's: training may wrap the call in bfloat16 autocast; the velocity is float32.

    Attributes:
        latent_mean, latent_std: (C, 1, 1) statistics of the autoencoder's latents, set before training;
            the network sees only normalised latents (`normalise`, `denormalise`).
    """

    config_class = FlowEditorConfig
    base_model_prefix = "editor"
    main_input_name = "noisy"

    def __init__(self, config: FlowEditorConfig) -> None:
        super().__init__(config)
        channels, width = config.latent_channels, config.hidden_size
        self.register_buffer("latent_mean", torch.zeros(channels, 1, 1))
        self.register_buffer("latent_std", torch.ones(channels, 1, 1))
        self.null_source = nn.Parameter(torch.zeros(channels, 1, 1))
        self.patch = nn.Linear(2 * channels, width)
        self.position = nn.Parameter(torch.zeros(config.latent_size**2, width))
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.text = TextEncoder(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.final_norm = nn.LayerNorm(width, elementwise_affine=False)
        self.final_modulation = nn.Linear(width, 2 * width)
        self.head = nn.Linear(width, channels)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.5)
        elif isinstance(module, TextEncoder):
            nn.init.normal_(module.position, std=0.1)
        elif isinstance(module, Block):
            nn.init.zeros_(module.modulation.weight)
        elif isinstance(module, FlowEditor):
            nn.init.normal_(module.position, std=0.1)
            nn.init.normal_(module.null_source, std=0.5)
            for layer in (module.final_modulation, module.head):
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, noisy: Tensor, timesteps: Tensor, text_ids: Tensor, source: Tensor, has_source: Tensor) -> Tensor:
        """Return the velocity, float32 (N, C, h, w).

        Args:
            noisy: x_t, normalised latents (N, C, h, w).
            timesteps: (N,) in [0, 1], 1 = noise.
            text_ids: int64 (N, S), S up to `text_slots`; id 2 alone is "no text", 0 is padding.
            source: normalised latents (N, C, h, w); any finite value where there is none.
            has_source: bool (N,); where False the learned null source stands in (text-to-image).
        """
        given = has_source.view(-1, 1, 1, 1)
        pair = torch.cat([noisy, torch.where(given, source, self.null_source)], 1)
        hidden = self.patch(pair.flatten(2).transpose(1, 2)) + self.position
        text, pooled, bias = self.text(text_ids)
        condition = nn.functional.silu(self.time(_sinusoids(timesteps, hidden.shape[-1])) + pooled)
        for block in self.blocks:
            hidden = block(hidden, text, bias, condition)
        shift, scale = self.final_modulation(condition).unsqueeze(1).chunk(2, -1)
        velocity = self.head(self.final_norm(hidden) * (1 + scale) + shift)
        return velocity.float().transpose(1, 2).reshape(noisy.shape)

    @staticmethod
    def no_text(text_ids: Tensor) -> Tensor:
        """Return ids of the shape of `text_ids` (N, S) that say "no text"."""
        ids = torch.full_like(text_ids, PAD_ID)
        ids[:, 0] = NULL_ID
        return ids

    @torch.no_grad()
    def grow_vocabulary(self, size: int) -> None:
        """Make room for `size` words; known ones keep their embedding, new ones get a random one."""
        old = self.text.embedding
        self.text.embedding = nn.Embedding(size, old.embedding_dim, device=old.weight.device)
        self._init_weights(self.text.embedding)
        self.text.embedding.weight[: len(old.weight)] = old.weight
        self.config.vocab_size = size

    @torch.no_grad()
    def set_statistics(self, latents: Tensor) -> None:
        """Take mean and standard deviation of each channel from latents (N, C, h, w)."""
        self.latent_mean.copy_(latents.mean((0, 2, 3)).view(-1, 1, 1))
        self.latent_std.copy_(latents.std((0, 2, 3)).clamp(min=1e-6).view(-1, 1, 1))

    def normalise(self, latents: Tensor) -> Tensor:
        """Map the autoencoder's latents (N, C, h, w) to about zero mean and unit variance."""
        return (latents - self.latent_mean) / self.latent_std

    def denormalise(self, latents: Tensor) -> Tensor:
        """Undo `normalise`."""
        return latents * self.latent_std + self.latent_mean


class TextEncoder(nn.Module):
    """Embeds words and mixes neighbours once, outside the image sequence: cheap even for long prompts."""

    def __init__(self, config: FlowEditorConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.embedding = nn.Embedding(config.vocab_size, width)
        self.position = nn.Parameter(torch.zeros(config.text_slots, width))
        self.neighbours = nn.Linear(3 * width, width)
        self.norm = nn.LayerNorm(width, bias=False)
        self.pool = nn.Linear(width, width)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return text states (N, S, d), their pooled vector (N, d) and an attention bias (N, 1, 1, S)."""
        longest = int((ids != PAD_ID).sum(1).max())
        ids = ids[:, :longest]  # padding beyond the longest text of the batch changes nothing
        kept = (ids != PAD_ID).unsqueeze(-1)
        states = (self.embedding(ids) + self.position[:longest]) * kept
        before, after = nn.functional.pad(states, (0, 0, 1, 0))[:, :-1], nn.functional.pad(states, (0, 0, 0, 1))[:, 1:]
        mixed = nn.functional.gelu(self.neighbours(torch.cat([before, states, after], -1)))
        states = self.norm(states + mixed)
        pooled = self.pool((states * kept).sum(1) / kept.sum(1))
        bias = torch.zeros(ids.shape, device=ids.device).masked_fill(ids == PAD_ID, -1e4)
        return states, pooled, bias[:, None, None]


class Block(nn.Module):
    """A DiT block (adaLN-zero) whose image tokens also attend to the text states."""

    def __init__(self, config: FlowEditorConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads = config.num_heads
        self.modulation = nn.Linear(width, 6 * width)
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.mlp_norm = nn.LayerNorm(width, elementwise_affine=False)
        self.qkv = nn.Linear(width, 3 * width)
        self.text_kv = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, config.mlp_ratio * width), nn.GELU(), nn.Linear(config.mlp_ratio * width, width)
        )

    def forward(self, hidden: Tensor, text: Tensor, bias: Tensor, condition: Tensor) -> Tensor:
        """Map hidden (N, L, d), given text (N, S, d), its bias (N, 1, 1, S) and condition (N, d), to (N, L, d)."""
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = self.modulation(condition).unsqueeze(1).chunk(6, -1)
        hidden = hidden + gate * self._attend(self.norm(hidden) * (1 + scale) + shift, text, bias)
        return hidden + mlp_gate * self.mlp(self.mlp_norm(hidden) * (1 + mlp_scale) + mlp_shift)

    def _attend(self, hidden: Tensor, text: Tensor, bias: Tensor) -> Tensor:
        """Image tokens attend to image and text keys at once; written out because SDPA's backward is slow on CPUs."""
        query, key, value = (self._split(part) for part in self.qkv(hidden).chunk(3, -1))
        text_key, text_value = (self._split(part) for part in self.text_kv(text).chunk(2, -1))
        query = query * query.shape[-1] ** -0.5
        scores = torch.cat([query @ key.transpose(-1, -2), query @ text_key.transpose(-1, -2) + bias], -1)
        mixed = scores.softmax(-1).to(value.dtype) @ torch.cat([value, text_value], 2)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def _split(self, states: Tensor) -> Tensor:
        return states.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def _sinusoids(timesteps: Tensor, width: int) -> Tensor:
    half = width // 2
    frequencies = torch.exp(torch.arange(half, device=timesteps.device) * (-9.21 / half))
    angles = timesteps[:, None].float() * 1000 * frequencies
    return torch.cat([angles.cos(), angles.sin()], -1)
