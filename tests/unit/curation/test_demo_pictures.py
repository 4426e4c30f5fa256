from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from annotations_schema.codes import FailureCode
from annotations_schema.images import DecodeLimits, ImageDecodeError, decode, probe
from curation.demo.pictures import boasting_png, bomb_png, exif_rotated, plain_jpeg


def test_the_bomb_is_a_small_and_valid_file_of_many_pixels() -> None:
    data = bomb_png()
    assert len(data) < 25_000
    header = probe(data, DecodeLimits(max_pixels=200_000_000))
    assert (header.width, header.height) == (12_000, 12_000)
    with pytest.warns(Image.DecompressionBombWarning), Image.open(io.BytesIO(data)) as image:
        image.verify()


@pytest.mark.parametrize("make", [bomb_png, boasting_png])
def test_bombs_are_refused_by_their_header(make: object) -> None:
    assert callable(make)
    with pytest.raises(ImageDecodeError) as caught:
        probe(make())
    assert caught.value.code is FailureCode.PIXEL_CAP


def test_the_rotated_picture_decodes_to_the_upright_one() -> None:
    upright, _ = decode(plain_jpeg())
    turned, header = decode(exif_rotated(plain_jpeg()))
    assert header.exif_orientation == 6
    assert (header.stored_width, header.stored_height) == (header.height, header.width)
    assert turned.shape == upright.shape
    assert np.abs(turned.astype(int) - upright).mean() < 2
