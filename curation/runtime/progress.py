"""Progress of a run on stderr: bars on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

from tqdm import tqdm

from annotations_schema.codes import Status
from annotations_schema.layout import base_shard
from curation.passes.fetched import REQUEUED_ROWS
from curation.runtime.stage import EventKind, ShardEvent

LINE_EVERY_S = 15.0


@dataclass(slots=True)
class StageProgress:
    """Counts of one stage: shards and rows of the whole dataset, and what this run did."""

    name: str
    num_shards: int
    num_rows: int
    shards_left: int = field(init=False)
    rows_left: int = field(init=False)
    rows_done: int = 0
    images_ok: int = 0
    shards_set_aside: int = 0
    rows_requeued: int = 0
    """Rows that wait, or waited, to be fetched again: a part of `num_rows`."""
    rows_put_off: int = 0
    """Rows that a shard of this run left at its deadline, for a further pass."""
    elapsed_s: float = 0.0
    """From the start of the run to the last shard of this stage."""

    def __post_init__(self) -> None:
        self.shards_left = self.num_shards
        self.rows_left = self.num_rows

    def take(self, event: ShardEvent, rows: int, elapsed_s: float) -> bool:
        """Count an event over a shard or pass of `rows` rows; whether it is now behind us."""
        if event.kind is EventKind.REQUEUED:
            self.num_shards += 1
            self.shards_left += 1
            self.num_rows += rows
            self.rows_left += rows
            self.rows_requeued += rows
            return False
        if event.kind in (EventKind.STARTED, EventKind.RETRIED):
            return False
        self.shards_left -= 1
        self.rows_left -= rows
        if event.kind is not EventKind.SKIPPED:
            self.elapsed_s = elapsed_s
        if event.kind is EventKind.DONE:
            self.rows_done += rows
            counts = event.receipt.counts if event.receipt else {}
            self.images_ok += counts.get(Status.OK.value, 0)
            self.rows_put_off += counts.get(REQUEUED_ROWS, 0)
        elif event.kind is EventKind.SET_ASIDE:
            self.shards_set_aside += 1
        return True

    def lose(self, rows: int) -> None:
        """A shard of `rows` rows was set aside by an earlier stage and will not come."""
        self.num_shards -= 1
        self.shards_left -= 1
        self.num_rows -= rows
        self.rows_left -= rows

    @property
    def rows_failed(self) -> int:
        """Rows that this run finished without a usable image; those put off count when done."""
        return self.rows_done - self.images_ok - self.rows_put_off

    @property
    def images_per_s(self) -> float:
        """Images that this run brought through the stage, per second."""
        return self.images_ok / self.elapsed_s if self.elapsed_s > 0 else 0.0

    def line(self) -> str:
        """One line for a log."""
        rate = self.rows_done / self.elapsed_s if self.elapsed_s > 0 else 0.0
        parts = [
            f"{self.name}: {self.num_shards - self.shards_left:,}/{self.num_shards:,} shards",
            f"{self.num_rows - self.rows_left:,}/{self.num_rows:,} rows",
            f"{self.images_per_s:.1f} images/s",
            f"{self.rows_failed:,} without image",
        ]
        if self.rows_requeued:
            parts.append(f"{self.rows_requeued:,} of the rows re-queued")
        if self.shards_set_aside:
            parts.append(f"{self.shards_set_aside} shards set aside")
        if self.shards_left and rate:
            parts.append(f"about {duration(self.rows_left / rate)} left")
        return ", ".join(parts)


class Progress:
    """Shows the events of a run; one bar (or one line) per stage.

    Args:
        stages: stage names in order.
        rows: rows of each planned shard, by shard id.
        stream: where to write; a terminal gets bars.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        stages: Sequence[str],
        rows: dict[str, int],
        *,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.stream = stream or sys.stderr
        self.rows = dict(rows)
        self.clock = clock
        self.start_s = self.last_line_s = clock()
        num_rows = sum(rows.values())
        self.stages = {name: StageProgress(name, len(rows), num_rows) for name in stages}
        self.bars: dict[str, Any] = {}
        if self.stream.isatty():
            self.bars = {
                name: tqdm(
                    total=num_rows,
                    desc=f"{name:>8}",
                    unit=" rows",
                    position=position,
                    file=self.stream,
                    dynamic_ncols=True,
                )
                for position, name in enumerate(stages)
            }

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for bar in self.bars.values():
            bar.close()
        if not self.bars and kind is None:
            self._lines()

    def update(self, event: ShardEvent) -> None:
        """Take one event of the runner."""
        if event.kind is EventKind.REQUEUED and event.receipt is not None:
            self.rows[event.shard] = event.receipt.rows
        stage, rows = self.stages[event.stage], self.rows[event.shard]
        behind = stage.take(event, rows, self.clock() - self.start_s)
        if event.kind in (EventKind.RETRIED, EventKind.SET_ASIDE):
            self._say(f"{event.stage} {event.shard} {event.kind}: {event.detail}")
        if event.kind is EventKind.SET_ASIDE and event.shard == base_shard(event.shard):
            names = list(self.stages)
            for name in names[names.index(event.stage) + 1 :]:
                self.stages[name].lose(rows)
        for name, bar in self.bars.items():
            bar.total = self.stages[name].num_rows
        if not behind:
            return
        if self.bars:
            self._move(self.bars[event.stage], stage, event, rows)
        elif self.clock() - self.last_line_s >= LINE_EVERY_S:
            self._lines()

    def _move(self, bar: Any, stage: StageProgress, event: ShardEvent, rows: int) -> None:
        bar.set_postfix_str(
            f"{stage.images_per_s:.1f} images/s, {stage.rows_failed:,} without image, "
            f"{stage.shards_left:,} shards left",
            refresh=False,
        )
        if event.kind is EventKind.SKIPPED:
            # Work of an earlier run fills the bar and leaves the rate and the ETA alone.
            bar.initial += rows
            bar.n += rows
        else:
            bar.update(rows)
        bar.refresh()

    def _lines(self) -> None:
        self.last_line_s = self.clock()
        for stage in self.stages.values():
            self._say(stage.line())

    def _say(self, text: str) -> None:
        tqdm.write(text, file=self.stream)


def duration(seconds: float) -> str:
    """Seconds as a person says them: `42 s`, `3 min 20 s`, `2 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"
