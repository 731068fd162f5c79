"""Pictures of a gallery one by one, for a page: each can be opened large and laid over another of its row."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image

from visdyn.reporting.figures.figure_parts import choose_rows, head_column, order_columns

LARGEST = 384  # pixels of the longer side; larger images are shrunk for the page, the files have them whole
SMALL = 128  # up to this side images are PNG of 256 colours: half the bytes, and hundreds of them stand on a page


@dataclass(frozen=True)
class Picture:
    """One image as an address of data, what it shows, and the line below it ("" where there is none)."""

    head: str
    address: str
    text: str


def read_grid(arrays: Mapping[str, np.ndarray], max_rows: int = 6) -> list[tuple[str, list[Picture]]]:
    """Return rows of (caption, pictures) of the same arrays, rows and columns as `figure_parts.image_strips` draws."""
    keys = order_columns(arrays)
    count = len(arrays[keys[0]])
    captions = arrays.get("captions", np.full(count, "", dtype=str))
    texts = {key: arrays.get(f"{key}_text", np.full(count, "", dtype=str)) for key in keys}
    return [
        (
            str(captions[row]),
            [Picture(" ".join(head_column(key).split()), _encode(arrays[key][row]), str(texts[key][row]))
             for key in keys],
        )
        for row in choose_rows(arrays, max_rows)
    ]  # fmt: skip


def _encode(image: np.ndarray) -> str:
    """Encode a uint8 image (H, W, 3) for the page; the files beside it have every colour."""
    picture, buffer = Image.fromarray(image), io.BytesIO()
    if max(picture.size) <= SMALL:
        picture.quantize(256).save(buffer, "PNG", optimize=True)
        kind = "png"
    else:
        picture.thumbnail((LARGEST, LARGEST))
        picture.save(buffer, "JPEG", quality=88)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
