from __future__ import annotations

import pytest

from annotations_schema.layout import Receipt
from curation.report.timeline import MAX_LANES_PER_STAGE, timeline


def done(
    stage: str, shard: int, started_at: float, elapsed_s: float, worker: str = "a:1"
) -> Receipt:
    return Receipt(
        stage=stage,
        shard=f"{shard:06d}",
        config_sha256="c" * 64,
        outputs={},
        rows=10,
        started_at=started_at,
        elapsed_s=elapsed_s,
        worker=worker,
    )


def test_a_stage_after_the_other_overlaps_in_nothing() -> None:
    made = timeline([done("fetch", 0, 100, 10), done("annotate", 0, 110, 30)])
    assert made is not None
    assert (made.span_s, made.overlap_s, made.overlap) == (40, 0, 0)
    assert made.busy_s == {"fetch": 10, "annotate": 30}


def test_overlap_is_the_time_in_which_both_stages_work() -> None:
    made = timeline(
        [
            *(done("fetch", n, 100 + 10 * n, 10, "a:1") for n in range(3)),
            *(done("annotate", n, 112 + 20 * n, 15, "b:2") for n in range(2)),
        ]
    )
    assert made is not None
    assert made.overlap_s == pytest.approx(15)  # 112 to 127; the second begins after the fetches
    assert made.overlap == pytest.approx(15 / 30)


def test_two_workers_at_once_are_busy_once() -> None:
    made = timeline([done("fetch", 0, 100, 10, "a:1"), done("fetch", 1, 104, 10, "a:2")])
    assert made is not None
    assert made.busy_s["fetch"] == 14
    assert [lane.worker for lane in made.lanes] == ["a:1", "a:2"]


def test_bars_stand_where_their_shards_were_at_work() -> None:
    made = timeline([done("fetch", 0, 100, 10), done("fetch", 1, 130, 10)])
    assert made is not None
    (lane,) = made.lanes
    assert [(bar.left, bar.width) for bar in lane.bars] == [(0, 0.25), (0.75, 0.25)]


def test_thousands_of_shards_stay_few_bars_that_cover_the_same_time() -> None:
    made = timeline([done("fetch", n, 100 + n, 1) for n in range(5000)])
    assert made is not None
    (lane,) = made.lanes
    assert len(lane.bars) < 600
    assert lane.bars[0].label == "000000 to 004999, 5,000 shards"
    assert sum(bar.width for bar in lane.bars) == pytest.approx(1)


def test_the_busiest_workers_are_shown_and_all_are_counted() -> None:
    receipts = [done("annotate", n, 100 + n, 1 + n, f"a:{n}") for n in range(40)]
    made = timeline(receipts)
    assert made is not None
    assert made.num_lanes == 40
    assert [lane.worker for lane in made.lanes] == [
        f"a:{n}" for n in range(40 - MAX_LANES_PER_STAGE, 40)
    ]


def test_without_starting_times_there_is_no_timeline() -> None:
    assert timeline([done("fetch", 0, 0.0, 10)]) is None
