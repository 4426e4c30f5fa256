"""JPEG at the bits of a tokenizer: what an old codec makes of the same budget.

A tokenizer of codebook size K and f pixels per token spends (side / f)^2 log2(K) bits on a square.
A budget of some hundred bytes is below what JPEG can do at full size, so the image may also be
scaled down first; of the scales and qualities that fit, the one with the highest PSNR counts. Only
the entropy-coded scan is charged: tables and headers are the same for all images, as a tokenizer's
weights are.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from training.evaluation.fidelity import psnr_db

Image = NDArray[np.uint8]

SCALES = (1, 2, 4, 8, 16)
"""Factors by which a side may be divided before coding."""
MAX_QUALITY = 95


class Coded(NamedTuple):
    """A JPEG round trip: (H, W, 3) uint8, and the bits of its scan."""

    image: Image
    bits: int


@dataclass(kw_only=True, slots=True)
class JpegAtBits:
    """JPEG within a budget as a `Reconstruct` that keeps count of what it really spent."""

    budget_bits: float
    spent_bits: list[int] = field(default_factory=list)
    """Of each image so far."""

    def __call__(self, image: Image) -> Image:
        """The best round trip of (H, W, 3) uint8 within the budget, else the cheapest."""
        coded = jpeg_at_bits(image, self.budget_bits)
        self.spent_bits.append(coded.bits)
        return coded.image

    @property
    def mean_bits(self) -> float:
        """Bits of an image on average; 0 before the first."""
        return float(np.mean(self.spent_bits)) if self.spent_bits else 0.0

    @property
    def num_over(self) -> int:
        """Images that JPEG cannot code within the budget."""
        return sum(bits > self.budget_bits for bits in self.spent_bits)


def jpeg_at_bits(image: Image, budget_bits: float) -> Coded:
    """The JPEG round trip of (H, W, 3) uint8 with the highest PSNR within a budget.

    Where nothing fits, not even quality 1 at the smallest scale, that one is returned: its bits
    then exceed the budget.
    """
    found = [_largest_that_fits(_scaled_down(image, scale), budget_bits) for scale in SCALES]
    fitting = [data for data in found if data is not None]
    if not fitting:
        fitting = [_encoded(_scaled_down(image, SCALES[-1]), 1)]
    coded = [Coded(_decoded(data, image), scan_bits(data)) for data in fitting]
    return max(coded, key=lambda one: psnr_db(image, one.image))


def scan_bits(data: bytes) -> int:
    """Bits of a JPEG file's entropy-coded scan: between its start-of-scan header and its end."""
    marker = data.index(b"\xff\xda")
    header = int.from_bytes(data[marker + 2 : marker + 4], "big")
    return 8 * (len(data) - (marker + 2 + header) - 2)


def _largest_that_fits(picture: PillowImage.Image, budget_bits: float) -> bytes | None:
    """The file at the highest quality that fits; the size grows with quality."""
    low, high, best = 1, MAX_QUALITY, None
    while low <= high:
        quality = (low + high) // 2
        data = _encoded(picture, quality)
        if scan_bits(data) <= budget_bits:
            best, low = data, quality + 1
        else:
            high = quality - 1
    return best


def _scaled_down(image: Image, scale: int) -> PillowImage.Image:
    height, width = image.shape[:2]
    picture = PillowImage.fromarray(image)
    if scale == 1:
        return picture
    size = (max(1, width // scale), max(1, height // scale))
    return picture.resize(size, PillowImage.Resampling.LANCZOS)


def _encoded(picture: PillowImage.Image, quality: int) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality, optimize=True, subsampling="4:2:0")
    return file.getvalue()


def _decoded(data: bytes, image: Image) -> Image:
    """The picture in a JPEG file, scaled up to the shape of `image`."""
    height, width = image.shape[:2]
    decoded = PillowImage.open(io.BytesIO(data)).convert("RGB")
    if decoded.size != (width, height):
        decoded = decoded.resize((width, height), PillowImage.Resampling.BICUBIC)
    return np.asarray(decoded)
