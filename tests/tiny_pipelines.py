"""Tiny pipelines of the diffusion baselines' own classes with random weights, saved as public folders lie on disk.

Qwen's pipelines bring every image to about a megapixel, whatever the weights; `SMALL_AREAS` divides that area by 256.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from visdyn.models.editors.diffusers_editors import KONTEXT, PIX2PIX, QWEN, QWEN_PLUS

PIPELINES = (PIX2PIX, KONTEXT, QWEN, QWEN_PLUS)
SMALL_KONTEXT = {"width": 64, "height": 48, "max_area": 64 * 48, "_auto_resize": False, "max_sequence_length": 16}
# Run in the process that edits.
SMALL_AREAS = """
import importlib

for _name in ("edit", "edit_plus"):
    _module = importlib.import_module(f"diffusers.pipelines.qwenimage.pipeline_qwenimage_{_name}")
    _real = _module.calculate_dimensions
    _module.calculate_dimensions = lambda area, ratio, real=_real: real(area // 256, ratio)
"""
# InstructPix2Pix's preset brings the long side to 512. Run as above.
SMALL_PIX2PIX = """
from dataclasses import replace as _replace

from visdyn.models.editors.diffusers_editors import PRESETS as _PRESETS

_PRESETS["instruct-pix2pix"] = _replace(_PRESETS["instruct-pix2pix"], resolution=64)
"""


def save_pipelines(root: Path) -> dict[str, Path]:
    """Save one pipeline of each class under `root`, and return their folders by class name."""
    torch.manual_seed(0)
    saved = {}
    for name in PIPELINES:
        saved[name] = root / name
        pipeline = {PIX2PIX: _pix2pix, KONTEXT: _kontext}.get(name, lambda name=name: _qwen(name))()
        pipeline.save_pretrained(saved[name])
        if name in (QWEN, QWEN_PLUS):
            _save_qwen_processor(saved[name])
    return saved


def _alphabet():
    from tokenizers import pre_tokenizers

    return sorted(pre_tokenizers.ByteLevel.alphabet())


def _clip():
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    names = [*_alphabet(), *(f"{letter}</w>" for letter in _alphabet()), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={name: i for i, name in enumerate(names)}, merges=[], model_max_length=16)
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids = {"bos_token_id": len(names) - 2, "eos_token_id": len(names) - 1}
    return {
        "tokenizer": tokenizer,
        "text_encoder": CLIPTextModel(CLIPTextConfig(vocab_size=len(names), **shape, **ids)),
    }


def _autoencoder(channels, **options):
    from diffusers import AutoencoderKL

    blocks = {f"{end}_block_types": [f"{name}Block2D"] * len(channels)
              for end, name in (("down", "DownEncoder"), ("up", "UpDecoder"))}  # fmt: skip
    return AutoencoderKL(block_out_channels=channels, latent_channels=4, norm_num_groups=4, **blocks, **options)


def _pix2pix():
    from diffusers import PNDMScheduler, StableDiffusionInstructPix2PixPipeline, UNet2DConditionModel

    unet = UNet2DConditionModel(
        block_out_channels=(8, 16), layers_per_block=1, sample_size=8, in_channels=8, out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32, attention_head_dim=8, norm_num_groups=4,
    )  # fmt: skip
    rest = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    scheduler = PNDMScheduler(skip_prk_steps=True)
    return StableDiffusionInstructPix2PixPipeline(
        vae=_autoencoder((8, 16)), unet=unet, scheduler=scheduler, **_clip(), **rest
    )


def _kontext():
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxKontextPipeline, FluxTransformer2DModel
    from transformers import T5Config, T5EncoderModel, T5TokenizerFast

    pieces = [(name, 0.0) for name in ("<pad>", "</s>", "<unk>")] + [(c, -2.0) for c in "▁abcdefghijklmnopqrstuvwxyz"]
    t5 = T5Config(vocab_size=32, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    transformer = FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=[4, 4, 8], guidance_embeds=True,
    )  # fmt: skip
    return FluxKontextPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=_autoencoder((8, 8, 8, 8), use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.06),
        text_encoder_2=T5EncoderModel(t5),
        tokenizer_2=T5TokenizerFast(vocab=pieces, extra_ids=0, model_max_length=16),
        transformer=transformer,
        **_clip(),
    )


def _qwen(name):
    import diffusers
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    tokenizer = _qwen_tokenizer()
    tokens = {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>"}
    tokens |= {"vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>"}
    ids = {key: tokenizer.convert_tokens_to_ids(token) for key, token in tokens.items()}
    rope = {"rope_scaling": {"mrope_section": [1, 1, 2], "rope_type": "default"}, "rope_theta": 1e6}
    ends = {"bos_token_id": None, "eos_token_id": None}
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, **ends}
    text |= {"num_key_value_heads": 2, "vocab_size": len(tokenizer), **rope}
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16}
    vision |= {"fullatt_block_indexes": [0]}
    encoder = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision, **ids))
    vae = diffusers.AutoencoderKLQwenImage(
        base_dim=8, z_dim=4, dim_mult=[1, 1], num_res_blocks=1, temperal_downsample=[False],
        latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
    )  # fmt: skip
    transformer = diffusers.QwenImageTransformer2DModel(
        patch_size=2, in_channels=16, out_channels=4, num_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=16, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    parts = {"vae": vae, "text_encoder": encoder, "tokenizer": tokenizer, "processor": None}
    return getattr(diffusers, name)(scheduler=scheduler, transformer=transformer, **parts)


def _qwen_tokenizer():
    from transformers import Qwen2Tokenizer

    names = ("im_start", "im_end", "vision_start", "vision_end", "image_pad", "video_pad")
    vocabulary = {name: i for i, name in enumerate(_alphabet())}
    return Qwen2Tokenizer(vocab=vocabulary, merges=[], extra_special_tokens=[f"<|{name}|>" for name in names])


def _save_qwen_processor(folder):
    """Write the processor as the public folders hold it: tokenizer files and two preprocessor configs."""
    _qwen_tokenizer().save_pretrained(folder / "processor")
    sizes = {"min_pixels": 56 * 56, "max_pixels": 112 * 112, "patch_size": 14, "temporal_patch_size": 2}
    for stem, kind in (("preprocessor", "image"), ("video_preprocessor", "video")):
        config = sizes | {f"{kind}_processor_type": f"Qwen2VL{kind.title()}Processor", "merge_size": 2}
        config["processor_class"] = "Qwen2_5_VLProcessor"
        (folder / "processor" / f"{stem}_config.json").write_text(json.dumps(config))
    index = json.loads((folder / "model_index.json").read_text())
    index["processor"] = ["transformers", "Qwen2VLProcessor"]
    (folder / "model_index.json").write_text(json.dumps(index))
