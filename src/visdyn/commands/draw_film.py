"""`visdyn film`: an animated picture of what the models make, for the README: an action is asked for, images appear.

The images are those of Bootstrapping's and Do-Undo's galleries, as the stages scored them, or the pack's where no stage
has run here. Rows are chosen by the figures' own rule (`choose_rows`: from the best to the worst where scores are
known), not picked; the same images give the same bytes.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from visdyn.explorer.pack import FOLDER, find_pack, unpack_galleries
from visdyn.paths import profile_root, write_atomically
from visdyn.reporting.figures.figure_parts import choose_rows, head_column
from visdyn.reporting.results import Results

OUT = "docs/images/film.gif"
SIDE, GAP, HEAD, FOOT = 128, 14, 62, 58  # pixels: of an image, between images, above and below them
_STEP_MS, _HOLD_MS = 900, 2600  # a further image appears; all are there
_COLOURS = 128
_INK, _MUTED, _PAPER, _EMPTY = "#222222", "#6b6b6b", "#ffffff", "#ececec"


@dataclass(frozen=True)
class Act:
    """Which columns of a gallery are shown one after the other, and how many of its rows.

    Attributes:
        gallery: file of `data/generated`, without its ending.
        said: what the models are asked to do, before the action.
        columns: keys of its images, in the order in which they appear.
        rows: at most.
    """

    gallery: str
    said: str
    columns: tuple[str, ...]
    rows: int


ACTS = (
    Act("evaluation/fdm_examples", "What does the next image look like?",
        ("source", "supervised", "synthetic_weighted", "synthetic_weighted_best_of_8", "target"), 4),
    Act("evaluation_doundo/doundo_examples", "Do it, then undo it.",
        ("source", "doundo_forward", "doundo_reverse", "doundo_c_forward", "doundo_c_reverse"), 3),
)  # fmt: skip


def draw_frames(galleries: Mapping[str, Mapping[str, np.ndarray]]) -> tuple[list[Image.Image], list[int]]:
    """Return the film's frames and the milliseconds that each stays.

    Args:
        galleries: by an act's gallery, its arrays: captions (N,) str, images uint8 (N, H, W, 3), `<key>_text` (N,) str.

    Raises:
        ValueError: a gallery has none of an act's columns but its source.
    """
    frames, stays = [], []
    widest = max(len(act.columns) for act in ACTS)
    for act in ACTS:
        arrays = galleries[act.gallery]
        columns = [key for key in act.columns if key in arrays]
        if len(columns) < 2:
            raise ValueError(f"gallery {act.gallery} has none of {', '.join(act.columns[1:])} to show")
        for row in choose_rows(arrays, act.rows):
            for shown in range(1, len(columns) + 1):
                frames.append(_draw_frame(arrays, act.said, columns, int(row), shown, widest))
                stays.append(_HOLD_MS if shown == len(columns) else _STEP_MS)
    return frames, stays


def encode_gif(frames: Sequence[Image.Image], stays: Sequence[int]) -> bytes:
    """Encode frames of one size as a GIF that repeats for ever, with one palette for all of them."""
    every = Image.new("RGB", (frames[0].width, frames[0].height * len(frames)))
    for place, frame in enumerate(frames):
        every.paste(frame, (0, place * frame.height))
    palette = every.quantize(_COLOURS, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    mapped = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    content = io.BytesIO()
    mapped[0].save(
        content, "GIF", save_all=True, append_images=mapped[1:], duration=list(stays), loop=0, optimize=False
    )
    return content.getvalue()


def read_galleries(root: Path) -> dict[str, dict[str, np.ndarray]]:
    """Read the acts' galleries of a profile; what no stage has made here is taken out of its pack.

    Raises:
        ResultError: a gallery is neither there nor in a pack.
    """
    pack = find_pack(root)
    if pack is not None:
        unpack_galleries(pack, root)
    return {act.gallery: Results(root).arrays(f"{act.gallery}.npz") for act in ACTS}


def _draw_frame(
    arrays: Mapping[str, np.ndarray], said: str, columns: Sequence[str], row: int, shown: int, widest: int
) -> Image.Image:
    frame = Image.new("RGB", (GAP + widest * (SIDE + GAP), HEAD + SIDE + FOOT), _PAPER)
    pen = ImageDraw.Draw(frame)
    pen.text((GAP, 10), str(arrays["captions"][row]), _INK, _font(18, bold=True))
    pen.text((GAP, 36), said, _MUTED, _font(13))
    for place, key in enumerate(columns):
        left = GAP + place * (SIDE + GAP)
        if place >= shown:
            pen.rectangle((left, HEAD, left + SIDE - 1, HEAD + SIDE - 1), _EMPTY)
            continue
        picture = Image.fromarray(arrays[key][row]).resize((SIDE, SIDE), Image.Resampling.NEAREST)
        frame.paste(picture, (left, HEAD))
        head = " ".join(head_column(key).split()).replace(", ", ",\n")
        text = str(arrays[f"{key}_text"][row]) if f"{key}_text" in arrays else ""
        pen.text((left, HEAD + SIDE + 4), head, _INK, _font(12))
        pen.text((left, HEAD + SIDE + (36 if "\n" in head else 20)), text, _MUTED, _font(11))
    return frame


def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Return Matplotlib's own font: it is the same on every machine."""
    name = f"fonts/ttf/DejaVuSans{'-Bold' if bold else ''}.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / name), size)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the film of a profile's galleries."""
    parser = argparse.ArgumentParser(prog="visdyn film", description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default=".", help=f"folder with params.yaml; its images, else its {FOLDER}")
    parser.add_argument("--out", type=Path, help=f"file to write; {OUT} of the profile by default")
    options = parser.parse_args(arguments)
    root = profile_root(options.profile)
    frames, stays = draw_frames(read_galleries(root))
    content, path = encode_gif(frames, stays), options.out or root / OUT
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content)
    print(f"{path}: {len(frames)} frames, {sum(stays) / 1000:.0f} s, {len(content) / 1024:.0f} KiB")
    return 0
