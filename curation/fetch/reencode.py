"""Encoding again under a cap of the side, so that the stored image is its frame.

The rule: an image whose longer side is over the cap, or that EXIF turns, is decoded by the one
decoder (first frame, orientation applied, transparency on white), shrunk to the cap and encoded
again without metadata. Every other image keeps its bytes.

Formats: lossless sources become PNG, because screenshots and graphics carry small text that JPEG
would smear; photographic formats become JPEG without chroma subsampling, for the same reason.
Nothing has transparency any more after decoding, so no format is chosen for it.

One image at a time is in memory, because img2dataset calls its resizer from one thread: at most
about 11 bytes per pixel of the cap on pixels.
"""

from __future__ import annotations

import io

from PIL import Image

from annotations_schema.images import DecodeLimits, ImageHeader, decode, probe

_LOSSLESS = frozenset({"png", "gif", "bmp", "tiff", "ico", "ppm"})
_TURNED = 2
"""The first EXIF orientation that changes the image."""


def needs_reencoding(header: ImageHeader, max_side: int) -> bool:
    """Whether an image is larger than the cap, or stored otherwise than upright."""
    is_larger = max(header.width, header.height) > max_side
    return is_larger or header.exif_orientation >= _TURNED


def reencode(
    data: bytes, max_side: int, quality: int, limits: DecodeLimits
) -> tuple[bytes, ImageHeader]:
    """The frame of an image, at most `max_side` px a side, as a file of its own, and its header.

    Args:
        data: an image file.
        max_side: px; a smaller frame keeps its size.
        quality: of a JPEG file, 1 to 100.
        limits: caps of the decoder.

    Raises:
        ImageDecodeError: as `decode`.
    """
    pixels, header = decode(data, limits)
    frame = Image.fromarray(pixels)
    del pixels  # a second copy of a large image is not needed any more
    scale = min(1.0, max_side / max(frame.size))
    if scale < 1.0:
        width, height = (max(1, round(side * scale)) for side in frame.size)
        frame = frame.resize((width, height), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    if header.format in _LOSSLESS:
        frame.save(buffer, "PNG")
    else:
        frame.save(buffer, "JPEG", quality=quality, subsampling=0)
    encoded = buffer.getvalue()
    return encoded, probe(encoded, limits)
