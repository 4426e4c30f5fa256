"""Ragged regions become flat arrays with an image index; caps keep the largest."""

import numpy as np
import pytest
import torch

from tests.training_datasets import few_pictures, write_dataset
from training.data.batch import collate, to_model_range, to_pixels
from training.data.loader import SampleStream, StreamConfig, batches
from training.data.manifest import BadImageError, ManifestDataset
from training.data.transforms import CropConfig, Sample, random_sample


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
    batch, dropped = collate(samples, max_text=9, max_faces=9)
    regions = batch.regions
    assert regions.text_image.tolist() == [0, 0, 2]
    torch.testing.assert_close(regions.text_weight, torch.tensor([0.1, 0.2, 0.4]))
    assert regions.text_boxes.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [0, 1, 2, 3]]
    assert regions.face_image.tolist() == [0, 2, 2]
    assert regions.face_theta.shape == (3, 2, 3)
    assert dropped == (0, 0, 0.0, 0.0)


def test_a_batch_without_regions_has_empty_arrays_of_the_right_shape():
    regions = collate([sample(), sample()], max_text=9, max_faces=9).batch.regions
    assert regions.text_boxes.shape == (0, 4)
    assert regions.face_theta.shape == (0, 2, 3)
    assert regions.text_image.dtype == regions.face_image.dtype == torch.int64


def test_over_the_cap_the_largest_regions_stay_in_their_order():
    samples = [sample([0.3, 0.1], [0.1]), sample([0.2, 0.4], [0.5])]
    batch, dropped = collate(samples, max_text=3, max_faces=1)
    torch.testing.assert_close(batch.regions.text_weight, torch.tensor([0.3, 0.2, 0.4]))
    assert batch.regions.text_image.tolist() == [0, 1, 1]
    assert batch.regions.face_image.tolist() == [1]
    assert (dropped.num_text, dropped.num_faces) == (1, 1)
    assert dropped.text_weight == pytest.approx(0.1)
    assert dropped.face_weight == pytest.approx(0.1)


def test_pixels_become_minus_one_to_one_and_come_back():
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=-1)
    images = to_model_range(levels)
    assert images.shape == (1, 3, 16, 16)
    assert images.min() == -1.0
    assert images.max() == 1.0
    np.testing.assert_array_equal(to_pixels(images), levels)
    assert to_pixels(torch.full((1, 3, 1, 1), 7.0)).max() == 255


def test_a_batch_moves_as_a_whole():
    batch = collate([sample([0.1], [0.2])], max_text=9, max_faces=9).batch.to("meta")
    assert batch.images.device.type == "meta"
    assert {field.device.type for field in batch.regions} == {"meta"}
    assert batch.image_ids == ("a",)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return ManifestDataset([write_dataset(tmp_path_factory.mktemp("d"), few_pictures(96))])


def loaded(source, *, num_workers=0, start=0, num_batches=3, indices=None, seed=0):
    stream = SampleStream(
        source, np.arange(8) if indices is None else indices, CropConfig(size_px=32), seed
    )
    config = StreamConfig(batch_size=4, num_workers=num_workers)
    return list(batches(stream, config, start=start, num_batches=num_batches, pin_memory=False))


def same(one, other):
    return torch.equal(one.batch.images, other.batch.images) and all(
        torch.equal(a, b) for a, b in zip(one.batch.regions, other.batch.regions, strict=True)
    )


@pytest.mark.parametrize("num_workers", [1, 2])
def test_any_number_of_workers_gives_the_same_batches(dataset, num_workers):
    alone, helped = loaded(dataset), loaded(dataset, num_workers=num_workers)
    assert [b.batch.image_ids for b in alone] == [b.batch.image_ids for b in helped]
    assert all(same(a, b) for a, b in zip(alone, helped, strict=True))


def test_batches_resume_at_any_stream_position(dataset):
    whole, rest = loaded(dataset, num_batches=4), loaded(dataset, start=8, num_batches=2)
    assert all(same(a, b) for a, b in zip(whole[2:], rest, strict=True))


def test_an_epoch_visits_every_image_and_the_next_cuts_other_windows(dataset):
    first, second, third, fourth = loaded(dataset, num_batches=4)
    ids = first.batch.image_ids + second.batch.image_ids
    assert sorted(ids) == sorted(third.batch.image_ids + fourth.batch.image_ids)
    assert len(set(ids)) == 8
    again = third.batch.image_ids.index(ids[0]) if ids[0] in third.batch.image_ids else None
    other = (third, again) if again is not None else (fourth, fourth.batch.image_ids.index(ids[0]))
    assert not torch.equal(first.batch.images[0], other[0].batch.images[other[1]])


def test_the_loader_leaves_the_global_random_state_alone(dataset):
    before = torch.random.get_rng_state()
    loaded(dataset)
    assert torch.equal(before, torch.random.get_rng_state())


def test_only_the_listed_images_take_part(dataset):
    indices = dataset.with_regions()[:4]
    ids = {i for b in loaded(dataset, indices=indices) for i in b.batch.image_ids}
    assert ids == {dataset.image_id(int(i)) for i in indices}


class HalfBroken:
    """Every image but those in `good` cannot be read."""

    def __init__(self, dataset, good, path):
        self.dataset, self.good, self.path = dataset, good, path

    def read(self, index):
        if index not in self.good:
            raise BadImageError(self.dataset.image_id(index), self.path, "cut")
        return self.dataset.read(index)


def test_a_bad_image_is_replaced_by_the_next_in_order_and_named(dataset, tmp_path):
    whole = [i for b in loaded(dataset, num_batches=2) for i in b.batch.image_ids]
    bad = next(i for i in range(8) if dataset.image_id(i) == whole[2])
    source = HalfBroken(dataset, set(range(8)) - {bad}, tmp_path)
    got = loaded(source, num_batches=2)
    ids = [i for b in got for i in b.batch.image_ids]
    assert ids == [*whole[:2], whole[3], *whole[3:]]
    assert got[0].bad_images == (f"image {whole[2]} in {tmp_path}: cut",)
    assert got[1].bad_images == ()


def test_a_replacement_is_cut_by_the_position_it_fills(dataset, tmp_path):
    first = next(
        i for i in range(8) if dataset.image_id(i) == loaded(dataset)[0].batch.image_ids[1]
    )
    source = HalfBroken(dataset, {first}, tmp_path)
    got = loaded(source, num_batches=1)[0].batch.images[0]
    expected = random_sample(dataset.read(first), CropConfig(size_px=32), seed=0, stream_position=0)
    torch.testing.assert_close(got, to_model_range(expected.image[None])[0])


def test_many_bad_images_in_a_row_stop_the_run(dataset, tmp_path):
    with pytest.raises(ValueError, match="16 images in a row cannot be read"):
        loaded(HalfBroken(dataset, set(), tmp_path))
