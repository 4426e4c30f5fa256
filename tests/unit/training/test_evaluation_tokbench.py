"""TokBench's own files: both forms are read, another form is one clear line."""

import json

import numpy as np
import pytest
from PIL import Image

from annotations_schema import UsageError
from training.evaluation.annotations import ProblemCode, UnusableImageError, Word
from training.evaluation.tokbench import from_tokbench


def tokbench(tmp_path, entries, name="text.json"):
    path = tmp_path / name
    path.write_text(json.dumps(entries))
    return path


def save(tmp_path, name, width, height):
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / name)
    return picture


def test_tokbench_text_files_bring_boxes_quads_and_their_own_ratios(tmp_path):
    picture = save(tmp_path, "a.png", 60, 40)
    annotations = [
        {"bbox": [1, 2, 30, 20], "rec": "Exit", "ratio": 0.05},
        {"polygon": [[1, 2], [30, 4], [29, 20], [0, 18]], "rec": "Way"},
        {"polygon": [[1, 2], [30, 4], [31, 9], [29, 20], [0, 18]], "rec": "Out"},
    ]
    entry = {"file_name": "a.png", "width": 60, "height": 40, "annotations": annotations}
    found = from_tokbench(tokbench(tmp_path, [entry]), tmp_path)
    box, quad, polygon = found.images[0].words
    assert box == Word((1, 2, 30, 20), "Exit", None, 0.05)
    assert quad.quad == ((1, 2), (30, 4), (29, 20), (0, 18))
    assert (quad.box_xyxy, quad.ratio) == ((0, 2, 30, 20), None)
    assert (polygon.quad, polygon.box_xyxy) == (None, (0, 2, 31, 20))
    np.testing.assert_array_equal(found.images[0].load(), picture)
    assert found.has_transcriptions


def test_tokbench_face_files_bring_landmarks(tmp_path):
    save(tmp_path, "f.png", 60, 40)
    kps = [[10, 10], [20, 10], [15, 15], [11, 20], [19, 20]]
    face = {"kps": kps, "box": [5, 5, 25, 28], "ratio": 0.38, "gt": 1}
    entry = {"image_name": "f.png", "img_width": 60, "img_height": 40, "faces": [face]}
    found = from_tokbench(tokbench(tmp_path, [entry]), tmp_path)
    (one,) = found.images[0].faces
    assert one.ratio == 0.38
    np.testing.assert_array_equal(one.landmarks_5, kps)
    assert found.has_transcriptions is False


def test_an_image_of_another_size_than_annotated_is_not_judged(tmp_path):
    save(tmp_path, "a.png", 60, 40)
    entry = {"file_name": "a.png", "width": 120, "height": 80, "annotations": []}
    with pytest.raises(UnusableImageError) as caught:
        from_tokbench(tokbench(tmp_path, [entry]), tmp_path).images[0].load()
    assert caught.value.code == ProblemCode.SIZE_MISMATCH


def test_a_missing_and_a_broken_file_are_unusable_images(tmp_path):
    (tmp_path / "html.jpg").write_text("<!doctype html>")
    entries = [
        {"file_name": name, "width": 1, "height": 1, "annotations": []}
        for name in ("gone.jpg", "html.jpg")
    ]
    codes = []
    for image in from_tokbench(tokbench(tmp_path, entries), tmp_path).images:
        with pytest.raises(UnusableImageError) as caught:
            image.load()
        codes.append(str(caught.value.code))
    assert codes == ["image_unreadable", "not_an_image"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "not a list of images"),
        ("{}", "not a list of images"),
        ("[1]", "image 0 is not of TokBench's form"),
        ('[{"file_name": "a", "annotations": []}]', "KeyError: 'width'"),
        ("nonsense", "is not JSON"),
    ],
)
def test_a_file_of_another_form_is_one_clear_line(tmp_path, content, message):
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(UsageError, match=message) as caught:
        from_tokbench(path, tmp_path)
    assert "\n" not in str(caught.value)


def test_missing_annotations_and_folders_are_one_clear_line(tmp_path):
    with pytest.raises(UsageError, match=r"gone\.json cannot be read"):
        from_tokbench(tmp_path / "gone.json", tmp_path)
    with pytest.raises(UsageError, match="is not a folder"):
        from_tokbench(tokbench(tmp_path, []), tmp_path / "nowhere")
