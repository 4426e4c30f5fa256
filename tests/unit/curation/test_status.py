from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from annotations_schema.errors import UsageError
from annotations_schema.layout import DatasetLayout, read_receipt, write_receipt
from curation.status import describe, status

SHARDS = ["000000", "000001"]


def test_a_finished_dataset_counts_shards_rows_codes_and_speed(curated: DatasetLayout) -> None:
    found = status(curated)
    assert found.is_complete
    assert (found.num_shards, found.num_rows) == (2, 6)
    assert found.rows_by_status == {"ok": 3, "failed": 2, "filtered": 1}
    assert found.rows_by_code == {"http_404": 1, "url_scheme": 1, "url_duplicate": 1}
    annotate = found.stages[-1]
    assert (annotate.shards_done, annotate.shards_left, annotate.shards_set_aside) == (2, 0, 0)
    assert annotate.images_per_worker_s == pytest.approx(3 / 4.0)
    assert annotate.parts_s == {"text": 3.0, "face": 1.0}
    assert json.loads(json.dumps(found.to_json()))["rows_by_status"]["ok"] == 3


def test_rows_that_wait_for_fetch_are_not_called_ok(curated: DatasetLayout) -> None:
    for stage in ("fetch", "annotate"):
        curated.receipt(stage, SHARDS[0]).unlink()
    found = status(curated)
    assert not found.is_complete
    assert found.stages[1].shards_left == 1
    # The first shard's three good URLs wait; the bad one has its code already.
    assert found.rows_by_status == {"ok": 1, "failed": 1, "filtered": 1, "waiting": 3}


def test_a_fetched_shard_without_manifest_counts_by_its_fetch(curated: DatasetLayout) -> None:
    curated.receipt("annotate", SHARDS[0]).unlink()
    found = status(curated)
    assert found.rows_by_status == {"ok": 3, "failed": 2, "filtered": 1}
    assert [stage.shards_done for stage in found.stages] == [2, 2, 1]


def test_a_shard_set_aside_is_neither_done_nor_left(curated: DatasetLayout) -> None:
    receipt = read_receipt(curated, "annotate", SHARDS[1])
    assert receipt is not None
    write_receipt(curated, replace(receipt, outputs={}, set_aside="3 attempts; the last: boom"))
    found = status(curated)
    annotate = found.stages[-1]
    assert (annotate.shards_done, annotate.shards_left, annotate.shards_set_aside) == (1, 0, 1)
    assert found.set_aside == {"annotate/000001": "3 attempts; the last: boom"}
    assert "set aside annotate/000001: 3 attempts; the last: boom" in describe(found)


@pytest.mark.parametrize("damage", ["outputs are gone", "other configuration"])
def test_a_receipt_that_does_not_count_leaves_its_shard_to_do(
    curated: DatasetLayout, damage: str
) -> None:
    if damage == "outputs are gone":
        curated.annotations(SHARDS[0]).unlink()
    else:
        receipt = read_receipt(curated, "annotate", SHARDS[0])
        assert receipt is not None
        write_receipt(curated, replace(receipt, config_sha256="0" * 64))
    assert status(curated).stages[-1].shards_left == 1


def test_the_description_has_a_line_for_each_stage(curated: DatasetLayout) -> None:
    lines = describe(status(curated)).splitlines()
    assert lines[0] == f"{curated.root}: 6 rows in 2 shards"
    assert lines[3].split(",")[0].split() == ["annotate", "2", "shards", "done"]
    assert lines[3].endswith("0.8 images/s per worker")
    assert lines[4].split(maxsplit=1)[1] == "ok 3, failed 2, filtered 1"


def test_a_folder_that_is_no_dataset_is_misuse(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a planned dataset"):
        status(DatasetLayout(tmp_path))
