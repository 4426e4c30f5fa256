"""Pixels and regions move together, and only usable regions stay."""

import numpy as np
import pytest
import torch
from PIL import Image

from annotations_schema import geometry
from annotations_schema.errors import UsageError
from training.data.transforms import (
    AnnotatedImage,
    CropConfig,
    Window,
    canvas_inside,
    choose_window,
    cut_window,
    random_sample,
)

CONFIG = CropConfig(size_px=64)


def annotated(
    width=200, height=120, text_boxes=(), face_boxes=(), crop_from_image=None, is_text_free=False
):
    """An image whose red and green channels are its column and row."""
    columns, rows = np.meshgrid(np.arange(width), np.arange(height))
    image = np.stack([columns, rows, np.zeros_like(rows)], axis=-1).astype(np.uint8)
    faces = np.asarray(face_boxes, dtype=np.float32).reshape(-1, 4)
    if crop_from_image is None:
        crop_from_image = np.stack([face_canvas(box) for box in faces]) if len(faces) else []
    return AnnotatedImage(
        image_id="0" * 32,
        image=image,
        text_boxes=np.asarray(text_boxes, dtype=np.float32).reshape(-1, 4),
        face_boxes=faces,
        crop_from_image=np.asarray(crop_from_image, dtype=np.float64).reshape(-1, 2, 3),
        is_text_free=is_text_free,
    )


def face_canvas(box):
    """A canvas map that shows exactly this square box (edge coordinates)."""
    scale = geometry.CANVAS_PX / (box[2] - box[0])
    edge = geometry.compose(
        geometry.resize_affine(scale, scale), geometry.crop_affine(box[0], box[1])
    )
    return geometry.to_pixel_centers(edge)


def rng(seed=0):
    return np.random.default_rng(seed)


def test_a_window_of_the_training_size_copies_pixels_exactly():
    source = annotated()
    sample = cut_window(source, Window(30, 20, 64, is_mirrored=False), CONFIG)
    np.testing.assert_array_equal(sample.image, source.image[20:84, 30:94])


def test_a_mirrored_window_copies_pixels_in_reverse():
    source = annotated()
    sample = cut_window(source, Window(30, 20, 64, is_mirrored=True), CONFIG)
    np.testing.assert_array_equal(sample.image, source.image[20:84, 30:94][:, ::-1])


@pytest.fixture
def every_warning():
    """torch warns of read-only arrays only once a process otherwise."""
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    yield
    torch.set_warn_always(before)


@pytest.mark.parametrize("is_mirrored", [False, True])
def test_read_only_pixels_are_resized_without_a_warning_and_stay_as_they_are(
    is_mirrored, every_warning
):
    source, window = annotated(), Window(30, 20, 100, is_mirrored)
    before, expected = source.image.copy(), cut_window(source, window, CONFIG).image
    source.image.flags.writeable = False

    sample = cut_window(source, window, CONFIG)

    np.testing.assert_array_equal(sample.image, expected)
    np.testing.assert_array_equal(source.image, before)


def test_a_text_box_moves_with_the_window_and_its_weight_is_of_the_visible_part():
    source = annotated(text_boxes=[[20, 30, 60, 50]])
    # The window starts at x = 40: the right half of the box, 20 of 40 px, is visible.
    sample = cut_window(source, Window(40, 20, 32, is_mirrored=False), CONFIG)
    np.testing.assert_allclose(sample.text_boxes, [[0, 20, 40, 60]])
    np.testing.assert_allclose(sample.text_weight, [40 * 40 / 64**2])


@pytest.mark.parametrize(
    ("box", "stays"),
    [
        pytest.param([0, 0, 40, 20], True, id="whole"),
        pytest.param([44, 10, 84, 30], True, id="half-visible"),
        pytest.param([46, 10, 86, 30], False, id="under-half-visible"),
        pytest.param([100, 10, 140, 30], False, id="outside"),
        pytest.param([10, 10, 50, 18], True, id="8-px-high"),
        pytest.param([10, 10, 50, 17.5], False, id="under-8-px-high"),
        pytest.param([10, 10, 10, 30], False, id="no-width"),
    ],
)
def test_text_boxes_stay_only_where_visible_and_high_enough(box, stays):
    source = annotated(text_boxes=[box])
    sample = cut_window(source, Window(0, 0, 64, is_mirrored=False), CONFIG)
    assert len(sample.text_boxes) == len(sample.text_weight) == int(stays)


def test_a_region_outside_the_window_weighs_nothing():
    source = annotated(text_boxes=[[150, 80, 190, 100]], face_boxes=[[130, 70, 170, 110]])
    sample = cut_window(source, Window(0, 0, 64, is_mirrored=False), CONFIG)
    assert sample.text_weight.sum() == 0.0
    assert sample.face_weight.sum() == 0.0


@pytest.mark.parametrize(
    ("x0", "stays"),
    [
        pytest.param(30, True, id="inside"),
        pytest.param(49, True, id="62-percent-of-the-canvas"),
        pytest.param(53, False, id="52-percent-of-the-canvas"),
    ],
)
def test_faces_stay_only_with_enough_of_the_canvas_inside(x0, stays):
    # The canvas is the box [30, 70] x [20, 60]; the window starts at x0 and cuts its left.
    source = annotated(face_boxes=[[30, 20, 70, 60]])
    sample = cut_window(source, Window(x0 - 4, 10, 64, is_mirrored=False), CONFIG)
    assert len(sample.face_theta) == len(sample.face_weight) == int(stays)


def test_small_faces_are_dropped():
    source = annotated(face_boxes=[[30, 20, 49, 39]])
    assert len(cut_window(source, Window(10, 10, 64, is_mirrored=False), CONFIG).face_theta) == 0
    assert len(cut_window(source, Window(20, 10, 48, is_mirrored=False), CONFIG).face_theta) == 1


def test_share_of_the_canvas_inside_is_measured():
    whole = face_canvas([0.0, 0.0, 40.0, 40.0])[None]
    half = face_canvas([-20.0, 0.0, 20.0, 40.0])[None]
    outside = face_canvas([-50.0, 0.0, -10.0, 40.0])[None]
    crop_from_image = np.concatenate([whole, half, outside])
    shares = canvas_inside(geometry.grid_sample_theta(crop_from_image, (64, 64)))
    np.testing.assert_allclose(shares, [1.0, 0.5, 0.0])


def test_images_that_may_hold_text_are_never_mirrored():
    unknown = annotated(is_text_free=False)
    free = annotated(is_text_free=True)
    assert not any(choose_window(rng(i), unknown.annotation, CONFIG).is_mirrored for i in range(50))
    mirrored = [choose_window(rng(i), free.annotation, CONFIG).is_mirrored for i in range(200)]
    assert 60 < sum(mirrored) < 140


def test_region_focus_brings_regions_into_the_window():
    source = annotated(width=400, height=300, text_boxes=[[350, 20, 390, 40]])
    shares = {}
    for focus in (0.0, 1.0):
        config = CropConfig(size_px=64, region_focus=focus, min_window=0.25)
        samples = [random_sample(source, config, seed=1, stream_position=p) for p in range(60)]
        shares[focus] = np.mean([len(s.text_boxes) for s in samples])
    assert shares[1.0] == 1.0
    assert shares[0.0] < 0.3


def test_a_focused_window_keeps_small_text_legible():
    # 12 px high in 480: the whole short side would shrink it to under 2 px.
    source = annotated(width=640, height=480, text_boxes=[[300, 200, 380, 212]])
    config = CropConfig(size_px=64, region_focus=1.0)
    for position in range(30):
        window = choose_window(rng(position), source.annotation, config)
        assert 12 * 64 / window.side_px >= config.min_text_px


def test_windows_stay_inside_the_image_and_above_the_least_share():
    for seed in range(100):
        window = choose_window(rng(seed), annotated().annotation, CONFIG)
        assert 60 <= window.side_px <= 120
        assert 0 <= window.x0 <= 200 - window.side_px
        assert 0 <= window.y0 <= 120 - window.side_px


def test_a_strip_of_one_pixel_still_gives_a_sample():
    sample = random_sample(annotated(width=1, height=200), CONFIG, seed=0, stream_position=0)
    assert sample.image.shape == (64, 64, 3)


def test_a_sample_is_a_pure_function_of_seed_and_position():
    source = annotated(text_boxes=[[20, 30, 60, 50]], face_boxes=[[100, 20, 150, 70]])
    one = random_sample(source, CONFIG, seed=5, stream_position=9)
    again = random_sample(source, CONFIG, seed=5, stream_position=9)
    for a, b in zip(one, again, strict=True):
        np.testing.assert_array_equal(a, b)
    others = [
        random_sample(source, CONFIG, seed=s, stream_position=p) for s, p in ((5, 10), (6, 9))
    ]
    assert all(not np.array_equal(one.image, other.image) for other in others)


def test_values_outside_their_range_are_refused_in_one_line():
    with pytest.raises(UsageError, match=r"crop\.region_focus=1\.5 is outside \[0, 1\]"):
        CropConfig(region_focus=1.5)
    with pytest.raises(UsageError, match=r"crop\.min_window=0 is outside"):
        CropConfig(min_window=0)


@pytest.mark.parametrize("side", [40, 64, 100, 128])
def test_windows_are_resized_as_pillow_does_with_a_filter_that_widens(side):
    source = annotated()
    side = min(side, *source.image.shape[:2])
    sample = cut_window(source, Window(0, 0, side, is_mirrored=False), CONFIG)
    size = (CONFIG.size_px, CONFIG.size_px)
    image = Image.fromarray(source.image[:side, :side])
    expected = np.asarray(image.resize(size, Image.Resampling.BICUBIC), np.int64)
    assert np.abs(sample.image.astype(np.int64) - expected).max() <= 1


def test_the_largest_window_is_bounded_and_not_below_the_smallest():
    config = CropConfig(size_px=64, min_window=0.5, max_window=0.5, region_focus=0.0)
    source = annotated().annotation
    sides = {choose_window(rng(i), source, config).side_px for i in range(20)}
    assert sides == {round(0.5 * min(source.width, source.height))}
    with pytest.raises(UsageError, match=r"min_window=0\.6 is above max_window=0\.5"):
        CropConfig(min_window=0.6, max_window=0.5)
