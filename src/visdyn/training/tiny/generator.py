"""The embedded generator: a small BAGEL from scratch, trained by the recipe that fine-tunes the public one.

Same classes, same objective, other sizes: no ViT (`vision=None`), one autoencoder trained here, and a tokenizer of
phrases. It never sees an action's text between two frames, so that zero-shot rows are honest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from visdyn.models.autoencoder import load_autoencoder
from visdyn.models.bagel import Autoencoder, Bagel, BagelConfig, SamplerSettings, TextConfig, TransformConfig
from visdyn.models.bagel.checkpoint import special_tokens_of
from visdyn.params.base_models import GeneratorModel
from visdyn.params.doundo import BagelFineTuning, BagelTraining, ConditionDropout, Mixture
from visdyn.readers import read_json, read_records
from visdyn.training.bagel.recipe import train_bagel
from visdyn.training.bagel.records import BagelData
from visdyn.training.tiny.phrases import phrase_tokenizer

# Half of each, as long as captions and frame pairs are as hard as each other.
MIXTURE = Mixture(edit=0.5, undo=0.0, text_to_image=0.5, understanding=0.0)
PROMPTS = ("forward_prompt", "reverse_prompt", "forward_short", "reverse_short")
# No guidance: nothing is dropped in training, so a branch without its text or image means nothing to these models.
SAMPLING = SamplerSettings(num_timesteps=9, timestep_shift=3.0, cfg_text_scale=1.0, cfg_img_scale=1.0)


@dataclass(frozen=True)
class GeneratorData:
    """What the generator is built from.

    Attributes:
        autoencoder: folder of the trained `AutoencoderKL`; copied into the output.
        captions: captions.jsonl beside images.npy, see `records.read_records`.
        frame_pairs: .npy, uint8 (M, 2, H, W, 3) frames of one scene before and after something happened, unlabelled.
        prompts: annotations of the Do-Undo benchmark's form, whose texts (not images) the tokenizer learns from: a
            public model's tokenizer, too, knows the words of its later training.
    """

    autoencoder: str
    captions: str
    frame_pairs: str
    prompts: str


def train_generator(
    model: GeneratorModel,
    data: GeneratorData,
    *,
    recipe: dict,
    output: str,
    scratch: str,
    whole: Sequence[str] = (),
    hardware: dict | None = None,
) -> pd.DataFrame:
    """Train the zero-shot base: captioned frames (text to image) and unlabelled frame pairs, half each.

    Args:
        recipe: keys of `visdyn.params.doundo.BagelTraining`, and the seed.
        output: folder of the trained model (`Bagel.from_pretrained`), with `training.csv`.
        scratch: folder for resume state.
        whole: nouns that the tokenizer keeps whole.
        hardware: see `fit`.

    Returns:
        the history of `train_bagel`.
    """
    texts = [row["caption"] for row in read_records(data.captions)]
    rows = read_json(data.prompts, list)
    texts += [row[name] for row in rows for name in PROMPTS if row.get(name)]
    recipe = {"seed": 0, "weight_decay": 0.0, "warmup_steps": 0, "scheduler": "cosine", "precision": "fp32", **recipe}
    torch.manual_seed(seed := recipe.pop("seed"))
    start = Path(scratch) / "start"
    side = np.load(data.frame_pairs, mmap_mode="r").shape[-2]
    small_bagel(load_autoencoder(data.autoencoder), texts, whole, model, side).save_pretrained(start)
    config = BagelFineTuning(
        base=str(start),
        adapter="full",
        lora=None,
        mixture=MIXTURE,
        long_share=1.0,
        dropout=ConditionDropout(text=0.0, vit=0.0, vae=0.0),
        timestep_shift=model.timestep_shift,
        average_decay=None,
        latents="memory",
        mse_weight=1.0,
        ce_weight=1.0,
        consistency=None,
        training=BagelTraining(**recipe),
    )
    files = BagelData(captions=data.captions, frame_pairs=data.frame_pairs)
    state = str(Path(scratch) / "state")
    return train_bagel(config, files, seed=seed, output=output, scratch=state, hardware=hardware)


def small_bagel(
    autoencoder: Autoencoder, texts: Iterable[str], whole: Sequence[str], sizes: GeneratorModel, image_size: int = 64
) -> Bagel:
    """Build an untrained BAGEL without a ViT around an autoencoder.

    Args:
        texts, whole: what the tokenizer learns from, and the nouns that it keeps whole (`phrase_tokenizer`).
        image_size: side of the square images it works at, in pixels.
    """
    tokenizer = phrase_tokenizer(texts, sizes.vocab_size, whole)
    step = autoencoder.config.downsample * sizes.latent_patch_size
    heads = {"num_attention_heads": sizes.num_heads, "num_key_value_heads": sizes.num_heads}
    config = BagelConfig(
        text=TextConfig(len(tokenizer), sizes.hidden_size, sizes.intermediate_size, sizes.num_layers, **heads),
        vision=None,
        autoencoder=autoencoder.config,
        latent_patch_size=sizes.latent_patch_size,
        max_latent_size=image_size // step,
        timestep_shift=sizes.timestep_shift,
        special_tokens=special_tokens_of(tokenizer),
        transforms={"vae": TransformConfig(image_size, image_size, step)},
    )
    model = Bagel(config, autoencoder)
    model.tokenizer, model.sampling = tokenizer, SAMPLING
    return model
