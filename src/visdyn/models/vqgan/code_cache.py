"""Image codes and recognition-weight distances, computed once and kept on disk.

    <root>/<fingerprint>/settings.json      tokenizer, preprocessing, grid: what the fingerprint stands for
    <root>/<fingerprint>/images/1f.bin      a shard: records of one size, appended as they are computed
    <root>/<fingerprint>/pairs/1f.bin

A record is a key (16 bytes), a payload and the CRC-32 of both. An image's payload is its codes as uint16; a pair's is
the codes of both images and their distances as float16, relative to the largest. At 1,024 codes that is 2 KB an image
and 6 KB a pair. Any number of processes may fill a cache together: one at a time computes what a shard lacks, the
others go on with other shards. After a kill at most one batch is computed again. A damaged record is found by its
checksum, reported, and computed again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from visdyn.images import READING, ImageError, ImageRef
from visdyn.models.vqgan.code_shards import KEY_BYTES, Damage, Shards
from visdyn.paths import write_atomically
from visdyn.quarantine import Quarantine

LAYOUT = 1  # of the files; another number makes another fingerprint


class ModelEncoder:
    """Encodes with a token model, by its own preprocessing; a cache takes anything with these attributes and methods.

    Attributes:
        preprocessing: names what `load` does in the fingerprint; change it when that changes.
        grid, num_codes, tokenizer: (h, w) of the codes, size of the codebook, hash of the weights.
    """

    def __init__(self, model, distances: Callable) -> None:
        """Take a `visdyn.models.token.unified.UnifiedModel`, and what a pair's features give (Bootstrapping, Eq. 2).

        Args:
            distances: features (N, C, h, w) of sources and of targets to (N, h * w); training hands in
                `visdyn.training.losses.recognition_weights`, without a normalisation.
        """
        self._distances = distances
        vqgan, side = model.vqgan, model.vqgan.config.resolution // model.vqgan.config.downsampling
        self.model, self.preprocessing, self.grid = model, model.preprocessing, (side, side)
        self.num_codes, self.tokenizer = vqgan.config.n_embed, weights_hash(vqgan)

    def load(self, ref: ImageRef) -> np.ndarray:
        """Return the tokenizer's input float32 (3, S, S); `ImageError` for whatever a damaged file makes PIL raise."""
        try:
            return self.model.pixels([ref])[0].numpy()
        except ImageError:
            raise
        except (OSError, ValueError, SyntaxError, EOFError) as error:
            raise ImageError(f"image {ref} cannot be decoded ({error}); fetch it again") from error

    def features(self, images: list[np.ndarray]):
        """Return features (N, C, h, w) on the model's device; rows are picked by lists of numbers."""
        import torch

        return self.model.vqgan.features(torch.from_numpy(np.stack(images)))

    def codes(self, features) -> np.ndarray:
        """Return int64 (N, h, w)."""
        return self.model.vqgan.quantize(features).cpu().numpy()

    def distances(self, source_features, target_features) -> np.ndarray:
        """Return float32 (N, h * w), row-major."""
        return self._distances(source_features, target_features).cpu().numpy()


def weights_hash(vqgan) -> str:
    """Return the SHA-256 of the weights that codes depend on: all but the decoder's."""
    digest = hashlib.sha256()
    for name, value in sorted(vqgan.state_dict().items()):
        if not name.startswith(("decoder.", "post_quant_conv.")):
            digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class Filled:
    """What a call found and did, in distinct images or pairs; `failed` of them went into the quarantine."""

    reused: int
    computed: int
    failed: int


@dataclass(frozen=True)
class PairCodes:
    """Cached pairs: codes uint16 (N, h, w) of sources and targets, and distances float32 (N, h * w), row-major."""

    sources: np.ndarray
    targets: np.ndarray
    distances: np.ndarray


class CodeCache:
    """Codes of images, and codes with distances of pairs of images; what is missing is computed when asked for.

    Ask for many at a time: a call reads each shard it needs as a whole.

    Args:
        root: folder of all caches; one subfolder for each tokenizer and preprocessing.
        encoder: computes what is missing.
        identity: `content` keys an image file by its bytes; `stat` by path, size and time of change, which reads no
            file and fails to notice a file that was changed under the same three. Images in memory go by their pixels.
        batch_size: images or pairs encoded at a time.
        threads: images read and preprocessed side by side.
        report: called, for each shard that lacks something, with the numbers of shards done and in all.

    Raises:
        ValueError: an unknown identity, or a codebook too large for uint16.
    """

    def __init__(
        self,
        root: str | Path,
        encoder,
        identity: str = "content",
        batch_size: int = 64,
        threads: int = 1,
        report: Callable[[int, int], None] | None = None,
    ) -> None:
        if identity not in ("content", "stat"):
            raise ValueError(f"unknown identity {identity!r}; one of content, stat")
        if not 0 < encoder.num_codes <= 2**16:
            raise ValueError(f"codes are kept as uint16, which a codebook of {encoder.num_codes} does not fit")
        self.encoder, self.identity, self.batch_size, self.threads = encoder, identity, batch_size, threads
        self.report = report or (lambda done, total: None)
        self.damages: list[Damage] = []
        self.folder = _open_folder(Path(root), encoder)
        grid = ("<u2", tuple(encoder.grid))
        distances = ("<f2", encoder.grid[0] * encoder.grid[1])
        self._pair = np.dtype([("source", *grid), ("target", *grid), ("scale", "<f4"), ("distances", *distances)])
        self._images = Shards(self.folder / "images", np.dtype(grid).itemsize, self.damages)
        self._pairs = Shards(self.folder / "pairs", self._pair.itemsize, self.damages)

    def fill(self, images: Sequence[ImageRef], quarantine: Quarantine | None = None) -> Filled:
        """Compute and keep the codes of those images that are not in the cache.

        `quarantine` takes the images that cannot be read; without it the first of them is an `ImageError`.
        """
        return self._fill_missing(self._images, [(image,) for image in images], quarantine)[0]

    def fill_pairs(
        self, sources: Sequence[ImageRef], targets: Sequence[ImageRef], quarantine: Quarantine | None = None
    ) -> Filled:
        """Compute and keep codes and distances of those pairs that are not in the cache, as `fill` does."""
        return self._fill_missing(self._pairs, list(zip(sources, targets, strict=True)), quarantine)[0]

    def locate_pairs(
        self, sources: Sequence[ImageRef], targets: Sequence[ImageRef], quarantine: Quarantine | None = None
    ) -> tuple[list[tuple[bytes, str, int] | None], Filled]:
        """Fill as `fill_pairs` does, and say where each pair lies: key, shard, record number; None where it failed."""
        filled, keys = self._fill_missing(self._pairs, list(zip(sources, targets, strict=True)), quarantine)
        rows: dict[bytes, int] = {}
        for shard in {_name_shard(key) for key in keys if key}:
            rows |= self._pairs.places(shard)
        return [(key, _name_shard(key), rows[key]) if key in rows else None for key in keys], filled

    @property
    def pair_record(self) -> tuple[Path, np.dtype]:
        """Folder of the pairs' shards, and what a record holds between its key and its checksum."""
        return self._pairs.folder, self._pair

    def codes(self, images: Sequence[ImageRef]) -> np.ndarray:
        """Return uint16 (N, h, w) codes, from the cache or computed; `ImageError` where an image cannot be read."""
        keys = self._fill_missing(self._images, [(image,) for image in images], None)[1]
        codes = np.frombuffer(self._read_records(self._images, keys), "<u2")  # (N * h * w,)
        return codes.reshape(-1, *self.encoder.grid).astype(np.uint16)

    def pairs(self, sources: Sequence[ImageRef], targets: Sequence[ImageRef]) -> PairCodes:
        """Return codes and distances of pairs, from the cache or computed; errors as for `codes`.

        The distances are within 0.05 % of the exact ones, or within 3e-8 of the pair's largest where they are smaller
        than 6e-5 of it.
        """
        keys = self._fill_missing(self._pairs, list(zip(sources, targets, strict=True)), None)[1]
        rows = np.frombuffer(self._read_records(self._pairs, keys), self._pair)
        distances = rows["distances"].astype(np.float32) * rows["scale"][:, None]
        return PairCodes(rows["source"].astype(np.uint16), rows["target"].astype(np.uint16), distances)

    def _fill_missing(
        self, shards: Shards, items: list[tuple], quarantine: Quarantine | None
    ) -> tuple[Filled, list[bytes | None]]:
        before, keys, computed = len(quarantine or ()), [], 0
        by_shard: dict[str, dict[bytes, tuple]] = defaultdict(dict)
        for item in items:
            keys.append(None)  # stays where the item's image cannot be read
            with _set_aside(item, quarantine):
                keys[-1] = self._make_key(item)
                by_shard[_name_shard(keys[-1])][keys[-1]] = item
        waiting = [shard for shard, wanted in by_shard.items() if not wanted.keys() <= shards.read(shard).keys()]
        total = len(waiting)
        for wait in (False, True):  # shards that another process holds come last
            busy = []
            for shard in waiting:
                with shards.lock(shard, wait) as held:
                    if held:
                        self.report(total - len(waiting) + waiting.index(shard), total)
                        computed += self._fill_shard(shards, shard, by_shard[shard], quarantine)
                    else:
                        busy.append(shard)
            waiting = busy
        failed = len(quarantine or ()) - before
        # An item without a key failed before it was looked up; one with a key failed while it was computed.
        unread = failed - keys.count(None)  # of those that have a key
        return Filled(len(set(keys) - {None}) - computed - unread, computed, failed), keys

    def _make_key(self, item: tuple) -> bytes:
        keys = [image_key(ref, self.identity) for ref in item]
        if len(keys) == 1:
            return keys[0]
        # Pairs of one source lie in one shard, so that its features can be computed once.
        return keys[0][:1] + hashlib.blake2b(b"".join(keys), digest_size=KEY_BYTES - 1).digest()

    def _fill_shard(self, shards: Shards, shard: str, wanted: dict[bytes, tuple], quarantine) -> int:
        present, computed = shards.mend(shard).keys(), 0
        missing = [(key, item) for key, item in wanted.items() if key not in present]
        for start in range(0, len(missing), self.batch_size):
            loaded, batch = {}, missing[start : start + self.batch_size]
            for (key, item), images in zip(batch, self._load_items([item for _, item in batch]), strict=True):
                with _set_aside(item, quarantine):
                    if isinstance(images, ImageError):
                        raise images
                    loaded[key] = images
            if loaded:
                shards.append(shard, zip(loaded, self._encode_items(list(loaded.values())), strict=True))
            computed += len(loaded)
        return computed

    def _load_items(self, items: list[tuple]) -> list:
        """Return the images of each item, or the error of the first that cannot be read."""
        if self.threads == 1:
            return [self._load_item(item) for item in items]
        with ThreadPoolExecutor(self.threads) as pool:  # decoding and resizing let other threads run
            return list(pool.map(self._load_item, items))

    def _load_item(self, item: tuple) -> list[np.ndarray] | ImageError:
        try:
            return [self.encoder.load(ref) for ref in item]
        except ImageError as error:
            return error

    def _encode_items(self, items: list[list[np.ndarray]]) -> list[bytes]:
        """Encode images or pairs, each distinct image once."""
        distinct = {image.tobytes(): image for images in items for image in images}
        row_of = {pixels: row for row, pixels in enumerate(distinct)}
        # For each end (source, target) the rows of `features` that the items take: a source of many pairs is one row.
        ends = [[row_of[images[end].tobytes()] for images in items] for end in range(len(items[0]))]
        features = self.encoder.features(list(distinct.values()))  # (distinct, C, h, w)
        codes = self._check_codes(self.encoder.codes(features)).astype("<u2")
        if len(ends) == 1:
            return [codes[row].tobytes() for row in ends[0]]
        # (N, h * w)
        distances = np.asarray(self.encoder.distances(features[ends[0]], features[ends[1]]), np.float32)
        if not np.isfinite(distances).all():
            raise ValueError("the tokenizer's features are not finite: its weights or the images are damaged")
        records = np.zeros(len(items), self._pair)
        records["source"], records["target"], records["scale"] = codes[ends[0]], codes[ends[1]], distances.max(1)
        # float16 of the ratio to the largest: its relative error then does not depend on the features' scale.
        records["distances"] = distances / np.maximum(distances.max(1, keepdims=True), np.finfo(np.float32).tiny)
        return [record.tobytes() for record in records]

    def _check_codes(self, codes: np.ndarray) -> np.ndarray:
        grid, limit = tuple(self.encoder.grid), self.encoder.num_codes
        if codes.shape[1:] != grid or codes.min() < 0 or codes.max() >= limit:
            raise ValueError(f"codes of shape {codes.shape[1:]} up to {codes.max()} from an encoder of {grid}, {limit}")
        return codes

    def _read_records(self, shards: Shards, keys: list[bytes]) -> bytes:
        records: dict[bytes, bytes] = {}
        for shard in {_name_shard(key) for key in keys}:
            records |= shards.read(shard)
        return b"".join(records[key] for key in keys)


def image_key(ref: ImageRef, identity: str = "content") -> bytes:
    """Return 16 bytes that stand for an image (`identity` as for `CodeCache`); `ImageError` for an unreadable file."""
    digest = hashlib.blake2b(digest_size=KEY_BYTES)
    if not isinstance(ref, str | Path):
        pixels = ref if isinstance(ref, np.ndarray) else np.asarray(ref.convert("RGBA"))
        digest.update(f"pixels {pixels.shape} {pixels.dtype}".encode() + pixels.tobytes())
        return digest.digest()
    try:
        if identity == "stat":
            status = os.stat(ref)
            digest.update(json.dumps([os.path.abspath(ref), status.st_size, status.st_mtime_ns]).encode())
        else:
            digest.update(Path(ref).read_bytes())
    except OSError as error:
        raise ImageError(f"image {ref} cannot be read ({error.strerror}); check the dataset's root") from error
    return digest.digest()


def _name_shard(key: bytes) -> str:
    return f"{key[0]:02x}"


@contextmanager
def _set_aside(item: tuple, quarantine: Quarantine | None) -> Iterator[None]:
    try:
        yield
    except ImageError as error:
        if quarantine is None:
            raise
        named = [str(ref) if isinstance(ref, str | Path) else "an image in memory" for ref in item]
        quarantine.add(" -> ".join(named), str(error))


def _open_folder(root: Path, encoder) -> Path:
    names = ("tokenizer", "preprocessing", "num_codes")
    settings = {"layout": LAYOUT, "reading": READING, "grid": list(encoder.grid)}
    settings |= {name: getattr(encoder, name) for name in names}
    text = json.dumps(settings, indent=2, sort_keys=True) + "\n"
    folder = root / hashlib.sha256(text.encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "settings.json", text.encode())
    return folder
