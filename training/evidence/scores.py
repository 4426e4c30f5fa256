"""Scores of all runs side by side, and what one arm has over another."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from annotations_schema.errors import UsageError
from training.evaluation.aggregate import Bootstrap, bin_index

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

METRICS: Mapping[str, tuple[str, str]] = {
    "T-ACC": ("word", "is_exact"),
    "T-NED": ("word", "similarity"),
    "F-Sim": ("face", "similarity"),
    "face distance": ("face", "distance"),
    "PSNR": ("image", "psnr_db"),
    "SSIM": ("image", "ssim"),
}
"""Kind and field of details.jsonl by metric."""


class MetricScores(NamedTuple):
    """One metric of every system on the same regions.

    values: system -> (N,) float64.
    image: (N,) int64, index of the image that holds the region.
    ratio: (N,) float64, size of the region in its image; 0 for images.
    group: (N,) names of the held-out dataset.
    """

    values: Mapping[str, Float64]
    image: Int64
    ratio: Float64
    group: NDArray[np.str_]

    def only(self, group: str) -> MetricScores:
        """The scores of one held-out dataset."""
        kept = self.group == group
        values = {name: value[kept] for name, value in self.values.items()}
        return MetricScores(values, self.image[kept], self.ratio[kept], self.group[kept])


class Difference(NamedTuple):
    """How much one arm's mean lies above another's.

    value: difference of the means over regions and seeds.
    low, high: bootstrap interval over images and seeds.
    per_seed: the difference seed by seed.
    """

    value: float
    low: float
    high: float
    per_seed: tuple[float, ...]


def read_scores(judged: Sequence[Path]) -> dict[str, MetricScores]:
    """The scores by metric, pooled over evaluation folders that judged the same systems.

    Raises:
        UsageError: the folders judged different systems.
    """
    rows = {folder.name: _rows(folder) for folder in judged}
    systems = [list(dict.fromkeys(row["system"] for row in found)) for found in rows.values()]
    if any(names != systems[0] for names in systems):
        raise UsageError(f"{', '.join(rows)} judged different checkpoints; judge all of them alike")
    return {
        metric: _pooled(rows, systems[0], kind, field) for metric, (kind, field) in METRICS.items()
    }


def mean(scores: MetricScores, systems: Sequence[str]) -> float | None:
    """Mean over all regions and over systems (the seeds of an arm); None without a region."""
    if not len(scores.image):
        return None
    return float(np.mean([scores.values[name].mean() for name in systems]))


def mean_of_bins(
    scores: MetricScores, systems: Sequence[str], edges: Sequence[float]
) -> float | None:
    """The protocol's headline: unweighted mean of the means of the bins that hold a region."""
    bins = bin_index(scores.ratio, edges)
    filled = sorted(set(bins[bins >= 0].tolist()))
    if not filled:
        return None
    return float(
        np.mean([[scores.values[name][bins == b].mean() for b in filled] for name in systems])
    )


def difference(
    scores: MetricScores, arm: Sequence[str], other: Sequence[str], bootstrap: Bootstrap
) -> Difference | None:
    """Mean of an arm minus that of another, on the same regions.

    Each resample draws images, and for both arms the same seeds, with replacement: seed i of one
    arm saw the same data in the same order as seed i of the other.

    Args:
        scores: of one metric.
        arm: its runs, by seed.
        other: as many runs, by the same seeds.
        bootstrap: how intervals are made.

    Returns:
        None where no region was scored.
    """
    if not len(scores.image):
        return None
    pairs = zip(arm, other, strict=True)
    gaps = np.stack([scores.values[one] - scores.values[two] for one, two in pairs])
    _, row = np.unique(scores.image, return_inverse=True)
    num_images = int(row.max()) + 1
    sums = np.stack([np.bincount(row, gap, num_images) for gap in gaps])
    counts = np.bincount(row, minlength=num_images).astype(np.float64)
    rng = np.random.default_rng(bootstrap.seed)
    values = np.empty(bootstrap.resamples)
    for i in range(bootstrap.resamples):
        drawn = np.bincount(rng.integers(num_images, size=num_images), minlength=num_images)
        seeds = rng.integers(len(gaps), size=len(gaps))
        values[i] = (sums[seeds] @ drawn).mean() / (counts @ drawn)
    tail = (1 - bootstrap.confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail]).tolist()
    return Difference(float(gaps.mean()), low, high, tuple(gaps.mean(1).tolist()))


def _rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "details.jsonl").read_text().splitlines()]


def _pooled(
    rows: Mapping[str, Sequence[Mapping[str, Any]]], systems: Sequence[str], kind: str, field: str
) -> MetricScores:
    of_kind = [
        (group, row)
        for group, found in rows.items()
        for row in found
        if row["kind"] == kind and row["system"] == systems[0]
    ]
    images: dict[tuple[str, str], int] = {}
    index = [images.setdefault((group, row["image_id"]), len(images)) for group, row in of_kind]
    return MetricScores(
        {name: _values(rows.values(), kind, field, name) for name in systems},
        np.array(index, np.int64),
        np.array([row.get("ratio", 0.0) for _, row in of_kind], np.float64),
        np.array([group for group, _ in of_kind], np.str_),
    )


def _values(
    rows: Iterable[Sequence[Mapping[str, Any]]], kind: str, field: str, system: str
) -> Float64:
    # Infinities stand as text: the PSNR of the original.
    return np.array(
        [
            float(row[field])
            for found in rows
            for row in found
            if row["kind"] == kind and row["system"] == system
        ],
        np.float64,
    )
