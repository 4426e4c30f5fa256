from __future__ import annotations

import errno
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from annotations_schema.errors import UsageError
from annotations_schema.layout import (
    DatasetLayout,
    Receipt,
    read_receipt,
    sha256_file,
    write_receipt,
)
from curation.demo.troubles import BAD_ROWS
from curation.plan.duplicates import Duplicates
from curation.plan.plan import SHARDS_IN_LIST, PlanConfig, plan
from curation.plan.urls import image_id_of_url

GOOD = [f"http://example.org/{i}.jpg" for i in range(7)]
SHA256 = "ab" * 32


@pytest.fixture
def layout(tmp_path: Path) -> DatasetLayout:
    return DatasetLayout(tmp_path / "dataset")


def planned(layout: DatasetLayout) -> list[dict[str, Any]]:
    paths = [layout.plan(shard) for shard in layout.shards_planned()]
    return [row for path in paths for row in pq.read_table(str(path)).to_pylist()]


def write(tmp_path: Path, name: str, urls: Sequence[str | None], **columns: Any) -> Path:
    """The same list as parquet, csv or txt."""
    path = tmp_path / name
    table = pa.table({"url": pa.array(urls, pa.string()), **columns})
    if path.suffix == ".parquet":
        pq.write_table(table, str(path))
    elif path.suffix == ".csv":
        lines = [",".join(table.column_names)]
        lines += [",".join(str(v or "") for v in row.values()) for row in table.to_pylist()]
        path.write_text("\n".join(lines) + "\n")
    else:
        path.write_text("".join(f"{url or ''}\n" for url in urls))
    return path


def files_below(root: Path) -> dict[str, str]:
    return {str(p.relative_to(root)): sha256_file(p) for p in root.rglob("*") if p.is_file()}


@pytest.mark.parametrize("name", ["list.parquet", "list.csv", "list.txt", "LIST.TXT"])
def test_each_format_gives_the_same_rows(tmp_path: Path, layout: DatasetLayout, name: str) -> None:
    shards = plan(write(tmp_path, name, [*GOOD, None, "cat.jpg"]), layout, PlanConfig(shard_size=4))
    assert shards == ["000000", "000001", "000002"]
    rows = planned(layout)
    assert [row["url"] for row in rows] == [*GOOD, None, "cat.jpg"]
    assert [row["source_row"] for row in rows] == list(range(9))
    assert {row["source_name"] for row in rows} == {name}
    assert [row["image_id"] for row in rows[:7]] == [image_id_of_url(url) for url in GOOD]
    assert [row["status"] for row in rows] == ["ok"] * 7 + ["failed"] * 2
    assert [row["stage"] for row in rows] == [None] * 7 + ["plan"] * 2
    assert [row["failure_code"] for row in rows[7:]] == ["url_missing", "url_relative"]


@pytest.mark.parametrize("bad", BAD_ROWS, ids=lambda bad: bad.name)
def test_bad_row_becomes_a_row_with_a_code(tmp_path: Path, layout: DatasetLayout, bad: Any) -> None:
    plan(write(tmp_path, "list.parquet", [GOOD[0], bad.url, GOOD[1]]), layout, PlanConfig())
    rows = planned(layout)
    assert [row["failure_code"] for row in rows] == [None, bad.code, None]
    assert rows[1]["status"] == bad.code.status
    assert len(rows[1]["failure_detail"]) <= 256
    assert len({row["image_id"] for row in rows}) == 3


def test_credentials_reach_no_file(tmp_path: Path, layout: DatasetLayout) -> None:
    url = "http://user:hunter2@example.org/cat.jpg"
    plan(write(tmp_path, "list.txt", [url]), layout, PlanConfig())
    assert planned(layout)[0]["url"] == "http://***@example.org/cat.jpg"
    assert not any(b"hunter2" in p.read_bytes() for p in layout.root.rglob("*") if p.is_file())


def test_a_url_that_is_too_long_is_cut_in_the_manifest(
    tmp_path: Path, layout: DatasetLayout
) -> None:
    plan(write(tmp_path, "list.txt", [GOOD[0] + "é" * 100]), layout, PlanConfig(max_url_bytes=64))
    row = planned(layout)[0]
    assert row["failure_code"] == "url_too_long"
    assert len(row["url"].encode()) <= 64
    assert row["url"].startswith(GOOD[0])


def test_the_first_of_equal_urls_is_kept_across_shards(
    tmp_path: Path, layout: DatasetLayout
) -> None:
    urls = [GOOD[0], GOOD[1], "HTTP://EXAMPLE.org:80/0.jpg#again", GOOD[0]]
    plan(write(tmp_path, "list.txt", urls), layout, PlanConfig(shard_size=2))
    rows = planned(layout)
    assert [row["status"] for row in rows] == ["ok", "ok", "filtered", "filtered"]
    assert [row["failure_code"] for row in rows[2:]] == ["url_duplicate"] * 2
    assert rows[0]["image_id"] in rows[2]["failure_detail"]
    assert len({row["image_id"] for row in rows}) == 4


def test_columns_with_a_role_are_read_and_the_others_pass_through(
    tmp_path: Path, layout: DatasetLayout
) -> None:
    moment = datetime(2026, 1, 2, tzinfo=UTC)
    columns = {
        "alt": ["a cat", None],
        "hash": [SHA256.upper(), None],
        "licence": ["CC-BY-4.0", None],
        "score": pa.array([0.5, 1.0], pa.float32()),
        "seen": pa.array([moment, None], pa.timestamp("ns", tz="UTC")),
        "tags": pa.array([["x", "y"], []], pa.list_(pa.string())),
        "url2": ["u", "v"],
    }
    config = PlanConfig(caption_column="alt", sha256_column="hash", license_column="licence")
    plan(write(tmp_path, "list.parquet", GOOD[:2], **columns), layout, config)
    table = pq.read_table(str(layout.plan("000000")))
    assert table.column("caption").to_pylist() == ["a cat", None]
    assert table.column("sha256_expected").to_pylist() == [SHA256, None]
    assert table.column("license").to_pylist() == ["CC-BY-4.0", None]
    assert table.schema.field("input_score").type == pa.float32()
    assert table.schema.field("input_seen").type == pa.timestamp("ns", tz="UTC")
    assert table.column("input_tags").to_pylist() == [["x", "y"], []]
    assert [n for n in table.column_names if n.startswith("input_")] == [
        "input_score",
        "input_seen",
        "input_tags",
        "input_url2",
    ]


def test_sha256_may_be_bytes_and_a_damaged_one_is_a_row_with_a_code(
    tmp_path: Path, layout: DatasetLayout
) -> None:
    hashes = pa.array([bytes.fromhex(SHA256), b"short"], pa.binary())
    source = write(tmp_path, "list.parquet", GOOD[:2], sha256=hashes)
    plan(source, layout, PlanConfig(sha256_column="sha256"))
    rows = planned(layout)
    assert [row["sha256_expected"] for row in rows] == [SHA256, None]
    assert [row["failure_code"] for row in rows] == [None, "sha256_mismatch"]
    assert rows[1]["status"] == "filtered"


def test_url_bytes_that_are_not_utf8_are_a_row_with_a_code(
    tmp_path: Path, layout: DatasetLayout
) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(b"\xef\xbb\xbfhttp://example.org/0.jpg\r\nhttp://example.org/\xff.jpg\r\n\r\n")
    plan(path, layout, PlanConfig())
    rows = planned(layout)
    assert rows[0]["url"] == GOOD[0]
    assert [row["failure_code"] for row in rows] == [None, "url_invalid", "url_missing"]
    assert rows[1]["url"] == "http://example.org/\\xff.jpg"


def test_a_line_of_megabytes_is_one_row(tmp_path: Path, layout: DatasetLayout) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(b"http://h/" + b"a" * (3 << 20) + b"\n" + GOOD[0].encode())
    plan(path, layout, PlanConfig())
    assert [row["failure_code"] for row in planned(layout)] == ["url_too_long", None]


def test_csv_fields_may_hold_commas_quotes_and_line_breaks(
    tmp_path: Path, layout: DatasetLayout
) -> None:
    path = tmp_path / "list.csv"
    path.write_text('caption,url\n"a ""cat"",\nasleep",http://h/a\n007,http://h/b\n,\n')
    plan(path, layout, PlanConfig(caption_column="caption"))
    rows = planned(layout)
    assert [row["caption"] for row in rows] == ['a "cat",\nasleep', "007", None]
    assert [row["failure_code"] for row in rows] == [None, None, "url_missing"]


def test_shards_do_not_depend_on_row_groups(tmp_path: Path) -> None:
    table = pa.table({"url": [f"http://h/{i}" for i in range(50)]})
    plans = []
    for group in (3, 50):
        path = tmp_path / str(group) / "list.parquet"
        path.parent.mkdir()
        pq.write_table(table, str(path), row_group_size=group)
        layout = DatasetLayout(tmp_path / f"dataset{group}")
        assert plan(path, layout, PlanConfig(shard_size=8)) == [f"{i:06d}" for i in range(7)]
        plans.append([sha256_file(layout.plan(shard)) for shard in layout.shards_planned()])
    assert plans[0] == plans[1]


def test_receipts_count_rows_and_shards(tmp_path: Path, layout: DatasetLayout) -> None:
    plan(write(tmp_path, "list.txt", [*GOOD, "x", "y"]), layout, PlanConfig(shard_size=5))
    receipt = read_receipt(layout, "plan", "000001")
    assert receipt is not None
    assert receipt.rows == 4
    assert receipt.counts == {"ok": 2, "failed": 2, "url_relative": 2, SHARDS_IN_LIST: 2}
    assert receipt.outputs["plan/000001.parquet"].sha256 == sha256_file(layout.plan("000001"))


def test_planning_again_writes_nothing(tmp_path: Path, layout: DatasetLayout) -> None:
    source = write(tmp_path, "list.txt", list(GOOD))
    first = plan(source, layout, PlanConfig(shard_size=3))
    times = {p: p.stat().st_mtime_ns for p in layout.root.rglob("*")}
    assert plan(source, layout, PlanConfig(shard_size=3)) == first
    assert {p: p.stat().st_mtime_ns for p in layout.root.rglob("*")} == times


@pytest.mark.parametrize("lost", ["receipt", "table"])
def test_a_plan_with_a_gap_is_made_whole(tmp_path: Path, layout: DatasetLayout, lost: str) -> None:
    source = write(tmp_path, "list.txt", list(GOOD))
    shards = plan(source, layout, PlanConfig(shard_size=3))
    whole = {shard: sha256_file(layout.plan(shard)) for shard in shards}
    path = layout.receipt("plan", "000001") if lost == "receipt" else layout.plan("000001")
    path.unlink()
    assert plan(source, layout, PlanConfig(shard_size=3)) == shards
    assert {shard: sha256_file(layout.plan(shard)) for shard in shards} == whole
    assert layout.shards_planned() == shards


@pytest.mark.parametrize("change", ["rows", "name", "config"])
def test_another_list_or_configuration_is_refused(
    tmp_path: Path, layout: DatasetLayout, change: str
) -> None:
    plan(write(tmp_path, "list.txt", list(GOOD)), layout, PlanConfig())
    before = files_below(layout.root)
    source = write(tmp_path, "other.txt" if change == "name" else "list.txt", list(GOOD))
    if change == "rows":
        source = write(tmp_path, "list.txt", GOOD[1:])
    config = PlanConfig(shard_size=2) if change == "config" else PlanConfig()
    with pytest.raises(UsageError, match="choose another folder"):
        plan(source, layout, config)
    assert files_below(layout.root) == before


@pytest.mark.parametrize("name", ["list.parquet", "list.txt"])
def test_a_list_of_too_many_shards_is_refused_before_anything_is_written(
    tmp_path: Path, layout: DatasetLayout, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("curation.plan.plan._MAX_SHARDS", 3)
    source = write(tmp_path, name, list(GOOD))
    with pytest.raises(UsageError, match="over 3 shards of 2 rows; choose --shard-size 3 or more"):
        plan(source, layout, PlanConfig(shard_size=2))
    assert not layout.root.exists()
    assert len(plan(source, layout, PlanConfig(shard_size=3))) == 3


def test_a_list_too_long_for_the_largest_shards_is_to_be_cut(
    tmp_path: Path, layout: DatasetLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("curation.plan.plan._MAX_SHARDS", 3)
    monkeypatch.setattr("curation.plan.plan._MAX_SHARD_SIZE", 2)
    with pytest.raises(UsageError, match="cut it into several lists"):
        plan(write(tmp_path, "list.txt", list(GOOD)), layout, PlanConfig(shard_size=2))


def test_a_list_that_grows_while_it_is_read_is_refused(
    tmp_path: Path, layout: DatasetLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(tmp_path, "list.txt", list(GOOD))
    find = Duplicates.find

    def grow(duplicates: Duplicates) -> int:
        source.write_text(source.read_text() + "http://example.org/late.jpg\n")
        return find(duplicates)

    monkeypatch.setattr(Duplicates, "find", grow)
    with pytest.raises(UsageError, match="had 7 rows and then 8: it changed"):
        plan(source, layout, PlanConfig())
    assert not layout.root.exists()


def test_a_long_plan_tells_how_far_it_is_and_a_short_one_nothing(
    tmp_path: Path,
    layout: DatasetLayout,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = write(tmp_path, "list.parquet", list(GOOD))
    plan(source, layout, PlanConfig(shard_size=4))
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr("curation.plan.row_progress.LINE_EVERY_S", 0.0)
    plan(source, DatasetLayout(tmp_path / "again"), PlanConfig(shard_size=4))
    told = capsys.readouterr().err.splitlines()
    assert [line.partition(" rows,")[0] for line in told] == [
        "reading URLs: 7/7",
        "planning: 4/7",
        "planning: 7/7",
    ]


def test_a_plan_that_cannot_be_published_leaves_the_folder_as_it_was(
    tmp_path: Path, layout: DatasetLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout.root.mkdir()
    (layout.root / "notes").write_text("mine")

    def full(at: DatasetLayout, receipt: Receipt) -> None:
        if receipt.shard == "000002":
            raise OSError(errno.ENOSPC, "No space left on device")
        write_receipt(at, receipt)

    monkeypatch.setattr("curation.plan.plan.write_receipt", full)
    with pytest.raises(OSError, match="No space left"):
        plan(write(tmp_path, "list.txt", list(GOOD)), layout, PlanConfig(shard_size=2))
    assert list(files_below(layout.root)) == ["notes"]


def broken_parquet(path: Path) -> None:
    pq.write_table(pa.table({"url": [f"http://h/{i}" for i in range(5000)]}), str(path))
    data = bytearray(path.read_bytes())
    middle = len(data) // 3
    data[middle : middle + 400] = b"\x00" * 400
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "make", "words"),
    [
        pytest.param("no.txt", lambda p: None, "No such file", id="missing"),
        pytest.param("dir.txt", lambda p: p.mkdir(), "Is a directory", id="folder"),
        pytest.param("a.txt", lambda p: p.write_bytes(b""), "no rows", id="empty txt"),
        pytest.param("a.csv", lambda p: p.write_bytes(b""), "is empty", id="empty csv"),
        pytest.param("a.csv", lambda p: p.write_text("url\n"), "no rows", id="header only"),
        pytest.param(
            "a.parquet",
            lambda p: pq.write_table(pa.table({"url": pa.array([], pa.string())}), str(p)),
            "no rows",
            id="empty parquet",
        ),
        pytest.param("a.json", lambda p: p.write_text("[]"), "must end in", id="unknown suffix"),
        pytest.param("a.parquet", lambda p: p.write_text("no"), "cannot be read", id="no parquet"),
        pytest.param("a.parquet", broken_parquet, "cannot be read", id="parquet damaged inside"),
        pytest.param("a.csv", lambda p: p.write_text("link\nx\n"), "no column 'url'", id="column"),
        pytest.param("a.csv", lambda p: p.write_text("url,url\nx,y\n"), "twice", id="twice"),
        pytest.param(
            "a.csv", lambda p: p.write_text("url,b\nx,y\nz\n"), "cannot be read", id="ragged"
        ),
        pytest.param(
            "a.csv",
            lambda p: p.write_bytes(b"url,b\nx,\xff\n"),
            "cannot be read",
            id="text not UTF-8",
        ),
    ],
)
def test_a_list_that_cannot_be_planned_is_one_line_and_leaves_nothing(
    tmp_path: Path, layout: DatasetLayout, name: str, make: Any, words: str
) -> None:
    make(tmp_path / name)
    with pytest.raises(UsageError, match=words) as caught:
        plan(tmp_path / name, layout, PlanConfig())
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)
    assert not layout.root.exists()


def test_a_broken_list_leaves_an_existing_folder_as_it_was(tmp_path: Path) -> None:
    layout = DatasetLayout(tmp_path / "dataset")
    layout.root.mkdir()
    (layout.root / "notes").write_text("mine")
    broken_parquet(tmp_path / "list.parquet")
    with pytest.raises(UsageError):
        plan(tmp_path / "list.parquet", layout, PlanConfig())
    assert list(files_below(layout.root)) == ["notes"]


@pytest.mark.parametrize(
    "settings",
    [
        {"shard_size": 0},
        {"shard_size": 10**6},
        {"max_url_bytes": 1},
        {"caption_column": "url"},
        {"caption_column": "a", "license_column": "a"},
    ],
)
def test_a_configuration_out_of_range_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        PlanConfig(**settings)
