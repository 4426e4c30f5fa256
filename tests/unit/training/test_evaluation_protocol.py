"""Padding, scaling and back; JPEG within a budget."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from annotations_schema import UsageError
from training.evaluation.fidelity import psnr_db
from training.evaluation.jpeg import JpegAtBits, jpeg_at_bits, scan_bits
from training.evaluation.protocol import (
    frame,
    framing_of,
    reconstruct_square,
    unframe,
    without_padding,
)

sides = st.integers(1, 5000)


@given(sides, sides, st.sampled_from([256, 512, 1024]))
def test_every_image_fits_its_square_and_touches_two_edges(width, height, side):
    framing = framing_of(width, height, side)
    (left, top), (w, h) = framing.offset, framing.scaled_size
    assert max(w, h) == side
    assert min(w, h) >= 1
    assert 0 <= left == (side - w) // 2
    assert 0 <= top == (side - h) // 2
    assert min(left, top) == 0


def test_framing_is_that_of_tokbench():
    # scale = min(256 / 640, 256 / 427); the height is 170.8, rounded up.
    framing = framing_of(640, 427, 256)
    assert framing.scaled_size == (256, 171)
    assert framing.offset == (0, 42)


def test_the_square_is_black_around_the_scaled_image(coffee):
    square, framing = frame(coffee, 256)
    assert square.shape == (256, 256, 3)
    (left, top), (width, height) = framing.offset, framing.scaled_size
    expected = Image.fromarray(coffee).resize((width, height), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(square[top : top + height, left : left + width], expected)
    assert square[:top].max() == square[top + height :].max() == 0


@pytest.mark.parametrize(
    "shape", [(400, 600), (601, 333), (100, 90), (256, 256), (17, 900), (1, 1)]
)
def test_the_way_back_gives_exactly_the_size_of_the_image(coffee, shape):
    image = np.resize(coffee, (*shape, 3))
    square, framing = frame(image, 256)
    assert unframe(square, framing).shape == image.shape


def test_a_square_image_of_the_right_size_passes_unchanged(astronaut):
    square, framing = frame(astronaut, 512)
    np.testing.assert_array_equal(square, astronaut)
    np.testing.assert_array_equal(unframe(square, framing), astronaut)


def test_a_small_image_survives_scaling_up_and_back(coffee):
    small = coffee[100:190, 200:320]
    square, framing = frame(small, 512)
    assert psnr_db(small, unframe(square, framing)) > 40


@pytest.mark.parametrize(
    "wrong", [lambda x: x[:-1], lambda x: x.astype(np.float32), lambda x: None, lambda x: [x]]
)
def test_a_tokenizer_that_returns_something_else_is_named(wrong):
    with pytest.raises(UsageError, match="tokenizer 'odd' returned"):
        reconstruct_square("odd", wrong, np.zeros((256, 256, 3), np.uint8))


@pytest.mark.parametrize("budget", [3_584, 14_336, 60_000])
def test_jpeg_keeps_its_budget_and_more_bits_look_better(astronaut, budget):
    image = astronaut[::2, ::2]
    low, high = jpeg_at_bits(image, budget), jpeg_at_bits(image, 2 * budget)
    assert low.image.shape == image.shape
    assert (low.bits <= budget, high.bits <= 2 * budget) == (True, True)
    assert psnr_db(image, low.image) < psnr_db(image, high.image)


def test_jpeg_uses_the_largest_quality_that_fits(astronaut):
    image = astronaut[::2, ::2]
    sizes = {}
    for quality in range(1, 96):
        file = io.BytesIO()
        Image.fromarray(image).save(
            file, "JPEG", quality=quality, optimize=True, subsampling="4:2:0"
        )
        sizes[quality] = (scan_bits(file.getvalue()), np.asarray(Image.open(file)))
    budget = 100_000
    best = max(quality for quality, (bits, _) in sizes.items() if bits <= budget)
    assert 20 < best < 95
    np.testing.assert_array_equal(jpeg_at_bits(image, budget).image, sizes[best][1])
    assert jpeg_at_bits(image, budget).bits == sizes[best][0]


def test_scan_bits_count_what_lies_between_the_scan_header_and_the_end():
    file = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(file, "JPEG", subsampling="4:4:4")
    data = file.getvalue()
    start = data.index(b"\xff\xda") + 2 + 12  # the header of a scan of three components: 12 bytes
    assert data.endswith(b"\xff\xd9")
    assert scan_bits(data) == 8 * (len(data) - start - 2)


def test_a_budget_below_everything_gives_the_smallest_jpeg_and_its_real_bits(astronaut):
    image = astronaut[::2, ::2]
    small = Image.fromarray(image).resize((16, 16), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=1, optimize=True, subsampling="4:2:0")
    least = scan_bits(file.getvalue())
    jpeg = JpegAtBits(budget_bits=least - 8)
    assert jpeg(image).shape == image.shape
    assert (jpeg.spent_bits, jpeg.mean_bits, jpeg.num_over) == ([least], least, 1)
    enough = JpegAtBits(budget_bits=least)
    enough(image)
    assert (enough.spent_bits, enough.num_over) == ([least], 0)


def test_a_tokenizer_may_overwrite_what_it_is_given():
    def in_place(image):
        image[:] = 7
        return image

    square = np.zeros((256, 256, 3), np.uint8)
    assert (reconstruct_square("odd", in_place, square) == 7).all()
    assert not square.any()


def test_the_picture_without_padding_is_what_was_framed(coffee):
    square, framing = frame(coffee, 256)
    inside = without_padding(square, framing)
    assert inside.shape == (171, 256, 3)
    assert square.astype(int).sum() == inside.astype(int).sum()
