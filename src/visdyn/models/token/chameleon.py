"""Chameleon / Anole: transformers' decoder, with its image-token logits and a tokenizer that can also decode.

The library's forward sets all image-token logits to the smallest number before the loss, so that a model can neither
be trained on nor generate images; `ChameleonLM` leaves them alone. Images enter and leave as code ids: the VQGAN is a
separate fp32 module, because its arg-min over codes flips in lower precision.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file
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

    @classmethod
    def from_pretrained(cls, name_or_path, *args, **options):
        """Load as the library does, and also folders of before its version 4.44.

        Their query and key norms are one vector for all heads; it is repeated for each head, which is what it meant.
        """
        narrow = _find_narrow_norms(Path(name_or_path)) if Path(name_or_path or "").is_dir() else []
        if not narrow:
            return super().from_pretrained(name_or_path, *args, **options)
        config = options.pop("config", None) or ChameleonConfig.from_pretrained(name_or_path)
        weights = {key: value for file in _list_shards(Path(name_or_path)) for key, value in load_file(file).items()}
        heads = {"q_norm": config.num_attention_heads, "k_norm": config.num_key_value_heads}
        for key in narrow:
            weights[key] = weights[key].expand(heads[key.split(".")[-2]], -1).clone()
        return super().from_pretrained(None, *args, config=config, state_dict=weights, **options)

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


def _list_shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def _find_narrow_norms(folder: Path) -> list[str]:
    """Return the query and key norms of a folder that are one vector for all heads."""
    narrow = []
    for file in _list_shards(folder):
        with safe_open(file, framework="pt") as opened:
            norms = [key for key in opened.keys() if ".q_norm." in key or ".k_norm." in key]  # noqa: SIM118
            narrow += [key for key in norms if len(opened.get_slice(key).get_shape()) == 1]
    return narrow


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
