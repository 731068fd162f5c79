"""Images by opaque id: neither their address nor their bytes nor their size tell which system made them."""

from __future__ import annotations

import hashlib
import hmac
import io
from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageOps

from visdyn.human_study.study import VIEWS, Item, Study
from visdyn.images import load

MAX_SIDE = 1024  # pixels; larger images are scaled down to it
_CACHED = 512
_BARS = "white"


class Pictures:
    """Every image of a study under an id that only the holder of the secret can compute."""

    def __init__(self, study: Study, secret: str) -> None:
        """Index the study's images; none is read yet."""
        self._secret = secret.encode()
        self._views = VIEWS[study.settings.kind]
        self._paths: dict[str, tuple[Path, Item]] = {}
        for item in study.items:
            self._paths[self.source(item)] = item.source, item
            for system in study.systems:
                for name, path in zip(self.outputs(item, system), item.outputs[system], strict=True):
                    self._paths[name] = path, item
        self.png = lru_cache(_CACHED)(self._encode_png)
        self._boxes: dict[str, tuple[int, int]] = {}

    def source(self, item: Item) -> str:
        """Return the id of an item's input image."""
        return self._make_id(item.key)

    def outputs(self, item: Item, system: str) -> list[str]:
        """Return the ids of a system's images for an item, one a view."""
        return [self._make_id(item.key, system, view) for view in self._views]

    def _encode_png(self, name: str) -> bytes:
        """Return an image as PNG, written anew: format, compression and metadata of the file could name its maker.

        All images of an item have one size, for a system of squares, or of 64 pixels, would be known by it: each is
        scaled into the item's box, with bars where it has another shape.

        Raises:
            KeyError: no image has this id.
        """
        path, item = self._paths[name]
        image = ImageOps.pad(load(path), self._box_of(item), Image.Resampling.LANCZOS, _BARS)
        image.info.clear()
        buffer = io.BytesIO()
        image.save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()

    def _box_of(self, item: Item) -> tuple[int, int]:
        """Return the size at which an item's images are shown: the source's shape, as large as the largest of them."""
        if item.key not in self._boxes:
            width, height = load(item.source).size
            paths = [path for views in item.outputs.values() for path in views]
            longest = min(MAX_SIDE, max(width, height, *(max(load(path).size) for path in paths)))
            scale = longest / max(width, height)
            self._boxes[item.key] = max(1, round(width * scale)), max(1, round(height * scale))
        return self._boxes[item.key]

    def _make_id(self, *parts: str) -> str:
        text = "\0".join(("image", *parts)).encode()
        return hmac.new(self._secret, text, hashlib.sha256).hexdigest()[:32]
