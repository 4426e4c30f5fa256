"""The stream: any ranks and workers give the same samples; bad images are replaced and named."""

import numpy as np
import pytest
import torch

from annotations_schema import DatasetLayout
from tests.training_datasets import few_pictures, write_dataset
from training.data.loader import SampleStream, StreamConfig, batches
from training.data.manifest import BadImageError, ManifestDataset
from training.data.mixture import Mixture
from training.data.split import BatchSplit
from training.data.transforms import CropConfig, random_sample


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return ManifestDataset([write_dataset(tmp_path_factory.mktemp("d"), few_pictures(96))])


def loaded(source, *, num_workers=0, start=0, steps=3, indices=None, seed=0, split=None):
    mixture = Mixture.of(np.arange(8) if indices is None else indices)
    stream = SampleStream(source, mixture, CropConfig(size_px=32), seed)
    split = split or BatchSplit(batch_size=4, micro_batch=4)
    return list(
        batches(
            stream,
            StreamConfig(batch_size=split.batch_size),
            split,
            start_step=start,
            num_steps=steps,
            num_workers=num_workers,
        )
    )


def same(one, other):
    return torch.equal(one.pixels, other.pixels) and all(
        torch.equal(a, b) for a, b in zip(one.regions, other.regions, strict=True)
    )


def ids_by_step(dataset, *, ranks, start=0, steps=3, num_workers=0, batch_size=4):
    """Image ids of each step, rank after rank."""
    split = {"batch_size": batch_size, "micro_batch": 1, "ranks": ranks}
    found = [[] for _ in range(steps)]
    for rank in range(ranks):
        own = BatchSplit(rank=rank, **split)
        got = loaded(dataset, start=start, steps=steps, num_workers=num_workers, split=own)
        for number, batch in enumerate(got):
            found[number // own.micro_steps].extend(batch.image_ids)
    return found


@pytest.mark.parametrize("num_workers", [1, 2])
def test_any_number_of_workers_gives_the_same_batches(dataset, num_workers):
    alone, helped = loaded(dataset), loaded(dataset, num_workers=num_workers)
    assert [b.image_ids for b in alone] == [b.image_ids for b in helped]
    assert all(same(a, b) for a, b in zip(alone, helped, strict=True))


def test_batches_resume_at_any_stream_position(dataset):
    whole, rest = loaded(dataset, steps=4), loaded(dataset, start=2, steps=2)
    assert all(same(a, b) for a, b in zip(whole[2:], rest, strict=True))


def test_an_epoch_visits_every_image_and_the_next_cuts_other_windows(dataset):
    first, second, third, fourth = loaded(dataset, steps=4)
    ids = first.image_ids + second.image_ids
    assert sorted(ids) == sorted(third.image_ids + fourth.image_ids)
    assert len(set(ids)) == 8
    again = third.image_ids.index(ids[0]) if ids[0] in third.image_ids else None
    other = (third, again) if again is not None else (fourth, fourth.image_ids.index(ids[0]))
    assert not torch.equal(first.pixels[0], other[0].pixels[other[1]])


def test_the_loader_leaves_the_global_random_state_alone(dataset):
    before = torch.random.get_rng_state()
    loaded(dataset)
    assert torch.equal(before, torch.random.get_rng_state())


def test_only_the_listed_images_take_part(dataset):
    indices = dataset.with_regions()[:4]
    ids = {i for b in loaded(dataset, indices=indices) for i in b.image_ids}
    assert ids == {dataset.image_id(int(i)) for i in indices}


class HalfBroken:
    """Every image but those in `good` cannot be read."""

    def __init__(self, dataset, good, path):
        self.dataset, self.good, self.path = dataset, good, path

    def annotation(self, index):
        return self.dataset.annotation(index)

    def read_window(self, index, window):
        if index not in self.good:
            raise BadImageError(self.dataset.image_id(index), self.path, "cut")
        return self.dataset.read_window(index, window)


def test_a_bad_image_is_replaced_by_the_next_in_order_and_named(dataset, tmp_path):
    whole = [i for b in loaded(dataset, steps=2) for i in b.image_ids]
    bad = next(i for i in range(8) if dataset.image_id(i) == whole[2])
    source = HalfBroken(dataset, set(range(8)) - {bad}, tmp_path)
    got = loaded(source, steps=2)
    ids = [i for b in got for i in b.image_ids]
    assert ids == [*whole[:2], whole[3], *whole[3:]]
    assert got[0].bad_images == (f"image {whole[2]} in {tmp_path}: cut",)
    assert got[1].bad_images == ()


def test_a_replacement_is_cut_by_the_position_it_fills(dataset, tmp_path):
    first = next(i for i in range(8) if dataset.image_id(i) == loaded(dataset)[0].image_ids[1])
    source = HalfBroken(dataset, {first}, tmp_path)
    got = loaded(source, steps=1)[0].pixels[0]
    expected = random_sample(dataset.read(first), CropConfig(size_px=32), seed=0, stream_position=0)
    np.testing.assert_array_equal(got.numpy(), expected.image)


def test_many_bad_images_in_a_row_stop_the_run(dataset, tmp_path):
    with pytest.raises(ValueError, match="16 images in a row cannot be read"):
        loaded(HalfBroken(dataset, set(), tmp_path))


def test_corrupt_bytes_are_replaced_and_named_under_workers_too(tmp_path):
    root = write_dataset(tmp_path / "d", few_pictures(96))
    dataset = ManifestDataset([root])
    whole = [i for b in loaded(dataset, steps=2) for i in b.image_ids]
    bad = next(i for i in range(8) if dataset.image_id(i) == whole[1])
    tar = DatasetLayout(root).images("000000")
    data, file = bytearray(tar.read_bytes()), dataset.read_bytes(bad)
    start = data.index(file) + len(file) // 2
    data[start : start + 40] = bytes(40)
    tar.write_bytes(bytes(data))
    for num_workers in (0, 2):
        got = loaded(dataset, steps=2, num_workers=num_workers)
        assert [i for b in got for i in b.image_ids] == [whole[0], whole[2], *whole[2:]]
        assert [len(b.bad_images) for b in got] == [1, 0]
        assert got[0].bad_images[0].startswith(f"image {whole[1]} in {tar}: ")


@pytest.mark.parametrize(("ranks", "num_workers"), [(1, 2), (2, 0), (2, 2), (4, 0), (4, 2)])
def test_the_images_of_a_step_are_the_same_for_any_ranks_and_workers(dataset, ranks, num_workers):
    alone = ids_by_step(dataset, ranks=1)
    assert ids_by_step(dataset, ranks=ranks, num_workers=num_workers) == alone


@pytest.mark.parametrize(("before", "after"), [(1, 4), (4, 2), (2, 1)])
def test_a_resume_on_other_ranks_repeats_and_misses_no_image(dataset, before, after):
    first = ids_by_step(dataset, ranks=before, steps=1)
    rest = ids_by_step(dataset, ranks=after, start=1, steps=1)
    # Eight images, two steps of four: an epoch.
    seen = [i for step in first + rest for i in step]
    assert sorted(seen) == sorted(dataset.image_id(i) for i in range(8))


def test_a_position_shows_the_image_of_its_order_wherever_one_comes_from(dataset):
    mixture = Mixture.of(np.arange(8))
    stream = SampleStream(dataset, mixture, CropConfig(size_px=32), 5)
    positions = [254, 257, 255, 256, 10**9, 3, 511, 512]  # forth and back over blocks of 256

    found = [stream[position].sample.image_id for position in positions]

    assert found == [dataset.image_id(i) for i in mixture.draw(positions, 5).tolist()]
    with pytest.raises(ValueError, match="start at 0"):
        stream[-1]


def test_windows_are_those_of_the_whole_image(dataset):
    for batch in loaded(dataset, split=BatchSplit(batch_size=1, micro_batch=1), steps=8):
        index = next(i for i in range(8) if (dataset.image_id(i),) == batch.image_ids)
        position = [*Mixture.of(np.arange(8)).draw(np.arange(8), 0)].index(index)
        whole = random_sample(
            dataset.read(index), CropConfig(size_px=32), seed=0, stream_position=position
        )
        np.testing.assert_array_equal(batch.pixels[0].numpy(), whole.image)
