"""Cropping, scoring, and recognisers that really read."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from annotations_schema import UsageError, WeightsError
from tests.evaluation_cases import blurred, edit_distance, english_g2, render_word
from training.evaluation.text import (
    character_ratio,
    crop_word,
    load_text_recogniser,
    score_word,
)


@pytest.fixture(scope="module")
def reader():
    return english_g2()


WORDS = ("Market", "OPEN", "street", "Cafe", "2026", "Exit", "PARKING", "hotel")


@given(st.text("abAB1 ", max_size=9), st.text("abAB1 ", max_size=9))
def test_word_scores_agree_with_the_textbook_edit_distance(reference, read):
    score = score_word(reference, read)
    longest = max(len(reference), len(read))
    expected = 1 - edit_distance(reference, read) / longest if longest else 1.0
    assert score.similarity == pytest.approx(expected)
    assert score.is_exact == (reference == read)


def test_accuracy_is_case_sensitive():
    assert score_word("Exit", "exit").is_exact is False
    assert score_word("Exit", "exit").similarity == pytest.approx(0.75)


def test_character_ratio_is_longer_side_per_character_over_longer_image_side():
    assert character_ratio((10, 20, 110, 50), 5, (400, 200)) == pytest.approx(100 / 5 / 400)
    assert character_ratio((10, 20, 40, 120), 5, (200, 400)) == pytest.approx(100 / 5 / 400)


def test_crop_truncates_coordinates_and_adds_no_margin():
    image = np.arange(10 * 12 * 3, dtype=np.uint8).reshape(10, 12, 3)
    np.testing.assert_array_equal(crop_word(image, (2.9, 1.2, 7.9, 4.999)), image[1:4, 2:7])


def test_crop_keeps_what_lies_inside_the_image():
    image = np.arange(10 * 12 * 3, dtype=np.uint8).reshape(10, 12, 3)
    np.testing.assert_array_equal(crop_word(image, (-3, -2, 4, 5)), image[:5, :4])
    np.testing.assert_array_equal(crop_word(image, (8, 6, 99, 99)), image[6:, 8:])


@pytest.mark.parametrize("box", [(3, 3, 3, 8), (20, 2, 30, 8), (-9, 2, -1, 8), (5, 9, 8, 4)])
def test_a_box_without_pixels_has_no_crop(box):
    assert crop_word(np.zeros((10, 12, 3), np.uint8), box) is None


def test_a_turned_quad_is_cut_as_opencv_cuts_it(coffee):
    import cv2

    quad = np.array([[120.0, 80.0], [220.0, 110.0], [211.0, 140.0], [111.0, 110.0]])
    width, height = np.linalg.norm(quad[1] - quad[0]), np.linalg.norm(quad[2] - quad[1])
    target = np.array([[0, 0], [width - 1, 0], [width - 1, height - 1]], np.float32)
    matrix = cv2.getAffineTransform(quad[:3].astype(np.float32), target)
    expected = cv2.warpAffine(coffee, matrix, (int(width), int(height)))
    crop = crop_word(coffee, (0, 0, 1, 1), quad.tolist())
    assert crop.shape == expected.shape
    assert np.abs(crop.astype(int) - expected).max() <= 2


def test_easyocr_reads_rendered_words_offline(reader):
    assert reader.read([render_word(word) for word in WORDS]) == list(WORDS)


def test_reading_in_a_batch_equals_easyocr_reading_each_crop_alone(reader):
    crops = [blurred(render_word(word, size), 1.5) for word in WORDS[:4] for size in (12, 20)]
    crops.append(np.ascontiguousarray(np.rot90(crops[0])))
    alone = []
    with warnings.catch_warnings():
        # EasyOCR asks for pinned memory on machines without a GPU.
        warnings.filterwarnings("ignore", message=".*pin_memory.*")
        for crop in crops:
            answer = reader._reader.recognize(crop[..., ::-1], detail=0)  # it expects BGR
            alone.append(answer[0])
    assert reader.read(crops) == alone


def test_a_strong_blur_makes_words_unreadable(reader):
    reads = reader.read([blurred(render_word(word), 8) for word in WORDS])
    assert sum(read == word for read, word in zip(reads, WORDS, strict=True)) < 2


def test_reading_nothing_gives_nothing(reader):
    assert reader.read([]) == []


def test_the_easyocr_record_names_its_weights_and_that_it_is_a_substitute(reader):
    record = reader.record
    assert record.weights_sha256.startswith("e2272681d9d67a04")
    assert record.is_published_protocol is False
    assert reader.alphabet >= set("AZaz09 ")
    assert "é" not in reader.alphabet


def test_an_unknown_recogniser_is_named_with_the_known_ones():
    with pytest.raises(UsageError, match=r"'tesseract' does not exist.*easyocr_english_g2"):
        load_text_recogniser("tesseract")


def test_parseq_without_a_path_says_what_to_give():
    with pytest.raises(WeightsError, match=r"parseq-56125471\.pt"):
        load_text_recogniser("doctr_parseq")


def test_weights_of_another_file_are_refused(tmp_path):
    wrong = tmp_path / "english_g2.pth"
    wrong.write_bytes(b"something else")
    with pytest.raises(WeightsError, match="sha256"):
        load_text_recogniser("easyocr_english_g2", wrong)


@pytest.mark.slow  # importing docTR takes several seconds
def test_doctr_parseq_runs_with_weights_from_a_path(tmp_path):
    import torch
    from doctr.models import recognition

    torch.manual_seed(0)
    model = recognition.parseq(pretrained=False).eval()
    # Untrained, it writes the same for every picture; large weights make it look.
    for parameter in model.parameters():
        parameter.data *= 2.0 if parameter.ndim > 1 else 1.0
    path = tmp_path / "parseq.pt"
    torch.save(model.state_dict(), path)
    reader = load_text_recogniser("doctr_parseq", path)
    crops = [render_word("Market"), render_word("Expedition", 14), render_word("1", 60)]
    crops += [np.ascontiguousarray(np.rot90(crops[0])), crops[0][:1], crops[1][:, :1]]
    # TokBench's input: aspect kept, bilinear with antialias, padded right and bottom, normalised.
    with torch.inference_mode():
        batch = torch.cat([_tokbench_input(crop, model.cfg) for crop in crops])
        expected = [text for text, _ in model(batch, return_preds=True)["preds"]]
    assert reader.read(crops) == expected
    assert len(set(expected)) > 2
    (ours,) = reader._predictor.pre_processor(crops)
    torch.testing.assert_close(ours, batch, rtol=0, atol=1e-5)
    # Not the published file, so its numbers are not called T-ACC.
    assert reader.record.is_published_protocol is False
    assert reader.record.name == f"doctr_parseq {reader.record.weights_sha256[:8]}"
    assert {"é", "A", "9"} <= reader.alphabet

    torch.save({"weight": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match="does not hold docTR's parseq"):
        load_text_recogniser("doctr_parseq", path)


def _tokbench_input(crop, cfg):
    import torch
    from torchvision.transforms.functional import normalize, resize

    if crop.shape[0] / crop.shape[1] > 32 / 128:
        size = [32, max(int(32 * crop.shape[1] / crop.shape[0]), 1)]
    else:
        size = [max(int(128 * crop.shape[0] / crop.shape[1]), 1), 128]
    x = resize(torch.from_numpy(crop.copy()).permute(2, 0, 1), size, antialias=True)
    x = torch.nn.functional.pad(x, (0, 128 - x.shape[2], 0, 32 - x.shape[1]))
    return normalize(x.float() / 255, cfg["mean"], cfg["std"])[None]
