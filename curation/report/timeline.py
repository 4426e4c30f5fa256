"""The timeline of a dataset's shards: which worker did what when, and how far stages overlapped."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from annotations_schema.layout import Receipt

STAGES = ("fetch", "annotate")
MAX_LANES_PER_STAGE = 12
LEAST_BAR = 0.002

Interval = tuple[float, float]


class Bar(NamedTuple):
    """One shard, or several that follow one another closely: place as fractions of the span."""

    left: float
    width: float
    label: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Lane:
    """What one worker did in one stage."""

    stage: str
    worker: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Timeline:
    """All lanes on one axis."""

    started_at: str
    """Of the first shard, UTC, as text."""
    span_s: float
    """From the first start to the last end, seconds; pauses between runs count."""
    lanes: tuple[Lane, ...]
    num_lanes: int
    """Workers there were; the busiest of each stage are in `lanes`."""
    busy_s: dict[str, float]
    """For each stage the time in which at least one worker was at work, seconds."""
    overlap_s: float
    """Time in which both stages were at work, seconds."""

    @property
    def overlap(self) -> float:
        """Share of the less busy stage's time in which the other was at work too, in [0, 1]."""
        least = min(self.busy_s.values(), default=0.0)
        return self.overlap_s / least if least else 0.0


def timeline(receipts: Iterable[Receipt]) -> Timeline | None:
    """The timeline of the receipts of fetch and annotate; None where none says when it began."""
    timed = [r for r in receipts if r.stage in STAGES and r.started_at > 0 and r.set_aside is None]
    if not timed:
        return None
    start = min(receipt.started_at for receipt in timed)
    span_s = max(max(map(_end, timed)) - start, 1e-3)
    by_lane: dict[tuple[str, str], list[Receipt]] = defaultdict(list)
    for receipt in timed:
        by_lane[receipt.stage, receipt.worker].append(receipt)
    busy = {stage: _union(_interval(r) for r in timed if r.stage == stage) for stage in STAGES}
    return Timeline(
        started_at=datetime.fromtimestamp(start, UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        span_s=span_s,
        lanes=tuple(
            Lane(stage=stage, worker=worker, bars=_bars(by_lane[stage, worker], start, span_s))
            for stage, worker in _busiest(by_lane)
        ),
        num_lanes=len(by_lane),
        busy_s={stage: _length(intervals) for stage, intervals in busy.items()},
        overlap_s=_length(_intersection(*busy.values())),
    )


def _busiest(by_lane: dict[tuple[str, str], list[Receipt]]) -> list[tuple[str, str]]:
    """Lanes to show: in the order of the stages, within a stage by first start."""
    shown: list[tuple[str, str]] = []
    for stage in STAGES:
        lanes = [lane for lane in by_lane if lane[0] == stage]
        lanes.sort(key=lambda lane: -sum(receipt.elapsed_s for receipt in by_lane[lane]))
        kept = lanes[:MAX_LANES_PER_STAGE]
        shown += sorted(kept, key=lambda lane: min(r.started_at for r in by_lane[lane]))
    return shown


def _bars(receipts: Sequence[Receipt], start: float, span_s: float) -> tuple[Bar, ...]:
    """Bars of one lane; those that would touch at the page's resolution are one."""
    bars: list[Bar] = []
    names: list[str] = []
    for receipt in sorted(receipts, key=lambda one: one.started_at):
        left, width = (receipt.started_at - start) / span_s, receipt.elapsed_s / span_s
        if bars and width < LEAST_BAR and left - (bars[-1].left + bars[-1].width) < LEAST_BAR:
            first = bars.pop()
            names.append(receipt.shard)
            label = f"{names[0]} to {names[-1]}, {len(names):,} shards"
            right = max(first.left + first.width, left + width)
            bars.append(Bar(first.left, right - first.left, label))
            continue
        names = [receipt.shard]
        bars.append(Bar(left, width, f"{receipt.shard}, {receipt.elapsed_s:.1f} s"))
    return tuple(bars)


def _end(receipt: Receipt) -> float:
    return receipt.started_at + receipt.elapsed_s


def _interval(receipt: Receipt) -> Interval:
    return receipt.started_at, _end(receipt)


def _union(intervals: Iterable[Interval]) -> list[Interval]:
    joined: list[Interval] = []
    for left, right in sorted(intervals):
        if joined and left <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], right))
        else:
            joined.append((left, right))
    return joined


def _intersection(first: Sequence[Interval], second: Sequence[Interval]) -> list[Interval]:
    """Where both of two sorted lists of disjoint intervals are."""
    common: list[Interval] = []
    i = j = 0
    while i < len(first) and j < len(second):
        left, right = max(first[i][0], second[j][0]), min(first[i][1], second[j][1])
        if left < right:
            common.append((left, right))
        if first[i][1] < second[j][1]:
            i += 1
        else:
            j += 1
    return common


def _length(intervals: Iterable[Interval]) -> float:
    return sum(right - left for left, right in intervals)
