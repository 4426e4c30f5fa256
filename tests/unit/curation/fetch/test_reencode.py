from __future__ import annotations

import io
import tracemalloc
from typing import Any

import numpy as np
import pytest
from PIL import Image

from annotations_schema.codes import FailureCode
from annotations_schema.images import DecodeLimits, ImageDecodeError, decode, probe
from curation.demo.pictures import exif_rotated, plain_jpeg
from curation.fetch.reencode import needs_reencoding, reencode

LIMITS = DecodeLimits()


def encoded(mode: str, size: tuple[int, int], kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    ramp = np.linspace(0, 255, size[0] * size[1]).reshape(size[1], size[0]).astype(np.uint8)
    Image.fromarray(ramp).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("mode", "kind", "becomes"),
    [
        ("RGB", "JPEG", "jpeg"),
        ("RGB", "WEBP", "jpeg"),
        ("CMYK", "JPEG", "jpeg"),
        ("RGBA", "PNG", "png"),
        ("P", "GIF", "png"),
        ("L", "TIFF", "png"),
        ("RGB", "BMP", "png"),
    ],
)
def test_lossless_sources_stay_lossless_and_photographs_become_jpeg(
    mode: str, kind: str, becomes: str
) -> None:
    data, header = reencode(encoded(mode, (200, 100), kind), 50, 95, LIMITS)
    assert (header.format, header.width, header.height, header.exif_orientation) == (
        *(becomes, 50, 25, 0),
    )
    assert header == probe(data)


def test_the_stored_image_is_the_turned_frame() -> None:
    picture = exif_rotated(plain_jpeg(160, 120))
    frame, _ = decode(picture)
    data, header = reencode(picture, 1000, 100, LIMITS)
    with Image.open(io.BytesIO(data)) as image:
        assert image.getexif() == {}
        stored = np.asarray(image)  # without looking at any orientation
    assert stored.shape == frame.shape == (header.height, header.width, 3)
    assert np.abs(stored.astype(int) - frame).mean() < 2


def test_a_shrunk_picture_looks_like_the_frame() -> None:
    data, _ = reencode(plain_jpeg(400, 300), 100, 95, LIMITS)
    frame, _ = decode(plain_jpeg(400, 300))
    shrunk, _ = decode(data)
    assert np.abs(shrunk.astype(int) - frame[::4, ::4]).mean() < 4


def test_a_side_never_falls_below_one_pixel() -> None:
    _, header = reencode(encoded("RGB", (3000, 2), "PNG"), 100, 95, LIMITS)
    assert (header.width, header.height) == (100, 1)


def test_only_larger_and_turned_images_are_encoded_again() -> None:
    upright, turned = plain_jpeg(100, 80), exif_rotated(plain_jpeg(100, 80))
    assert not needs_reencoding(probe(upright), 100)
    assert needs_reencoding(probe(upright), 99)
    assert needs_reencoding(probe(turned), 1000)


def test_what_does_not_decode_keeps_its_code() -> None:
    data = plain_jpeg(400, 300)
    with pytest.raises(ImageDecodeError) as caught:
        reencode(data[: len(data) // 2], 100, 95, LIMITS)
    assert caught.value.code is FailureCode.DECODE_TRUNCATED


def test_memory_is_bounded_by_the_pixels() -> None:
    data = encoded("RGB", (4000, 3000), "JPEG")
    reencode(plain_jpeg(40, 30), 20, 95, LIMITS)  # plugins are loaded now
    tracemalloc.start()
    reencode(data, 200, 95, LIMITS)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 4000 * 3000  # arrays; Pillow's own images are not counted
