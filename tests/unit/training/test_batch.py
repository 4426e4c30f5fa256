"""Ragged regions become flat arrays with an image index; caps keep the largest."""

import numpy as np
import pytest
import torch

from training.data.batch import collate, to_model_range, to_pixels
from training.data.transforms import Sample


def sample(text_weights=(), face_weights=(), value=0, name="a"):
    """A 16 px sample; region i carries i in its geometry."""
    num_text, num_faces = len(text_weights), len(face_weights)
    return Sample(
        image_id=name,
        image=np.full((16, 16, 3), value, np.uint8),
        text_boxes=np.arange(num_text * 4, dtype=np.float32).reshape(-1, 4),
        text_weight=np.array(text_weights, dtype=np.float32),
        crop_from_image=np.zeros((num_faces, 2, 3)),
        face_theta=np.arange(num_faces * 6, dtype=np.float32).reshape(-1, 2, 3),
        face_weight=np.array(face_weights, dtype=np.float32),
    )


def test_regions_are_flat_with_an_image_index():
    samples = [sample([0.1, 0.2], [0.3]), sample(), sample([0.4], [0.5, 0.6])]
    batch = collate(samples, max_text=9, max_faces=9)
    regions = batch.regions
    assert regions.text_image.tolist() == [0, 0, 2]
    torch.testing.assert_close(regions.text_weight, torch.tensor([0.1, 0.2, 0.4]))
    assert regions.text_boxes.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [0, 1, 2, 3]]
    assert regions.face_image.tolist() == [0, 2, 2]
    assert regions.face_theta.shape == (3, 2, 3)
    assert batch.counts == (3, 3, 0, 0, 0.0, 0.0)


def test_a_batch_without_regions_has_empty_arrays_of_the_right_shape():
    regions = collate([sample(), sample()], max_text=9, max_faces=9).regions
    assert regions.text_boxes.shape == (0, 4)
    assert regions.face_theta.shape == (0, 2, 3)
    assert regions.text_image.dtype == regions.face_image.dtype == torch.int64


def test_over_the_cap_the_largest_regions_stay_in_their_order():
    samples = [sample([0.3, 0.1], [0.1]), sample([0.2, 0.4], [0.5])]
    batch = collate(samples, max_text=3, max_faces=1)
    torch.testing.assert_close(batch.regions.text_weight, torch.tensor([0.3, 0.2, 0.4]))
    assert batch.regions.text_image.tolist() == [0, 1, 1]
    assert batch.regions.face_image.tolist() == [1]
    counts = batch.counts
    assert (counts.num_text, counts.num_faces) == (3, 1)
    assert (counts.dropped_text, counts.dropped_faces) == (1, 1)
    assert counts.dropped_text_weight == pytest.approx(0.1)
    assert counts.dropped_face_weight == pytest.approx(0.1)


def test_padding_fills_up_to_the_caps_and_weighs_nothing():
    samples = [sample([0.3], [0.1]), sample([0.2])]
    plain = collate(samples, max_text=4, max_faces=3)
    padded = collate(samples, max_text=4, max_faces=3, pad_regions=True)
    for bare, full in zip(plain.regions, padded.regions, strict=True):
        torch.testing.assert_close(full[: len(bare)], bare, rtol=0, atol=0)
        assert full.dtype == bare.dtype
    regions = padded.regions
    assert len(regions.text_weight) == 4
    assert len(regions.face_weight) == 3
    assert regions.text_boxes[2:].tolist() == [[0, 0, 16, 16]] * 2
    assert regions.face_theta[1:].tolist() == [[[1, 0, 0], [0, 1, 0]]] * 2
    for padding in (regions.text_image[2:], regions.text_weight[2:], regions.face_image[1:]):
        assert not padding.any()
    assert not regions.face_weight[1:].any()
    assert padded.counts == plain.counts


def test_padding_of_a_full_batch_adds_nothing():
    samples = [sample([0.3, 0.1], [0.1, 0.2])]
    plain, padded = (
        collate(samples, max_text=1, max_faces=0, pad_regions=pad) for pad in (False, True)
    )
    for bare, full in zip(plain.regions, padded.regions, strict=True):
        assert torch.equal(bare, full)


def test_pixels_travel_as_bytes_and_become_floats_on_the_device():
    batch = collate([sample(value=0), sample(value=255)], max_text=1, max_faces=1)
    assert batch.pixels.dtype == torch.uint8
    assert batch.pixels.shape == (2, 16, 16, 3)
    images = batch.to("cpu").images
    assert images.dtype == torch.float32
    assert images.shape == (2, 3, 16, 16)
    assert images[0].unique().tolist() == [-1.0]
    assert images[1].unique().tolist() == [1.0]


def test_pixels_become_minus_one_to_one_and_come_back():
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=-1)
    images = to_model_range(levels)
    assert images.shape == (1, 3, 16, 16)
    assert images.min() == -1.0
    assert images.max() == 1.0
    np.testing.assert_array_equal(to_pixels(images), levels)
    assert to_pixels(torch.full((1, 3, 1, 1), 7.0)).max() == 255


def test_a_batch_moves_as_a_whole():
    batch = collate([sample([0.1], [0.2])], max_text=9, max_faces=9).to("meta")
    assert batch.images.device.type == "meta"
    assert {field.device.type for field in batch.regions} == {"meta"}
    assert batch.image_ids == ("a",)
