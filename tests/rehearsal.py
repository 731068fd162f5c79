"""A rehearsal of the paper profile: its own parameters over tiny checkpoints of the public classes and a little data.

Nothing here is trained on, or measured with, anything of the embedded default: the checkpoints lie on disk as the
public ones do (Anole with the VQ decoder inside, BAGEL's file names, VLMs with processors), the images have the many
sizes of real data, and no true state is known.
"""

from __future__ import annotations

import json
import shutil
import zlib
from pathlib import Path

import torch
import yaml
from conftest import build_tiny_model
from PIL import Image
from tiny_tokens import save_anole, tiny_vqgan
from tiny_vlms import save_tiny

# How each public checkpoint of the paper profile's probing is stood for.
FAMILIES = {
    "Qwen/Qwen2-VL-2B-Instruct": "qwen2_vl",
    "Qwen/Qwen2-VL-7B-Instruct": "qwen2_vl",
    "Qwen/Qwen2.5-VL-3B-Instruct": "qwen2_5_vl",
    "Qwen/Qwen2.5-VL-7B-Instruct": "qwen2_5_vl",
    "llava-hf/llava-v1.6-mistral-7b-hf": "llava_next",
    "llava-hf/llava-interleave-qwen-7b-hf": "llava",
    "Qwen/Qwen2.5-Omni-3B": "qwen2_5_omni",
    "Qwen/Qwen2.5-Omni-7B": "qwen2_5_omni",
    "facebook/chameleon-7b": "anole",
}
# A tokenizer that the public layout can state: 64 codes, 32 x 32 pixels to 4 x 4 codes.
ANOLE = {"ch": 32, "ch_mult": (1, 1, 1, 1), "z_channels": 32, "embed_dim": 32, "norm_groups": 32, "patch": 1}
ANOLE |= {"n_embed": 64, "resolution": 32}


def write_data(root: Path) -> Path:
    """Write AURORA, EPIC-KITCHENS, clips and Do-Undo annotations in their public layouts, with images of many sizes."""
    from visdyn.kitchen.write import KitchenSizes, write_kitchen

    write_kitchen(root, KitchenSizes(5, 3, 24, 24, 4, 4, 4))
    for part in ("truth", "captions", "kitchen.json"):
        path = root / part
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in sorted([*root.glob("aurora/data/*/images/**/*.png"), *root.glob("epic/frames/**/*.jpg")]):
        _resize(path)
    _write_lines(root)
    return root


def _write_lines(root: Path) -> None:
    """Write the captions and questions that BAGEL's mixture takes beside reversible pairs."""
    frames = sorted(root.glob("epic/frames/**/*.jpg"))[:4]
    rows = {
        "captions": [{"image": str(frame), "text": "open red drawer"} for frame in frames],
        "questions": [{"image": str(frame), "question": "open drawer", "answer": "red"} for frame in frames],
    }
    for name, lines in rows.items():
        (root / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def _resize(path: Path) -> None:
    """Give the images of one pair or video one size, and those of others another."""
    group = path.parent.name if path.suffix == ".jpg" else path.stem.split("-")[0].split("_")[0]
    width, height = ((64, 64), (80, 48), (45, 60))[zlib.crc32(group.encode()) % 3]
    with Image.open(path) as image:
        resized = image.convert("RGB").resize((width, height))
    resized.save(path)


def save_tiny_anole(folder: Path, words: list[str]) -> Path:
    """Save a tiny Anole over `words` as the public conversion lies on disk."""
    return save_anole(build_tiny_model(words=words, vqgan=tiny_vqgan(**ANOLE)), folder)


def save_bagel(folder: Path, words: list[str]) -> Path:
    """Save a tiny BAGEL under the public file names, its ViT and its autoencoder included."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from visdyn.models.bagel import (
        Autoencoder,
        AutoencoderConfig,
        Bagel,
        BagelConfig,
        TextConfig,
        TransformConfig,
        VisionConfig,
    )
    from visdyn.models.bagel.checkpoint import special_tokens_of

    names = ["<unk>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", *words]
    tokenizer = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    torch.manual_seed(0)
    config = BagelConfig(
        text=TextConfig(len(names), 32, 48, 2, 4, 2),
        vision=VisionConfig(16, 24, 2, 2, image_size=56),
        autoencoder=AutoencoderConfig(ch=8, ch_mult=(1, 2), num_res_blocks=1, z_channels=4, norm_groups=4),
        special_tokens=special_tokens_of(PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")),
        max_latent_size=8,
        vit_max_num_patch_per_side=4,
        transforms={
            "vae": TransformConfig(32, 16, 4),
            "vit": TransformConfig(56, 14, 14),
            "vlm_vit": TransformConfig(56, 28, 14),
        },
    )
    model = Bagel(config, Autoencoder(config.autoencoder).requires_grad_(False).eval())
    for name, parameter in model.named_parameters():
        if "pos_embed" not in name:
            parameter.data.normal_(1.0 if "norm" in name and "weight" in name else 0.0, 0.1)
    model.tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
    model.save_pretrained(folder)
    return folder


def save_encoders(folder: Path, words: list[str]) -> dict[str, Path]:
    """Save a tiny CLIP and a tiny DINO that take the public 224-pixel crops."""
    from transformers import CLIPConfig, CLIPModel, ViTConfig, ViTModel

    from visdyn.training.tiny.encoder_recipe import build_caption_tokenizer

    torch.manual_seed(0)
    tokenizer = build_caption_tokenizer([" ".join(words)])
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    image = {"image_size": 224, "patch_size": 56}
    text = {"vocab_size": len(tokenizer), "max_position_embeddings": 24, "bos_token_id": 2, "eos_token_id": 3}
    clip = CLIPModel(CLIPConfig(text_config=shape | text, vision_config=shape | image, projection_dim=8))
    clip.save_pretrained(folder / "clip")
    tokenizer.save_pretrained(folder / "clip")
    ViTModel(ViTConfig(**shape, **image), add_pooling_layer=False).save_pretrained(folder / "dino")
    return {"clip": folder / "clip", "dino": folder / "dino"}


def vocabulary() -> list[str]:
    """Return the words that instructions and prompts of the data use."""
    from visdyn.kitchen.text import vocabulary as kitchen_words

    return sorted({word.strip(",.").lower() for word in kitchen_words()} | {"edit", "infer"})


def write_profile(checkout: Path, workshop: Path, name: str = "rehearsal") -> Path:
    """Add a profile to a checkout: the paper profile's parameters over tiny checkpoints, few steps and little data."""
    words = vocabulary()
    data = write_data(workshop / "data")
    places = {"anole": save_tiny_anole(workshop / "anole", words), "bagel": save_bagel(workshop / "bagel", words)}
    places |= save_encoders(workshop, words)
    for family in sorted(set(FAMILIES.values()) - {"anole"}):
        (workshop / family).mkdir()
        places[family] = save_tiny(family, workshop / family)
    values = yaml.safe_load((checkout / "profiles/paper/params.yaml").read_text())
    values = shrink(values, {key: str(path) for key, path in places.items()}, data)
    folder = checkout / "profiles" / name
    folder.mkdir()
    shutil.copy(checkout / "dvc.yaml", folder)
    (folder / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    return folder


def shrink(values: dict, places: dict[str, str], data: Path) -> dict:
    """Return the paper's parameters with local names, few steps and the hardware of this machine."""
    values = json.loads(json.dumps(values))
    values["runtime"] |= {"hardware": "cpu", "device": "cpu", "threads": 1, "offline": True}
    values["data"] |= {key: str(data / key) for key in ("aurora", "epic", "clips", "doundo")}
    values["data"] |= {key: str(data / f"{key}.jsonl") for key in ("captions", "questions")}
    references = {"base": "anole", "autoencoder": "bagel", "generator": "bagel", "clip": "clip", "dino": "dino"}
    values["base_models"]["references"] = {key: places[place] for key, place in references.items()}
    values["probing"]["models"] = [places[FAMILIES[model]] for model in values["probing"]["models"]]
    for stage in ("idm", "fdm"):
        values[stage]["training"] |= {
            "steps": 3,
            "epochs": None,
            "warmup_steps": 1,
            "batch_size": 4,
            "precision": "fp32",
        }
        values[stage]["limits"] |= {"kubric": 3}
    values["idm_evaluation"]["bert_score"] = None
    values["doundo"]["training"] |= {"steps": 2, "warmup_steps": 1, "batch_size": 4, "precision": "fp32"}
    # What a tiny random VLM answers cannot be read: every pair would fail the filter.
    values["mining"] |= {"min_interval": 4, "curator": "annotations", "filter_model": None, "expansion_model": None}
    values["annotation"] |= {"max_new_tokens": 4}
    values["verification"] |= {"candidates": [1, 2], "items_per_subset": 1}
    values["evaluation"] |= {"items_per_subset": 2}
    values["evaluation_doundo"] |= {"pairs": 2, "flow_steps": 2}
    values["evaluation_doundo"]["flow"] |= {"backend": "farneback", "size": 32}
    for section in ("evaluation", "evaluation_doundo"):
        values[section] |= {"editors": [], "gallery": 2}
        values[section]["captions"] |= {"model": ""}
        values[section]["encoders"] |= {name: places[name] for name in ("clip", "dino")}
    spatial = values["spatial"]
    spatial["models"] = [name for name in spatial["models"] if name.startswith("models/")]
    spatial |= dict.fromkeys(("spatialmqa", "spatialmqa_images", "embspatial"))
    return values
