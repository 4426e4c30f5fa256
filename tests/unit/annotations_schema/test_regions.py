import numpy as np
import pytest

from annotations_schema.errors import GeometryError
from annotations_schema.geometry import ARCFACE_TEMPLATE_112
from annotations_schema.regions import FaceRegions, TextRegions


def test_text_regions_of_quads_are_cut_to_the_image():
    text = TextRegions.from_quads([[[-5, -5], [30, 0], [30, 20], [0, 20]]], [0.5], 20, 10)
    np.testing.assert_array_equal(text.box_xyxy, [[0, 0, 20, 10]])
    np.testing.assert_allclose(text.area_fraction, [1.0])
    assert text.quad.dtype == np.float32


def test_face_regions_carry_their_fit():
    faces = FaceRegions.from_landmarks(
        [[0, 0, 50, 50], [1, 1, 2, 2]],
        [0.9, 0.8],
        [ARCFACE_TEMPLATE_112, np.zeros((5, 2))],
        112,
        112,
    )
    np.testing.assert_allclose(faces.crop_from_image[0], np.eye(3)[:2], atol=1e-5)
    assert np.isnan(faces.crop_from_image[1]).all()
    assert faces.is_valid.tolist() == [True, False]


def test_selection_by_mask_and_by_index():
    text = TextRegions.from_quads(np.arange(24).reshape(3, 4, 2), [0.1, 0.2, 0.3], 100, 100)
    assert text.take([2, 0]).score.tolist() == pytest.approx([0.3, 0.1])
    assert len(text.take(np.array([False, True, False]))) == 1
    assert len(text.take([])) == 0


def test_empty_sets_have_their_shapes():
    assert len(TextRegions.empty()) == len(FaceRegions.empty()) == 0
    assert FaceRegions.empty().crop_from_image.shape == (0, 2, 3)


def test_arrays_cannot_be_written_to():
    with pytest.raises(ValueError, match="read-only"):
        TextRegions.from_quads(np.zeros((1, 4, 2)), [0.5], 10, 10).score[0] = 1.0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"score": [1.5]}, r"\[0, 1\]"),
        ({"score": [np.nan]}, "finite"),
        ({"score": [0.5, 0.5]}, "shape"),
        ({"box_xyxy": [[3, 3, 1, 4]]}, "x1 < x0"),
        ({"quad": [[0, 1, 2]]}, "shape"),
    ],
)
def test_arrays_that_are_not_regions_are_refused(change, words):
    good = {
        "box_xyxy": [[0, 0, 1, 1]],
        "quad": np.zeros((1, 4, 2)),
        "score": [0.5],
        "area_fraction": [0.1],
    }
    with pytest.raises(GeometryError, match=words):
        TextRegions(**{**good, **change})


def test_a_face_without_a_fit_cannot_be_valid():
    with pytest.raises(GeometryError, match="cannot be valid"):
        FaceRegions(
            box_xyxy=np.zeros((1, 4)),
            score=[0.5],
            landmarks_5=np.zeros((1, 5, 2)),
            crop_from_image=np.full((1, 2, 3), np.nan),
            residual_px=[np.nan],
            is_valid=[True],
            area_fraction=[0.0],
        )
