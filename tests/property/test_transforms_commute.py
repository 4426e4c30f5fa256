"""Cutting a window commutes with cutting the regions: the region crop of the training image is the
region crop of the stored image, up to resampling."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import data

from annotations_schema import geometry
from training.data.transforms import (
    AnnotatedImage,
    CropConfig,
    Window,
    choose_window,
    cut_window,
    window_affine,
)

PORTRAIT = data.astronaut()  # 512 x 512, a face at about (170..280, 70..190)
FACE_BOX = np.array([[170.0, 65.0, 280.0, 200.0]], dtype=np.float32)
LANDMARKS = np.array([[[205, 113], [242, 111], [225, 136], [210, 157], [241, 155]]])
FIT = geometry.fit_similarity(LANDMARKS[0])
PAGE = np.stack([data.page()] * 3, axis=-1)  # 191 x 384, printed text
WORDS = np.array([[30.0, 20.0, 130.0, 52.0]], dtype=np.float32)


def portrait():
    return AnnotatedImage("f" * 32, PORTRAIT, WORDS[:0], FACE_BOX, FIT.matrix[None], True)


def page():
    return AnnotatedImage("e" * 32, PAGE, WORDS, WORDS[:0], np.zeros((0, 2, 3)), is_text_free=False)


@st.composite
def windows_around(draw, box, width, height, is_mirrored):
    """Windows that hold the whole box, at most four times reduced or twice enlarged at 128 px."""
    x0, y0, x1, y1 = (float(v) for v in box)
    least = int(max(np.ceil(max(x1 - x0, y1 - y0)) + 4, 64))
    side = draw(st.integers(least, min(width, height)))
    left = draw(st.integers(max(0, int(np.ceil(x1)) - side), min(width - side, int(x0))))
    top = draw(st.integers(max(0, int(np.ceil(y1)) - side), min(height - side, int(y0))))
    return Window(left, top, side, draw(is_mirrored))


@settings(max_examples=40, deadline=None)
@given(windows_around(FACE_BOX[0], 512, 512, st.booleans()))
def test_the_face_canvas_of_a_window_is_the_face_canvas_of_the_stored_image(window):
    sample = cut_window(portrait(), window, CropConfig(size_px=256))
    assert len(sample.crop_from_image) == 1
    stored = geometry.warp_affine(PORTRAIT, FIT.matrix).astype(np.float64)
    cut = geometry.warp_affine(sample.image, sample.crop_from_image[0]).astype(np.float64)
    white = np.full_like(sample.image, 255)
    inside = geometry.warp_affine(white, sample.crop_from_image[0])[..., 0] == 255
    # Resampling blurs a little; a wrong map costs far more: see the next test.
    assert inside.mean() > 0.6
    assert np.abs(stored - cut)[inside].mean() < 5.0


@settings(max_examples=20, deadline=None)
@given(windows_around(FACE_BOX[0], 512, 512, st.just(False)))
def test_a_canvas_map_that_did_not_move_shows_something_else(window):
    sample = cut_window(portrait(), window, CropConfig(size_px=256))
    stored = geometry.warp_affine(PORTRAIT, FIT.matrix).astype(np.float64)
    wrong = geometry.warp_affine(sample.image, FIT.matrix).astype(np.float64)
    mirrored = geometry.warp_affine(sample.image[:, ::-1], sample.crop_from_image[0])
    if window != Window(0, 0, 256, False):
        assert np.abs(stored - wrong).mean() > 12.0
    assert np.abs(stored - mirrored).mean() > 12.0


@settings(max_examples=30, deadline=None)
@given(windows_around(FACE_BOX[0], 512, 512, st.booleans()))
def test_theta_samples_the_same_canvas_as_the_matrix(window):
    sample = cut_window(portrait(), window, CropConfig(size_px=256))
    pixels = torch.from_numpy(sample.image.copy()).permute(2, 0, 1)[None].double()
    theta = torch.from_numpy(sample.face_theta).double()
    grid = torch.nn.functional.affine_grid(theta, [1, 3, 112, 112], align_corners=False)
    sampled = torch.nn.functional.grid_sample(pixels, grid, align_corners=False)
    warped = geometry.warp_affine(sample.image, sample.crop_from_image[0])
    difference = np.abs(sampled[0].permute(1, 2, 0).numpy() - warped)
    # warp_affine rounds its positions to 1/32 px, as OpenCV does.
    assert np.quantile(difference, 0.99) < 4.0


@settings(max_examples=40, deadline=None)
@given(windows_around(WORDS[0], 384, 191, st.just(False)))
def test_the_words_in_a_moved_box_are_the_words_in_the_stored_box(window):
    sample = cut_window(page(), window, CropConfig(size_px=256))
    stored, cut = banner(PAGE, WORDS[0]), banner(sample.image, sample.text_boxes[0])
    assert np.abs(stored - cut).mean() < 6.0


def test_a_box_two_pixels_off_holds_other_pixels():
    window = Window(10, 0, 160, False)
    sample = cut_window(page(), window, CropConfig(size_px=256))
    stored, shifted = banner(PAGE, WORDS[0]), banner(sample.image, sample.text_boxes[0] + 2.0)
    assert np.abs(stored - shifted).mean() > 9.0


@given(
    st.integers(1, 400),
    st.integers(1, 400),
    st.integers(0, 2**31),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_boxes_move_like_the_corners_of_the_window(width, height, seed, is_text_free):
    blank = np.zeros((height, width, 3), dtype=np.uint8)
    faces = np.zeros((0, 2, 3))
    source = AnnotatedImage("a" * 32, blank, WORDS[:0], WORDS[:0], faces, is_text_free)
    window = choose_window(np.random.default_rng(seed), source.annotation, CropConfig(size_px=48))
    matrix = window_affine(window, 48)
    box = [window.x0, window.y0, window.x0 + window.side_px, window.y0 + window.side_px]
    np.testing.assert_allclose(geometry.transform_boxes([box], matrix), [[0, 0, 48, 48]], atol=1e-9)
    assert min(box) >= 0
    assert box[2] <= width
    assert box[3] <= height


def banner(image, box):
    """The box's pixels on a 24 x 76 canvas, bilinear, float."""
    x0, y0, x1, y1 = (float(v) for v in box)
    edge = geometry.compose(
        geometry.resize_affine(76 / (x1 - x0), 24 / (y1 - y0)), geometry.crop_affine(x0, y0)
    )
    return geometry.warp_affine(image, geometry.to_pixel_centers(edge), (24, 76)).astype(float)
