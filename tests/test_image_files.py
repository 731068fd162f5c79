"""The one reader of image files: what a viewer shows, or the kit's own error with the file's name."""

from __future__ import annotations

import io
import os
import struct
import zlib
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageFile
from PIL.PngImagePlugin import PngInfo

from visdyn import images
from visdyn.paths import shared_data

RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (40, 60, 3), np.uint8)
GREY = RNG.integers(0, 256, (40, 60), np.uint8)
AWKWARD = shared_data() / "data/awkward/images" if shared_data() else None


def shown(path) -> np.ndarray:
    return np.asarray(images.load(path))


def saved(image: Image.Image, path, **options):
    image.save(path, **options)
    return path


def png(path, header: bytes, data: bytes, *chunks: tuple[bytes, bytes]):
    """Write a PNG of given header, raw rows and further chunks."""
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    body = b"".join(
        len(part).to_bytes(4, "big") + kind + part + zlib.crc32(kind + part).to_bytes(4, "big") for kind, part in parts
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


def swapped_profile() -> bytes:
    """Return a colour profile whose red is sRGB's green, and the other way round."""
    content = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = int.from_bytes(content[128:132], "big")
    places = {bytes(content[132 + 12 * i : 136 + 12 * i]): 132 + 12 * i for i in range(count)}
    red, green = places[b"rXYZ"], places[b"gXYZ"]
    content[red : red + 4], content[green : green + 4] = b"gXYZ", b"rXYZ"
    return bytes(content)


@pytest.mark.parametrize("suffix", ["png", "bmp", "ppm", "tif", "webp"])
def test_ordinary_files_are_their_own_numbers(tmp_path, suffix):
    options = {"lossless": True} if suffix == "webp" else {}
    path = saved(Image.fromarray(COLOURS), tmp_path / f"x.{suffix}", **options)
    assert np.array_equal(shown(path), COLOURS)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "CMYK", "RGBA"])
def test_what_is_opaque_and_untagged_is_as_pillow_converts_it(tmp_path, mode):
    image = Image.fromarray(COLOURS).convert(mode)
    path = saved(image, tmp_path / f"x.{'jpg' if mode in ('RGB', 'CMYK') else 'png'}")
    with Image.open(path) as opened:
        assert np.array_equal(shown(path), np.asarray(opened.convert("RGB")))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_camera_s_image_stands_upright(tmp_path, orientation):
    upright = Image.fromarray(np.kron(RNG.integers(0, 256, (4, 6, 3)), np.ones((16, 16, 1))).astype(np.uint8))
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}.get(orientation)  # the Transpose that undoes a viewer's
    stored = upright if back is None else upright.transpose(Image.Transpose(back))
    exif = Image.Exif()
    exif[0x0112] = orientation
    for suffix in ("png", "jpg", "webp", "tif"):
        path = saved(stored, tmp_path / f"x.{suffix}", exif=exif, **({"quality": 100} if suffix != "png" else {}))
        assert images.load(path).size == upright.size, suffix
        assert np.abs(shown(path).astype(int) - np.asarray(upright)).mean() < 12, suffix
        again = images.load(images.load(path))
        assert np.array_equal(np.asarray(again), shown(path)), "turned twice"


def test_damaged_or_strange_orientations_are_passed_by(tmp_path):
    for number, exif in enumerate((b"Exif\0\0junk", b"Exif\0\0MM\0*\0\0\0\x08\0\xff", b"II*\0")):
        path = saved(Image.fromarray(COLOURS), tmp_path / f"{number}.png", exif=exif)
        assert np.array_equal(shown(path), COLOURS)
    for value in (0, 9, 65535):
        exif = Image.Exif()
        exif[0x0112] = value
        assert np.array_equal(shown(saved(Image.fromarray(COLOURS), tmp_path / "v.png", exif=exif)), COLOURS)


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm", "jp2"])
@pytest.mark.parametrize("factor", [256, 257])
def test_sixteen_bits_are_seen_as_eight(tmp_path, suffix, factor):
    path = saved(Image.fromarray(GREY.astype(np.uint16) * factor), tmp_path / f"x.{suffix}")
    assert np.array_equal(shown(path), np.stack([GREY] * 3, -1))


def test_sixteen_bit_colours_and_alpha(tmp_path):
    header = struct.pack(">IIBBBBB", 60, 40, 16, 2, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in COLOURS.astype(np.uint16) * 257)
    assert np.array_equal(shown(png(tmp_path / "rgb.png", header, rows)), COLOURS)
    with pytest.raises(images.ImageError, match=r"key\.png has a transparent colour of 16 bits"):
        images.load(png(tmp_path / "key.png", header, rows, (b"tRNS", b"\0\1\0\1\0\1")))
    alpha = np.dstack([GREY, np.full_like(GREY, 128)]).astype(np.uint16) * 257
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in alpha)
    half = shown(png(tmp_path / "la.png", struct.pack(">IIBBBBB", 60, 40, 16, 4, 0, 0, 0), rows))
    assert np.abs(half[..., 0] - (255 + GREY.astype(float)) / 2).max() <= 2


def test_a_tiff_whose_white_is_zero(tmp_path):
    path = saved(Image.fromarray(GREY.astype(np.uint16) * 257), tmp_path / "x.tif")
    content = bytearray(path.read_bytes())
    place = content.index(struct.pack("<HHI", 262, 3, 1))
    content[place + 8] = 0
    path.write_bytes(content)
    assert np.array_equal(shown(path)[..., 0], 255 - GREY)


def test_floats_between_0_and_1_are_shown_and_others_refused(tmp_path):
    path = saved(Image.fromarray(GREY.astype(np.float32) / 255), tmp_path / "x.tif")
    assert np.array_equal(shown(path)[..., 0], GREY)
    for bad in (GREY.astype(np.float32), np.where(GREY > 9, GREY, np.nan).astype(np.float32) / 255):
        with pytest.raises(images.ImageError, match=r"y\.tif has grey values that are floats"):
            images.load(saved(Image.fromarray(bad), tmp_path / "y.tif"))
    with pytest.raises(images.ImageError, match=r"z\.tif has grey values of 32 bits"):
        images.load(saved(Image.fromarray(GREY.astype(np.int32) * 1000), tmp_path / "z.tif"))


def test_transparency_lies_on_white(tmp_path):
    alpha = RNG.integers(0, 256, GREY.shape, np.uint8)
    expected = 255 + (COLOURS.astype(float) - 255) * alpha[..., None] / 255
    for suffix in ("png", "webp", "tif"):
        options = {"lossless": True, "exact": True} if suffix == "webp" else {}
        path = saved(Image.fromarray(np.dstack([COLOURS, alpha])), tmp_path / f"x.{suffix}", **options)
        assert np.abs(shown(path) - expected).max() <= 1, suffix
    grey = saved(Image.fromarray(np.dstack([GREY, alpha])), tmp_path / "la.png")
    assert np.abs(shown(grey)[..., 1] - (255 + (GREY.astype(float) - 255) * alpha / 255)).max() <= 1
    hidden = np.dstack([np.full_like(COLOURS, (0, 200, 0)), np.zeros_like(GREY)])
    assert (shown(saved(Image.fromarray(hidden), tmp_path / "h.png")) == 255).all()


@pytest.mark.parametrize("mode", ["P", "L", "RGB", "1", "I;16"])
def test_a_transparent_colour_lies_on_white(tmp_path, mode):
    left = np.arange(60) < 30
    if mode == "I;16":
        image, key = Image.fromarray(np.where(left, 1000, 30000)[None].repeat(40, 0).astype(np.uint16)), 1000
    else:
        grey = np.where(left, 0, 160 if mode != "1" else 255)[None].repeat(40, 0).astype(np.uint8)
        image = Image.fromarray(grey).convert(mode)
        key = image.getpixel((0, 0))
    found = shown(saved(image, tmp_path / "x.png", transparency=key))
    assert (found[:, :30] == 255).all(), "transparent"
    assert (found[:, 31:] == {"I;16": 30000 >> 8, "1": 255}.get(mode, 160)).all(), "opaque"


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_a_transparent_grey_of_few_bits(tmp_path, bits):
    header = struct.pack(">IIBBBBB", 8, 1, bits, 0, 0, 0, 0)
    levels = [0, 1] * 4 if bits == 1 else [0, 1, 2, 3, 0, 1, 2, 3]
    packed = int("".join(f"{level:0{bits}b}" for level in levels), 2).to_bytes(bits, "big")
    found = shown(png(tmp_path / "x.png", header, b"\0" + packed, (b"tRNS", b"\0\1")))[0, :, 0]
    scale = 255 // (2**bits - 1)
    assert found.tolist() == [255 if level == 1 else level * scale for level in levels]


def test_a_colour_profile_becomes_srgb(tmp_path):
    profile = swapped_profile()
    path = saved(Image.fromarray(COLOURS), tmp_path / "x.png", icc_profile=profile)
    assert np.abs(shown(path).astype(int) - COLOURS[..., [1, 0, 2]]).max() <= 3
    assert np.array_equal(np.asarray(images.load(path, profiles=False)), COLOURS)
    assert np.array_equal(np.asarray(images.load(images.load(path))), shown(path)), "converted twice"
    opened = Image.open(path)
    assert np.array_equal(np.asarray(images.load(opened)), shown(path)), "a file and its object differ"
    twofold = np.dstack([COLOURS, GREY])
    path = saved(Image.fromarray(twofold), tmp_path / "a.png", icc_profile=profile)
    expected = 255 + (COLOURS[..., [1, 0, 2]].astype(float) - 255) * GREY[..., None] / 255
    assert np.abs(shown(path) - expected).max() <= 4


def test_srgb_and_damaged_profiles_change_no_byte(tmp_path):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    nearly = bytearray(srgb)  # its red a little further: other programs' sRGB
    entry = next(place for place in range(132, 400, 12) if nearly[place : place + 4] == b"rXYZ")
    place = int.from_bytes(nearly[entry + 4 : entry + 8], "big") + 8
    nearly[place : place + 4] = (int.from_bytes(nearly[place : place + 4], "big") + 30).to_bytes(4, "big")
    for profile in (srgb, bytes(nearly), lab, b"no profile", srgb[:200]):
        path = saved(Image.fromarray(COLOURS), tmp_path / "x.png", icc_profile=profile)
        assert np.array_equal(shown(path), COLOURS)


def test_lab_is_shown_as_colours(tmp_path):
    lab = ImageCms.applyTransform(
        Image.fromarray(COLOURS),
        ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"),
    )
    assert np.abs(shown(saved(lab, tmp_path / "x.tif")).astype(int) - COLOURS).mean() < 4


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_the_first_frame_of_an_animation(tmp_path, suffix):
    frames = [Image.new("RGB", (60, 40), (value, value, value)) for value in (10, 90, 200)]
    path = tmp_path / f"x.{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:], **({"lossless": True} if suffix == "webp" else {}))
    assert (shown(path) == 10).all()


def test_a_large_profile_or_text_is_no_reason_to_refuse(tmp_path):
    noise = RNG.integers(0, 256, 2**21, np.uint8).tobytes()
    note = PngInfo()
    note.add_text("x", "y" * 2**21, zip=True)
    for name, options in (("icc", {"icc_profile": b"x" * 2**21}), ("text", {"pnginfo": note}),
                          ("noise", {"icc_profile": noise})):  # fmt: skip
        path = saved(Image.fromarray(COLOURS), tmp_path / f"{name}.png", **options)
        assert np.array_equal(shown(path), COLOURS), name


def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path, monkeypatch):
    """A header that states 12,000 x 12,000 pixels, and one beyond what Pillow itself refuses."""
    for side in (12_000, 60_000):
        path = png(tmp_path / f"{side}.png", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0), b"")
        with pytest.raises(images.ImageError, match=rf"{side}\.png states .*make it smaller"):
            images.load(path)
        with pytest.raises(images.ImageError, match=r"the reply states .*make it smaller"):
            images.decode(path.read_bytes(), "the reply")
        assert images.read_note(path, "x") is None
    monkeypatch.setattr(images, "MAX_PIXELS", 60 * 40)
    assert shown(saved(Image.fromarray(COLOURS), tmp_path / "edge.png")).shape == COLOURS.shape


def test_what_is_no_file_is_named_and_never_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    (tmp_path / "empty.png").touch()
    for name in ("pipe.png", "folder.png", "loop.png", "empty.png", "n" * 300 + ".png", "nul\0.png"):
        with pytest.raises(images.ImageError, match=r"^image .* (is no file|cannot be decoded)"):
            images.load(tmp_path / name)


def test_names_of_any_bytes_are_read_and_named(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\n.png")
    Image.fromarray(COLOURS).save(path)
    assert np.array_equal(shown(path), COLOURS)
    with open(path, "w") as file:
        file.write("no image")
    with pytest.raises(images.ImageError) as caught:
        images.load(path)
    assert str(caught.value).encode().count(b"\n") == 0


def test_an_eps_starts_no_program(tmp_path):
    (tmp_path / "x.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")
    with pytest.raises(images.ImageError, match="it is none of PNG"):
        images.load(tmp_path / "x.png")


def test_arrays_that_are_no_rgb_bytes_are_refused():
    for array in (GREY, COLOURS / 255, np.dstack([COLOURS, GREY])):
        with pytest.raises(TypeError, match="uint8"):
            images.load(array)


def test_read_note(tmp_path):
    note = PngInfo()
    note.add_text("made-of", "a cup")
    path = saved(Image.fromarray(COLOURS), tmp_path / "x.png", pnginfo=note)
    assert images.read_note(path, "made-of") == "a cup"
    assert images.read_note(path, "other") is None
    path.write_bytes(path.read_bytes()[:-200])
    assert images.read_note(path, "made-of") is None
    assert images.read_note(saved(Image.fromarray(COLOURS), tmp_path / "x.jpg"), "made-of") is None


def _encoded(form: str) -> bytes:
    buffer = io.BytesIO()
    mode = {"GIF": "P", "JPEG": "RGB", "PPM": "RGB"}.get(form, "RGBA")
    Image.fromarray(np.dstack([COLOURS, GREY])).convert("RGB").convert(mode).save(buffer, form)
    return buffer.getvalue()


FILES = [_encoded(form) for form in ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "PPM")]


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(FILES),
    st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), max_size=8),
    st.integers(0, 1 << 16),
    st.binary(max_size=40),
)
def test_any_damage_is_an_image_or_the_kit_s_own_error(content, changes, cut, tail):
    content = bytearray(content)
    for place, value in changes:
        content[place % min(len(content), 400)] = value  # headers, mostly
    content = bytes(content[: cut % len(content) + 1]) + tail if cut % 3 else bytes(content)
    found = None
    with suppress(images.ImageError):  # any other exception fails
        found = images.decode(content, "the file")
    assert found is None or (found.mode == "RGB" and found.width * found.height <= images.MAX_PIXELS)


@pytest.mark.parametrize("raised", [SyntaxError, MemoryError, struct.error, IndexError, RuntimeError, AssertionError])
def test_whatever_a_decoder_raises_names_the_file(raised, monkeypatch):
    def load(self):
        raise raised("broken tile")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    with pytest.raises(images.ImageError, match=r"the file cannot be decoded \(broken tile\); fetch it again"):
        images.decode(FILES[0], "the file")


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_any_rgb_image_comes_back_byte_for_byte(height, width, seed):
    array = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    for form in ("PNG", "BMP", "PPM", "TIFF"):
        buffer = io.BytesIO()
        Image.fromarray(array).save(buffer, form)
        assert np.array_equal(np.asarray(images.decode(buffer.getvalue(), "it")), array)


@pytest.mark.skipif(AWKWARD is None or not AWKWARD.is_dir(), reason="needs shared/data/awkward")
def test_the_awkward_files():
    plain = shown(AWKWARD / "plain.png")
    for name in ("UPPER.PNG", "big_icc.png"):
        assert np.array_equal(shown(AWKWARD / name), plain), name
    assert shown(AWKWARD / "exif6.jpg").shape == (60, 40, 3)
    assert np.abs(shown(AWKWARD / "exif3.jpg")[::-1, ::-1].astype(int) - plain).mean() < 12
    for name in ("badcrc.png", "truncated.jpg"):
        with pytest.raises(images.ImageError, match=name):
            images.load(AWKWARD / name)
