"""Bins, the mean of their means, and intervals, against plain re-computation."""

import math

import numpy as np
import pytest

from training.evaluation.aggregate import (
    FACE_BIN_EDGES,
    ONE_BIN,
    TEXT_BIN_EDGES,
    Bootstrap,
    Scores,
    bin_index,
    paired_difference,
    summarise,
)

EDGES = TEXT_BIN_EDGES[256]


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [(0.0199, -1), (0.02, 0), (0.0299, 0), (0.03, 1), (0.04, 2), (0.99, 2), (1.0, -1), (7.0, -1)],
)
def test_bins_are_half_open(ratio, expected):
    assert bin_index(np.array([ratio]), EDGES).tolist() == [expected]


def test_published_bins_are_those_of_the_protocol():
    assert TEXT_BIN_EDGES == {
        256: (0.02, 0.03, 0.04, 1),
        512: (0.01, 0.02, 0.03, 1),
        1024: (0.005, 0.01, 0.02, 1),
    }
    assert FACE_BIN_EDGES["tokbench_a77070c"][512] == (0, 0.05, 0.2, 1)
    assert FACE_BIN_EDGES["tokbench_855802d"][512] == (0.05, 0.1, 0.2, 1)


def test_headline_is_the_unweighted_mean_of_bin_means():
    # Bin 0: 1, 0, 0 -> 1/3. Bin 2: 1 -> 1. Bin 1 empty. One word below the first edge.
    scores = Scores.of([1, 0, 0, 1, 1], [0.02, 0.021, 0.029, 0.5, 0.001], [0, 0, 1, 1, 2])
    summary = summarise(scores, EDGES, Bootstrap())
    assert summary.value == pytest.approx((1 / 3 + 1) / 2)
    assert summary.plain_mean == pytest.approx(3 / 5)
    assert [b.num for b in summary.bins] == [3, 0, 1]
    assert summary.bins[1].mean is None
    assert (summary.num, summary.num_outside, summary.num_images) == (4, 1, 2)


def test_an_empty_bin_is_never_a_zero():
    full = summarise(Scores.of([0.8, 0.6], [0.5, 0.5], [0, 1]), EDGES, Bootstrap())
    assert full.value == pytest.approx(0.7)
    low, high = full.interval
    assert 0.6 - 1e-12 <= low <= high <= 0.8 + 1e-12


def test_without_any_region_there_is_no_value():
    nothing = summarise(Scores.of([], [], []), EDGES, Bootstrap())
    assert (nothing.value, nothing.interval, nothing.plain_mean) == (None, None, None)
    only_outside = summarise(Scores.of([1.0], [0.001], [0]), EDGES, Bootstrap())
    assert only_outside.value is None
    assert only_outside.plain_mean == 1.0
    assert only_outside.num_outside == 1


def test_infinite_values_have_a_mean_and_no_interval():
    summary = summarise(Scores.of([math.inf, 30.0], [0, 0], [0, 1]), ONE_BIN, Bootstrap())
    assert summary.value == math.inf
    assert summary.interval is None


def test_interval_agrees_with_a_plain_bootstrap_over_images():
    rng = np.random.default_rng(3)
    image = np.repeat(np.arange(12), 4)
    value, ratio = rng.random(48), rng.uniform(0.02, 0.06, 48)
    bootstrap = Bootstrap(resamples=300, confidence=0.9, seed=5)
    summary = summarise(Scores(value, ratio, image), EDGES, bootstrap)

    draws, bins, means = np.random.default_rng(5), bin_index(ratio, EDGES), []
    for _ in range(300):
        words = np.concatenate([np.flatnonzero(image == i) for i in draws.integers(12, size=12)])
        filled = [b for b in range(3) if (bins[words] == b).any()]
        means.append(np.mean([value[words][bins[words] == b].mean() for b in filled]))
    np.testing.assert_allclose(summary.interval, np.quantile(means, [0.05, 0.95]), atol=1e-12)


def test_words_of_one_image_do_not_count_as_independent():
    rng = np.random.default_rng(0)
    per_image = rng.random(10)
    value, image = np.repeat(per_image, 50), np.repeat(np.arange(10), 50)
    many = summarise(Scores(value, np.full(500, 0.5), image), EDGES, Bootstrap())
    few = summarise(Scores(per_image, np.full(10, 0.5), np.arange(10)), EDGES, Bootstrap())
    np.testing.assert_allclose(many.interval, few.interval, atol=1e-12)


def test_intervals_are_the_same_on_every_run_and_differ_by_seed():
    scores = Scores.of(list(np.linspace(0, 1, 20)), [0.5] * 20, list(range(20)))
    first = summarise(scores, EDGES, Bootstrap(seed=1)).interval
    assert first == summarise(scores, EDGES, Bootstrap(seed=1)).interval
    assert first != summarise(scores, EDGES, Bootstrap(seed=2)).interval


def two_systems(seed=0, images=20, words=5):
    """Scores that vary much by image and little between systems: (ours, theirs)."""
    rng = np.random.default_rng(seed)
    image = np.repeat(np.arange(images), words)
    ratio = rng.uniform(0.02, 0.06, len(image))
    theirs = np.repeat(rng.random(images), words)
    ours = theirs + 0.05 + 0.01 * rng.standard_normal(len(image))
    return Scores(ours, ratio, image), Scores(theirs, ratio, image)


def test_a_paired_difference_agrees_with_a_plain_bootstrap_of_both_systems():
    ours, theirs = two_systems()
    value, interval = paired_difference(ours, theirs, EDGES, Bootstrap(200, 0.9, 7))

    bins, rng, gaps = bin_index(ours.ratio, EDGES), np.random.default_rng(7), []
    for _ in range(200):
        drawn = rng.integers(20, size=20)
        words = np.concatenate([np.flatnonzero(ours.image == i) for i in drawn])
        filled = [b for b in range(3) if (bins[words] == b).any()]
        headlines = [
            np.mean([s.value[words][bins[words] == b].mean() for b in filled])
            for s in (ours, theirs)
        ]
        gaps.append(headlines[0] - headlines[1])
    assert value == pytest.approx(
        summarise(ours, EDGES, Bootstrap()).value - summarise(theirs, EDGES, Bootstrap()).value
    )
    np.testing.assert_allclose(interval, np.quantile(gaps, [0.05, 0.95]), atol=1e-12)


def test_a_paired_difference_sees_what_the_systems_own_intervals_hide():
    ours, theirs = two_systems()
    (our_low, _), (_, their_high) = (
        summarise(scores, EDGES, Bootstrap()).interval for scores in (ours, theirs)
    )
    low, high = paired_difference(ours, theirs, EDGES, Bootstrap()).interval
    assert our_low < their_high
    assert 0.04 < low < high < 0.06


def test_a_paired_difference_of_infinite_or_absent_scores_has_no_interval():
    same, more = (Scores.of([math.inf, value], [0, 0], [0, 1]) for value in (30.0, math.inf))
    finite = Scores.of([30.0, 31.0], [0, 0], [0, 1])
    assert paired_difference(same, more, ONE_BIN, Bootstrap()) == (None, None)
    assert paired_difference(same, finite, ONE_BIN, Bootstrap()) == (math.inf, None)
    nothing = Scores.of([], [], [])
    assert paired_difference(nothing, nothing, EDGES, Bootstrap()) == (None, None)


def test_a_paired_difference_needs_the_same_regions():
    scores = Scores.of([1.0, 0.0], [0.5, 0.5], [0, 1])
    for other in (Scores.of([1.0], [0.5], [0]), Scores.of([1.0, 0.0], [0.5, 0.4], [0, 1])):
        with pytest.raises(ValueError, match="same regions"):
            paired_difference(scores, other, EDGES, Bootstrap())
