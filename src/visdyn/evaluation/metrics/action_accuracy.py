"""Action and noun accuracy of Do-Undo's newer version: A-F, A-R, N-F and N-R, by a classifier of LaViLa's.

The classifier sees a clip of two images, blended from one into the other, and is right where its likeliest class is the
annotated one: (I_o, I_F^) with the pair's verb and noun, and (I_F, I_R^) with the opposite verb and the same noun.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from visdyn.images import ImageRef, load
from visdyn.models.precision import exact_float32
from visdyn.models.timesformer import TimeSformer, load_timesformer

VERB_METRIC, NOUN_METRIC = "action_accuracy", "noun_accuracy"
# EPIC-KITCHENS-100's take and put, open and close, turn-on and turn-off, move and itself. Any other verb (remove,
# insert, ...) is expected unchanged of its undoing, as in the authors' code, so that its A-R is nearly always 0.
OPPOSITES = {0: 1, 1: 0, 3: 4, 4: 3, 6: 8, 8: 6, 11: 11}
WIDTH, HEIGHT = 456, 256  # of EPIC's frames, to which every image is squashed first
MEAN, STD = (108.3272985, 116.7460125, 104.09373615), (68.5005327, 66.6321579, 70.32316305)  # of 0 to 255, as CLIP's


def make_clip(start: ImageRef, end: ImageRef, frames: int = 16, side: int = 224) -> Tensor:
    """Return a clip that goes from one image to the other, float32 (3, frames, side, side), as the authors prepare it.

    Both images are squashed to 456 x 256 (PIL, bilinear) and blended linearly in time (`align_corners=False`, so a
    quarter of the frames at each end is the image itself); then the shorter side is brought to `side`, antialiased as
    by torchvision since 0.17, and the centre cropped. All of it is linear: here two images are resized, not 16.
    """
    squashed = [load(image).resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR) for image in (start, end)]
    pixels = torch.from_numpy(np.stack(squashed).astype(np.float32)).permute(0, 3, 1, 2)  # (2, 3, H, W)
    size = (side, side * WIDTH // HEIGHT)
    pixels = nn.functional.interpolate(pixels, size, mode="bilinear", antialias=True, align_corners=False)
    left = round((size[1] - side) / 2)
    pixels = pixels[..., left : left + side]
    pixels = (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    share = ((torch.arange(frames) + 0.5) * 2 / frames - 0.5).clamp(0, 1)[:, None, None]  # (F, 1, 1), of the end image
    return (1 - share) * pixels[0][:, None] + share * pixels[1][:, None]


@dataclass(frozen=True)
class ActionClassifier:
    """A TimeSformer that classifies pairs of images, in float32."""

    model: TimeSformer
    name: str
    device: str = "cpu"
    batch_size: int = 8

    @classmethod
    def from_file(cls, path: str | Path, device: str = "cpu", batch_size: int = 8) -> ActionClassifier:
        """Load LaViLa's checkpoint of EPIC-KITCHENS-100; errors as of `visdyn.models.timesformer.load_timesformer`."""
        model = load_timesformer(path).requires_grad_(False).eval().to(device)
        return cls(model, Path(path).name, device, batch_size)

    def __getstate__(self) -> dict:
        """Weights travel to another process by the CPU: they may lie on a GPU that it does not see."""
        return self.__dict__ | ({} if self.device == "cpu" else {"model": copy.deepcopy(self.model).to("cpu")})

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self.model.to(self.device)

    @torch.no_grad()
    def predict(self, starts: Sequence[ImageRef], ends: Sequence[ImageRef]) -> np.ndarray:
        """Return the likeliest verb and noun of each pair of images, int64 (N, 2); -1 where its answer is no number."""
        config, parts = self.model.config, []
        for first in range(0, len(starts), self.batch_size):
            pairs = zip(*(images[first : first + self.batch_size] for images in (starts, ends)), strict=True)
            clips = torch.stack([make_clip(*pair, config.frames, config.side) for pair in pairs]).to(self.device)
            with exact_float32(self.device):
                verbs, nouns, _ = self.model(clips)
            likeliest = [
                torch.where(logits.isfinite().all(-1), logits.argmax(-1), -1)  # (B,)
                for logits in (verbs, nouns)
            ]
            parts.append(torch.stack(likeliest, 1).cpu().numpy())
        return np.concatenate(parts) if parts else np.zeros((0, 2), np.int64)


def action_accuracy(
    classifier: ActionClassifier,
    before: Sequence[ImageRef],
    after: Sequence[ImageRef],
    ids: Sequence[str],
    classes: Mapping[str, tuple[int, int]],
    undone: bool,
) -> dict[str, np.ndarray]:
    """Return whether verb and noun of each image pair are recognised: 0 or 1 by metric; NaN without annotated classes,
    and where the classifier's answer is no number.

    Args:
        before: the true start of each action: I_o, or I_F of an undone one, whatever image it was undone from.
        after: the generated images.
        ids: narration ids.
        classes: verb and noun class by narration id, of the doing.
        undone: whether the images undo; the opposite verb is then expected.
    """
    unknown = (-1, -1)
    wanted = np.array([classes.get(name, unknown) for name in ids]).reshape(-1, 2)
    known = (wanted >= 0).all(1)
    verbs = [OPPOSITES.get(verb, verb) if undone else verb for verb in wanted[:, 0].tolist()]
    found = classifier.predict(before, after)
    expected = np.stack([np.array(verbs, dtype=int), wanted[:, 1]], 1)
    hits = np.where(known[:, None] & (found >= 0), (found == expected).astype(float), np.nan)  # (N, 2)
    return {VERB_METRIC: hits[:, 0], NOUN_METRIC: hits[:, 1]}
