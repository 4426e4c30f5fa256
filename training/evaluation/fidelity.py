"""PSNR and SSIM of a reconstruction, per image on uint8 RGB at the image's own resolution.

A set's value is the mean over its images, as tokenizer papers report it (each image counts once,
whatever its size).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

Image = NDArray[np.uint8]

DATA_RANGE = 255
SSIM_SIGMA = 1.5
SSIM_MIN_SIDE_PX = 11
"""Side of the Gaussian window (sigma 1.5 cut at 3.5 sigma); a smaller image has no SSIM."""

SETTINGS = {
    "psnr": "skimage.metrics.peak_signal_noise_ratio, uint8 RGB, data_range 255, per image",
    "ssim": (
        "skimage.metrics.structural_similarity, uint8 RGB, data_range 255, channel_axis -1, "
        "gaussian_weights, sigma 1.5, use_sample_covariance False (Wang et al. 2004), per image"
    ),
}
"""What was computed, for the result file."""


class Fidelity(NamedTuple):
    """psnr_db: decibel, infinite for equal images. ssim: at most 1; NaN where a side < 11 px."""

    psnr_db: float
    ssim: float


def fidelity(image: Image, reconstruction: Image) -> Fidelity:
    """PSNR and SSIM of two (H, W, 3) uint8 images of equal shape.

    Raises:
        ValueError: the shapes differ.
    """
    if image.shape != reconstruction.shape:
        raise ValueError(
            f"a reconstruction of shape {reconstruction.shape} does not fit an image of shape "
            f"{image.shape}; both must be (H, W, 3) of one size"
        )
    return Fidelity(psnr_db(image, reconstruction), ssim(image, reconstruction))


def psnr_db(image: Image, reconstruction: Image) -> float:
    """10 log10(255^2 / MSE), the mean taken over all pixels and channels."""
    if np.array_equal(image, reconstruction):
        return float("inf")  # skimage would divide by zero
    value = peak_signal_noise_ratio(image, reconstruction, data_range=DATA_RANGE)  # type: ignore[no-untyped-call]
    return float(value)


def ssim(image: Image, reconstruction: Image) -> float:
    """Structural similarity (Wang et al. 2004: Gaussian window, sigma 1.5), mean over channels."""
    if min(image.shape[:2]) < SSIM_MIN_SIDE_PX:
        return float("nan")
    if np.array_equal(image, reconstruction):
        return 1.0  # by definition, and a good part of a run: the row `original`
    value = structural_similarity(  # type: ignore[no-untyped-call]
        image,
        reconstruction,
        data_range=DATA_RANGE,
        channel_axis=-1,
        gaussian_weights=True,
        sigma=SSIM_SIGMA,
        use_sample_covariance=False,
    )
    return float(value)
