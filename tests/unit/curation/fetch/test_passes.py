"""Shards that close at their deadline, and the passes that follow."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from annotations_schema.layout import DatasetLayout, read_receipt
from annotations_schema.manifest import read_manifest
from annotations_schema.validation import validate
from curation.demo.pictures import plain_jpeg
from curation.fetch.config import FetchConfig
from curation.fetch.stage import FetchStage
from curation.passes.fetched import REPLACES, fetched_counts, fetched_rows
from curation.passes.passes import MAX_REQUEUES
from curation.plan.plan import PlanConfig, plan
from curation.runtime.local import run_local
from curation.runtime.progress import Progress
from curation.runtime.stage import EventKind
from tests.changing_server import ChangingServer

SHARD = "000000"
NUM_DEAD, NUM_ALIVE = 12, 6
Planned = Callable[..., DatasetLayout]


@pytest.fixture
def alive() -> Iterator[ChangingServer]:
    with ChangingServer() as running:
        running.answers.update({f"/{i}.jpg": plain_jpeg(40 + i, 30) for i in range(NUM_ALIVE)})
        yield running


@pytest.fixture
def dead() -> Iterator[ChangingServer]:
    """A host that takes connections and never answers."""
    with ChangingServer() as running:
        running.answers.update({f"/{i}.jpg": None for i in range(NUM_DEAD)})
        running.answers["/robots.txt"] = 404
        yield running


@pytest.fixture
def layout(tmp_path: Path, alive: ChangingServer, dead: ChangingServer) -> DatasetLayout:
    """Two shards: the dead host's URLs and half of the living one's, then the other half."""
    urls = [dead.url(f"/{i}.jpg") for i in range(NUM_DEAD)]
    urls += [alive.url(f"/{i}.jpg") for i in range(NUM_ALIVE)]
    source = tmp_path / "list.parquet"
    notes = pa.array([float(i) for i in range(len(urls))], pa.float16())
    pq.write_table(pa.table({"url": urls, "note": notes}), str(source))
    found = DatasetLayout(tmp_path / "dataset")
    plan(source, found, PlanConfig(shard_size=NUM_DEAD + NUM_ALIVE // 2))
    return found


@pytest.fixture
def hasty(config: FetchConfig) -> FetchConfig:
    """Two URLs at a time, half a second each, a second for the shard."""
    return replace(config, threads=2, deadline_s=0.5, retries=0, shard_deadline_s=1.0)


def test_a_dead_host_holds_its_shard_for_the_deadline_and_not_for_every_url(
    layout: DatasetLayout, hasty: FetchConfig
) -> None:
    stage = FetchStage(layout.root, hasty)
    stage.open()
    started = time.monotonic()
    receipt = stage.run(SHARD)
    elapsed_s = time.monotonic() - started
    stage.close()
    assert elapsed_s < hasty.shard_deadline_s + hasty.deadline_s + 1.0  # type: ignore[operator]
    rows = read_manifest(layout.fetch(SHARD))
    assert validate(rows) == []
    late = [row for row in rows.to_pylist() if row["failure_code"] == "shard_deadline"]
    assert 0 < len(late) < NUM_DEAD
    assert {(row["status"], row["stage"], row["attempts"]) for row in late} == {
        ("failed", "fetch", 0)
    }
    # What hung in flight ended by its own deadline.
    assert {row["failure_code"] for row in rows.to_pylist() if row["attempts"] == 1} <= {
        "deadline_exceeded",
        None,
    }
    assert receipt.counts["requeued"] == len(late)
    further = read_receipt(layout, "plan", f"{SHARD}.1")
    assert further is not None
    assert further.counts == {
        "ok": len(late),
        f"{REPLACES}failed": len(late),
        f"{REPLACES}shard_deadline": len(late),
    }


def test_rows_put_off_come_after_the_other_shards_and_fail_in_the_end(
    layout: DatasetLayout, hasty: FetchConfig, alive: ChangingServer
) -> None:
    # One at a time, and one that hangs takes longer than the shard has: a row or two each time.
    never = replace(hasty, threads=1, shard_deadline_s=0.01, deadline_s=0.02)
    stage = FetchStage(layout.root, never)
    stream = io.StringIO()
    rows = {shard: len(pq.read_table(layout.plan(shard))) for shard in layout.shards_planned()}
    with Progress(["fetch"], rows, stream=stream) as progress:
        events = []
        for event in run_local([stage], layout.shards_planned(), layout):
            events.append(event)
            progress.update(event)
    done = [event.shard for event in events if event.kind is EventKind.DONE]
    assert done[:3] == ["000000", "000001", "000000.1"]
    assert done[-1] == f"{SHARD}.{MAX_REQUEUES}"
    fetched = fetched_rows(layout, SHARD).to_pylist()
    late = [row for row in fetched if row["failure_code"] == "shard_deadline"]
    assert late
    assert {tuple(one["failure_code"] for one in row["history"]) for row in late} == {
        ("shard_deadline",) * MAX_REQUEUES
    }
    assert sum(fetched_counts(layout, SHARD)[name] for name in ("ok", "failed")) == rows[SHARD]
    # Every row is counted once as failed, however often it was put off.
    failed = sum(fetched_counts(layout, shard)["failed"] for shard in rows)
    said = stream.getvalue().splitlines()[-1]
    assert f"{failed} without image" in said
    assert f"{progress.stages['fetch'].rows_requeued} of the rows re-queued" in said
    assert progress.stages["fetch"].rows_left == progress.stages["fetch"].shards_left == 0


def test_a_host_that_comes_back_is_met_by_the_further_pass(
    layout: DatasetLayout, hasty: FetchConfig, dead: ChangingServer
) -> None:
    events = run_local([FetchStage(layout.root, hasty)], layout.shards_planned(), layout)
    for event in events:
        if event.kind is EventKind.DONE and event.shard == SHARD:
            dead.answers.update(dict.fromkeys(dead.answers, plain_jpeg(50, 40)))
    rows = fetched_rows(layout, SHARD).to_pylist()
    again = [row for row in rows if row["history"]]
    assert again
    assert {(row["status"], row["shard"]) for row in again} == {("ok", f"{SHARD}.1")}
    assert [row["source_row"] for row in rows] == list(range(len(rows)))
    assert [row["input_note"] for row in rows] == [np.float16(i) for i in range(len(rows))]


def test_a_run_killed_between_passes_goes_on_with_the_pass(
    layout: DatasetLayout, hasty: FetchConfig, alive: ChangingServer
) -> None:
    stage = FetchStage(layout.root, hasty)
    stage.open()
    stage.run(SHARD)  # its receipt and the plan of 000000.1 stand; then the driver dies
    stage.close()
    events = list(run_local([stage], [SHARD], layout))
    begun = [(event.shard, event.kind) for event in events][:4]
    assert begun == [
        (SHARD, EventKind.SKIPPED),
        (f"{SHARD}.1", EventKind.REQUEUED),
        (f"{SHARD}.1", EventKind.STARTED),
        (f"{SHARD}.1", EventKind.DONE),
    ]


def test_a_kill_before_the_receipt_leaves_no_plan_of_a_further_pass_in_force(
    layout: DatasetLayout, hasty: FetchConfig, dead: ChangingServer
) -> None:
    stage = FetchStage(layout.root, hasty)
    stage.open()
    stage.run(SHARD)
    stage.close()
    layout.receipt("fetch", SHARD).unlink()  # as if it died just before
    dead.answers.update(dict.fromkeys(dead.answers, plain_jpeg(50, 40)))
    list(run_local([stage], [SHARD], layout))
    assert layout.planned_passes(SHARD) == [SHARD]
    assert fetched_counts(layout, SHARD) == {"ok": NUM_DEAD + NUM_ALIVE // 2}


def test_without_a_deadline_no_row_is_put_off(layout: DatasetLayout, hasty: FetchConfig) -> None:
    stage = FetchStage(layout.root, replace(hasty, shard_deadline_s=None, deadline_s=0.1))
    list(run_local([stage], [SHARD], layout))
    assert layout.planned_passes(SHARD) == [SHARD]
    assert "shard_deadline" not in fetched_counts(layout, SHARD)
