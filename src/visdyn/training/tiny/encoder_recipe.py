"""Recipes of the embedded evaluation encoders: a tiny CLIP and a tiny stand-in for DINO, on captioned frames.

The CLIP is trained as CLIP is: symmetric cross-entropy between the images and captions of a batch. The other is not
DINO: it has the architecture of DINOv2, but its objective is contrastive (SimCLR, Chen et al., 2020) with copies as
hard negatives in which a square was moved or replaced (after CutPaste, Li et al., 2021). Without them a short training
keeps what tells scenes apart, such as the colour of the wall, and overlooks what an action changes. Both are saved in
the transformers layout that public checkpoints have.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

from visdyn.readers import read_records
from visdyn.training.engine.fit import Recipe, fit, write_history
from visdyn.training.tiny.patch_start import start_patch_embedding
from visdyn.training.tiny.tokenizer import ImageDataset

SPECIAL_TOKENS = ("<pad>", "<unk>", "<start>", "<end>")  # <end> is not 2, which transformers' CLIP treats specially
TEXT_LENGTH = 20
# Positions start large: with the usual 0.02 the mean over tokens hardly sees that an object moved,
# and a few hundred steps do not change that.
POSITION_STD = 0.3


def build_caption_tokenizer(texts: Iterable[str], length: int = TEXT_LENGTH):
    """Build a word-level `PreTrainedTokenizerFast` of the words in `texts` (lower case, split at blanks)."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = sorted({word for text in texts for word in text.lower().split()} - set(SPECIAL_TOKENS))
    ids = {word: index for index, word in enumerate((*SPECIAL_TOKENS, *words))}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    ends = [(token, ids[token]) for token in ("<start>", "<end>")]
    tokenizer.post_processor = processors.TemplateProcessing(single="<start> $A <end>", special_tokens=ends)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=length,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<start>",
        eos_token="<end>",
    )


def tiny_clip(vocab_size: int, image_size: int = 64, width: int = 64, layers: int = 2, text_layers: int = 1):
    """Build an untrained `CLIPModel` whose texts use the ids of `build_caption_tokenizer`."""
    from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

    shared = {"num_attention_heads": 4, "projection_dim": 64}
    text = CLIPTextConfig(
        vocab_size=vocab_size,
        hidden_size=64,
        intermediate_size=256,
        num_hidden_layers=text_layers,
        max_position_embeddings=TEXT_LENGTH,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
        **shared,
    )
    vision = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        image_size=image_size,
        patch_size=8,
        **shared,
    )
    config = CLIPConfig(
        text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=64, attn_implementation="eager"
    )
    clip = CLIPModel(config)
    nn.init.normal_(clip.vision_model.embeddings.position_embedding.weight, std=POSITION_STD)
    return clip


def tiny_dino(image_size: int = 64, width: int = 64, layers: int = 2):
    """Build an untrained `Dinov2Model` whose position embeddings start large (`POSITION_STD`)."""
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        image_size=image_size,
        patch_size=8,
        attn_implementation="eager",
    )
    dino = Dinov2Model(config)
    nn.init.normal_(dino.embeddings.position_embeddings, std=POSITION_STD)
    return dino


class CaptionedImages(Dataset):
    """Images and their tokenised captions: `pixel_values`, `input_ids`, `attention_mask`."""

    def __init__(self, images: str | Path, captions: Sequence[str], tokenizer) -> None:
        self.images = ImageDataset(images)
        if len(self.images) != len(captions):
            raise ValueError(f"{images} holds {len(self.images)} images but there are {len(captions)} captions")
        self.texts = tokenizer(
            list(captions), padding="max_length", truncation=True, max_length=TEXT_LENGTH, return_tensors="pt"
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        texts = {name: self.texts[name][index] for name in ("input_ids", "attention_mask")}
        return {"pixel_values": self.images[index]["pixels"], **texts}


class ClipTraining(nn.Module):
    """CLIP's symmetric contrastive loss over a batch."""

    def __init__(self, clip) -> None:
        super().__init__()
        self.clip = clip

    def forward(self, **batch: Tensor) -> dict[str, Tensor]:
        outputs = self.clip(**batch, return_loss=True)
        # Caption i belongs to image i.
        labels = torch.arange(len(outputs.logits_per_image), device=outputs.logits_per_image.device)
        accuracy = (outputs.logits_per_image.argmax(dim=1) == labels).float().mean()
        return {"loss": outputs.loss, "accuracy": accuracy}


@dataclass(frozen=True)
class ViewSettings:
    """Views of a frame: what may differ between two that count as the same, and what must not.

    Attributes:
        shift: largest shift, in pixels along each axis.
        noise: standard deviation of pixel noise (pixels lie in [-1, 1]).
        colour: largest change of each channel's gain and offset.
        patch: sides of the squares that `tamper_square` swaps, smallest and largest, in pixels.
        temperature: of the contrastive softmax.
    """

    shift: int = 1
    noise: float = 0.03
    colour: float = 0.03
    patch: tuple[int, int] = (8, 16)
    temperature: float = 0.05


class DinoStandInTraining(nn.Module):
    """Contrast on the mean of all tokens: two views of a frame against other frames and tampered copies of it."""

    def __init__(self, dino, settings: ViewSettings) -> None:
        super().__init__()
        self.dino, self.settings = dino, settings

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        views = [view(pixels, self.settings), view(pixels, self.settings)]
        views.append(view(tamper_square(pixels, self.settings.patch), self.settings))
        tokens = self.dino(pixel_values=torch.cat(views)).last_hidden_state  # (3 N, 1 + patches, D)
        anchor, same, other = functional.normalize(tokens.mean(dim=1).float(), dim=1).chunk(3)
        # (N, 2 N): the positive of row i is the other view of frame i, column i; tampered copies are hard negatives.
        logits = anchor @ torch.cat([same, other]).t() / self.settings.temperature
        labels = torch.arange(len(pixels), device=pixels.device)
        accuracy = (logits.argmax(dim=1) == labels).float().mean()
        return {"loss": functional.cross_entropy(logits, labels), "accuracy": accuracy}


def view(pixels: Tensor, settings: ViewSettings) -> Tensor:
    """Return a randomly shifted, recoloured and noisy copy of pixels (N, 3, H, W) in [-1, 1]."""
    shift = settings.shift
    padded = functional.pad(pixels, (shift,) * 4, mode="replicate")
    height, width = pixels.shape[2:]
    corners = torch.randint(0, 2 * shift + 1, (len(pixels), 2)).tolist()
    moved = torch.stack(
        [image[:, y : y + height, x : x + width] for image, (y, x) in zip(padded, corners, strict=True)]
    )
    gain, offset = (settings.colour * (2 * torch.rand(2, len(pixels), 3, 1, 1, device=pixels.device) - 1)).unbind()
    return moved * (1 + gain) + offset + settings.noise * torch.randn_like(moved)


def tamper_square(pixels: Tensor, patch: tuple[int, int]) -> Tensor:
    """Return a copy of pixels (N, 3, H, W) with one square of each image changed.

    Every second image has two of its own squares swapped; the others get a square of the next image, at the same
    place. So what is where matters, whether a thing moves, comes or goes.
    """
    changed = pixels.clone()
    for index in range(len(pixels)):
        side = int(torch.randint(patch[0], patch[1] + 1, ()))
        (y, x), (v, u) = (torch.randint(0, pixels.shape[-1] - side + 1, (2,)).tolist() for _ in range(2))
        here, there = (slice(y, y + side), slice(x, x + side)), (slice(v, v + side), slice(u, u + side))
        if index % 2:
            changed[index][:, *here] = pixels[(index + 1) % len(pixels)][:, *here]
        else:
            changed[index][:, *here] = pixels[index][:, *there]
            changed[index][:, *there] = pixels[index][:, *here]
    return changed


def train_clip(
    *,
    images: str,
    captions: str,
    output: str,
    recipe: dict,
    scratch: str,
    extra_texts: Sequence[str] = (),
    model: dict | None = None,
) -> None:
    """Train a tiny CLIP and write it and its tokenizer to `output`, with `training.csv`.

    Args:
        images: .npy file, uint8 (N, S, S, 3).
        captions: JSON lines, one record with `caption` for each image, in order.
        output: folder to write.
        recipe: keys of `visdyn.training.engine.fit.Recipe`.
        scratch: folder for resume state.
        extra_texts: texts whose words enter the vocabulary, untrained where no caption has them.
        model: arguments of `tiny_clip`.
    """
    settings = Recipe.of(recipe)
    texts = [row["caption"] for row in read_records(captions)]
    tokenizer = build_caption_tokenizer([*texts, *extra_texts])
    torch.manual_seed(settings.seed)
    dataset = CaptionedImages(images, texts, tokenizer)
    clip = tiny_clip(len(tokenizer), **{"image_size": dataset.images.images.shape[1], **(model or {})})
    start_patch_embedding(clip.vision_model.embeddings.patch_embedding, dataset.images.images)

    def save(history: pd.DataFrame) -> None:
        clip.save_pretrained(output)
        tokenizer.save_pretrained(output)
        write_history(history, output)

    fit(ClipTraining(clip), dataset, settings, scratch, save=save)


def train_dino(
    *,
    images: str,
    output: str,
    recipe: dict,
    scratch: str,
    views: dict | None = None,
    model: dict | None = None,
) -> None:
    """Train the DINO stand-in and write it to `output`, with `training.csv`.

    Args:
        images: .npy file, uint8 (N, S, S, 3).
        output: folder to write.
        recipe: keys of `visdyn.training.engine.fit.Recipe`.
        scratch: folder for resume state.
        views: changes to `ViewSettings`.
        model: arguments of `tiny_dino`.
    """
    settings = Recipe.of(recipe)
    torch.manual_seed(settings.seed)
    dataset = ImageDataset(images)
    dino = tiny_dino(**{"image_size": dataset.images.shape[1], **(model or {})})

    def save(history: pd.DataFrame) -> None:
        dino.save_pretrained(output)
        write_history(history, output)

    training = DinoStandInTraining(dino, ViewSettings(**(views or {})))
    fit(training, dataset, settings, scratch, save=save)
