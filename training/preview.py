"""A picture of originals and their reconstructions, with text and face crops beside them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from training.data.batch import Batch, to_pixels
from training.losses.region_crops import face_canvases, text_banners

_GAP_PX = 8
_CAPTION_PX = 16
_LEAST_SIDE_PX = 128
# More than twice and once what the losses see: read at a glance, and six fit beside 8 images.
_TEXT_SIZE = (72, 288)
_FACE_SIZE = (160, 160)
_MAX_REGIONS = 6

_Pixels = NDArray[np.uint8]


def preview_sheet(batch: Batch, x_hat: Tensor) -> _Pixels:
    """The sheet (H, W, 3) uint8: images, text banners, faces; the original above each.

    At most six regions of each kind, those of largest weight, cut as the losses see them and
    enlarged; their captions name the image they are of.

    Args:
        batch: images (B, 3, S, S) and regions, on the CPU.
        x_hat: (B, 3, S, S) reconstructions, on the CPU.
    """
    regions, side = batch.regions, batch.images.shape[-1]
    side *= -(-_LEAST_SIDE_PX // side)
    text, faces = _largest(regions.text_weight), _largest(regions.face_weight)

    def banners(images: Tensor) -> Tensor:
        return text_banners(images, regions.text_boxes[text], regions.text_image[text])

    def canvases(images: Tensor) -> Tensor:
        return face_canvases(images, regions.face_theta[faces], regions.face_image[faces])

    def pairs(cut: Callable[[Tensor], Tensor], size: tuple[int, int], mode: str) -> list[_Pixels]:
        above, below = (_tiles(cut(images), size, mode) for images in (batch.images, x_hat))
        return [np.concatenate(pair) for pair in zip(above, below, strict=True)]

    images = pairs(lambda images: images, (side, side), "nearest")
    per_row = math.ceil(math.sqrt(2 * len(images)))  # a pair is twice as high as wide
    num_rows = math.ceil(len(images) / per_row)
    captions = [f"image {n}, reconstruction below" for n in range(len(images))]
    blocks = [_grid(images, captions, num_rows)]
    for tiles, kind, owners in (
        (pairs(banners, _TEXT_SIZE, "bicubic"), "text", regions.text_image[text]),
        (pairs(canvases, _FACE_SIZE, "bicubic"), "face", regions.face_image[faces]),
    ):
        if tiles:
            fitting = blocks[0].shape[0] // (len(tiles[0]) + _CAPTION_PX + _GAP_PX)
            captions = [f"{kind} of image {owner}" for owner in owners.tolist()]
            blocks.append(_grid(tiles, captions, min(len(tiles), max(1, fitting))))
    height = max(len(block) for block in blocks)
    return np.concatenate([_below(block, height - len(block)) for block in blocks], axis=1)


def _largest(weights: Tensor) -> Tensor:
    """Indices of the regions that count, the largest first; weight 0 is padding."""
    order = torch.argsort(weights, descending=True, stable=True)[:_MAX_REGIONS]
    return order[weights[order] > 0]


def _tiles(images: Tensor, size: tuple[int, int], mode: str) -> list[_Pixels]:
    return list(to_pixels(F.interpolate(images, size, mode=mode))) if len(images) else []


def _grid(tiles: Sequence[_Pixels], captions: Sequence[str], num_rows: int) -> _Pixels:
    """Tiles of one size under their captions, row by row."""
    cells = [_captioned(*pair) for pair in zip(tiles, captions, strict=True)]
    per_row = math.ceil(len(cells) / num_rows)
    empty = np.full_like(cells[0], 255)
    rows = [
        np.concatenate([*row, *[empty] * (per_row - len(row))], axis=1)
        for row in (cells[at : at + per_row] for at in range(0, len(cells), per_row))
    ]
    return np.concatenate(rows)


def _captioned(tile: _Pixels, caption: str) -> _Pixels:
    height, width = tile.shape[:2]
    cell = Image.new("RGB", (width + _GAP_PX, height + _CAPTION_PX + _GAP_PX), "white")
    font = ImageFont.load_default(_CAPTION_PX - 4)
    ImageDraw.Draw(cell).text((1, 0), caption, fill="black", font=font)
    cell.paste(Image.fromarray(tile), (0, _CAPTION_PX))
    return np.asarray(cell)


def _below(block: _Pixels, missing: int) -> _Pixels:
    return np.pad(block, ((0, missing), (0, 0), (0, 0)), constant_values=255)
