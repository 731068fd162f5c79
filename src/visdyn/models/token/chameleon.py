"""Chameleon / Anole: transformers' decoder, with its image-token logits and a tokenizer that can also decode.

The library's forward sets all image-token logits to the smallest number before the loss, so that a model can neither
be trained on nor generate images; `ChameleonLM` leaves them alone. Images enter and leave as code ids: the VQGAN is a
separate fp32 module, because its arg-min over codes flips in lower precision.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import ChameleonConfig, ChameleonForConditionalGeneration
from transformers.modeling_outputs import CausalLMOutputWithPast

from visdyn.models.checkpoints import locate
from visdyn.models.token.tokens import IMAGE, TokenLayout


class ChameleonLM(ChameleonForConditionalGeneration):
    """Chameleon's decoder and head without the image-logit mask and without the image tokenizer inside."""

    _keys_to_ignore_on_load_unexpected = [r"model\.vqmodel\."]  # noqa: RUF012  (the library's own idiom)

    def __init__(self, config: ChameleonConfig) -> None:
        super().__init__(config)
        self.model.vqmodel = None

    @staticmethod
    def is_old_layout(shapes: Mapping[str, tuple[int, ...]]) -> bool:
        """Say whether stored weights are of before the library's version 4.44: see `translate_layout`."""
        return any(_is_head_norm(name) and len(shape) == 1 for name, shape in shapes.items())

    @staticmethod
    def translate_layout(weights: dict[str, torch.Tensor], config: ChameleonConfig) -> dict[str, torch.Tensor]:
        """Repeat query and key norms that are one vector for all heads for each head, which is what they meant."""
        heads = {"q_norm": config.num_attention_heads, "k_norm": config.num_key_value_heads}
        return {
            name: value.expand(heads[name.split(".")[-2]], -1).clone()
            if _is_head_norm(name) and value.ndim == 1
            else value
            for name, value in weights.items()
        }

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        past_key_values=None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs,
    ) -> CausalLMOutputWithPast:
        """Return unmasked logits (B, kept, V) of the next token; `logits_to_keep` as in the library (0 keeps all)."""
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            use_cache=use_cache,
            **kwargs,
        )
        hidden = outputs.last_hidden_state
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        return CausalLMOutputWithPast(logits=self.lm_head(hidden[:, kept]), past_key_values=outputs.past_key_values)


def _is_head_norm(name: str) -> bool:
    return ".q_norm." in name or ".k_norm." in name


def tiny_config(
    vocabulary_size: int,
    layout: TokenLayout,
    image_placeholder: int,
    hidden_size: int = 128,
    intermediate_size: int = 256,
    num_layers: int = 4,
    num_heads: int = 4,
    max_positions: int = 256,
) -> ChameleonConfig:
    """Return the configuration of a small Chameleon over a given vocabulary."""
    return ChameleonConfig(
        vocab_size=vocabulary_size,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        num_key_value_heads=num_heads,
        max_position_embeddings=max_positions,
        bos_token_id=layout.bos,
        eos_token_id=layout.eos,
        pad_token_id=layout.pad,
        # The library insists on a tokenizer inside the model; the smallest one is built and dropped.
        vq_config={
            "base_channels": 32,
            "channel_multiplier": [1],
            "num_res_blocks": 1,
            "latent_channels": 32,
            "embed_dim": 32,
            "num_embeddings": layout.num_image_codes,
        },
        vocabulary_map={IMAGE: image_placeholder},
    )


def load_lm(name_or_path: str | Path, dtype: str | torch.dtype = "auto", attention: str = "sdpa", device: str = "cpu"):
    """Load a Chameleon decoder in evaluation mode, with its LoRA adapter where the folder holds one.

    Args:
        name_or_path: local folder or hub id in the `save_pretrained` layout of a model or of a peft adapter.
        attention: `sdpa` or `eager`. In fp32 on a CPU the first trains a seventh faster; in bf16 on a CPU with bf16
            instructions it was the other way round.
    """
    return locate(name_or_path).load_lm(ChameleonLM, dtype, attention, device)
