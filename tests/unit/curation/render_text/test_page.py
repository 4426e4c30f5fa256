from pathlib import Path

import matplotlib
import numpy as np
import pytest

from annotations_schema.errors import UsageError
from curation.render_text.fonts import font_files, fonts_that_write
from curation.render_text.page import PageConfig, contrast, luminance, render_page

FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
FONT = FONTS / "DejaVuSans.ttf"
GREY = np.full((300, 400, 3), 118, np.uint8)
WORDS = ("market", "2026", "jig")


def page_at(seed, background=GREY, **settings):
    config = PageConfig(**settings)
    return render_page(background, WORDS, [FONT], config, np.random.default_rng(seed))


def test_the_same_numbers_give_the_same_page_and_others_another():
    one, again, other = page_at(1), page_at(1), page_at(2)

    np.testing.assert_array_equal(one.image, again.image)
    assert [w.text for w in one.words] == [w.text for w in again.words]
    assert not np.array_equal(one.image, other.image)


@pytest.mark.parametrize("seed", range(6))
def test_an_upright_word_s_box_is_exactly_what_changed(seed):
    page = page_at(seed, words=(1, 1), max_angle_deg=0, min_contrast=1.0)
    (word,) = page.words

    changed = np.argwhere((page.image != 118).any(2))

    (top, left), (bottom, right) = changed.min(0), changed.max(0) + 1
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    # Ink of a coverage under half a grey level cannot be seen.
    np.testing.assert_allclose(word.quad, corners, atol=1.0)


@pytest.mark.parametrize("seed", range(6))
def test_a_turned_word_lies_in_its_quad_and_fills_it(seed):
    page = page_at(seed, words=(1, 1), max_angle_deg=30, min_contrast=1.0)
    (word,) = page.words
    low, high = word.quad.min(0), word.quad.max(0)

    rows, columns = np.nonzero((page.image != 118).any(2))

    assert columns.min() >= low[0] - 1.5
    assert columns.max() <= high[0] + 1.5
    assert rows.min() >= low[1] - 1.5
    assert rows.max() <= high[1] + 1.5
    edges = np.linalg.norm(word.quad - np.roll(word.quad, 1, axis=0), axis=1)
    np.testing.assert_allclose(edges[:2], edges[2:])  # a rectangle


def test_words_do_not_touch_and_lie_inside():
    for seed in range(10):
        page = page_at(seed, words=(7, 7), letter_px=(12, 24))
        boxes = [(*w.quad.min(0), *w.quad.max(0)) for w in page.words]
        assert all(x0 >= 0 and y0 >= 0 and x1 <= 256 and y1 <= 256 for x0, y0, x1, y1 in boxes)
        for i, a in enumerate(boxes):
            for b in boxes[:i]:
                assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


def test_ink_stands_out_of_every_background():
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
    for seed in range(10):
        page = page_at(seed, noise, words=(1, 1), max_angle_deg=0, min_contrast=3.0)
        for word in page.words:
            (x0, y0), (x1, y1) = word.quad.min(0).astype(int), word.quad.max(0).astype(int)
            levels = luminance(page.image[y0:y1, x0:x1].reshape(-1, 3).astype(float))
            assert contrast(levels.min(), levels.max()) >= 2.9


def test_contrast_is_that_of_wcag():
    black, white = luminance(np.array([[0.0, 0, 0], [255, 255, 255]])).tolist()
    assert contrast(black, white) == pytest.approx(21.0)
    assert contrast(white, white) == 1.0
    assert luminance(np.array([118.0, 118, 118])) == pytest.approx(0.1812, abs=1e-3)


def test_fonts_without_a_needed_letter_are_left_out():
    fonts = font_files([FONTS])

    suitable = {font.name for font in fonts_that_write(fonts, ["straße"])}

    assert "DejaVuSans.ttf" in suitable
    assert "STIXSizOneSymReg.ttf" in {font.name for font in fonts} - suitable
    assert fonts_that_write([Path(__file__)], ["a"]) == []


def test_folders_without_fonts_are_refused(tmp_path):
    with pytest.raises(UsageError, match="no font in"):
        font_files([tmp_path])
    with pytest.raises(UsageError, match="does not exist"):
        font_files([tmp_path / "none"])


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"letter_px": (30, 20)}, "letter_px 30 20"),
        ({"letter_px": (16, 200)}, "letter_px 200 does not fit"),
        ({"words": (0, 3)}, "words 0 3"),
        ({"size_px": 8}, "size_px 8"),
        ({"max_angle_deg": 90.0}, "max_angle_deg 90"),
        ({"min_contrast": 0.5}, "min_contrast 0.5"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, says):
    with pytest.raises(UsageError, match=says):
        PageConfig(**settings)
