"""A dataset as it was found: few questions, and never asked by who works on a shard."""

from __future__ import annotations

from pathlib import Path

import pytest

from annotations_schema.layout import (
    DatasetLayout,
    Receipt,
    holds,
    is_done,
    output_files,
    read_receipt,
    write_receipt,
)
from annotations_schema.storage import RemotePath


def finish(layout: DatasetLayout, shard: str) -> Receipt:
    path = layout.fetch(shard)
    path.parent.mkdir(parents=True, exist_ok=True)
    Path(str(path)).write_bytes(b"rows")
    receipt = Receipt(
        stage="fetch",
        shard=shard,
        config_sha256="c",
        outputs=output_files(layout, [path]),
        rows=1,
    )
    write_receipt(layout, receipt)
    return receipt


def test_what_changes_after_the_listing_is_seen_by_the_dataset_itself_only(tmp_path: Path) -> None:
    layout = DatasetLayout(tmp_path)
    receipt = finish(layout, "000000")
    found = layout.as_found()
    assert is_done(found, "fetch", "000000", "c")
    layout.fetch("000000").unlink()
    finish(layout, "000001")
    assert holds(found, receipt, "c")
    assert read_receipt(found, "fetch", "000001") is None
    assert not is_done(layout, "fetch", "000000", "c")
    assert is_done(layout, "fetch", "000001", "c")
    assert not is_done(layout.as_found(), "fetch", "000000", "c")


def test_a_folder_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    found = DatasetLayout(tmp_path / "none").as_found()
    assert found.size(found.fetch("000000")) is None
    assert found.planned_passes("000000") == []


def test_a_store_is_asked_once_for_each_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def sizes(folder: RemotePath) -> dict[str, int]:
        asked.append(folder.name)
        return {f"{number:06d}.parquet": number for number in range(100)}

    monkeypatch.setattr(RemotePath, "sizes", sizes)
    found = DatasetLayout(RemotePath("s3", "bucket", "set")).as_found()
    assert [found.size(found.fetch(f"{n:06d}")) for n in range(101)] == [*range(100), None]
    assert asked == ["fetch"]
