"""From scores of single regions to one number: TokBench's bins, and intervals by bootstrap.

The headline of a metric is the unweighted mean of the means of its non-empty ratio bins
(TokBench, compute_all_metrics.py). Intervals resample images, not regions: words of one image
share its light and blur. All systems that are scored on one set of images see the same resamples,
so their intervals can be compared; whether one system beats another is decided by the interval of
their difference (`paired_difference`), which is far narrower than either's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

TEXT_BIN_EDGES: dict[int, tuple[float, ...]] = {
    256: (0.02, 0.03, 0.04, 1.0),
    512: (0.01, 0.02, 0.03, 1.0),
    1024: (0.005, 0.01, 0.02, 1.0),
}
"""Half-open bins of the character ratio, by image size (TokBench, compute_all_metrics.py)."""

FACE_BIN_EDGES: dict[str, dict[int, tuple[float, ...]]] = {
    "tokbench_a77070c": {
        256: (0.0, 0.1, 0.2, 1.0),
        512: (0.0, 0.05, 0.2, 1.0),
        1024: (0.0, 0.05, 0.1, 1.0),
    },
    "tokbench_855802d": {
        256: (0.1, 0.2, 0.3, 1.0),
        512: (0.05, 0.1, 0.2, 1.0),
        1024: (0.02, 0.05, 0.1, 1.0),
    },
}
"""Half-open bins of the face ratio, by published version of TokBench's script and image size.

The two commits of wjf5203/TokBench differ: the first scores every face, the second drops the
smallest."""

ONE_BIN = (-np.inf, np.inf)
"""Edges for scores without a ratio: the headline is then the plain mean."""


class Bootstrap(NamedTuple):
    """How intervals are made: percentile bootstrap over images."""

    resamples: int = 1000
    confidence: float = 0.95
    seed: int = 0


class Scores(NamedTuple):
    """Scores of one metric of one system.

    value: (N,) float64.
    ratio: (N,) float64 size of the region relative to its image; 0 where a metric has none.
    image: (N,) int64 index of the image.
    """

    value: Float64
    ratio: Float64
    image: Int64

    @classmethod
    def of(cls, value: Sequence[float], ratio: Sequence[float], image: Sequence[int]) -> Scores:
        """Scores from plain sequences of equal length."""
        return cls(
            np.asarray(value, np.float64),
            np.asarray(ratio, np.float64),
            np.asarray(image, np.int64),
        )


class BinSummary(NamedTuple):
    """A half-open bin [low, high): its number of regions and their mean, None where empty."""

    low: float
    high: float
    num: int
    mean: float | None


class MetricSummary(NamedTuple):
    """One metric of one system over a set of images.

    value: unweighted mean of the means of the non-empty bins; None where every bin is empty.
    interval: bootstrap interval of `value`; None where there is no finite value.
    plain_mean: mean over all scored regions, bins ignored; None without regions.
    bins: every bin, also empty ones.
    num: regions inside the bins. num_outside: regions below the first or from the last edge on.
    num_images: images that hold a region inside the bins.
    """

    value: float | None
    interval: tuple[float, float] | None
    plain_mean: float | None
    bins: tuple[BinSummary, ...]
    num: int
    num_outside: int
    num_images: int


class Difference(NamedTuple):
    """How far one system's headline lies above another's on the same regions.

    value: headline of the one minus headline of the other; None without a region, or where both
    are infinite.
    interval: bootstrap interval of `value`; None where there is no finite value, and for metrics of
    whole sets, which have no images to resample.
    """

    value: float | None
    interval: tuple[float, float] | None


def bin_index(ratio: Float64, edges: Sequence[float]) -> Int64:
    """Bin of each ratio, (N,) int64: i where edges[i] <= ratio < edges[i + 1], else -1."""
    index = np.searchsorted(np.asarray(edges, np.float64), ratio, side="right") - 1
    inside = (index >= 0) & (index < len(edges) - 1)
    return np.where(inside, index, -1).astype(np.int64)


def summarise(scores: Scores, edges: Sequence[float], bootstrap: Bootstrap) -> MetricSummary:
    """The summary of one metric; see `MetricSummary`."""
    bins = bin_index(scores.ratio, edges)
    kept = bins >= 0
    sums, counts = _per_image(scores.value[kept], scores.image[kept], bins[kept], len(edges) - 1)
    total, number = sums.sum(axis=0), counts.sum(axis=0)
    value = _mean_of_bins(total, number)
    return MetricSummary(
        value=value,
        interval=_interval(sums, counts, bootstrap) if value is not None else None,
        plain_mean=float(scores.value.mean()) if len(scores.value) else None,
        bins=tuple(
            BinSummary(low, high, int(n), float(s / n) if n else None)
            for low, high, s, n in zip(edges[:-1], edges[1:], total, number, strict=True)
        ),
        num=int(kept.sum()),
        num_outside=int((~kept).sum()),
        num_images=len(counts),
    )


def paired_difference(
    scores_a: Scores, scores_b: Scores, bin_edges: Sequence[float], bootstrap: Bootstrap
) -> Difference:
    """The headline of a minus that of b, both on the same regions, resampled together.

    Every resample draws images once and looks at both systems on them, so that what is hard about
    an image cancels. Bins hold the same regions on both sides, so the difference of the headlines
    is the headline of the differences.

    Args:
        scores_a: of one system.
        scores_b: of the other; value i belongs to the same region as value i of `scores_a`.
        bin_edges: as `summarise` takes them; `ONE_BIN` for plain means.
        bootstrap: how the interval is made.

    Raises:
        ValueError: the scores are not of the same regions.
    """
    if not (
        np.array_equal(scores_a.image, scores_b.image)
        and np.array_equal(scores_a.ratio, scores_b.ratio)
    ):
        raise ValueError("a paired difference needs both systems' scores of the same regions")
    with np.errstate(invalid="ignore"):  # infinite minus infinite, which is no number
        gap = scores_a.value - scores_b.value
    summary = summarise(scores_a._replace(value=gap), bin_edges, bootstrap)
    is_number = summary.value is not None and not np.isnan(summary.value)
    return Difference(summary.value if is_number else None, summary.interval)


def _per_image(value: Float64, image: Int64, bins: Int64, num_bins: int) -> tuple[Float64, Float64]:
    """Sum and number of scores by image and bin, both (images with a score, num_bins)."""
    images, row = np.unique(image, return_inverse=True)
    sums, counts = np.zeros((2, len(images), num_bins))
    np.add.at(sums, (row, bins), value)
    np.add.at(counts, (row, bins), 1.0)
    return sums, counts


def _mean_of_bins(total: Float64, number: Float64) -> float | None:
    filled = number > 0
    return float((total[filled] / number[filled]).mean()) if filled.any() else None


def _interval(sums: Float64, counts: Float64, bootstrap: Bootstrap) -> tuple[float, float] | None:
    """Percentile interval of the mean of bin means; None where a score is infinite or NaN."""
    if not np.isfinite(sums).all():
        return None
    num_images = len(sums)
    rng = np.random.default_rng(bootstrap.seed)
    values = np.empty(bootstrap.resamples)
    for i in range(bootstrap.resamples):
        drawn = np.bincount(rng.integers(num_images, size=num_images), minlength=num_images)
        number = drawn @ counts
        filled = number > 0
        values[i] = ((drawn @ sums)[filled] / number[filled]).mean()
    tail = (1.0 - bootstrap.confidence) / 2.0
    low, high = np.quantile(values, [tail, 1.0 - tail])
    return float(low), float(high)
