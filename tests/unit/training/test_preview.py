"""The sheet of originals, reconstructions and crops."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from training.data.batch import Batch, RegionBatch, to_pixels
from training.losses.region_crops import text_banners
from training.preview import preview_sheet

CAPTION_PX, GAP_PX = 16, 8


def batch_of(num_images, *, text=0, faces=0, side=128, text_weight=None):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(num_images, 3, side, side, generator=generator) * 2 - 1
    weights = torch.linspace(0.1, 0.5, text) if text_weight is None else torch.tensor(text_weight)
    regions = RegionBatch(
        text_boxes=torch.tensor([[8.0, 8.0, 72.0, 24.0]]).expand(text, 4)
        + torch.arange(text)[:, None],
        text_image=torch.arange(text) % num_images,
        text_weight=weights,
        face_theta=torch.tensor([[0.5, 0.0, 0.0], [0.0, 0.5, 0.0]]).expand(faces, 2, 3),
        face_image=torch.arange(faces) % num_images,
        face_weight=torch.full((faces,), 0.1),
    )
    return Batch(images, regions, tuple(map(str, range(num_images))))


def tile(sheet, row_px, column_px, height, width):
    return sheet[row_px : row_px + height, column_px : column_px + width]


def test_the_reconstruction_stands_below_its_original():
    batch = batch_of(3)
    sheet = preview_sheet(batch, -batch.images)
    cell_height, cell_width = CAPTION_PX + 2 * 128 + GAP_PX, 128 + GAP_PX
    assert sheet.dtype == np.uint8
    assert sheet.shape == (cell_height, 3 * cell_width, 3)
    originals, reconstructions = to_pixels(batch.images), to_pixels(-batch.images)
    for number in range(3):
        left = number * cell_width
        assert np.array_equal(tile(sheet, CAPTION_PX, left, 128, 128), originals[number])
        below = tile(sheet, CAPTION_PX + 128, left, 128, 128)
        assert np.array_equal(below, reconstructions[number])


def test_every_tile_has_a_caption():
    sheet = preview_sheet(batch_of(2), torch.zeros(2, 3, 128, 128))
    for left in (0, 128 + GAP_PX):
        assert tile(sheet, 0, left, CAPTION_PX, 128).min() < 128


def test_many_images_stand_in_several_rows_and_small_ones_are_enlarged():
    batch = batch_of(8, side=32)
    sheet = preview_sheet(batch, batch.images)
    assert sheet.shape == (2 * (CAPTION_PX + 2 * 128 + GAP_PX), 4 * (128 + GAP_PX), 3)


def test_the_largest_regions_stand_beside_the_images():
    batch = batch_of(8, text=9, faces=2, side=256)
    sheet = preview_sheet(batch, torch.zeros_like(batch.images))
    images_width = 4 * (256 + GAP_PX)
    assert sheet.shape[1] == images_width + (288 + GAP_PX) + (160 + GAP_PX)
    # The last region is the largest; below it is the grey reconstruction.
    largest = slice(8, 9)
    banner = text_banners(
        batch.images, batch.regions.text_boxes[largest], batch.regions.text_image[largest]
    )
    enlarged = to_pixels(F.interpolate(banner, (72, 288), mode="bicubic"))[0]
    assert np.array_equal(tile(sheet, CAPTION_PX, images_width, 72, 288), enlarged)
    below = tile(sheet, CAPTION_PX + 72, images_width, 72, 288)
    assert np.unique(below).tolist() == [128]


@pytest.mark.parametrize(("weights", "shown"), [([0.2, 0.0], 1), ([0.0, 0.0], 0)])
def test_padding_is_no_region(weights, shown):
    batch = batch_of(2, text=2, text_weight=weights)
    sheet = preview_sheet(batch, batch.images)
    assert sheet.shape[1] == 2 * (128 + GAP_PX) + shown * (288 + GAP_PX)
