"""The README's film: frame by frame what the galleries hold, and the committed file is made of the committed pack."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from visdyn.commands import draw_film
from visdyn.commands.draw_film import ACTS, GAP, HEAD, OUT, SIDE, draw_frames, encode_gif
from visdyn.explorer.pack import FOLDER, unpack_galleries
from visdyn.paths import repository_root
from visdyn.reporting.figures.figure_parts import choose_rows


def make_galleries(rows: int = 9) -> dict[str, dict[str, np.ndarray]]:
    """Return galleries whose images are of one colour each: the row's number in red, the column's in green."""
    galleries = {}
    for act in ACTS:
        arrays = {"captions": np.array([f"open drawer {row}" for row in range(rows)])}
        for place, key in enumerate(act.columns):
            arrays[key] = np.zeros((rows, 64, 64, 3), np.uint8)
            arrays[key][..., 0] = 20 * np.arange(rows)[:, None, None]
            arrays[key][..., 1] = 40 * place
        galleries[act.gallery] = arrays
    return galleries


def test_images_appear_one_by_one_on_rows_spread_evenly():
    galleries = make_galleries()
    frames, stays = draw_frames(galleries)
    expected = [(row, shown) for act in ACTS for row in choose_rows(galleries[act.gallery], act.rows)
                for shown in range(1, len(act.columns) + 1)]  # fmt: skip
    assert len(frames) == len(stays) == len(expected)
    for frame, (row, shown) in zip(frames, expected, strict=True):
        for place in range(len(ACTS[0].columns)):
            pixel = frame.getpixel((GAP + place * (SIDE + GAP) + SIDE // 2, HEAD + SIDE // 2))
            assert (pixel == (20 * row, 40 * place, 0)) == (place < shown)
    assert stays.count(max(stays)) == sum(act.rows for act in ACTS)  # the whole row stays longer


def test_the_same_images_give_the_same_bytes_and_every_frame_is_kept():
    frames, stays = draw_frames(make_galleries())
    content = encode_gif(frames, stays)
    assert content == encode_gif(*draw_frames(make_galleries()))
    with Image.open(io.BytesIO(content)) as film:
        assert film.n_frames == len(frames)


def test_a_gallery_without_its_models_is_refused():
    galleries = make_galleries()
    galleries[ACTS[1].gallery] = {key: array for key, array in galleries[ACTS[1].gallery].items()
                                  if key in ("captions", "source")}  # fmt: skip
    with pytest.raises(ValueError, match=r"doundo_examples has none of doundo_forward"):
        draw_frames(galleries)


def test_the_committed_film_shows_the_committed_pack(tmp_path):
    unpack_galleries(repository_root() / FOLDER, tmp_path)
    frames, _ = draw_frames(draw_film.read_galleries(tmp_path))
    path = repository_root() / OUT
    assert path.stat().st_size < 2**20
    with Image.open(path) as film:
        assert film.n_frames == len(frames), "the film is of another pack: run `visdyn film`"
        for place, frame in enumerate(frames):
            film.seek(place)
            shown, drawn = (np.asarray(one.convert("RGB"), float) for one in (film, frame))
            assert np.abs(shown - drawn).mean() < 4, f"frame {place} shows another image: run `visdyn film`"
