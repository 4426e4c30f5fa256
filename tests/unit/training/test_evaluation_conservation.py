"""Nothing annotated is lost: what was asked for = what was judged + one counted code for each."""

import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from annotations_schema import FaceRegions, UsageError
from tests.conftest import read_photo
from tests.evaluation_cases import ASTRONAUT_LANDMARKS, page_of_words
from tests.training_datasets import portrait, write_dataset
from training.evaluation import EvaluateConfig, evaluate
from training.evaluation.report import bins_averaged, table
from training.evaluation.tokbench import from_tokbench

WORDS = {"Market": (20, 20, 60), "OPEN": (20, 120, 40), "tiny": (300, 280, 6)}
OFF = [[900, 900], [950, 900], [950, 920], [900, 920]]
KPS = ASTRONAUT_LANDMARKS.tolist()
BOX = [177, 56, 272, 176]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """TokBench files with every defect a word or a face can have."""
    folder = tmp_path_factory.mktemp("tokbench")
    page, placed = page_of_words(WORDS)
    Image.fromarray(page).save(folder / "page.png")
    Image.fromarray(read_photo("skimage", "data/astronaut.png")).save(folder / "face.png")
    (folder / "broken.png").write_text("<html>")
    good = [{"bbox": [int(v) for v in w["box_xyxy"]], "rec": w["text"]} for w in placed]
    bad = [
        {"bbox": [0, 0, 90, 20], "rec": "Ćafé"},
        {"bbox": [0, 0, 90, 20], "rec": "naïf é"},
        {"bbox": [0, 0, 90, 20], "rec": ""},
        {"bbox": [900, 900, 950, 950], "rec": "gone"},
        {"polygon": OFF, "rec": "gone"},
    ]
    size = {"width": page.shape[1], "height": page.shape[0]}
    text = [
        {"file_name": "page.png", **size, "annotations": good + bad},
        {"file_name": "broken.png", **size, "annotations": good[:2]},
        {"file_name": "none.png", **size, "annotations": good[:1]},
        {"file_name": "page.png", **size, "annotations": []},
    ]
    faces = [
        {"kps": KPS, "box": BOX},
        {"kps": [[7, 7]] * 5, "box": BOX},
        {"kps": (np.array(KPS) + 5000).tolist(), "box": BOX},
    ]
    face = [
        {"image_name": "face.png", "img_width": 512, "img_height": 512, "faces": faces},
        {"image_name": "broken.png", "img_width": 512, "img_height": 512, "faces": faces},
    ]
    for name, entries in (("text.json", text), ("face.json", face)):
        (folder / name).write_text(json.dumps(entries))
    return folder


@pytest.fixture(scope="module", params=[False, True], ids=["all", "refined"])
def result(request, files, tmp_path_factory):
    config = EvaluateConfig(
        tokbench=(files / "text.json", files / "face.json"),
        tokbench_images=(files, files),
        refine=request.param,
        perceptual="none",
        fid="none",
        bootstrap_resamples=5,
    )
    return evaluate([], tmp_path_factory.mktemp("result") / "out", config)


def test_annotated_is_judged_plus_every_code(result):
    counts, problems = result.counts, result.problem_counts
    lost = {
        kind: sum(num for code, num in problems.items() if code.startswith(f"{kind}_"))
        for kind in ("word", "face")
    }
    assert counts["words_annotated"] == 3 + 5 + 2 + 1 == counts["words_judged"] + lost["word"]
    assert counts["faces_annotated"] == 3 + 3 == counts["faces_judged"] + lost["face"]
    assert counts["images"] + counts["images_unreadable"] == 6
    assert (counts["images_with_words"], counts["images_with_faces"]) == (3, 2)
    assert sum(problems.values()) == sum(lost.values()) + counts["images_unreadable"]
    for system in result.systems:
        for name, metric in system.metrics.items():
            judged = counts["faces_judged" if "ace" in name or "F-" in name else "words_judged"]
            if len(metric.bins) > 1:
                assert metric.num + metric.num_outside == judged
                assert sum(one.num for one in metric.bins) == metric.num


def test_each_defect_has_its_code(result):
    expected = {
        "word_outside_alphabet": 2,
        "word_empty": 1,
        "word_outside_image": 2,
        "word_in_unusable_image": 3,
        "face_not_alignable": 1,
        "face_outside_image": 1,
        "face_in_unusable_image": 3,
        "not_an_image": 2,
        "image_unreadable": 1,
    }
    unread = result.problem_counts.get("word_unreadable_in_original", 0)
    assert dict(result.problem_counts) == {
        **expected,
        **({"word_unreadable_in_original": unread} if unread else {}),
    }
    assert (unread > 0) is result.config.refine


def test_refining_makes_the_original_perfect_and_else_it_shows_what_is_unreadable(result):
    original = result.metric("original", "T-ACC").plain_mean
    assert (original == 1.0) is result.config.refine
    assert table(result).count("\noriginal ") >= 3  # the main table, and both tables of bins


def test_characters_outside_the_alphabet_are_counted_by_word(result):
    assert result.unknown_characters == {"é": 2, "Ć": 1, "ï": 1}
    shown = table(result)
    assert "characters outside the recogniser's alphabet: 'é' in 2, " in shown
    assert "2 word_outside_alphabet" in shown


def test_the_heading_says_how_many_of_how_many(result):
    heading = table(result).splitlines()[0]
    judged = result.counts["words_judged"]
    assert heading.startswith(f"3 of 6 images at 256 px, {judged} of 11 words (3 images have any)")
    assert "1 of 6 faces (2 images have any)" in heading


def test_an_empty_bin_says_so_and_the_headline_how_many_bins_it_averages(result):
    metric = result.metric("original", "F-Sim")
    assert [one.num for one in metric.bins] == [0, 0, 1]
    assert metric.value == metric.bins[2].mean
    assert bins_averaged(metric) == "mean of 1 of 3 bins"
    shown = table(result)
    assert "mean of 1 of 3 bins" in shown
    (row,) = [r for r in shown.split("F-Sim")[-1].splitlines() if r.startswith("original")]
    assert row.split()[1:3] == ["empty", "empty"]


def test_faces_that_a_manifest_calls_invalid_are_counted(tmp_path):
    good = portrait(256)
    landmarks = [good.faces.landmarks_5[0], np.full((5, 2), 7.0)]
    faces = FaceRegions.from_landmarks([good.faces.box_xyxy[0]] * 2, [1, 1], landmarks, 256, 256)
    root = write_dataset(tmp_path / "d", [good._replace(faces=faces)])
    config = EvaluateConfig(
        data=(root,), text_recogniser="none", perceptual="none", fid="none", bootstrap_resamples=5
    )
    found = evaluate([], tmp_path / "out", config)
    assert (found.counts["faces_annotated"], found.counts["faces_judged"]) == (2, 1)
    assert Counter(found.problem_counts) == {"face_not_alignable": 1}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rec": None}, "rec must be text, found None"),
        ({"rec": 2026}, "rec must be text"),
        ({"bbox": [0, 0, 5]}, "a box needs four numbers|reshape"),
        ({"bbox": [0, 0, 5, float("nan")]}, "finite"),
        ({"ratio": float("nan")}, "a ratio must be finite"),
        ({"ratio": "wide"}, "could not convert"),
    ],
)
def test_a_word_of_a_wrong_shape_is_one_clear_line(tmp_path, changes, message):
    word = {"bbox": [0, 0, 5, 5], "rec": "a", **changes}
    entry = {"file_name": "a.png", "width": 9, "height": 9, "annotations": [word]}
    refused(tmp_path, entry, message)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"file_name": "a.png", "width": float("inf"), "height": 9, "annotations": []}, "infinity"),
        ({"file_name": "a\0", "width": 9, "height": 9, "annotations": []}, "zero byte"),
        (
            {
                "file_name": "a.png",
                "width": 9,
                "height": 9,
                "annotations": [{"polygon": [[1, 1], [2, 2]], "rec": "a"}],
            },
            "a polygon needs three points",
        ),
        (
            {
                "image_name": "a.png",
                "img_width": 9,
                "img_height": 9,
                "faces": [{"kps": [[1, 2]] * 4, "box": [0, 0, 5, 5]}],
            },
            "reshape",
        ),
    ],
)
def test_an_image_of_a_wrong_shape_is_one_clear_line(tmp_path, entry, message):
    refused(tmp_path, entry, message)


def refused(tmp_path, entry, message):
    path = tmp_path / "text.json"
    path.write_text(json.dumps([entry]))
    with pytest.raises(UsageError, match=message) as caught:
        from_tokbench(path, tmp_path)
    assert "image 0 is not of TokBench's form" in str(caught.value)
    assert "\n" not in str(caught.value)
