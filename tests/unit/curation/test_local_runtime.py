from __future__ import annotations

import io
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from annotations_schema.errors import WeightsError
from annotations_schema.layout import (
    DatasetLayout,
    Receipt,
    atomic_write,
    output_files,
    read_receipt,
    write_receipt,
)
from curation.runtime.local import run_local
from curation.runtime.progress import Progress, duration
from curation.runtime.stage import MAX_ATTEMPTS, EventKind, ShardEvent, one_line

SHARDS = [f"{number:06d}" for number in range(4)]
ROWS = 10


@dataclass
class CopyStage:
    """Writes one file per shard from what the stage before it wrote."""

    layout: DatasetLayout
    name: str = "fetch"
    config_sha256: str = "c" * 64
    fail: dict[str, int] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)

    def open(self) -> None:
        self.log.append("open")

    def run(self, shard: str) -> Receipt:
        self.log.append(shard)
        if self.fail.get(shard, 0):
            self.fail[shard] -= 1
            raise RuntimeError(f"no luck with\n{shard}")
        paths = {"fetch": self.layout.fetch, "annotate": self.layout.annotations}
        text = f"{self.name} {shard}"
        if self.name == "annotate":
            text += " after " + self.layout.fetch(shard).read_text()
        with atomic_write(paths[self.name](shard)) as temporary:
            temporary.write_text(text)
        receipt = Receipt(
            stage=self.name,
            shard=shard,
            config_sha256=self.config_sha256,
            outputs=output_files(self.layout, [paths[self.name](shard)]),
            rows=ROWS,
            counts={"ok": ROWS - 1, "failed": 1},
        )
        write_receipt(self.layout, receipt)
        return receipt

    def close(self) -> None:
        self.log.append("close")


@pytest.fixture
def layout(tmp_path: Path) -> DatasetLayout:
    planned = DatasetLayout(tmp_path)
    for shard in SHARDS:
        write_receipt(
            planned,
            Receipt(stage="plan", shard=shard, config_sha256="p" * 64, outputs={}, rows=ROWS),
        )
    return planned


def kinds(events: list[ShardEvent]) -> Counter[tuple[str, EventKind]]:
    return Counter((event.stage, event.kind) for event in events)


def test_each_shard_passes_through_the_stages_in_order(layout: DatasetLayout) -> None:
    fetch, annotate = CopyStage(layout), CopyStage(layout, "annotate")
    events = list(run_local([fetch, annotate], SHARDS, layout))
    assert [layout.annotations(shard).read_text() for shard in SHARDS] == [
        f"annotate {shard} after fetch {shard}" for shard in SHARDS
    ]
    assert kinds(events)["fetch", EventKind.DONE] == len(SHARDS)
    assert kinds(events)["annotate", EventKind.DONE] == len(SHARDS)
    assert fetch.log == ["open", *SHARDS, "close"]


def test_a_second_run_skips_everything_and_opens_nothing(layout: DatasetLayout) -> None:
    list(run_local([CopyStage(layout), CopyStage(layout, "annotate")], SHARDS, layout))
    receipts = sorted(layout.root.rglob("*.json"))
    before = [path.stat().st_mtime_ns for path in receipts]
    fetch, annotate = CopyStage(layout), CopyStage(layout, "annotate")
    events = list(run_local([fetch, annotate], SHARDS, layout))
    assert {event.kind for event in events} == {EventKind.SKIPPED}
    assert len(events) == 2 * len(SHARDS)
    assert fetch.log == annotate.log == []
    assert [path.stat().st_mtime_ns for path in receipts] == before


def test_a_shard_fetched_again_is_annotated_again(layout: DatasetLayout) -> None:
    list(run_local([CopyStage(layout), CopyStage(layout, "annotate")], SHARDS, layout))
    layout.fetch(SHARDS[1]).unlink()
    fetch, annotate = CopyStage(layout), CopyStage(layout, "annotate")
    list(run_local([fetch, annotate], SHARDS, layout))
    assert fetch.log == ["open", SHARDS[1], "close"]
    assert annotate.log == ["open", SHARDS[1], "close"]


def test_fetch_alone_takes_back_the_annotate_receipt_it_makes_stale(layout: DatasetLayout) -> None:
    list(run_local([CopyStage(layout), CopyStage(layout, "annotate")], SHARDS, layout))
    layout.fetch(SHARDS[0]).unlink()
    list(run_local([CopyStage(layout)], SHARDS, layout))
    assert read_receipt(layout, "annotate", SHARDS[0]) is None
    assert read_receipt(layout, "annotate", SHARDS[1]) is not None


def test_a_shard_that_fails_twice_succeeds_at_the_third_attempt(layout: DatasetLayout) -> None:
    stage = CopyStage(layout, fail={SHARDS[2]: MAX_ATTEMPTS - 1})
    events = list(run_local([stage], SHARDS, layout))
    assert kinds(events) == {
        ("fetch", EventKind.STARTED): len(SHARDS) + MAX_ATTEMPTS - 1,
        ("fetch", EventKind.RETRIED): MAX_ATTEMPTS - 1,
        ("fetch", EventKind.DONE): len(SHARDS),
    }


def test_a_shard_that_always_fails_is_set_aside_and_the_rest_goes_on(layout: DatasetLayout) -> None:
    stages = [CopyStage(layout, fail={SHARDS[0]: 99}), CopyStage(layout, "annotate")]
    events = list(run_local(stages, SHARDS, layout))
    receipt = read_receipt(layout, "fetch", SHARDS[0])
    assert receipt is not None
    assert receipt.set_aside == "3 attempts; the last: RuntimeError: no luck with 000000"
    assert receipt.rows == ROWS
    assert receipt.outputs == {}
    assert kinds(events)["annotate", EventKind.DONE] == len(SHARDS) - 1
    assert read_receipt(layout, "annotate", SHARDS[0]) is None


def test_a_later_run_tries_a_shard_that_was_set_aside_again(layout: DatasetLayout) -> None:
    list(run_local([CopyStage(layout, fail={SHARDS[0]: 99})], SHARDS, layout))
    mended = CopyStage(layout)
    list(run_local([mended], SHARDS, layout))
    assert mended.log == ["open", SHARDS[0], "close"]
    assert read_receipt(layout, "fetch", SHARDS[0]).set_aside is None  # type: ignore[union-attr]


def test_an_error_of_open_ends_the_run_as_it_is(layout: DatasetLayout) -> None:
    class Broken(CopyStage):
        def open(self) -> None:
            raise WeightsError("no weights")

    with pytest.raises(WeightsError, match="no weights"):
        list(run_local([CopyStage(layout), Broken(layout, "annotate")], SHARDS, layout))


def test_fetch_of_a_shard_overlaps_annotate_of_the_one_before(layout: DatasetLayout) -> None:
    meeting = threading.Barrier(2, timeout=5)

    class Fetch(CopyStage):
        def run(self, shard: str) -> Receipt:
            if shard == SHARDS[1]:
                meeting.wait()
            return super().run(shard)

    class Annotate(CopyStage):
        def run(self, shard: str) -> Receipt:
            if shard == SHARDS[0]:
                meeting.wait()
            return super().run(shard)

    events = list(run_local([Fetch(layout), Annotate(layout, "annotate")], SHARDS[:2], layout))
    assert kinds(events)["annotate", EventKind.DONE] == 2
    assert EventKind.RETRIED not in {event.kind for event in events}


def test_progress_without_a_terminal_ends_with_a_line_per_stage(layout: DatasetLayout) -> None:
    stream = io.StringIO()
    seconds = iter([0.0, *[float(number) for number in range(1, 100)]])
    with Progress(
        ["fetch"], dict.fromkeys(SHARDS, ROWS), stream=stream, clock=lambda: next(seconds)
    ) as progress:
        for event in run_local([CopyStage(layout, fail={SHARDS[3]: 99})], SHARDS, layout):
            progress.update(event)
    lines = stream.getvalue().splitlines()
    assert sum("no luck with" in line for line in lines) == MAX_ATTEMPTS
    assert lines[-1].startswith("fetch: 4/4 shards, 40/40 rows, ")
    assert lines[-1].endswith("images/s, 3 without image, 1 shards set aside")


def test_progress_says_a_line_now_and_then_and_how_long_is_left() -> None:
    stream = io.StringIO()
    now = [0.0]
    progress = Progress(["fetch"], dict.fromkeys(SHARDS, 600), stream=stream, clock=lambda: now[0])
    receipt = Receipt(
        stage="fetch", shard="", config_sha256="", outputs={}, rows=600, counts={"ok": 500}
    )
    for number, shard in enumerate(SHARDS[:2], start=1):
        now[0] = 10.0 * number
        progress.update(
            ShardEvent(stage="fetch", shard=shard, kind=EventKind.DONE, receipt=receipt)
        )
    assert stream.getvalue() == (
        "fetch: 2/4 shards, 1,200/2,400 rows, 50.0 images/s, 200 without image, about 20 s left\n"
    )


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")],
)
def test_duration_is_said_in_words(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_one_line_cuts_long_text_and_joins_lines() -> None:
    assert one_line("a\n  b\tc") == "a b c"
    assert len(one_line("x" * 5000)) == 512
