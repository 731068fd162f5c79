"""CLIP-T's captions where the true states are unknown: a file of captions, and a captioning model (BLIP and its kin).

Bootstrapping's Appendix B speaks of a BLIP caption of the edited image, MagicBrush's code of a caption of the target;
Do-Undo's paper of captions of the true images. Neither names the model. Both readings are measured where captions
can be had: `clip_t` with the target's, `clip_t_edited` with the edited image's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from visdyn.compute.gpus import count_places
from visdyn.images import ImageRef, load
from visdyn.models.understanding.chat_cache import CachedVLM
from visdyn.models.understanding.spread import SpreadVLM
from visdyn.readers import read_rows

IMAGES = ("target", "start", "end")
Captions = dict[tuple[str, str, str], str]  # (image, subset, id) -> caption


def read_captions(path: str | Path) -> Captions:
    """Read a CSV with the columns image (`target` of AURORA-Bench; `start` or `end` of Do-Undo), subset, id, caption.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a column is missing, an image has another name, or an item is named twice.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; correct evaluation.captions.file or leave it empty")
    captions: Captions = {}
    for line, row in read_rows(path, ("image", "subset", "id", "caption"), ValueError):
        key = (row["image"], row["subset"], row["id"])
        if row["image"] not in IMAGES or key in captions:
            why = "names an item again" if key in captions else f"has image {row['image']!r}, not {IMAGES}"
            raise ValueError(f"{path} line {line} {why}")
        captions[key] = row["caption"].strip()
    return captions


class Captioner:
    """A captioning model of transformers (`BlipForConditionalGeneration`, ...), greedy; loaded at the first image.

    Args:
        name_or_path: hub id or folder, such as `Salesforce/blip-image-captioning-large`.
        device: torch device.
        cache: store of captions already written (as of `CachedVLM`), so that a killed run goes on.
        processes: that caption side by side, each with a model; 0 is one a GPU.
    """

    batch_size = 16

    def __init__(
        self, name_or_path: str, device: str = "cpu", cache: str | Path | None = None, processes: int = 0
    ) -> None:
        self.name_or_path, self.device, self.cache, self.processes = name_or_path, device, cache, processes
        self.name = f"{name_or_path} greedy caption"
        self._loaded = None

    def __call__(self, images: Sequence[ImageRef]) -> list[str]:
        """Return one caption for each image."""
        count = min(self.processes or count_places(self.device), -(-len(images) // self.batch_size))
        model = SpreadVLM(self, count) if count > 1 else self
        try:
            asked = CachedVLM(model, self.cache) if self.cache else model
            return asked.answer_many([((image,), "") for image in images])
        finally:
            if count > 1:
                model.release()  # the GPUs are wanted next by what scores

    def answer_many(self, questions: Sequence[tuple[Sequence[ImageRef], str]]) -> list[str]:
        """Return the caption of each question's image; an empty one becomes `image`, for CLIP needs some text."""
        import torch

        (model, processor), texts = self._load_model(), []
        for start in range(0, len(questions), self.batch_size):
            images = [load(images[0]) for images, _ in questions[start : start + self.batch_size]]
            inputs = processor(images=images, return_tensors="pt").to(model.device, dtype=model.dtype)
            with torch.inference_mode():
                tokens = model.generate(**inputs, do_sample=False, max_new_tokens=40)
            texts += processor.batch_decode(tokens, skip_special_tokens=True)
        return [text.strip() or "image" for text in texts]

    def release(self) -> None:
        """Free the weights; a later image loads them again."""
        self._loaded = None

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_loaded": None}

    def _load_model(self):
        if self._loaded is None:
            from transformers import AutoModelForImageTextToText, AutoProcessor

            from visdyn.models.checkpoints import find_folder
            from visdyn.models.strict_load import load_pretrained, load_processor

            folder = find_folder(self.name_or_path, pickled=True)
            processor = load_processor(AutoProcessor, folder)
            model = load_pretrained(AutoModelForImageTextToText, folder)
            self._loaded = model.to(self.device).eval(), processor
        return self._loaded


def captions_of(
    kind: str, keys: Sequence[tuple[str, str]], images: Sequence[ImageRef | None], known: Captions, model
) -> list[str | None]:
    """Return a caption for each image: the file's, else the model's, else None.

    Args:
        kind: one of `IMAGES`.
        keys: (subset, id) of each image.
        known: what `read_captions` gave.
        model: a `Captioner`, or None.
    """
    texts = [known.get((kind, *key)) or known.get((kind, "", key[1])) for key in keys]
    open_rows = [
        row for row, (text, image) in enumerate(zip(texts, images, strict=True)) if not text and image is not None
    ]
    if model is not None and open_rows:
        for row, text in zip(open_rows, model([images[row] for row in open_rows]), strict=True):
            texts[row] = text
    return [text or None for text in texts]
