"""A rehearsal of the paper profile: its own parameters and names over tiny checkpoints and a little data.

Nothing here is trained on, or measured with, anything of the embedded default. The checkpoints lie in a Hugging Face
cache under the names that the profile gives, as the public ones lie on disk (Anole with the VQ decoder inside, BAGEL's
file names, VLMs with processors, diffusers pipelines); the data lie below $VISDYN_DATA, images of many sizes, and no
true state is known. `CHANGES` and `STAND_INS` say all that differs from a real run; `report` lists it.
"""

from __future__ import annotations

import base64
import json
import shutil
import zlib
from collections.abc import Callable
from copy import deepcopy
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path

import torch
import yaml
from conftest import build_tiny_model
from fake_endpoint import completion
from PIL import Image
from tiny_classifier import save_classifier
from tiny_metrics import save_blip, save_roberta
from tiny_pipelines import SMALL_AREAS, SMALL_KONTEXT, SMALL_PIX2PIX, save_pipelines
from tiny_tokens import public_vqgan, save_anole, save_liquid, tiny_liquid, tiny_vqgan
from tiny_vlms import save_tiny

from visdyn.models.editors.diffusers_editors import KONTEXT, PIX2PIX, QWEN_PLUS

# What the curating VLMs of a rehearsal say to every question: random words would fail every pair.
PASSED = "clear: 1\nobject_present: 1\naction_applied: 1"
PROMPT = "Open the red drawer with the right hand."
# Each public understanding model of the paper profile: its `model_type`, and what it always says where it curates.
VLMS = {
    "Qwen/Qwen2-VL-2B-Instruct": ("qwen2_vl", None),
    "Qwen/Qwen2-VL-7B-Instruct": ("qwen2_vl", PASSED),
    "Qwen/Qwen2.5-VL-3B-Instruct": ("qwen2_5_vl", None),
    "Qwen/Qwen2.5-VL-7B-Instruct": ("qwen2_5_vl", None),
    "llava-hf/llava-v1.6-mistral-7b-hf": ("llava_next", None),
    "llava-hf/llava-interleave-qwen-7b-hf": ("llava", None),
    "Qwen/Qwen2.5-Omni-3B": ("qwen2_5_omni", None),
    "Qwen/Qwen2.5-Omni-7B": ("qwen2_5_omni", None),
    "Qwen/Qwen3-VL-30B-A3B-Instruct": ("qwen3_vl_moe", PROMPT),
}
EDITORS = {
    "timbrooks/instruct-pix2pix": PIX2PIX,
    "black-forest-labs/FLUX.1-Kontext-dev": KONTEXT,
    "Qwen/Qwen-Image-Edit-2509": QWEN_PLUS,
}
# A tokenizer that the public layout can state: 64 codes, 32 x 32 pixels to 4 x 4 codes.
ANOLE = {"ch": 32, "ch_mult": (1, 1, 1, 1), "z_channels": 32, "embed_dim": 32, "norm_groups": 32, "patch": 1}
ANOLE |= {"n_embed": 64, "resolution": 32}
CLASSIFIER = "lavila/clip_openai_timesformer_large.ft_ek100_cls.ep_0090.md5sum_4a2509.pth"
FEW_STEPS = {"steps": 3, "epochs": None, "warmup_steps": 1, "batch_size": 4, "precision": "fp32"}
# Parameter -> what it is here, and why; all others are the paper profile's. A mapping adds to the mapping there.
CHANGES = {
    "runtime": (
        {"hardware": "cpu", "stage_hardware": {}, "device": "cpu", "threads": 1, "offline": True},
        "no GPU and no network",
    ),
    "idm.training": (FEW_STEPS, "3 steps instead of 10 epochs"),
    "fdm.training": (FEW_STEPS, "3 steps instead of 40 epochs"),
    "idm.limits": ({"kubric": 3}, "the data are few"),
    "fdm.limits": ({"kubric": 3}, "the data are few"),
    "doundo.training": (
        {"steps": 2, "warmup_steps": 1, "batch_size": 4, "precision": "fp32"},
        "2 steps instead of 14,000",
    ),
    "mining.min_interval": (4, "the clips have two dozen frames"),
    "annotation.max_new_tokens": (4, "a model of 3 steps never ends its label"),
    "verification.items_per_subset": (1, "time"),
    "evaluation.items_per_subset": (2, "time"),
    "evaluation_doundo.pairs": (2, "time"),
    "evaluation_doundo.flow_steps": (2, "time"),
    "evaluation.gallery": (2, "time"),
    "evaluation_doundo.gallery": (2, "time"),
}
# Those that `change` computes.
OTHER_CHANGES = {
    "evaluation.editors": "time, and no GPU",
    "evaluation_doundo.editors": "time, and no GPU",
    "evaluation.judges": "no network",
    "evaluation_doundo.judges": "no network",
    "evaluation_doundo.flow.weights": "no network",
}
# What no parameter says.
STAND_INS = (
    "every checkpoint: tiny and random, of the public class, under the public name in a cache",
    "probing.models: Qwen2-VL-7B, which also curates, knows one answer only",
    "mining.curator, mining.expansion_model: they always pass a pair, and write one and the same prompt",
    "evaluation.editors, evaluation_doundo.editors: one sampling step at 64 pixels instead of a megapixel",
    "evaluation.judges, evaluation_doundo.judges: a server on this machine answers the real questions by fixed scores",
    "spatial.models: Liquid lies where profiles/paper_liquid says, with Chameleon's VQGAN beside it",
    "spatial: 2 questions of each benchmark",
    "evaluation_doundo.classifier: a TimeSformer of 2 blocks with the public names",
    "data: a few triplets, segments and clips in the public layouts",
    "human_study.exports, recorded.repository, recorded.aurora: empty, as in the profile; nobody is asked",
)


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
    _write_questions(root)
    (root / CLASSIFIER).parent.mkdir()
    save_classifier(root / CLASSIFIER)
    return root


def _write_lines(root: Path) -> None:
    """Write the captions and questions that BAGEL's mixture takes beside reversible pairs."""
    frames = sorted(root.glob("epic/frames/**/*.jpg"))[:4]
    rows = {
        "captions": [{"image": frame.name, "text": "open red drawer"} for frame in frames],
        "questions": [{"image": frame.name, "question": "open drawer", "answer": "red"} for frame in frames],
    }
    for name, lines in rows.items():
        (root / name).mkdir()
        for frame in frames:  # a list names images below its own folder
            shutil.copy(frame, root / name)
        (root / f"{name}/{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def _write_questions(root: Path) -> None:
    """Write two questions of each spatial benchmark in its public layout."""
    frames = sorted(root.glob("epic/frames/**/*.jpg"))[:2]
    mqa, emb = root / "SpatialMQA/Dataset", root / "EmbSpatial-Bench"
    for folder in (mqa / "dataset", mqa / "COCO2017/test2017", emb):
        folder.mkdir(parents=True)
    lines, objects = [], []
    for number, frame in enumerate(frames):
        shutil.copy(frame, mqa / f"COCO2017/test2017/{number:012d}.jpg")
        lines.append({"image": f"{number:012d}.jpg", "question": "where is the cup?", "answer": "left of",
                      "options": ["left of", "right of", "on/above", "below"][: 2 + 2 * number]})  # fmt: skip
        objects.append({"data_source": "mp3d", "question_id": f"mp3d_{number}", "question": "which is closest?",
                        "relation": "close", "image": base64.b64encode(frame.read_bytes()).decode(), "answer": number,
                        "answer_options": ["cup", "drawer", "lamp", "pan"]})  # fmt: skip
    (mqa / "dataset/test.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (emb / "embspatial_bench.json").write_text(json.dumps(objects))


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
    """Save a tiny CLIP, DINO and DINOv2 that take the public 224-pixel crops."""
    from transformers import CLIPConfig, CLIPModel, Dinov2Config, Dinov2Model, ViTConfig, ViTModel

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
    shape.pop("intermediate_size")
    Dinov2Model(Dinov2Config(**shape, **image)).save_pretrained(folder / "dinov2")
    return {name: folder / name for name in ("clip", "dino", "dinov2")}


def vocabulary() -> list[str]:
    """Return the words that instructions and prompts of the data use."""
    from visdyn.kitchen.text import vocabulary as kitchen_words
    from visdyn.params.prompts import DynamicsPrompts

    asked = f"{DynamicsPrompts.fdm} {DynamicsPrompts.idm}".replace("{action}", "")
    return sorted({word.strip(",.:").lower() for word in [*kitchen_words(), *asked.split()]})


def stand_ins(workshop: Path) -> dict[str, Callable[[], Path]]:
    """Return what saves a tiny checkpoint for each public name of the paper profile; nothing is built yet."""
    words = vocabulary()
    encoders = cache(lambda: save_encoders(workshop / "encoders", words))
    pipelines = cache(lambda: save_pipelines(workshop / "pipelines"))
    anole = cache(lambda: save_tiny_anole(workshop / "anole", words))
    saved = {
        "leloy/Anole-7b-v0.1-hf": anole,
        "facebook/chameleon-7b": anole,
        "ByteDance-Seed/BAGEL-7B-MoT": partial(save_bagel, workshop / "bagel", words),
        "openai/clip-vit-base-patch32": lambda: encoders()["clip"],
        "laion/CLIP-ViT-B-32-laion2B-s34B-b79K": lambda: encoders()["clip"],
        "facebook/dino-vits16": lambda: encoders()["dino"],
        "facebook/dinov2-large": lambda: encoders()["dinov2"],
        "Salesforce/blip-image-captioning-large": partial(save_blip, workshop / "blip", words),
        "roberta-large": partial(save_roberta, workshop / "roberta", words, num_layers=24),
    }
    saved |= {name: lambda kind=kind: pipelines()[kind] for name, kind in EDITORS.items()}
    return saved | {name: partial(_save_vlm, workshop / name.replace("/", "--"), *kind) for name, kind in VLMS.items()}


def _save_whole_liquid(folder: Path, words: list[str]) -> Path:
    folder.mkdir(parents=True)
    return save_liquid(tiny_liquid(public_vqgan(), words), folder, folder / "vqgan")


def _save_vlm(folder: Path, family: str, answer: str | None) -> Path:
    folder.mkdir()
    return save_tiny(family, folder, answer)


def fill_cache(hub: Path, workshop: Path) -> None:
    """Lay every stand-in under its public name into a Hugging Face cache."""
    for name, save in stand_ins(workshop).items():
        _publish(hub, name, save())


def _publish(hub: Path, name: str, folder: Path) -> None:
    """Copy a folder into the cache as one commit of the hub repository `name`."""
    place, commit = hub / f"models--{name.replace('/', '--')}", "0" * 40
    shutil.copytree(folder, place / "snapshots" / commit)
    (place / "refs").mkdir()
    (place / "refs/main").write_text(commit)


def write_profile(checkout: Path, workshop: Path, judge_url: str) -> tuple[Path, dict[str, str]]:
    """Add a profile to a checkout: the paper profile over tiny checkpoints, few steps and little data.

    Returns:
        The profile's folder, and the environment in which its checkpoints and data are found.
    """
    data, hub = write_data(workshop / "data"), workshop / "hub"
    fill_cache(hub, workshop)
    _save_whole_liquid(checkout / "profiles/paper_liquid/weights/liquid", vocabulary())
    # The pipelines bring every image to about a megapixel, which no parameter makes smaller.
    with (checkout / "src/visdyn/models/editors/diffusers_editors.py").open("a") as file:
        file.write(SMALL_AREAS + SMALL_PIX2PIX)
    values = yaml.safe_load((checkout / "profiles/paper/params.yaml").read_text())
    folder = checkout / "profiles/rehearsal"
    folder.mkdir()
    shutil.copy(checkout / "dvc.yaml", folder)
    changed = change(values, judge_url, raft_weights(workshop))
    (folder / "params.yaml").write_text(yaml.safe_dump(changed, sort_keys=False))
    (folder / "rehearsal.md").write_text(report(values, changed))
    return folder, {"VISDYN_DATA": str(data), "HF_HUB_CACHE": str(hub)}


def raft_weights(workshop: Path) -> str:
    """Save random weights of RAFT where torchvision is installed; empty where it is not."""
    if find_spec("torchvision") is None:
        return ""
    from torchvision.models.optical_flow import raft_large

    torch.manual_seed(0)
    torch.save(raft_large(weights=None).state_dict(), workshop / "raft.pth")
    return str(workshop / "raft.pth")


def change(values: dict, judge_url: str, weights: str) -> dict:
    """Return the paper's parameters with `CHANGES`, few sampling steps of the editors, and the judges' address here."""
    values = deepcopy(values)
    for key, (value, _) in CHANGES.items():
        *sections, last = key.split(".")
        holder = values
        for section in sections:
            holder = holder[section]
        holder[last] = holder[last] | value if isinstance(value, dict) else value
    for section in ("evaluation", "evaluation_doundo"):
        for editor in values[section]["editors"]:
            editor.update(steps=1, offload=False)
            if EDITORS.get(editor["model"]) == KONTEXT:
                editor["call"] = SMALL_KONTEXT
        for judge in values[section]["judges"]:
            if judge["kind"] == "endpoint":
                judge["base_url"] = judge_url
    values["evaluation_doundo"]["flow"]["weights"] = weights
    return values


def differences(before, after, key: str = "") -> list[tuple[str, object, object]]:
    """Return every parameter that differs: (dotted key, there, here)."""
    if isinstance(before, dict) and isinstance(after, dict):
        return [one for name in {**before, **after}
                for one in differences(before.get(name), after.get(name), f"{key}.{name}".strip("."))]  # fmt: skip
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        pairs = enumerate(zip(before, after, strict=True))
        return [one for place, pair in pairs for one in differences(*pair, f"{key}[{place}]")]
    return [] if before == after else [(key, before, after)]


def report(before: dict, after: dict) -> str:
    """Say in Markdown what the rehearsal leaves out of the paper profile: parameters, and what stands for what."""
    why = OTHER_CHANGES | {key: reason for key, (_, reason) in CHANGES.items()}
    lines = ["# What the rehearsal leaves out of profiles/paper", "", "| parameter | paper | here | why |",
             "| --- | --- | --- | --- |"]  # fmt: skip
    for key, there, here in differences(before, after):
        reason = next(text for name, text in why.items() if key == name or key.startswith((f"{name}.", f"{name}[")))
        lines.append(f"| {key} | {there} | {here} | {reason} |")
    return "\n".join([*lines, "", *(f"- {line}" for line in STAND_INS), ""])


def judged(text: str) -> tuple:
    """Return what the judge over HTTP says: four scores where four are asked for, else two."""
    if "temporal_coherence" in text:
        scores = {"instruction": 5, "identity": 6, "temporal_coherence": 7, "object_consistency": 8}
        return completion(json.dumps(scores), prompt_tokens=10, completion_tokens=5)
    return completion('{"score": [7, 9]}', prompt_tokens=10, completion_tokens=5)


if __name__ == "__main__":  # what it leaves out, without running it
    profile = yaml.safe_load((Path(__file__).parents[1] / "profiles/paper/params.yaml").read_text())
    print(report(profile, change(profile, "http://127.0.0.1/v1", "<random weights, where torchvision is installed>")))
