"""Words and faces from manifests; bad ones are named, none is lost."""

import numpy as np
import pytest

from annotations_schema import DatasetLayout, UsageError
from tests.evaluation_cases import add_words_column
from tests.training_datasets import Picture, few_pictures, photo, portrait, words, write_dataset
from training.evaluation.annotations import (
    ProblemCode,
    UnusableImageError,
    Word,
    from_manifests,
    joined,
    parse_words,
)


@pytest.fixture
def root(tmp_path):
    missing = Picture(np.zeros((4, 4, 3), np.uint8), status="failed")
    pictures = [words(["OPEN", "ROAD"]), missing, portrait(256), photo("chelsea", 128)]
    return write_dataset(tmp_path / "dataset", pictures)


def test_manifest_images_bring_faces_text_boxes_and_pixels(root):
    found = from_manifests([root])
    assert [len(image.faces) for image in found.images] == [0, 1, 0]
    assert [len(image.text_boxes) for image in found.images] == [2, 0, 0]
    assert found.rows_not_ok == 1
    assert found.has_transcriptions is False
    face = found.images[1].faces[0]
    assert face.landmarks_5.shape == (5, 2)
    assert face.box_xyxy == pytest.approx((88.5, 28.0, 136.0, 88.0))
    np.testing.assert_array_equal(found.images[1].load(), portrait(256).image)


def test_words_of_the_user_column_are_read(root):
    listed = [{"box_xyxy": [1, 2, 30.5, 40], "text": "OPEN"}]
    add_words_column(root, [listed, None, None, []])
    found = from_manifests([root])
    assert found.has_transcriptions is True
    assert found.images[0].words == (Word((1.0, 2.0, 30.5, 40.0), "OPEN"),)
    assert found.images[1].words == found.images[2].words == ()


@pytest.mark.parametrize(
    "value",
    [
        "{not json",
        '{"box_xyxy": [0, 0, 1, 1], "text": "a"}',
        '[{"box_xyxy": [0, 0, 1], "text": "a"}]',
        '[{"box_xyxy": [0, 0, 1, NaN], "text": "a"}]',
        '[{"box_xyxy": [0, 0, 1, 1]}]',
        '[{"box_xyxy": [0, 0, 1, 1], "text": 7}]',
        '[{"box_xyxy": [0, 0, "x", 1], "text": "a"}]',
        '[{"box_xyxy": [0, 0, null, 1], "text": "a"}]',
        "[5]",
    ],
)
def test_words_that_cannot_be_used_are_a_problem_of_their_image(root, value):
    add_words_column(root, [value, None, None, None])
    found = from_manifests([root])
    with pytest.raises((ValueError, TypeError)):
        parse_words(value)
    assert found.images[0].words == ()
    (problem,) = found.images[0].problems
    assert problem.code == ProblemCode.WORDS_INVALID
    assert problem.image_id == found.images[0].image_id


def test_a_damaged_file_is_an_unusable_image(root):
    tar = DatasetLayout(root).images("000000")
    data = bytearray(tar.read_bytes())
    data[512:1024] = bytes(512)  # the head of the first file, after its tar header
    tar.write_bytes(bytes(data))
    with pytest.raises(UnusableImageError) as caught:
        from_manifests([root]).images[0].load()
    assert caught.value.code == ProblemCode.IMAGE_UNREADABLE


def test_faces_whose_alignment_is_invalid_are_brought_and_marked(tmp_path):
    from annotations_schema import FaceRegions

    good = portrait(256)
    landmarks = [good.faces.landmarks_5[0], np.full((5, 2), 7.0)]
    faces = FaceRegions.from_landmarks([good.faces.box_xyxy[0]] * 2, [1, 1], landmarks, 256, 256)
    root = write_dataset(tmp_path / "d", [good._replace(faces=faces)])
    assert [face.is_valid for face in from_manifests([root]).images[0].faces] == [True, False]


def test_a_missing_dataset_is_one_clear_line(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        from_manifests([tmp_path / "nowhere"])


def test_a_words_column_of_another_type_is_one_clear_line(root):
    import pyarrow as pa

    from annotations_schema import read_manifest, read_provenance, write_manifest

    path = DatasetLayout(root).annotations("000000")
    table = read_manifest(path).append_column("input_words", pa.array([1, 2, 3, 4]))
    write_manifest(path, table, read_provenance(path))
    with pytest.raises(UsageError, match="column input_words has type int64"):
        from_manifests([root])


def test_sets_are_joined_in_order(tmp_path, root):
    other = write_dataset(tmp_path / "other", few_pictures()[:2])
    both = joined([from_manifests([root]), from_manifests([other])])
    assert len(both.images) == 5
    assert (both.rows_not_ok, len(both.sources)) == (1, 2)
