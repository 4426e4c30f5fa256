"""JPEG at the bits of a tokenizer: what an old codec makes of the same budget.

A tokenizer of codebook size K and f pixels per token spends (side / f)^2 log2(K) bits on a square.
A budget of some hundred bytes is below what JPEG can do at full size, so the image may also be
scaled down first; of the scales and qualities that fit, the one with the highest PSNR counts. Only
the entropy-coded scan is charged: tables and headers are the same for all images, as a tokenizer's
weights are.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from training.evaluation.fidelity import psnr_db

Image = NDArray[np.uint8]

SCALES = (1, 2, 4, 8, 16)
"""Factors by which a side may be divided before coding."""
MAX_QUALITY = 95


def jpeg_at_bits(image: Image, budget_bits: float) -> Image:
    """The best JPEG round trip of (H, W, 3) uint8 within a budget, the same shape.

    Where nothing fits, not even quality 1 at the smallest scale, that one is returned.
    """
    candidates = list(_candidates(image, budget_bits))
    if not candidates:
        candidates = [_round_trip(image, SCALES[-1], 1)[0]]
    return max(candidates, key=lambda candidate: psnr_db(image, candidate))


def scan_bits(data: bytes) -> int:
    """Bits of a JPEG file's entropy-coded scan: between its start-of-scan header and its end."""
    marker = data.index(b"\xff\xda")
    header = int.from_bytes(data[marker + 2 : marker + 4], "big")
    return 8 * (len(data) - (marker + 2 + header) - 2)


def _candidates(image: Image, budget_bits: float) -> Iterator[Image]:
    for scale in SCALES:
        fitting = _largest_quality(image, scale, budget_bits)
        if fitting is not None:
            yield fitting


def _largest_quality(image: Image, scale: int, budget_bits: float) -> Image | None:
    """The round trip at the highest quality that fits; the size grows with quality."""
    low, high, best = 1, MAX_QUALITY, None
    while low <= high:
        quality = (low + high) // 2
        decoded, bits = _round_trip(image, scale, quality)
        if bits <= budget_bits:
            best, low = decoded, quality + 1
        else:
            high = quality - 1
    return best


def _round_trip(image: Image, scale: int, quality: int) -> tuple[Image, int]:
    height, width = image.shape[:2]
    small = PillowImage.fromarray(image)
    if scale > 1:
        size = (max(1, width // scale), max(1, height // scale))
        small = small.resize(size, PillowImage.Resampling.LANCZOS)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=quality, optimize=True, subsampling="4:2:0")
    decoded = PillowImage.open(file).convert("RGB")
    if scale > 1:
        decoded = decoded.resize((width, height), PillowImage.Resampling.BICUBIC)
    return np.asarray(decoded), scan_bits(file.getvalue())
