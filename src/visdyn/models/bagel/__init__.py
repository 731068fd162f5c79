"""BAGEL (arXiv 2505.14683): a unified model that reads and generates images and text.

Written from its published facts: mixture-of-transformers decoder, SigLIP tower at native aspect ratio, rectified
flow over FLUX latents, cached inference with two guidance branches. Plain PyTorch attention; runs on a CPU.

    model = Bagel.from_pretrained(folder)
    images = generate_image(model, [image, "open the drawer"])           # edit
    answer = generate_text(model, [image, "what happened?"]).text        # understand
    output = model(pack_samples([edit_sample(...)], model.config))       # what `training.losses` takes
"""

from visdyn.models.bagel.checkpoint import CheckpointError
from visdyn.models.bagel.config import (
    AutoencoderConfig,
    BagelConfig,
    ConfigError,
    SamplerSettings,
    SpecialTokens,
    TextConfig,
    TransformConfig,
    VisionConfig,
)
from visdyn.models.bagel.model import Bagel
from visdyn.models.bagel.model_outputs import BagelOutput
from visdyn.models.bagel.packing import Dropout, Pack, pack_samples
from visdyn.models.bagel.sampler import generate_image
from visdyn.models.bagel.samples import (
    Part,
    conversation_sample,
    edit_sample,
    text_to_image_sample,
    understanding_sample,
)
from visdyn.models.bagel.text_decoding import Generation, generate_text
from visdyn.models.bagel.vae import Autoencoder

__all__ = [
    "Autoencoder",
    "AutoencoderConfig",
    "Bagel",
    "BagelConfig",
    "BagelOutput",
    "CheckpointError",
    "ConfigError",
    "Dropout",
    "Generation",
    "Pack",
    "Part",
    "SamplerSettings",
    "SpecialTokens",
    "TextConfig",
    "TransformConfig",
    "VisionConfig",
    "conversation_sample",
    "edit_sample",
    "generate_image",
    "generate_text",
    "pack_samples",
    "text_to_image_sample",
    "understanding_sample",
]
