"""Tiny random token models in the public layouts: an Anole folder of transformers, and Liquid with its VQGAN apart."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

NUM_CODES = 16
PROMPTS = (
    "editing the given image according to the following prompt : infer the action between the two consecutive images ."
)
WORDS = PROMPTS + " open close take red cup lamp"


def tiny_vqgan(**changes):
    """A random VQGAN of 16 codes at 16 x 16 pixels, whose codes are features of images."""
    from visdyn.models.vqgan import VQGAN, VQGANConfig

    shape = {"ch": 8, "ch_mult": (1,), "num_res_blocks": 1, "z_channels": 4, "embed_dim": 4, "norm_groups": 4}
    config = VQGANConfig(**{**shape, "n_embed": NUM_CODES, "resolution": 16, "patch": 4, **changes})
    vqgan = VQGAN(config).eval()
    pixels = torch.rand(4, 3, config.resolution, config.resolution) * 2 - 1
    features = vqgan.features(pixels).permute(0, 2, 3, 1).reshape(-1, config.embed_dim)
    vqgan.quantize.embedding.weight.data = features[torch.randperm(len(features))[: config.n_embed]].clone()
    return vqgan


def tiny_decoder(family: str, layout, key_heads: int = 2):
    """A random decoder of `chameleon` or `liquid`: 2 layers of width 32, 36 tokens, 2 heads (Gemma: of keys too).

    It is drawn from seed 0, and has the library's initial weights.
    """
    from transformers import GemmaForCausalLM

    from visdyn.models.token import chameleon, liquid

    torch.manual_seed(0)
    if family == "chameleon":
        config = chameleon.tiny_config(36, layout, 7, 32, 64, 2, 2)
        return chameleon.ChameleonLM._from_config(config, attn_implementation="sdpa")
    config = liquid.tiny_config(layout, 32, 2, 2)
    config.num_key_value_heads = key_heads
    return GemmaForCausalLM._from_config(config, attn_implementation="sdpa")


def public_vqgan():
    """A VQGAN whose shape the public layouts can state: no folded pixels, groups of 32 channels."""
    sizes = {"ch": 32, "ch_mult": (1, 1, 1), "z_channels": 32, "embed_dim": 32, "norm_groups": 32, "patch": 1}
    return tiny_vqgan(**sizes)


def tiny_liquid(vqgan=None, words: Sequence[str] = WORDS.split(), sharp: bool = True):
    """A tiny Liquid: 2 layers of width 32; without `sharp` it has the library's initial weights, as for training."""
    from transformers import GemmaForCausalLM

    from visdyn.models.token.liquid import (
        LiquidModel,
        LiquidSequenceBuilder,
        build_tokenizer,
        liquid_layout,
        tiny_config,
    )

    torch.manual_seed(0)
    vqgan = vqgan or tiny_vqgan()
    tokenizer = build_tokenizer(words)
    layout = liquid_layout(tokenizer, NUM_CODES)
    lm = GemmaForCausalLM(tiny_config(layout, 32, num_layers=2, num_heads=2)).eval()
    if sharp:
        sharpen(lm)
    return LiquidModel(lm, LiquidSequenceBuilder(tokenizer, layout), vqgan)


@torch.no_grad()
def sharpen(lm) -> None:
    """Draw larger weights: the library's initial ones leave every distribution almost uniform."""
    for parameter in lm.parameters():
        if parameter.ndim > 1:
            parameter.normal_(0, parameter.shape[1] ** -0.5)


def save_anole(model, path: Path) -> Path:
    """Save a Chameleon as leloy/Anole-7b-v0.1-hf lies on the hub: encoder and decoder inside model.safetensors.

    There is no vqgan/ and no dynamics.json, and the config states the tokenizer's shape.
    """
    model.vqgan.save(path / "gone")
    settings = model.vqgan.config
    vq = {"base_channels": settings.ch, "channel_multiplier": list(settings.ch_mult), "num_res_blocks": 1}
    vq |= {"latent_channels": settings.z_channels, "embed_dim": settings.embed_dim, "resolution": settings.resolution}
    model.lm.config.vq_config = type(model.lm.config.vq_config)(**vq, num_embeddings=settings.n_embed)
    model.lm.save_pretrained(str(path))
    model.builder.tokenizer.save_pretrained(str(path))
    weights = load_file(path / "model.safetensors")
    weights |= {f"model.vqmodel.{key}": value for key, value in load_file(path / "gone/weights.safetensors").items()}
    save_file(weights, path / "model.safetensors", {"format": "pt"})
    for file in (path / "gone").iterdir():
        file.unlink()
    (path / "gone").rmdir()
    return path


def save_liquid(model, path: Path, vqgan: Path) -> Path:
    """Save a Liquid as Junfeng5/Liquid_V1_7B: decoder and tokenizer; the public vqgan.ckpt and its yaml elsewhere."""
    import yaml

    from visdyn.models.vqgan.checkpoint_formats import config_to_public

    model.lm.save_pretrained(str(path))
    model.builder.tokenizer.save_pretrained(str(path))
    vqgan.mkdir(parents=True)
    settings = config_to_public(model.vqgan.config)
    for name in ("norm_groups", "patch"):
        settings["ddconfig"].pop(name)
    (vqgan / "vqgan.yaml").write_text(yaml.safe_dump({"model": {"params": settings}}))
    torch.save({"state_dict": {**model.vqgan.state_dict(), "loss.logvar": torch.zeros(1)}}, vqgan / "vqgan.ckpt")
    return path


def save_adapter(lm, path: Path, seed: int = 0, **options) -> None:
    """Adapt a decoder with random LoRA weights and save them as peft does; the decoder itself is left as it was."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    targets = {"target_modules": ["q_proj", "v_proj", "down_proj"], **options}
    adapted = get_peft_model(lm, LoraConfig(r=2, task_type="CAUSAL_LM", **targets))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.3)
    adapted.save_pretrained(str(path))
    adapted.unload()


def save_trained_families(root: Path, chameleon: Path, words: Sequence[str]) -> dict[str, tuple[Path, Path]]:
    """Save a Liquid beside a saved Chameleon, and a triplet file of each: family -> (base, triplets).

    The 8 triplets are random images of 16 x 16 pixels; their actions have 1 to 4 of `words`.
    """
    from visdyn.models import load_model
    from visdyn.training.triplets import save_triplets

    draw = np.random.default_rng(0)
    tiny_liquid(words=[*PROMPTS.split(), *words], sharp=False).save(root / "liquid")
    scenes = draw.integers(0, 256, (16, 16, 16, 3), dtype=np.uint8)
    actions = [" ".join(draw.choice(words[2:], 1 + row % 4)) for row in range(8)]
    families = {"chameleon": (chameleon, root / "chameleon.npz"), "liquid": (root / "liquid", root / "liquid.npz")}
    for base, triplets in families.values():
        save_triplets(triplets, load_model(base), list(scenes[:8]), list(scenes[8:]), actions)
    return families


def save_adapted(root: Path, family: str, chameleon: Path) -> Path:
    """Save a base of `chameleon` or `liquid` as `base`, and two adapters of it, `fdm` and `idm`; return `root`."""
    from visdyn.models import load_model
    from visdyn.models.adapters import make_portable

    if family == "liquid":
        tiny_liquid().save(root / "base")
    else:
        shutil.copytree(chameleon, root / "base")
    for seed, name in enumerate(("fdm", "idm"), 1):
        save_adapter(load_model(root / "base").lm, root / name, seed)
        make_portable(root / name, str(root / "base"))
    return root
