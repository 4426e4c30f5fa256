"""Random access to the images of manifests, and one clear line for data that cannot be used."""

import json
import pickle
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from annotations_schema import DatasetLayout, ManifestError, UsageError, VersionError
from tests.training_datasets import Picture, few_pictures, image_id, photo, portrait, write_dataset
from training.data.manifest import BadImageError, ManifestDataset
from training.data.transforms import Window


@pytest.fixture
def root(tmp_path):
    return write_dataset(tmp_path / "dataset", few_pictures(), shard_size=3)


def test_every_image_and_its_regions_come_back(root):
    pictures = few_pictures()
    dataset = ManifestDataset([root])
    assert len(dataset) == len(pictures) == 8
    for index, picture in enumerate(pictures):
        annotated = dataset.read(index)
        assert annotated.image_id == dataset.image_id(index) == image_id(index)
        np.testing.assert_array_equal(annotated.image, picture.image)
        np.testing.assert_array_equal(annotated.text_boxes, picture.text.box_xyxy)
        np.testing.assert_array_equal(annotated.face_boxes, picture.faces.box_xyxy)
        np.testing.assert_array_equal(annotated.crop_from_image, picture.faces.crop_from_image)
        assert annotated.is_text_free == (len(picture.text) == 0)


def test_counts_say_what_is_used(tmp_path):
    bad = Picture(np.zeros((4, 4, 3), np.uint8), status="failed")
    small = photo("chelsea", 32)
    root = write_dataset(tmp_path / "d", [*few_pictures(), bad, small])
    dataset = ManifestDataset([root], min_side_px=64)
    counts = dataset.counts
    assert (counts.rows, counts.not_ok, counts.too_small, counts.used) == (10, 1, 1, 8)
    assert (counts.text_regions, counts.faces) == (6, 2)
    assert len(dataset) == 8


def test_rows_without_a_detector_have_no_regions_and_are_not_known_to_be_text_free(tmp_path):
    unknown = portrait(128)._replace(text=None, faces=None)
    annotated = ManifestDataset([write_dataset(tmp_path / "d", [unknown])]).read(0)
    assert len(annotated.text_boxes) == len(annotated.face_boxes) == 0
    assert not annotated.is_text_free


def test_faces_without_a_valid_alignment_are_left_out(tmp_path):
    good = portrait(128).faces
    mirrored = good.landmarks_5[:, [1, 0, 2, 4, 3]]
    both = type(good).from_landmarks(
        np.repeat(good.box_xyxy, 2, axis=0),
        [0.9, 0.9],
        np.concatenate([mirrored, good.landmarks_5]),
        128,
        128,
    )
    assert both.is_valid.tolist() == [False, True]
    root = write_dataset(tmp_path / "d", [portrait(128)._replace(faces=both), portrait(128)])
    dataset = ManifestDataset([root])
    for index in range(2):
        np.testing.assert_array_equal(dataset.read(index).crop_from_image, good.crop_from_image)


def test_images_with_regions_are_listed(root):
    assert ManifestDataset([root]).with_regions().tolist() == [0, 1, 2, 3, 4, 5]


def test_sources_are_joined_in_their_order(tmp_path, root):
    other = write_dataset(tmp_path / "other", [photo("rocket", 96), portrait(96)])
    dataset = ManifestDataset([other, root])
    assert len(dataset) == 10
    assert dataset.read(0).image.shape == (96, 96, 3)
    assert len(dataset.read(1).face_boxes) == 1
    np.testing.assert_array_equal(dataset.read(2).image, few_pictures()[0].image)
    assert len(dataset.manifest_hashes()) == 4


@pytest.mark.parametrize("place", ["annotations/000001.parquet", "subset.parquet"])
def test_a_manifest_file_inside_the_dataset_finds_its_images(root, place):
    source = root / "annotations" / "000001.parquet"
    if not (root / place).exists():
        shutil.copy(source, root / place)
    dataset = ManifestDataset([root / place])
    assert [dataset.image_id(i) for i in range(len(dataset))] == [image_id(i) for i in (3, 4, 5)]
    np.testing.assert_array_equal(dataset.read(0).image, few_pictures()[3].image)


def test_a_manifest_file_elsewhere_is_told_where_its_images_are(tmp_path, root):
    subset = tmp_path / "elsewhere" / "subset.parquet"
    subset.parent.mkdir()
    shutil.copy(root / "annotations" / "000000.parquet", subset)
    with pytest.raises(UsageError, match=r"no images/ folder .* data\.images_root"):
        ManifestDataset([subset])
    assert len(ManifestDataset([subset], images_root=root)) == 3


def test_a_shard_without_receipt_is_not_read(tmp_path):
    root = write_dataset(tmp_path / "d", few_pictures(), annotated=False)
    with pytest.raises(UsageError, match="no finished annotation manifest"):
        ManifestDataset([root])


def test_no_source_and_a_missing_source_are_misuse(tmp_path):
    with pytest.raises(UsageError, match="no data given"):
        ManifestDataset([])
    with pytest.raises(UsageError, match="does not exist"):
        ManifestDataset([tmp_path / "nowhere"])


def test_a_file_that_is_no_manifest_is_refused(tmp_path):
    (tmp_path / "images").mkdir()
    file = tmp_path / "list.parquet"
    file.write_text("url\nhttps://example.org\n")
    with pytest.raises(ManifestError, match="not a Parquet file"):
        ManifestDataset([file])


def test_a_newer_major_version_is_refused(root):
    path = DatasetLayout(root).annotations("000000")
    table = pq.read_table(str(path))
    footer = table.schema.metadata[b"regions"].replace(b'"version": "1.0"', b'"version": "2.0"')
    pq.write_table(table.replace_schema_metadata({b"regions": footer}), str(path))
    with pytest.raises(VersionError, match=r"version 2\.0"):
        ManifestDataset([root])


def test_no_usable_row_is_one_clear_line(tmp_path):
    bad = Picture(np.zeros((4, 4, 3), np.uint8), status="failed")
    root = write_dataset(tmp_path / "d", [bad, photo("chelsea", 32)])
    with pytest.raises(UsageError, match="2 rows, 1 not ok, 1 with a side under 64 px"):
        ManifestDataset([root], min_side_px=64)


def test_missing_and_shortened_tar_files_are_found_before_training(root):
    tar = DatasetLayout(root).images("000001")
    whole = tar.read_bytes()
    tar.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UsageError, match=r"000001\.tar has \d+ bytes"):
        ManifestDataset([root])
    tar.unlink()
    with pytest.raises(UsageError, match=r"000001\.tar is missing"):
        ManifestDataset([root])


def test_a_corrupt_image_names_itself(root):
    dataset = ManifestDataset([root])
    tar = DatasetLayout(root).images("000000")
    data = bytearray(tar.read_bytes())
    start = data.index(dataset.read_bytes(0))
    data[start : start + 8] = b"not a PN"
    tar.write_bytes(bytes(data))
    with pytest.raises(BadImageError, match=rf"{image_id(0)} in .*000000\.tar: \w+"):
        dataset.read(0)
    assert dataset.read(1).image.shape == (128, 128, 3)


def test_a_tar_that_vanished_or_shrank_names_the_image(root):
    dataset = ManifestDataset([root])
    tar = DatasetLayout(root).images("000000")
    data = tar.read_bytes()
    tar.write_bytes(data[: data.index(dataset.read_bytes(2)) + 10])
    with pytest.raises(BadImageError, match=r"10 of .* the tar is cut"):
        dataset.read(2)
    tar.unlink()
    with pytest.raises(BadImageError, match="No such file"):
        dataset.read(0)


def test_an_image_of_another_size_than_annotated_is_bad(tmp_path):
    root = write_dataset(tmp_path / "d", [photo("chelsea", 64), photo("chelsea", 64)])
    write_dataset(tmp_path / "e", [photo("rocket", 96), photo("rocket", 96)])
    path = DatasetLayout(tmp_path / "e").annotations("000000")
    shutil.copy(
        DatasetLayout(tmp_path / "e").images("000000"), DatasetLayout(root).images("000000")
    )
    table = pq.read_table(str(path))
    sizes = pq.read_table(str(DatasetLayout(root).annotations("000000")))
    for name in ("width", "height"):
        column = table.column_names.index(name)
        table = table.set_column(column, table.schema.field(name), sizes[name])
    pq.write_table(table, str(DatasetLayout(root).annotations("000000")))
    with pytest.raises(BadImageError, match="96x96, annotated as 64x64"):
        ManifestDataset([root]).read(0)


def test_the_dataset_travels_to_worker_processes(root):
    dataset = ManifestDataset([root])
    copy = pickle.loads(pickle.dumps(dataset))
    np.testing.assert_array_equal(copy.read(5).image, dataset.read(5).image)
    error = pickle.loads(pickle.dumps(BadImageError("ab", root, "cut")))
    assert str(error) == f"image ab in {root}: cut"


def restated(path, change):
    """Write a manifest's footer anew."""
    table = pq.read_table(str(path))
    footer = json.loads(table.schema.metadata[b"regions"])
    change(footer)
    described = table.replace_schema_metadata({b"regions": json.dumps(footer).encode()})
    pq.write_table(described, str(path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f["transform"].update(name="ffhq_256"), "transform name is 'ffhq_256'"),
        (lambda f: f["transform"].update(direction="image from canvas"), "transform direction is"),
        (lambda f: f["transform"].update(canvas_px=96), "transform canvas_px is 96"),
        (lambda f: f.update(frame="normalised"), "frame is 'normalised', the trainer knows"),
        (lambda f: f.update(box="xywh"), "box is 'xywh'"),
        (lambda f: f.pop("transform"), "transform name is None"),
    ],
)
def test_unknown_frames_and_transforms_are_refused(root, change, message):
    restated(DatasetLayout(root).annotations("000001"), change)
    with pytest.raises(UsageError, match=message) as caught:
        ManifestDataset([root])
    assert "000001.parquet" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_footer_keys_are_of_no_harm(root):
    restated(DatasetLayout(root).annotations("000001"), lambda f: f.update(note="hello"))
    assert len(ManifestDataset([root])) == 8


def weighted(root, path, weights):
    """A subset file of the first shard with these sampling weights."""
    table = pq.read_table(str(DatasetLayout(root).annotations("000000")))
    table = table.append_column("dataset", pa.array([str(root)] * len(weights)))
    table = table.append_column("sampling_weight", pa.array(weights, pa.float64()))
    pq.write_table(table, str(path))
    return path


def test_sampling_weights_of_a_subset_decide_how_often_rows_come_up(tmp_path, root):
    subset = weighted(root, tmp_path / "subset.parquet", [0.0, 1.0, 2.0])
    drawn = ManifestDataset([subset]).mixture().draw(np.arange(600), 0)
    times = np.bincount(drawn, minlength=3)
    assert times[0] == 0
    assert times[2] / times[1] == pytest.approx(2, rel=0.15)
    with pytest.raises(UsageError, match="sampling_weight is 0 in every usable image"):
        ManifestDataset([weighted(root, tmp_path / "s.parquet", [0.0] * 3)]).mixture()


def test_weights_mix_the_sources(tmp_path, root):
    other = write_dataset(tmp_path / "other", [photo("rocket", 96), portrait(96)])
    drawn = ManifestDataset([other, root], weights=(3, 1)).mixture().draw(np.arange(1024), 0)
    assert (drawn < 2).sum() == 768
    without = ManifestDataset([other, root]).mixture().draw(np.arange(10), 0)
    assert sorted(without.tolist()) == list(range(10))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ((1,), r"--weights 1: 1 numbers for 2 sources"),
        ((1, 0), r"--weights 1 0: each must be above 0"),
        ((1, -2), r"--weights 1 -2: each must be above 0"),
        ((1, float("nan")), "each must be above 0 and finite"),
    ],
)
def test_weights_that_do_not_fit_are_refused(root, weights, message):
    with pytest.raises(UsageError, match=message):
        ManifestDataset([root, root], weights=weights)


def test_a_weighted_source_without_any_region_is_named(tmp_path, root):
    other = write_dataset(tmp_path / "other", [photo("rocket", 96)])
    dataset = ManifestDataset([root, other], weights=(1, 1))
    assert len(dataset.mixture()) == 9
    with pytest.raises(UsageError, match="other 1, but it has no usable image with a text region"):
        dataset.mixture(only_with_regions=True)


@pytest.mark.parametrize("file_format", ["png", "jpeg"])
def test_a_window_is_that_part_of_the_whole_image(tmp_path, file_format):
    pictures = [portrait(128)._replace(file_format=file_format)]
    dataset = ManifestDataset([write_dataset(tmp_path / "d", pictures)])
    window = Window(30, 50, 60, is_mirrored=True)
    np.testing.assert_array_equal(
        dataset.read_window(0, window), dataset.read(0).image[50:110, 30:90]
    )
