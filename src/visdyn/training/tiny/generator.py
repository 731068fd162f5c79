"""The embedded generator: a small BAGEL from scratch, trained by the recipe that fine-tunes the public one.

Same classes, same objective, other sizes: no ViT (`vision=None`), one autoencoder trained here, and a tokenizer of
phrases. It never sees an action's text between two frames, so that zero-shot rows are honest.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd
import torch

from visdyn.models.autoencoder import load_autoencoder
from visdyn.models.bagel import Autoencoder, Bagel, BagelConfig, SamplerSettings, TextConfig, TransformConfig
from visdyn.models.bagel.checkpoint import special_tokens_of
from visdyn.training.bagel.recipe import train_bagel
from visdyn.training.engine.fit import Recipe
from visdyn.training.tiny.phrases import phrase_tokenizer

# Half of each, as long as captions and frame pairs are as hard as each other.
MIXTURE = {"text_to_image": 0.5, "edit": 0.5}
PROMPTS = ("forward_prompt", "reverse_prompt", "forward_short", "reverse_short")
# No guidance: nothing is dropped in training, so a branch without its text or image means nothing to these models.
SAMPLING = SamplerSettings(num_timesteps=9, timestep_shift=3.0, cfg_text_scale=1.0, cfg_img_scale=1.0)
KEEP_ALL = {"text": 0.0, "vit": 0.0, "vae": 0.0}


def train_generator(
    *,
    autoencoder: str,
    captions: str,
    frame_pairs: str,
    prompts: str,
    output: str,
    recipe: dict,
    scratch: str,
    model: dict,
    whole: Sequence[str] = (),
    hardware: dict | None = None,
) -> pd.DataFrame:
    """Train the zero-shot base: captioned frames (text to image) and unlabelled frame pairs, half each.

    Args:
        autoencoder: folder of the trained `AutoencoderKL`; copied into `output`.
        captions: captions.jsonl beside images.npy, see `bagel_records.read_records`.
        frame_pairs: .npy, uint8 (M, 2, H, W, 3) frames of one scene before and after something happened, unlabelled.
        prompts: annotations of the Do-Undo benchmark's form, whose texts (not images) the tokenizer learns from: a
            public model's tokenizer, too, knows the words of its later training.
        output: folder of the trained model (`Bagel.from_pretrained`), with `training.csv`.
        recipe: keys of `visdyn.training.engine.fit.Recipe`.
        scratch: folder for resume state.
        model: arguments of `small_bagel` (hidden_size, ...).
        whole: nouns that the tokenizer keeps whole.
        hardware: see `fit`.

    Returns:
        the history of `train_bagel`.
    """
    texts = [json.loads(line)["caption"] for line in Path(captions).read_text().splitlines()]
    rows = json.loads(Path(prompts).read_text())
    texts += [row[name] for row in rows for name in PROMPTS if row.get(name)]
    torch.manual_seed(Recipe.of(recipe).seed)
    start = Path(scratch) / "start"
    small_bagel(load_autoencoder(autoencoder), texts, whole, **model).save_pretrained(start)
    return train_bagel(
        base=str(start),
        output=output,
        recipe=recipe,
        scratch=str(Path(scratch) / "state"),
        mixture=MIXTURE,
        captions=captions,
        frame_pairs=frame_pairs,
        adapter="full",
        timestep_shift=model["timestep_shift"],
        dropout=KEEP_ALL,
        latents="memory",
        hardware=hardware,
    )


def small_bagel(
    autoencoder: Autoencoder,
    texts: Iterable[str],
    whole: Sequence[str] = (),
    *,
    hidden_size: int,
    intermediate_size: int,
    num_layers: int,
    num_heads: int,
    latent_patch_size: int,
    vocab_size: int,
    timestep_shift: float,
    image_size: int = 64,
) -> Bagel:
    """Build an untrained BAGEL without a ViT around an autoencoder; sizes as in `BagelConfig`.

    Args:
        texts, whole, vocab_size: see `phrase_tokenizer`.
        image_size: side of the square images it works at.
    """
    tokenizer = phrase_tokenizer(texts, vocab_size, whole)
    step = autoencoder.config.downsample * latent_patch_size
    heads = {"num_attention_heads": num_heads, "num_key_value_heads": num_heads}
    config = BagelConfig(
        text=TextConfig(len(tokenizer), hidden_size, intermediate_size, num_layers, **heads),
        vision=None,
        autoencoder=autoencoder.config,
        latent_patch_size=latent_patch_size,
        max_latent_size=image_size // step,
        timestep_shift=timestep_shift,
        special_tokens=special_tokens_of(tokenizer),
        transforms={"vae": TransformConfig(image_size, image_size, step)},
    )
    model = Bagel(config, autoencoder)
    model.tokenizer, model.sampling = tokenizer, SAMPLING
    return model
