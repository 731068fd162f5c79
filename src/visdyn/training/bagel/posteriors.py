"""Posteriors of BAGEL's frozen autoencoder, computed once for the images that a training comes back to.

A step samples z = mean + std * noise for each of its images. Mean and variance never change while the autoencoder is
frozen, the noise does: what is kept is the posterior, so that training draws the same latents as without this cache.
They are equal up to float rounding, with two exceptions that the cache brings closer to inference: an image that is
smaller than others of its pack is encoded without their padding, and DeepSpeed's half precision does not reach it.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from visdyn.images import ImageRef, load
from visdyn.models.bagel import Autoencoder, AutoencoderConfig, TransformConfig
from visdyn.models.bagel.transforms import transform
from visdyn.models.bagel.vae import sample_latents
from visdyn.paths import write_atomically
from visdyn.trajectory import ReversiblePair

PIXELS = 2**18  # encoded together: 64 images of 64 x 64, one of 912 x 512
MEMORY = "memory"


class PosteriorCache:
    """Mean and log-variance by image, in memory or in a folder of one file an image.

    An entry takes 8 bytes x channels x latents: 8 KB in the embedded default, .93 MB at 912 x 512 with the public
    autoencoder. It holds no weights, so that data-loading processes can take it along.
    """

    def __init__(self, vae: Autoencoder, limits: TransformConfig, folder: str | Path | None = None) -> None:
        """Open a cache.

        Args:
            vae: the frozen autoencoder; other weights or `limits` have entries of their own in one folder.
            limits: how images are resized before they are encoded.
            folder: None keeps the entries in memory, a copy for each rank.
        """
        self.limits, self.kept = limits, {}
        self.folder = None if folder is None else Path(folder) / _cache_key(vae, limits)

    @torch.no_grad()
    def fill(self, vae: Autoencoder, images: Iterable[ImageRef]) -> int:
        """Encode what is missing and return how many that were.

        Ranks that share a folder begin at different places and skip what others have written. A killed call goes on
        where it stopped.

        Raises:
            ImageError: an image cannot be read; the message names it.
        """
        images = list({self._image_key(image): image for image in images}.items())
        start = len(images) * int(os.environ.get("RANK", "0")) // max(1, int(os.environ.get("WORLD_SIZE", "1")))
        waiting: dict[tuple[int, ...], list[tuple[str, Tensor]]] = {}
        count = 0
        for key, image in images[start:] + images[:start]:
            if self._is_cached(key):
                continue
            pixels = transform(image, self.limits)
            group = waiting.setdefault(tuple(pixels.shape), [])
            group.append((key, pixels))
            count += 1
            if len(group) >= PIXELS // (pixels.shape[1] * pixels.shape[2]):
                self._encode_group(vae, waiting.pop(tuple(pixels.shape)))
        for group in waiting.values():
            self._encode_group(vae, group)
        return count

    def __call__(self, image: ImageRef) -> Tensor:
        """Return mean and log-variance, float32 (2 z, h, w), as `Autoencoder.moments` gives them.

        Raises:
            LookupError: the image was not among those that `fill` was given, or its file has changed since.
        """
        key = self._image_key(image)
        if not self._is_cached(key):
            named = image if isinstance(image, str | Path) else "an image in memory"
            raise LookupError(f"{named} has no posterior in the cache or has changed since; start the training again")
        return self.kept[key] if self.folder is None else torch.from_numpy(np.load(self.folder / f"{key}.npy"))

    def _is_cached(self, key: str) -> bool:
        return key in self.kept if self.folder is None else (self.folder / f"{key}.npy").is_file()

    def _encode_group(self, vae: Autoencoder, group: Sequence[tuple[str, Tensor]]) -> None:
        device = next(vae.parameters()).device
        # (B, 3, H, W) -> mean and log-variance (B, 2 z, h, w)
        moments = vae.moments(torch.stack([pixels for _, pixels in group]).to(device)).float().cpu()
        for (key, _), entry in zip(group, moments, strict=True):
            self._write_entry(key, entry)

    def _write_entry(self, key: str, entry: Tensor) -> None:
        if self.folder is None:
            self.kept[key] = entry.clone()  # a view would keep the whole batch alive when it is sent to a process
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        # Files, not the store: at .93 MB an entry they are read 3 times as fast (benchmarks/kept_codes.py), and need
        # no locks of a disk that several machines share.
        content = io.BytesIO()
        np.save(content, entry.numpy())
        write_atomically(self.folder / f"{key}.npy", content.getvalue())

    @staticmethod
    def _image_key(image: ImageRef) -> str:
        """Name a file by path, size and time of change, so that a step need not read it; others by their pixels."""
        if isinstance(image, str | Path) and os.path.isfile(image):
            found = os.stat(image)  # for each image of each step: pathlib would take as long as the rest of the lookup
            return _hash_bytes(f"{os.path.abspath(image)} {found.st_size} {found.st_mtime_ns}".encode())
        array = np.asarray(image if isinstance(image, np.ndarray) else load(image))
        return _hash_bytes(repr(array.shape).encode() + np.ascontiguousarray(array).tobytes())


def posterior_cache(where: str | None, model, records: dict[str, Sequence]) -> PosteriorCache | None:
    """Return a filled cache for the images that a mixture generates or edits.

    Args:
        where: `memory`, a folder, or None or empty for no cache.
        model: a `Bagel` with its autoencoder.
        records: as of `bagel_data.BagelMixture`.
    """
    if not where:
        return None
    vae, limits = model.require_vae(), model.config.transforms["vae"]
    cache = PosteriorCache(vae, limits, None if where == MEMORY else where)
    count = cache.fill(
        vae, (image for kind, rows in records.items() for row in rows for image in _images_of(kind, row))
    )
    print(f"encoded {count} images once for all steps", flush=True)
    return cache


def sample_padded(
    moments: Sequence[Tensor | None], noise: Sequence[Tensor], config: AutoencoderConfig
) -> Tensor | None:
    """Return sampled latents (m, z, h, w), padded, of posteriors (2 z, h, w); None where one is not known.

    Args:
        noise: (z, h, w) for each posterior.
    """
    if any(known is None for known in moments):
        return None
    return pad([sample_latents(known, drawn, config) for known, drawn in zip(moments, noise, strict=True)])


def pad(maps: Sequence[Tensor]) -> Tensor:
    """Stack maps (C, h, w) of several sizes, zero-padded at the bottom and right."""
    height, width = (max(part.shape[axis] for part in maps) for axis in (1, 2))
    return torch.stack([torch.nn.functional.pad(m, (0, width - m.shape[2], 0, height - m.shape[1])) for m in maps])


def _images_of(kind: str, record) -> tuple[ImageRef, ...]:
    if kind == "understanding":
        return ()  # seen by the ViT alone
    if kind == "text_to_image":
        return (record.image,)
    return (record.start, record.end) if isinstance(record, ReversiblePair) else (record.source, record.target)


def _cache_key(vae: Autoencoder, limits: TransformConfig) -> str:
    digest = hashlib.sha256(f"{limits} {vae.config}".encode())
    for name, value in sorted(vae.model.encoder.state_dict().items()):
        digest.update(name.encode() + value.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _hash_bytes(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]
