"""Histograms as plain numbers that the report's template draws: bars, ticks, median."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

NUM_BINS = 24
_COUNT_LABELS = ("0", "1", "2", "3", "4", "5-9", "10-19", "20+")
_COUNT_EDGES = (0, 1, 2, 3, 4, 5, 10, 20, np.inf)


class Bar(NamedTuple):
    """One bar: place and height as fractions of the plot, and what it says."""

    left: float
    width: float
    height: float
    label: str


class Tick(NamedTuple):
    """A label under the axis at a fraction of its width."""

    at: float
    label: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """One histogram."""

    title: str
    note: str
    """How many values, and their median."""
    bars: tuple[Bar, ...]
    ticks: tuple[Tick, ...]
    median_at: float | None = None
    """Where the median lies, as a fraction of the axis."""
    tone: str = "plain"
    """Which colour: "text", "face" or "plain"."""


def histogram(
    title: str,
    values: NDArray[np.float64],
    *,
    unit: str = "",
    is_log: bool = False,
    tone: str = "plain",
) -> Chart:
    """A histogram of finite values (N,), on a linear or a logarithmic axis.

    On a logarithmic axis values below 1 count as 1.
    """
    if not len(values):
        return Chart(title=title, note="no values", bars=(), ticks=(), tone=tone)
    scaled = np.log10(np.maximum(values, 1.0)) if is_log else values
    low, high = _limits(scaled, is_log=is_log)
    counts, edges = np.histogram(scaled, bins=NUM_BINS, range=(low, high))
    shown = 10.0**edges if is_log else edges
    median = float(np.median(values))
    at = (np.log10(max(median, 1.0)) if is_log else median) - low
    return Chart(
        title=title,
        note=f"{len(values):,} values, median {quantity(median)}{unit}",
        bars=tuple(
            Bar(
                index / NUM_BINS,
                1 / NUM_BINS,
                float(count / counts.max()),
                f"{quantity(shown[index])} to {quantity(shown[index + 1])}{unit}: {count:,}",
            )
            for index, count in enumerate(counts)
            if count
        ),
        ticks=_ticks(low, high, unit, is_log=is_log),
        median_at=float(at / (high - low)),
        tone=tone,
    )


def count_histogram(title: str, values: NDArray[np.int64], *, tone: str = "plain") -> Chart:
    """Bars for how many images have 0, 1, 2, ... of something; values (N,) are at least 0."""
    counts, _ = np.histogram(values, bins=np.array(_COUNT_EDGES))
    most = max(1, int(counts.max()))
    step = 1 / len(_COUNT_LABELS)
    return Chart(
        title=title,
        note=f"{len(values):,} images, {int(values.sum()):,} in all",
        bars=tuple(
            Bar(index * step, step, float(count / most), f"{label}: {count:,} images")
            for index, (label, count) in enumerate(zip(_COUNT_LABELS, counts, strict=True))
            if count
        ),
        ticks=tuple(Tick((i + 0.5) * step, label) for i, label in enumerate(_COUNT_LABELS)),
        tone=tone,
    )


def quantity(value: float) -> str:
    """A number in at most four characters or so: 0.031, 7.5, 412, 1.2k, 3.4M."""
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{suffix}"
    return f"{value:.3g}"


def _limits(scaled: NDArray[np.float64], *, is_log: bool) -> tuple[float, float]:
    low = float(np.floor(scaled.min())) if is_log else min(0.0, float(scaled.min()))
    high = float(np.ceil(scaled.max())) if is_log else float(scaled.max())
    return low, high if high > low else low + 1.0


def _ticks(low: float, high: float, unit: str, *, is_log: bool) -> tuple[Tick, ...]:
    if is_log:
        places = np.arange(low, high + 0.5)
        places = places[:: 1 + len(places) // 6]
        return tuple(Tick((p - low) / (high - low), quantity(10.0**p) + unit) for p in places)
    step = _round_step((high - low) / 4)
    places = np.arange(np.ceil(low / step), np.floor(high / step) + 1) * step
    return tuple(Tick((p - low) / (high - low), quantity(p) + unit) for p in places)


def _round_step(least: float) -> float:
    """The smallest of 1, 2, 2.5, 5 times a power of ten that is at least `least`."""
    power = 10.0 ** np.floor(np.log10(least))
    steps = (power * multiple for multiple in (1.0, 2.0, 2.5, 5.0, 10.0))
    return float(next(step for step in steps if step >= least * (1 - 1e-9)))
