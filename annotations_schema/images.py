"""The one decoder: from a file's bytes to the frame that every coordinate of a manifest lives in.

Detectors, the report and the trainer all call `decode`, so that a box drawn by one fits the pixels
of the others. It needs Pillow, which the extras `curation` and `training` bring; the rest of the
package does not.

Rules, in this order:

1. **Header first.** Format, size and orientation are read before any pixel; the caps on pixels and
   on the longer side apply there, so a decompression bomb is refused at the cost of its header.
2. **The first frame** of an animation is the image.
3. **Truncated or damaged is an error**, never grey bands; the checksums of a PNG are checked.
4. **Sixteen-bit, integer and float grey** are scaled to eight bits by their full range (65,535 for
   integers; float in [0, 1]).
5. **CMYK, YCbCr, LAB, palette and grey** are converted to RGB by Pillow; embedded ICC profiles are
   not applied, as in the detectors' own training pipelines.
6. **Transparency** is composed onto white.
7. **EXIF orientation** is applied last: width and height are those of the turned image.
"""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from annotations_schema.codes import REASON_MAX_CHARACTERS, FailureCode
from annotations_schema.errors import InsightTokError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "ICO", "PPM")
"""Formats that are tried, Pillow's names; anything else is FORMAT_UNSUPPORTED or NOT_AN_IMAGE."""

_EXIF_ORIENTATION = 0x0112
_TRANSPOSED = frozenset({5, 6, 7, 8})
# From stored pixels (rows, columns, channels) to upright ones, by EXIF orientation (0: no tag).
_UPRIGHT: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    0: lambda p: p,
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.transpose(1, 0, 2),
    6: lambda p: p.transpose(1, 0, 2)[:, ::-1],
    7: lambda p: p[::-1, ::-1].transpose(1, 0, 2),
    8: lambda p: p.transpose(1, 0, 2)[::-1],
}
# What Pillow's plugins raise on damaged files (their documented and observed set).
_DAMAGED = (
    OSError,
    ValueError,
    SyntaxError,
    IndexError,
    KeyError,
    struct.error,
    EOFError,
    TypeError,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodeLimits:
    """Caps that are checked on the header, before any pixel is decoded."""

    max_pixels: int = 100_000_000
    """Most pixels of the first frame; 100 million RGB pixels are 300 MB."""
    max_side: int = 32_768
    """Longest side, pixels."""


class ImageHeader(NamedTuple):
    """What a file's header says.

    format: lower-case name such as "jpeg" or "png".
    stored_width, stored_height: pixels as stored, before EXIF orientation.
    exif_orientation: 1 to 8, or 0 where the file has none.
    width, height: pixels of the frame, EXIF orientation applied.
    """

    format: str
    stored_width: int
    stored_height: int
    exif_orientation: int
    width: int
    height: int


class ImageDecodeError(InsightTokError):
    """Bytes that give no usable image; `code` says why, `detail` in which words."""

    def __init__(self, code: FailureCode, detail: str) -> None:
        self.code = code
        self.detail = detail[:REASON_MAX_CHARACTERS]
        super().__init__(f"{code}: {self.detail}")

    def __reduce__(self) -> tuple[type[ImageDecodeError], tuple[FailureCode, str]]:
        return type(self), (self.code, self.detail)


DEFAULT_LIMITS = DecodeLimits()


def probe(data: bytes, limits: DecodeLimits = DEFAULT_LIMITS) -> ImageHeader:
    """Read the header of an image and check the caps; no pixel is decoded.

    Raises:
        ImageDecodeError: NOT_AN_IMAGE, FORMAT_UNSUPPORTED, DECODE_CORRUPT or PIXEL_CAP.
    """
    image, header = _open(data, limits)
    image.close()
    return header


def decode(
    data: bytes,
    limits: DecodeLimits = DEFAULT_LIMITS,
    *,
    window: tuple[int, int, int, int] | None = None,
) -> tuple[NDArray[np.uint8], ImageHeader]:
    """Decode an image by the rules of this module.

    Args:
        data: the file.
        limits: caps.
        window: (x0, y0, x1, y1) of the upright image in whole pixels, if only this part is wanted;
            most files then cost less. What lies outside of the image is cut off.

    Returns:
        (H, W, 3) uint8 RGB in [0, 255] with EXIF orientation applied, C-contiguous; the header of
        the whole image.

    Raises:
        ImageDecodeError: as `probe`, and DECODE_TRUNCATED or DECODE_CORRUPT.
    """
    image, header = _open(data, limits)
    try:
        with image, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd metadata that cannot matter here
            if image.format == "PNG":
                _check_png(data)
            image.load()
            is_plain = image.mode == "RGB" and "transparency" not in image.info
            if window is not None and is_plain and header.exif_orientation in {0, 1}:
                return np.array(image.crop(_inside(window, header))), header
            pixels = np.array(_to_rgb(image), dtype=np.uint8)
    except Image.DecompressionBombError as error:
        raise ImageDecodeError(FailureCode.PIXEL_CAP, str(error)) from error
    except MemoryError as error:
        raise ImageDecodeError(FailureCode.PIXEL_CAP, "out of memory while decoding") from error
    except _DAMAGED as error:
        raise ImageDecodeError(_damage_code(error), f"{type(error).__name__}: {error}") from error
    if header.format != "tiff":  # Pillow turns TIFF itself while loading
        pixels = np.ascontiguousarray(_UPRIGHT[header.exif_orientation](pixels))
    if pixels.shape != (header.height, header.width, 3):
        found = f"{pixels.shape[1]}x{pixels.shape[0]}"
        detail = f"decoded to {found}, the header says {header.width}x{header.height}"
        raise ImageDecodeError(FailureCode.DECODE_CORRUPT, detail)
    if window is not None:
        x0, y0, x1, y1 = _inside(window, header)
        pixels = np.ascontiguousarray(pixels[y0:y1, x0:x1])
    return pixels, header


def perceptual_hash(image: NDArray[np.uint8]) -> int:
    """A 64-bit difference hash: equal or near for re-encoded or resized copies.

    Each bit says whether a pixel of the 8 x 9 grey thumbnail is darker than its right neighbour
    (dHash). Compare two by the number of differing bits.

    Args:
        image: (H, W, 3) uint8 RGB.
    """
    thumbnail = Image.fromarray(image).convert("L").resize((9, 8), Image.Resampling.BOX)
    grey = np.asarray(thumbnail, dtype=np.int16)
    bits = (grey[:, 1:] > grey[:, :-1]).ravel()
    return int(np.packbits(bits).view(">u8")[0])


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)  # AVIF is optional in Pillow


def _open(data: bytes, limits: DecodeLimits) -> tuple[Image.Image, ImageHeader]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the caps below replace Pillow's bomb warning
            image = Image.open(io.BytesIO(data), formats=_formats())
            orientation = _orientation(image)
    except Image.DecompressionBombError as error:
        raise ImageDecodeError(FailureCode.PIXEL_CAP, str(error)) from error
    except UnidentifiedImageError as error:
        raise ImageDecodeError(*_unidentified(data)) from error
    except _DAMAGED as error:
        raise ImageDecodeError(_damage_code(error), f"{type(error).__name__}: {error}") from error
    first, second = image.size
    swapped = (second, first) if orientation in _TRANSPOSED else (first, second)
    # Pillow reports a TIFF's upright size, and the stored size of every other format.
    stored, upright = (swapped, image.size) if image.format == "TIFF" else (image.size, swapped)
    header = ImageHeader((image.format or "").lower(), *stored, orientation, *upright)
    pixels = first * second
    if pixels > limits.max_pixels or max(image.size) > limits.max_side:
        image.close()
        detail = (
            f"{header.width}x{header.height} is {pixels} pixels; the caps are "
            f"{limits.max_pixels} pixels and {limits.max_side} a side"
        )
        raise ImageDecodeError(FailureCode.PIXEL_CAP, detail)
    if pixels == 0:
        raise ImageDecodeError(FailureCode.DECODE_CORRUPT, "an image without pixels")
    return image, header


def _inside(window: tuple[int, int, int, int], header: ImageHeader) -> tuple[int, int, int, int]:
    x0, y0, x1, y1 = window
    return max(x0, 0), max(y0, 0), min(x1, header.width), min(y1, header.height)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 0 where absent or damaged: the pixels are good all the same."""
    try:
        value = image.getexif().get(_EXIF_ORIENTATION, 0)
    except _DAMAGED:
        return 0
    return value if isinstance(value, int) and 1 <= value <= 8 else 0


def _check_png(data: bytes) -> None:
    # Pillow decodes image chunks without their checksums, and does not ask for the last chunk.
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        image.verify()


def _unidentified(data: bytes) -> tuple[FailureCode, str]:
    head = data[:512].lstrip().lower()
    if head.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<svg")):
        kind = "SVG" if b"<svg" in head else "HTML or XML"
        code = FailureCode.FORMAT_UNSUPPORTED if kind == "SVG" else FailureCode.NOT_AN_IMAGE
        return code, f"the bytes are {kind}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data)) as image:
                return FailureCode.FORMAT_UNSUPPORTED, f"format {image.format}"
    except (UnidentifiedImageError, Image.DecompressionBombError, *_DAMAGED):
        return FailureCode.NOT_AN_IMAGE, f"no known image format in {len(data)} bytes"


def _damage_code(error: Exception) -> FailureCode:
    words = str(error).lower()
    is_short = isinstance(error, EOFError) or any(
        hint in words for hint in ("truncated", "unexpected end", "not enough", "no more data")
    )
    return FailureCode.DECODE_TRUNCATED if is_short else FailureCode.DECODE_CORRUPT


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        return _eight_bit_grey(image).convert("RGB")
    if image.mode in {"RGBA", "LA", "PA", "La", "RGBa"} or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _eight_bit_grey(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.float64)
    full_range = 1.0 if image.mode.startswith("F") and values.max(initial=0.0) <= 1.0 else 65535.0
    return Image.fromarray(np.rint(np.clip(values / full_range, 0, 1) * 255).astype(np.uint8))
