from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from annotations_schema.errors import UsageError
from curation.demo.packaged import font_files, packaged_file
from curation.demo.poster_grounds import (
    PALETTES,
    PosterConfig,
    contrast_ratio,
    relative_luminance,
)
from curation.demo.posters import LINE_BREAKS, Design, Poster, choose_words, design_poster, paint
from curation.demo.words import WORDS, vocabulary

NUM_DESIGNS = 24


def _photo(seed: int) -> np.ndarray:
    """Clouds of colour: smooth, so that it stands for a photograph of any brightness."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, size=(6, 9, 3), dtype=np.uint8)
    return np.repeat(np.repeat(coarse, 50, axis=0), 50, axis=1)


def _design(seed: int) -> Design:
    rng = np.random.default_rng(seed)
    width, height = (int(side) for side in rng.choice((384, 512, 640), size=2))
    words = choose_words(rng, WORDS)
    background = _photo(seed) if seed % 3 else None
    config = PosterConfig(width=width, height=height)
    return design_poster(rng, words, font_files(), config, background)


@pytest.fixture(scope="module")
def designs() -> list[Design]:
    return [_design(seed) for seed in range(NUM_DESIGNS)]


@pytest.fixture(scope="module")
def posters(designs: list[Design]) -> list[Poster]:
    return [paint(design) for design in designs]


def test_all_ink_lies_inside_the_word_boxes(designs: list[Design], posters: list[Poster]) -> None:
    for design, poster in zip(designs, posters, strict=True):
        outside = np.ones(poster.image.shape[:2], dtype=bool)
        for word in poster.words:
            x0, y0, x1, y1 = (int(edge) for edge in word.box_xyxy)
            outside[y0:y1, x0:x1] = False
        np.testing.assert_array_equal(poster.image[outside], design.canvas[outside])


def test_every_side_of_a_word_box_touches_ink(designs: list[Design]) -> None:
    for design in designs:
        canvas = np.zeros_like(design.canvas)
        words = tuple(word._replace(colour=(255, 255, 255)) for word in design.words)
        poster = paint(Design(canvas, words))
        for word in poster.words:
            x0, y0, x1, y1 = (int(edge) for edge in word.box_xyxy)
            ink = poster.image[y0:y1, x0:x1, 0] > 0
            sides = (ink[0], ink[-1], ink[:, 0], ink[:, -1])
            assert all(side.any() for side in sides), word


def test_words_stay_inside_the_poster_with_room_around(posters: list[Poster]) -> None:
    for poster in posters:
        height, width = poster.image.shape[:2]
        for word in poster.words:
            x0, y0, x1, y1 = word.box_xyxy
            assert 4 <= x0 < x1 <= width - 4, word
            assert 4 <= y0 < y1 <= height - 4, word


def test_words_do_not_overlap(posters: list[Poster]) -> None:
    for poster in posters:
        taken = np.zeros(poster.image.shape[:2], dtype=int)
        for word in poster.words:
            x0, y0, x1, y1 = (int(edge) for edge in word.box_xyxy)
            taken[y0:y1, x0:x1] += 1
        assert taken.max() == 1


def test_words_can_be_told_from_what_lies_behind_them(
    designs: list[Design], posters: list[Poster]
) -> None:
    for design, poster in zip(designs, posters, strict=True):
        for word, seen in zip(design.words, poster.words, strict=True):
            x0, y0, x1, y1 = (int(edge) for edge in seen.box_xyxy)
            behind = relative_luminance(design.canvas[y0:y1, x0:x1])
            ink = relative_luminance(np.array(word.colour, dtype=np.uint8))
            assert np.median(contrast_ratio(behind, ink)) >= 4.5, word


def test_no_line_is_set_smaller_than_asked(designs: list[Design]) -> None:
    smallest = min(word.size_px for design in designs for word in design.words)

    assert smallest >= PosterConfig().min_letter_px


def test_letters_come_in_many_sizes(designs: list[Design]) -> None:
    sizes = [word.size_px for design in designs for word in design.words]

    assert max(sizes) > 4 * min(sizes)


def test_words_are_read_from_top_to_bottom(designs: list[Design]) -> None:
    for design in designs:
        baselines = [word.origin[1] for word in design.words]
        assert all(upper <= lower for upper, lower in pairwise(baselines))


def test_the_same_seed_draws_the_same_poster() -> None:
    first, second = paint(_design(5)), paint(_design(5))

    np.testing.assert_array_equal(first.image, second.image)
    assert first.words == second.words


def test_another_seed_draws_another_poster() -> None:
    first, second = paint(_design(5)), paint(_design(6))

    assert first.image.shape != second.image.shape or (first.image != second.image).any()


def test_a_photograph_is_visible_behind_the_words() -> None:
    rng = np.random.default_rng(2)
    design = design_poster(rng, ["Open"], font_files(), PosterConfig(), _photo(1))

    assert len(np.unique(design.canvas.reshape(-1, 3), axis=0)) > 50


def test_words_that_cannot_fit_are_refused_in_one_line() -> None:
    words = ["breakfast", "festival", "boarding", "passport", "caution", "airport"]
    config = PosterConfig(width=128, height=128, min_letter_px=40)

    with pytest.raises(UsageError, match="does not fit 128x128 px") as caught:
        design_poster(np.random.default_rng(0), words, font_files(), config)

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("num_words", [0, 7])
def test_a_poster_has_one_to_six_words(num_words: int) -> None:
    with pytest.raises(UsageError, match="a poster has 1 to 6"):
        design_poster(np.random.default_rng(0), ["open"] * num_words, font_files(), PosterConfig())


@pytest.mark.parametrize(
    ("field", "value"),
    [("width", 64), ("height", 5000), ("min_letter_px", 2), ("min_contrast", 20.0)],
)
def test_a_config_out_of_range_is_refused(field: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"{field}={value}"):
        PosterConfig(**{field: value})


def test_chosen_words_are_different_and_from_the_list() -> None:
    for seed in range(50):
        words = choose_words(np.random.default_rng(seed), WORDS, max_words=4)
        assert 1 <= len(words) <= 4
        assert len({word.lower() for word in words}) == len(words)
        assert {word.lower() for word in words} <= set(WORDS)


def test_too_short_a_list_of_words_is_refused() -> None:
    with pytest.raises(UsageError, match="needs 6 or more"):
        choose_words(np.random.default_rng(0), ("open", "sale"))


def test_more_words_than_a_poster_holds_are_refused() -> None:
    with pytest.raises(UsageError, match="max_words=7"):
        choose_words(np.random.default_rng(0), WORDS, max_words=7)


def test_line_breaks_use_every_word_once() -> None:
    for num_words, options in LINE_BREAKS.items():
        assert all(sum(option) == num_words for option in options)


def test_ink_can_be_read_on_every_palette() -> None:
    for palette in PALETTES:
        ground, ink = (relative_luminance(np.array(c, np.uint8)) for c in palette[:2])
        assert contrast_ratio(ground, ink) >= 4.5, palette


def test_contrast_of_black_and_white_is_21() -> None:
    black, white = (relative_luminance(np.full(3, value, np.uint8)) for value in (0, 255))

    assert contrast_ratio(black, white) == pytest.approx(21.0)
    assert contrast_ratio(white, black) == pytest.approx(21.0)
    assert contrast_ratio(white, white) == pytest.approx(1.0)


def test_training_and_held_out_words_have_nothing_in_common() -> None:
    train, held_out = vocabulary(held_out=False), vocabulary(held_out=True)

    assert not set(train) & set(held_out)
    assert sorted(train + held_out) == sorted(WORDS)
    assert len(train) > 100
    assert len(held_out) > 50


def test_the_word_list_has_letters_and_digits_only_and_no_repetition() -> None:
    assert len(set(WORDS)) == len(WORDS)
    assert all(word.isalnum() and word.isascii() and word == word.lower() for word in WORDS)


def test_a_missing_package_is_named() -> None:
    with pytest.raises(UsageError, match="'no_such_package': must be installed; install"):
        packaged_file("no_such_package", "a.png")


def test_a_missing_file_of_a_package_is_named() -> None:
    with pytest.raises(UsageError, match=r"no-such\.png: must be part of package 'skimage'"):
        packaged_file("skimage", "data/no-such.png")
