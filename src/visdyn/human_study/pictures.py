"""Images by opaque id: neither their address nor their bytes tell which system made them."""

from __future__ import annotations

import hashlib
import hmac
import io
from functools import lru_cache
from pathlib import Path

from visdyn.human_study.study import VIEWS, Item, Study
from visdyn.images import load

MAX_SIDE = 1024  # pixels; larger images are scaled down to it
_CACHED = 512


class Pictures:
    """Every image of a study under an id that only the holder of the secret can compute."""

    def __init__(self, study: Study, secret: str) -> None:
        """Index the study's images; none is read yet."""
        self._secret = secret.encode()
        self._views = VIEWS[study.settings.kind]
        self._paths: dict[str, Path] = {}
        for item in study.items:
            self._paths[self.source(item)] = item.source
            for system in study.systems:
                self._paths.update(zip(self.outputs(item, system), item.outputs[system], strict=True))
        self.png = lru_cache(_CACHED)(self._encode_png)

    def source(self, item: Item) -> str:
        """Return the id of an item's input image."""
        return self._make_id(item.key)

    def outputs(self, item: Item, system: str) -> list[str]:
        """Return the ids of a system's images for an item, one a view."""
        return [self._make_id(item.key, system, view) for view in self._views]

    def _encode_png(self, name: str) -> bytes:
        """Return an image as PNG, written anew: format, compression and metadata of the file could name its maker.

        Raises:
            KeyError: no image has this id.
        """
        image = load(self._paths[name])
        image.thumbnail((MAX_SIDE, MAX_SIDE))
        image.info.clear()
        buffer = io.BytesIO()
        image.save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()

    def _make_id(self, *parts: str) -> str:
        text = "\0".join(("image", *parts)).encode()
        return hmac.new(self._secret, text, hashlib.sha256).hexdigest()[:32]
