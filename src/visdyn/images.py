"""Image references, the one reader of image files, and the conversions that every layer shares.

An image is what a viewer shows: upright by its EXIF orientation, 16 bits as 8, a palette resolved, transparency on
white, a colour profile brought to sRGB, the first frame of an animation. An ordinary 8-bit RGB file is its own numbers,
byte for byte.
"""

from __future__ import annotations

import io
import os
import stat
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageFile, UnidentifiedImageError

from visdyn.paths import printable

ImageRef = str | Path | Image.Image | np.ndarray

# Names how files become pixels, in the keys of what is kept of them: other pixels, another number.
READING = 2
# What cameras, browsers and generators write. Not Pillow's other formats: EPS, for one, starts another program.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")
# A file of 400 KB can state 12,000 x 12,000 pixels, which take 1.4 GB; 8,192 x 8,192 are more than a camera's.
MAX_PIXELS = 8192 * 8192
MAX_PROFILE = 8 * 2**20  # bytes of a PNG's colour profile
# A profile that moves no colour further than this (of 255) is sRGB under another name.
SRGB_SLACK = 2

_ORIENTATION, _PHOTOMETRIC = 0x0112, 262  # tags of EXIF and TIFF
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_PROFILE_SPACES = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}
# How far Pillow has stretched the samples of a PNG of few bits a pixel.
_STRETCHED = {"L;2": 85, "L;4": 17}
_PNG = b"\x89PNG\r\n\x1a\n"
_BLENDED_ROWS = 256


class ImageError(ValueError):
    """An image file is missing or cannot be decoded; the message names it."""


def load(ref: ImageRef, profiles: bool = True) -> Image.Image:
    """Return the referenced image as an RGB `PIL.Image`, fully decoded, as a viewer shows it.

    Args:
        ref: a path, a `PIL.Image`, or a uint8 array (H, W, 3) in RGB order.
        profiles: False leaves the numbers of a file with a colour profile as they are stored, as the papers' own
            code does: for comparing with what was measured so.

    Raises:
        ImageError: the file is missing, damaged, too large or not an image, or its numbers have no black and white.
        TypeError: the reference is none of the three.
    """
    if isinstance(ref, np.ndarray):
        if ref.dtype != np.uint8 or ref.ndim != 3 or ref.shape[2] != 3:
            raise TypeError(f"an array of an image is uint8 (H, W, 3), not {ref.dtype} {ref.shape}")
        return Image.fromarray(ref)
    if isinstance(ref, Image.Image):
        if ref.mode == "RGB" and not isinstance(ref, ImageFile.ImageFile) and not ref.info:
            return ref
        with _naming("the image in memory"):
            return _show(ref, profiles)
    if not isinstance(ref, str | Path):
        raise TypeError(f"an image reference is a path, a PIL image or an array, not {type(ref).__name__}")
    with _naming(f"image {printable(ref)}"), _open(ref) as image:
        return _show(image, profiles)


def decode(content: bytes, name: str, profiles: bool = True) -> Image.Image:
    """Return the image that a file's bytes hold; as `load`.

    Args:
        content: of an image file.
        name: what an error calls it, such as "the reply's image".
    """
    with _naming(name), _open(io.BytesIO(content)) as image:
        return _show(image, profiles)


def read_note(path: str | Path, key: str) -> str | None:
    """Return a text that a PNG carries beside its pixels; None where it has none, or is no whole PNG."""
    try:
        with _naming(f"image {printable(path)}"), _open(path) as image:
            _check_size(image)
            return image.text.get(key) if image.format == "PNG" else None
    except ImageError:
        return None


class _NotShownError(ValueError):
    """A whole file whose pixels are no picture, or too many; the message says what to do about it."""


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Turn whatever a damaged file makes Pillow raise into an `ImageError` that names it."""
    try:
        yield
    except FileNotFoundError as error:
        raise ImageError(f"{name} does not exist; check the dataset's root") from error
    except _NotShownError as error:
        raise ImageError(f"{name} {error}") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{name} cannot be decoded (it is none of {', '.join(FORMATS)}); fetch it again") from error
    except Exception as error:  # decoders of hostile files raise anything: struct.error, SyntaxError, MemoryError, ...
        reason = printable(str(error) or type(error).__name__)
        raise ImageError(f"{name} cannot be decoded ({reason}); fetch it again") from error


@contextmanager
def _open(file: str | Path | io.BytesIO) -> Iterator[Image.Image]:
    """Open an image file without decoding it."""
    # A pipe or a device would be waited for, without end.
    if not isinstance(file, io.BytesIO) and not stat.S_ISREG(os.stat(file).st_mode):
        raise _NotShownError("is no file; give the path of an image")
    Image.init()
    formats = [name for name in FORMATS if name in Image.OPEN]
    try:
        opened = Image.open(file, formats=formats)
    except Image.DecompressionBombError as error:
        raise _NotShownError(f"states more than the {MAX_PIXELS:,} pixels that are decoded; make it smaller") from error
    except ValueError:  # of a PNG with a text or a colour profile above a megabyte
        content, profile = _without_notes(file.getvalue() if isinstance(file, io.BytesIO) else Path(file).read_bytes())
        opened = Image.open(io.BytesIO(content), formats=formats)
        opened.info["icc_profile"] = profile
    with opened as image:
        yield image


def _without_notes(content: bytes) -> tuple[bytes, bytes | None]:
    """Return a PNG without its texts and colour profile, and that profile; None above the size that viewers take."""
    kept, profile, place = [content[: len(_PNG)]], None, len(_PNG)
    if not content.startswith(_PNG):
        raise _NotShownError("cannot be decoded; fetch it again")
    while place < len(content):
        length = int.from_bytes(content[place : place + 4], "big") + 12
        kind, body = content[place + 4 : place + 8], content[place + 8 : place + length - 4]
        if kind == b"iCCP":
            inflate = zlib.decompressobj()
            with suppress(zlib.error):
                found = inflate.decompress(body.partition(b"\0")[2][1:], MAX_PROFILE)
                profile = found if inflate.eof else None
        elif kind not in (b"tEXt", b"zTXt", b"iTXt"):
            kept.append(content[place : place + length])
        place += length
    return b"".join(kept), profile


def _check_size(image: Image.Image) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise _NotShownError(
            f"states {image.width} x {image.height} pixels, more than the {MAX_PIXELS:,} that are decoded; "
            "make it smaller"
        )


def _show(image: Image.Image, profiles: bool) -> Image.Image:
    """Return what a viewer shows of an opened image, as RGB."""
    _check_size(image)
    rawmode = image.tile[0].args if getattr(image, "tile", None) else ""
    rawmode = rawmode[0] if isinstance(rawmode, tuple) and rawmode else rawmode
    image.load()
    turn = _UPRIGHT.get(_read_orientation(image))
    profile = image.info.get("icc_profile") if profiles else None
    colours, alpha = _split_alpha(image, rawmode)
    colours = _to_srgb(_to_8_bits(colours, rawmode), profile)
    if alpha is not None:
        colours = _on_white(colours, alpha)
    shown = colours if turn is None else colours.transpose(turn)
    shown = shown.copy() if shown is image else shown
    shown.info = {}  # orientation, profile and transparency are settled: nobody applies them a second time
    return shown


def _read_orientation(image: Image.Image) -> object:
    if not isinstance(image, ImageFile.ImageFile) and "exif" not in image.info:
        return None
    try:
        found = image.getexif().get(_ORIENTATION)
    except Exception:  # a viewer shows an image whose EXIF is damaged as it is stored
        return None
    return found if isinstance(found, int) else None


def _split_alpha(image: Image.Image, rawmode: object) -> tuple[Image.Image, Image.Image | None]:
    """Return an image's colours, in their own mode, and its alpha (mode L), None where nothing is transparent."""
    if image.mode == "La":
        image = image.convert("LA")
    if not image.has_transparency_data:
        return (image.convert("RGB") if image.mode == "P" else image), None
    if image.mode.startswith("I;16"):  # a transparent grey: Pillow's own conversion clips the others to white
        seen = np.asarray(image) != image.info["transparency"]
        return image, None if seen.all() else Image.fromarray(seen.astype(np.uint8) * 255)
    if image.mode == "RGB" and str(rawmode).startswith("RGB;16"):
        raise _NotShownError("has a transparent colour of 16 bits, of which 8 are read; save it with an alpha channel")
    if rawmode in _STRETCHED:
        image.info["transparency"] *= _STRETCHED[rawmode]
    opaque = "L" if image.mode in ("1", "L", "LA") else "RGB"
    full = image.convert("LA" if image.mode == "LA" else "RGBA")
    alpha = full.getchannel("A")
    if alpha.getextrema() == (255, 255):
        return image.convert(opaque), None
    return full.convert("RGB") if opaque == "RGB" else full.getchannel(0), alpha


def _to_8_bits(image: Image.Image, rawmode: object) -> Image.Image:
    """Return an image of 16-bit or float samples as mode L, any other as it is."""
    if image.mode.startswith("I;16"):
        values = np.asarray(image)
        values = values << 4 if rawmode == "I;12" else values
        values = (values >> 8).astype(np.uint8)  # the high byte, as Pillow takes of 16-bit colours
        white_is_zero = getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == 0
        return Image.fromarray(255 - values if white_is_zero else values)
    if image.mode == "I":
        values = np.asarray(image)
        if image.format != "PPM" or values.min() < 0 or values.max() > 65535:
            raise _NotShownError("has grey values of 32 bits and does not say which is white; save it with 8 or 16")
        return Image.fromarray((values >> 8).astype(np.uint8))
    if image.mode == "F":
        values = np.asarray(image)
        if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
            raise _NotShownError("has grey values that are floats beyond 0 to 1; save it with 8 or 16 bits")
        return Image.fromarray(np.rint(values * 255).astype(np.uint8))
    return image


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Return an image as RGB in sRGB; viewers too pass by a profile that is damaged or another mode's."""
    if image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return ImageCms.applyTransform(image, ImageCms.buildTransform(lab, srgb, "LAB", "RGB"))
    if profile:
        image = image if image.mode in _PROFILE_SPACES else image.convert("L" if image.mode == "1" else "RGB")
        if (transform := _find_transform(profile, image.mode)) is not None:
            return ImageCms.applyTransform(image, transform)
    return image if image.mode == "RGB" else image.convert("RGB")


@lru_cache(maxsize=32)
def _find_transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return the way from a colour profile to sRGB; None where there is none, or it changes nothing."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space.strip() != _PROFILE_SPACES[mode]:
            return None
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except Exception:  # a damaged profile: viewers show the stored numbers
        return None
    if mode == "CMYK":
        return transform
    steps = np.arange(0, 256, 15, dtype=np.uint8)  # 0, 15, ..., 255
    grid = np.stack(np.meshgrid(*[steps] * (3 if mode == "RGB" else 1)), -1).reshape(1, -1, 3 if mode == "RGB" else 1)
    probe = Image.fromarray(grid if mode == "RGB" else grid[..., 0])
    moved = np.asarray(ImageCms.applyTransform(probe, transform)).astype(int) - np.asarray(probe.convert("RGB"))
    return None if np.abs(moved).max() <= SRGB_SLACK else transform


def _on_white(colours: Image.Image, alpha: Image.Image) -> Image.Image:
    """Blend RGB on white; values are truncated, as in the public tokenizer's code."""
    rgb, opacity = np.asarray(colours), np.asarray(alpha)[..., None]  # (H, W, 3), (H, W, 1)
    blended = np.empty_like(rgb)
    for start in range(0, len(rgb), _BLENDED_ROWS):  # in bands: float64 takes eight times the image's memory
        rows = slice(start, start + _BLENDED_ROWS)
        share = opacity[rows] / 255.0
        blended[rows] = ((1 - share) * 255 + share * rgb[rows]).astype(np.uint8)
    return Image.fromarray(blended)


def to_array(refs: Iterable[ImageRef]) -> np.ndarray:
    """Stack equally sized images into a uint8 array (N, H, W, 3)."""
    return np.stack([np.asarray(load(ref)) for ref in refs])


def stacked(images: Sequence[np.ndarray]) -> np.ndarray:
    """Return images as one uint8 array (N, H, W, 3) where they have one size, else an object array (N,) of them."""
    if len({image.shape for image in images}) == 1:
        return np.stack(images)
    array = np.empty(len(images), object)
    for row, image in enumerate(images):
        array[row] = image
    return array


def to_pixels(array: np.ndarray):
    """Map a uint8 array (N, H, W, 3) to a float32 tensor (N, 3, H, W) in [-1, 1] (x / 255 * 2 - 1)."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(array)).permute(0, 3, 1, 2).float() / 255 * 2 - 1


def from_pixels(pixels) -> np.ndarray:
    """Map float pixels (N, 3, H, W), clamped to [-1, 1], to uint8 (N, H, W, 3), truncated as in the public code.

    Raises:
        ImageError: a pixel is NaN or infinite; as a byte it would be black.
    """
    if not pixels.isfinite().all():
        raise ImageError(f"pixels of {tuple(pixels.shape)} hold NaN or infinity, and are no image")
    scaled = (pixels.detach().float().clamp(-1, 1) + 1) / 2 * 255
    return scaled.permute(0, 2, 3, 1).byte().cpu().numpy()
