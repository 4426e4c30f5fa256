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
from curation.passes.fetched import fetch_inputs
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
            inputs=fetch_inputs(self.layout, shard) if self.name == "annotate" else {},
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


class RequeueingStage(CopyStage):
    """Leaves rows of the first shard for a further pass."""

    def run(self, shard: str) -> Receipt:
        if shard == SHARDS[0]:
            plan_further_pass(self.layout, shard)
        return super().run(shard)


def plan_further_pass(layout: DatasetLayout, shard: str) -> None:
    write_receipt(
        layout,
        Receipt(stage="plan", shard=f"{shard}.1", config_sha256="p" * 64, outputs={}, rows=3),
    )


def test_a_further_pass_comes_after_the_other_shards_and_before_annotate(
    layout: DatasetLayout,
) -> None:
    fetch, annotate = RequeueingStage(layout), CopyStage(layout, "annotate")
    events = list(run_local([fetch, annotate], SHARDS, layout))
    assert fetch.log == ["open", *SHARDS, f"{SHARDS[0]}.1", "close"]
    assert annotate.log == ["open", *SHARDS[1:], SHARDS[0], "close"]
    assert kinds(events)["fetch", EventKind.REQUEUED] == 1
    again = RequeueingStage(layout)
    list(run_local([again, CopyStage(layout, "annotate")], SHARDS, layout))
    assert again.log == []


def test_a_further_pass_makes_a_finished_shard_work_again(layout: DatasetLayout) -> None:
    stages = [CopyStage(layout), CopyStage(layout, "annotate")]
    list(run_local(stages, SHARDS, layout))
    plan_further_pass(layout, SHARDS[2])
    fetch, annotate = CopyStage(layout), CopyStage(layout, "annotate")
    events = list(run_local([fetch, annotate], SHARDS, layout))
    assert fetch.log == ["open", f"{SHARDS[2]}.1", "close"]
    assert annotate.log == ["open", SHARDS[2], "close"]
    assert kinds(events)["fetch", EventKind.SKIPPED] == len(SHARDS)
    receipt = read_receipt(layout, "annotate", SHARDS[2])
    assert receipt is not None
    assert receipt.inputs.keys() == {SHARDS[2], f"{SHARDS[2]}.1"}


def test_the_manifest_stays_in_force_while_a_further_pass_is_fetched(
    layout: DatasetLayout,
) -> None:
    list(run_local([CopyStage(layout), CopyStage(layout, "annotate")], SHARDS, layout))
    plan_further_pass(layout, SHARDS[0])
    list(run_local([CopyStage(layout)], SHARDS, layout))
    assert read_receipt(layout, "annotate", SHARDS[0]) is not None
    seen = []

    class Annotate(CopyStage):
        def run(self, shard: str) -> Receipt:
            seen.append(read_receipt(layout, "annotate", shard))
            return super().run(shard)

    annotate = Annotate(layout, "annotate")
    list(run_local([annotate], SHARDS, layout))
    assert annotate.log == ["open", SHARDS[0], "close"]
    (vouches,) = seen  # for the rows that annotate uses again
    assert vouches is not None


def test_annotate_goes_on_without_a_further_pass_that_is_set_aside(
    layout: DatasetLayout,
) -> None:
    fetch = RequeueingStage(layout, fail={f"{SHARDS[0]}.1": 99})
    events = list(run_local([fetch, CopyStage(layout, "annotate")], SHARDS, layout))
    assert kinds(events)["fetch", EventKind.SET_ASIDE] == 1
    assert kinds(events)["annotate", EventKind.DONE] == len(SHARDS)
    receipt = read_receipt(layout, "annotate", SHARDS[0])
    assert receipt is not None
    assert receipt.inputs.keys() == {SHARDS[0]}
    mended = CopyStage(layout)
    list(run_local([mended, CopyStage(layout, "annotate")], SHARDS, layout))
    assert mended.log == ["open", f"{SHARDS[0]}.1", "close"]


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


def test_progress_counts_rows_put_off_once_as_failures_and_twice_as_work() -> None:
    stream = io.StringIO()
    now = [0.0]
    progress = Progress(["fetch"], {SHARDS[0]: 600}, stream=stream, clock=lambda: now[0])
    planned = Receipt(stage="plan", shard="000000.1", config_sha256="", outputs={}, rows=200)
    counts = {"ok": 350, "failed": 250, "shard_deadline": 200, "requeued": 200}
    first = Receipt(
        stage="fetch", shard=SHARDS[0], config_sha256="", outputs={}, rows=600, counts=counts
    )
    now[0] = 20.0
    for shard, kind, receipt in (
        (SHARDS[0], EventKind.DONE, first),
        ("000000.1", EventKind.REQUEUED, planned),
    ):
        progress.update(ShardEvent(stage="fetch", shard=shard, kind=kind, receipt=receipt))
    assert progress.stages["fetch"].line() == (
        "fetch: 1/2 shards, 600/800 rows, 17.5 images/s, 50 without image, "
        "200 of the rows re-queued, about 7 s left"
    )


def test_progress_does_not_wait_for_a_shard_that_an_earlier_stage_set_aside() -> None:
    rows = {SHARDS[0]: 600, SHARDS[1]: 600}
    progress = Progress(["fetch", "annotate"], rows, stream=io.StringIO(), clock=lambda: 20.0)
    progress.start_s = 0.0
    for stage, shard, kind in (
        ("fetch", SHARDS[0], EventKind.SET_ASIDE),
        ("fetch", SHARDS[1], EventKind.DONE),
        ("annotate", SHARDS[1], EventKind.DONE),
    ):
        receipt = Receipt(
            stage=stage, shard=shard, config_sha256="", outputs={}, rows=600, counts={"ok": 600}
        )
        progress.update(ShardEvent(stage=stage, shard=shard, kind=kind, receipt=receipt))
    assert progress.stages["annotate"].line() == (
        "annotate: 1/1 shards, 600/600 rows, 30.0 images/s, 0 without image"
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
