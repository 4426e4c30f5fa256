"""PSNR and SSIM against numbers worked out by hand."""

import math

import numpy as np
import pytest

from training.evaluation.fidelity import fidelity, psnr_db, ssim


def test_psnr_is_ten_log_of_squared_range_over_mean_squared_error():
    image = np.zeros((2, 2, 3), np.uint8)
    other = image.copy()
    other[0, 0, 0] = 60  # one of twelve values: MSE = 3600 / 12 = 300
    assert psnr_db(image, other) == pytest.approx(10 * math.log10(255**2 / 300), abs=1e-9)


def test_psnr_does_not_wrap_around_at_zero():
    dark, bright = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 255, np.uint8)
    assert psnr_db(dark, bright) == psnr_db(bright, dark) == pytest.approx(0.0)


def test_an_image_and_itself_have_infinite_psnr_and_ssim_one(astronaut):
    assert fidelity(astronaut, astronaut.copy()) == (math.inf, 1.0)


def test_ssim_of_two_flat_images_is_the_luminance_term():
    a, b = np.full((32, 32, 3), 100, np.uint8), np.full((32, 32, 3), 120, np.uint8)
    c1 = (0.01 * 255) ** 2
    expected = (2 * 100 * 120 + c1) / (100**2 + 120**2 + c1)
    assert ssim(a, b) == pytest.approx(expected, abs=1e-6)


def test_ssim_is_the_gaussian_windowed_formula_of_wang():
    rng = np.random.default_rng(0)
    a = rng.integers(0, 256, (11, 11), np.uint8)
    b = np.clip(a.astype(int) + rng.integers(-40, 40, a.shape), 0, 255).astype(np.uint8)
    offsets = np.arange(-5, 6)
    line = np.exp(-(offsets**2) / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2
    mean_a, mean_b = (window * a).sum(), (window * b).sum()
    var_a, var_b = (window * (a - mean_a) ** 2).sum(), (window * (b - mean_b) ** 2).sum()
    covariance = (window * (a - mean_a) * (b - mean_b)).sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    expected = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    expected *= (2 * covariance + c2) / (var_a + var_b + c2)
    # Of an 11 px image only the middle pixel is far enough from the edge to count.
    rgb_a, rgb_b = (np.repeat(x[..., None], 3, axis=2) for x in (a, b))
    assert ssim(rgb_a, rgb_b) == pytest.approx(expected, abs=1e-9)


def test_an_image_smaller_than_the_window_has_psnr_and_no_ssim():
    a, b = np.zeros((10, 40, 3), np.uint8), np.full((10, 40, 3), 9, np.uint8)
    value = fidelity(a, b)
    assert math.isnan(value.ssim)
    assert value.psnr_db == pytest.approx(10 * math.log10(255**2 / 81))


def test_images_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match=r"shape \(4, 5, 3\) does not fit"):
        fidelity(np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5, 3), np.uint8))
