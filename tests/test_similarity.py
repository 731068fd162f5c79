"""L1 in both geometries, and cosines over an encoder."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from visdyn.evaluation.metrics.geometry import centre_crop, match
from visdyn.evaluation.metrics.similarity import clip_t, l1, row_cosines


def _noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


class FlatEncoder:
    """Embeds an image as its mean colour and a text as the colour it names."""

    def embed_images(self, images):
        return np.stack([np.asarray(image, np.float32).mean(axis=(0, 1)) for image in images])

    def embed_texts(self, texts):
        return np.array([{"red": [1, 0, 0], "green": [0, 1, 0]}[text] for text in texts], np.float32)


def _colour(*rgb: int) -> np.ndarray:
    return np.full((4, 4, 3), rgb, np.uint8)


def test_l1_of_known_difference():
    assert l1(_colour(0, 0, 0), _colour(255, 0, 0)) == pytest.approx(1 / 3)
    assert l1(_colour(10, 10, 10), _colour(61, 61, 61), "matched") == pytest.approx(0.2)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 99), st.sampled_from(["paper", "matched"]))
def test_l1_is_a_distance_at_one_size(seed, geometry):
    a, b, c = (_noise(6, 9, seed + offset) for offset in (0, 100, 200))
    assert l1(a, a, geometry) == 0
    assert l1(a, b, geometry) == l1(b, a, geometry)
    assert l1(a, c, geometry) <= l1(a, b, geometry) + l1(b, c, geometry) + 1e-12


def test_paper_geometry_squeezes_the_target_to_the_prediction():
    prediction, target = _noise(8, 8), _noise(12, 24, 1)
    squeezed = np.asarray(Image.fromarray(target).resize((8, 8), Image.Resampling.BICUBIC), float)
    assert l1(prediction, target, "paper") == pytest.approx(np.abs(prediction - squeezed).mean() / 255)
    assert l1(prediction, target, "paper") != pytest.approx(l1(target, prediction, "paper"))


@pytest.mark.parametrize("size", [(30, 50), (50, 30)])
def test_matched_geometry_forgives_a_centre_crop(size):
    target = np.zeros((*size, 3), np.uint8)
    target[size[0] // 2 - 4 : size[0] // 2 + 4, size[1] // 2 - 4 : size[1] // 2 + 4] = 255
    crop = np.asarray(centre_crop(Image.fromarray(target), 1.0))
    assert crop.shape[:2] == (30, 30)
    assert l1(crop, target, "matched") == 0
    assert l1(crop, target, "paper") > 0.01


def test_match_takes_the_squarest_aspect_and_the_smallest_size():
    images = match([_noise(50, 100), _noise(60, 60), _noise(80, 40)])
    assert [image.size for image in images] == [(40, 40)] * 3
    same = _noise(7, 9)
    assert all(np.array_equal(image, same) for image in match([same, same]))


def test_match_is_symmetric_for_opposite_orientations():
    assert [image.size for image in match([_noise(20, 40), _noise(40, 20)])] == [
        image.size for image in match([_noise(40, 20), _noise(20, 40)])
    ]


def test_unknown_geometry_is_refused():
    with pytest.raises(ValueError, match="unknown geometry 'square'"):
        l1(_noise(4, 4), _noise(4, 4), "square")


def test_clip_t_pairs_each_image_with_its_text():
    red = _colour(200, 0, 0)
    np.testing.assert_allclose(clip_t(FlatEncoder(), [red, red], ["red", "green"]), [1, 0])


def test_a_zero_row_has_cosine_zero():
    np.testing.assert_array_equal(row_cosines(np.zeros((1, 3)), np.ones((1, 3))), [0])


def test_malformed_pairs_and_encoders_are_refused():
    class Broken(FlatEncoder):
        def embed_images(self, images):
            return np.full((len(images), 3), np.nan)

    class Short(FlatEncoder):
        def embed_images(self, images):
            return super().embed_images(images)[:1]

    red = _colour(1, 0, 0)
    with pytest.raises(ValueError, match="2 images cannot be paired with 1 texts"):
        clip_t(FlatEncoder(), [red, red], ["red"])
    with pytest.raises(ValueError, match="non-finite"):
        clip_t(Broken(), [red], ["red"])
    with pytest.raises(ValueError, match="for 2 pairs"):
        clip_t(Short(), [red, red], ["red", "red"])
