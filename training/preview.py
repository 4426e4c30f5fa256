"""A picture of originals above their reconstructions, region crops beside."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from annotations_schema.layout import atomic_write
from training.data.batch import Batch, to_pixels
from training.losses.region_crops import face_canvases, text_banners

_GAP_PX = 4
_LEAST_SIDE_PX = 128
_MAX_REGIONS = 6


def preview_sheet(batch: Batch, x_hat: Tensor) -> NDArray[np.uint8]:
    """The sheet (H, W, 3) uint8: images, then text banners, then faces; originals in the top row.

    At most six regions of each kind, those of largest weight, cut as the losses see them.

    Args:
        batch: images (B, 3, S, S) and regions, on the CPU.
        x_hat: (B, 3, S, S) reconstructions, on the CPU.
    """
    rows = [
        _row(images, batch, images.shape[-1] * -(-_LEAST_SIDE_PX // images.shape[-1]))
        for images in (batch.images, x_hat)
    ]
    gap = np.full((_GAP_PX, rows[0].shape[1], 3), 255, np.uint8)
    return np.concatenate([rows[0], gap, rows[1]])


def write_preview(path: Path, batch: Batch, x_hat: Tensor) -> None:
    """Write the sheet as a PNG file, atomically."""
    with atomic_write(path) as temporary:
        Image.fromarray(preview_sheet(batch, x_hat)).save(temporary, "png")


def _row(images: Tensor, batch: Batch, side: int) -> NDArray[np.uint8]:
    regions = batch.regions
    text, faces = _largest(regions.text_weight), _largest(regions.face_weight)
    banners = text_banners(images, regions.text_boxes[text], regions.text_image[text])
    canvases = face_canvases(images, regions.face_theta[faces], regions.face_image[faces])
    tiles = [
        *_tiles(images, (side, side), "nearest"),
        *_tiles(banners, (side // 2, side * 2), "bilinear"),
        *_tiles(canvases, (side, side), "bilinear"),
    ]
    return np.concatenate([_on_white(tile, side) for tile in tiles], axis=1)


def _largest(weights: Tensor) -> Tensor:
    return torch.argsort(weights, descending=True, stable=True)[:_MAX_REGIONS]


def _tiles(images: Tensor, size: tuple[int, int], mode: str) -> list[NDArray[np.uint8]]:
    if not len(images):
        return []
    return list(to_pixels(F.interpolate(images, size, mode=mode)))


def _on_white(tile: NDArray[np.uint8], height: int) -> NDArray[np.uint8]:
    missing = height - tile.shape[0]
    padding = ((missing // 2, missing - missing // 2), (0, _GAP_PX), (0, 0))
    return np.pad(tile, padding, constant_values=255)
