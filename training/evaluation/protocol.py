"""TokBench's image protocol: every tokenizer sees a padded square, and its output is put back.

An image is scaled to fit a square of 256, 512 or 1024 pixels, centred on black, reconstructed, cut
out again and scaled back, so that annotations hold unchanged in the result. What the scaling alone
costs is the row `resize only`; no tokenizer can be expected to do better.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from annotations_schema.errors import UsageError

Image = NDArray[np.uint8]
Reconstruct = Callable[[Image], Image]
"""(H, W, 3) uint8 RGB -> the same shape; any tokenizer plugs in here."""

ORIGINAL = "original"
RESIZE_ONLY = "resize only"

_LANCZOS = PillowImage.Resampling.LANCZOS


class Framing(NamedTuple):
    """How an image was put into its square; all sizes (width, height), pixels.

    image_size: of the image. scaled_size: of the image inside the square. offset: its left and top
    in the square. side: of the square.
    """

    image_size: tuple[int, int]
    scaled_size: tuple[int, int]
    offset: tuple[int, int]
    side: int


def framing_of(width: int, height: int, side: int) -> Framing:
    """Where TokBench puts an image of width x height pixels in a square of `side` pixels.

    scale = min(side / width, side / height), sides rounded up. Rounding up a product that is the
    square's side but for a float's last bit would leave the square by a pixel, so it is capped.
    """
    scale = min(side / width, side / height)
    scaled = (min(math.ceil(width * scale), side), min(math.ceil(height * scale), side))
    offset = ((side - scaled[0]) // 2, (side - scaled[1]) // 2)
    return Framing((width, height), scaled, offset, side)


def frame(image: Image, side: int) -> tuple[Image, Framing]:
    """The square (side, side, 3) uint8 with the image, LANCZOS on black, and its framing."""
    framing = framing_of(image.shape[1], image.shape[0], side)
    square = np.zeros((side, side, 3), np.uint8)
    (left, top), (width, height) = framing.offset, framing.scaled_size
    square[top : top + height, left : left + width] = _resized(image, framing.scaled_size)
    return square, framing


def unframe(square: Image, framing: Framing) -> Image:
    """The image cut out of its square and scaled back, exactly `framing.image_size`; LANCZOS."""
    return _resized(without_padding(square, framing), framing.image_size)


def without_padding(square: Image, framing: Framing) -> Image:
    """The image inside its square, (h, w, 3) of `framing.scaled_size`; a view."""
    (left, top), (width, height) = framing.offset, framing.scaled_size
    return square[top : top + height, left : left + width]


def reconstruct_square(name: str, tokenizer: Reconstruct, square: Image) -> Image:
    """What a tokenizer makes of a square; it gets a copy, which it may overwrite.

    Raises:
        UsageError: it returned something else than uint8 RGB of the same shape.
    """
    output = tokenizer(square.copy())
    if not isinstance(output, np.ndarray):
        raise UsageError(
            f"tokenizer '{name}' returned a {type(output).__name__}; it must return a numpy array, "
            "uint8 RGB of the shape it was given"
        )
    if output.shape != square.shape or output.dtype != np.uint8:
        raise UsageError(
            f"tokenizer '{name}' returned {output.dtype} of shape {output.shape} for uint8 of "
            f"shape {square.shape}; it must return uint8 RGB of the same shape"
        )
    return output


def _resized(image: Image, size: tuple[int, int]) -> Image:
    if (image.shape[1], image.shape[0]) == size:
        return image  # Pillow would return the same pixels
    return np.asarray(PillowImage.fromarray(image).resize(size, _LANCZOS))
