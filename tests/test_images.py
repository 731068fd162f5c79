"""Image references and their conversions."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from visdyn import images

ARRAY = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)


def test_a_path_an_image_and_an_array_load_alike(tmp_path):
    Image.fromarray(ARRAY).save(tmp_path / "x.png")
    for ref in (tmp_path / "x.png", str(tmp_path / "x.png"), Image.fromarray(ARRAY), ARRAY):
        assert np.array_equal(np.asarray(images.load(ref)), ARRAY)


def test_other_modes_become_rgb(tmp_path):
    Image.fromarray(ARRAY).convert("L").save(tmp_path / "grey.png")
    assert images.load(tmp_path / "grey.png").mode == "RGB"
    assert images.load(Image.fromarray(ARRAY).convert("RGBA")).mode == "RGB"


def test_bad_files_are_named(tmp_path):
    with pytest.raises(images.ImageError, match=r"nowhere\.png does not exist"):
        images.load(tmp_path / "nowhere.png")
    (tmp_path / "text.png").write_text("no image")
    Image.fromarray(ARRAY.repeat(40, 0).repeat(40, 1)).save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:900])
    for name in ("text.png", "cut.jpg"):
        with pytest.raises(images.ImageError, match=f"{name} cannot be decoded"):
            images.load(tmp_path / name)
    with pytest.raises(TypeError, match="not int"):
        images.load(3)


def test_pixels_round_trip():
    stacked = images.to_array([ARRAY, Image.fromarray(ARRAY)])
    assert stacked.shape == (2, 4, 6, 3)
    assert stacked.dtype == np.uint8
    pixels = images.to_pixels(stacked)
    assert tuple(pixels.shape) == (2, 3, 4, 6)
    assert pixels.min() >= -1
    assert pixels.max() <= 1
    back = images.from_pixels(pixels)
    # The conversion back truncates, as the public tokenizer does: a value can fall by one.
    assert np.abs(back.astype(int) - stacked).max() <= 1
    assert np.array_equal(
        images.from_pixels(images.to_pixels(np.array([[[[0, 255, 255]]]], np.uint8)) * 3)[0, 0, 0], [0, 255, 255]
    )


def test_extremes_map_to_minus_one_and_one():
    pixels = images.to_pixels(np.array([[[[0, 255, 51]]]], np.uint8))
    assert pixels.flatten().tolist() == pytest.approx([-1, 1, -0.6])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_pixels_that_are_no_numbers_are_no_image(value):
    import torch

    from visdyn.images import from_pixels

    pixels = torch.zeros(2, 3, 4, 4)
    assert from_pixels(pixels).shape == (2, 4, 4, 3)
    pixels[1, 0, 2, 2] = value
    with pytest.raises(images.ImageError, match="hold NaN or infinity, and are no image"):
        from_pixels(pixels)
