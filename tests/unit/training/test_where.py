"""Predicates over manifest columns: one steady expression that can reach nothing else."""

import numpy as np
import pytest

from annotations_schema import DatasetLayout, UsageError
from tests.training_datasets import few_pictures, image_id, write_dataset
from training.data.manifest import ManifestDataset
from training.data.where import Where


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("d") / "d", few_pictures(), shard_size=3)


def chosen(root, predicate):
    dataset = ManifestDataset([root], where=predicate)
    assert dataset.counts.not_chosen == 8 - len(dataset)
    return [dataset.image_id(i) for i in range(len(dataset))]


@pytest.mark.parametrize(
    ("predicate", "rows"),
    [
        ("num_text > 0", [0, 1, 2, 3]),
        ("num_faces > 0 and width = 192", [5]),
        ("text_state = 'none' -- and no faces\nand face_state = 'none'", [6, 7]),
        ("NUM_FACES >= 1 or image_id like '%'", list(range(8))),
        ('"num_text" = 0', [4, 5, 6, 7]),
        ("format = 'no such format' or num_text = 2", [0, 2]),
        ("list_any_value([1]) = 1 and len(text_regions) = 1", [1, 3]),
    ],
)
def test_a_predicate_chooses_rows_of_all_shards(root, predicate, rows):
    assert chosen(root, predicate) == [image_id(row) for row in rows]


def test_null_is_not_true(root):
    path = DatasetLayout(root).annotations("000000")
    with Where("failure_code <> 'x'") as where:
        assert where.rows(path).tolist() == [False] * 3
    with Where("true") as where:
        assert where.rows(path).tolist() == [True] * 3


def test_regions_belong_to_the_chosen_rows(root):
    dataset = ManifestDataset([root], where="num_faces > 0")
    assert len(dataset) == 2
    for index in range(2):
        original = few_pictures()[4 + index]
        np.testing.assert_array_equal(dataset.read(index).image, original.image)
        np.testing.assert_array_equal(dataset.annotation(index).face_boxes, original.faces.box_xyxy)


@pytest.mark.parametrize(
    ("predicate", "message"),
    [
        ("num_txt > 0", 'num_txt" not found.*num_text'),
        ("num_text > ", "is not one SQL expression"),
        ("true) or (true", "is not one SQL expression"),
        ("true; drop table manifest", "is not one SQL expression"),
        ("random() > 0.5", "calls random, whose result differs"),
        ("fetched_at < now()", "calls now, whose result differs"),
        ("fetched_at < current_timestamp", "calls .*, whose result differs"),
        ("width in (select 1)", "asks a question of its own"),
        ("num_text > 99", r"no usable image .* 8 not chosen by --where"),
        ("", "is not one SQL expression"),
    ],
)
def test_what_cannot_be_asked_is_one_line(root, predicate, message):
    with pytest.raises(UsageError, match=message) as caught:
        ManifestDataset([root], where=predicate)
    assert "\n" not in str(caught.value)


def test_no_file_can_be_read(root, tmp_path):
    secret = tmp_path / "secret.csv"
    secret.write_text("a\n1\n")
    for predicate in (f"exists(from '{secret}')", f"read_text('{secret}') is not null"):
        with pytest.raises(UsageError):
            ManifestDataset([root], where=predicate)
