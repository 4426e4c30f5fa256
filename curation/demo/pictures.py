"""Image files for the trouble server that are made, not found: bombs, rotated and plain ones."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image

_EXIF_ORIENTATION = 0x0112
_BOMB_SIDE_PX = 12_000
_BOAST_SIDE_PX = 100_000


def plain_jpeg(width: int = 160, height: int = 120) -> bytes:
    """A small JPEG with a coloured gradient."""
    x = np.linspace(0, 255, width, dtype=np.uint8)[None, :].repeat(height, axis=0)
    y = np.linspace(0, 255, height, dtype=np.uint8)[:, None].repeat(width, axis=1)
    return _jpeg(Image.fromarray(np.stack([x, y, 255 - x], axis=2)))


def exif_rotated(picture: bytes) -> bytes:
    """The picture stored on its side with EXIF orientation 6, which turns it upright again."""
    with Image.open(io.BytesIO(picture)) as image:
        on_its_side = image.convert("RGB").transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[_EXIF_ORIENTATION] = 6
    return _jpeg(on_its_side, exif)


def bomb_png() -> bytes:
    """A valid one-bit PNG of 144 million black pixels in 18 kB."""
    row = bytes(1 + _BOMB_SIDE_PX // 8)
    packer = zlib.compressobj(9)
    packed = [packer.compress(row) for _ in range(_BOMB_SIDE_PX)]
    return _png(_BOMB_SIDE_PX, b"".join([*packed, packer.flush()]))


def boasting_png() -> bytes:
    """A PNG whose header claims 10,000 million pixels, with no more behind it than a few bytes."""
    return _png(_BOAST_SIDE_PX, zlib.compress(bytes(64)))


def _jpeg(image: Image.Image, exif: Image.Exif | None = None) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=92, exif=Image.Exif() if exif is None else exif)
    return buffer.getvalue()


def _png(side_px: int, idat: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", side_px, side_px, 1, 0, 0, 0, 0)  # 1 bit grey
    chunks = [_chunk(b"IHDR", header), _chunk(b"IDAT", idat), _chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    checksum = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)
