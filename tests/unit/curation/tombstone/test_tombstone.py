"""What a removal asks for, what a removed row says, and what stays as it is."""

from __future__ import annotations

import tarfile
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from annotations_schema.errors import UsageError
from annotations_schema.layout import DatasetLayout, output_files, read_receipt, write_receipt
from annotations_schema.manifest import (
    read_manifest,
    read_provenance,
    table_from_rows,
    write_manifest,
)
from annotations_schema.validation import validate
from curation.cli import main
from curation.passes.passes import plan_pass
from curation.plan.urls import canonical_url, image_id_of_url
from curation.tombstone.find import find_rows
from curation.tombstone.tombstone import read_ids, resume, tombstone
from curation.tombstone.tombstones import add_tombstones, tombstoned, tombstoned_ids
from curation.verify.verify import verify

URL = "http://a.example/astronaut.png"
ID = image_id_of_url(canonical_url(URL, 100))


def ids_file(folder: Path, text: str) -> Path:
    path = folder / "ids.txt"
    path.write_text(text)
    return path


def test_ids_and_urls_in_any_spelling_are_read(tmp_path: Path) -> None:
    text = f"{'a' * 32}\n\n  HTTP://A.example:80/astronaut.png#x  \n"
    asked = read_ids(ids_file(tmp_path, text))
    assert asked == {"a" * 32: "a" * 32, ID: "HTTP://A.example:80/astronaut.png#x"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("\n  \n", "is empty"),
        (
            f"{ID}\nastronaut\n",
            r"line 2: 'astronaut' is neither an image_id .* nothing was removed",
        ),
        (f"{ID.upper()}\n", "line 1: .* is neither"),
    ],
)
def test_a_file_that_asks_for_nothing_or_nonsense_is_misuse(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        read_ids(ids_file(tmp_path, text))


def test_a_file_that_is_absent_or_binary_is_misuse(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"\xff\xfe\x00")
    for name in ("absent", "b"):
        with pytest.raises(UsageError, match="cannot be read"):
            read_ids(tmp_path / name)


def test_a_removed_row_keeps_its_place_and_nothing_else(curated: DatasetLayout) -> None:
    table = read_manifest(curated.annotations("000000"))
    table = table.append_column("input_note", pa.array(["Jane", "b", "c", "d"]))
    new = tombstoned(table, pa.array([ID]))
    row, *others = new.to_pylist()
    assert {name: value for name, value in row.items() if value is not None} == {
        "image_id": ID,
        "source_row": 0,
        "source_name": "list.csv",
        "status": "tombstoned",
        "stage": "fetch",
        "failure_code": "removed_on_request",
        "attempts": 0,
        "elapsed_ms": 0,
        "text_state": "not_run",
        "face_state": "not_run",
    }
    assert others == table.to_pylist()[1:]
    assert validate(new) == []
    assert new.schema.types == table.schema.types


def test_a_table_without_such_rows_is_the_same_object(curated: DatasetLayout) -> None:
    table = read_manifest(curated.annotations("000000"))
    assert tombstoned(table, pa.array(["0" * 32])) is table


def test_a_column_that_may_not_be_null_becomes_one_that_may() -> None:
    field = pa.field("input_n", pa.int64(), nullable=False)
    table = pa.table([pa.array([ID]), pa.array([7])], pa.schema([("image_id", pa.string()), field]))
    new = tombstoned(table, pa.array([ID]))
    assert new.column("input_n").to_pylist() == [None]
    assert new.schema.field("input_n").nullable


def test_the_list_grows_and_never_forgets(curated: DatasetLayout) -> None:
    assert tombstoned_ids(curated).to_pylist() == []
    add_tombstones(curated, ["b" * 32])
    add_tombstones(curated, ["a" * 32, "b" * 32])
    assert tombstoned_ids(curated).to_pylist() == ["a" * 32, "b" * 32]


def test_rows_that_repeat_the_url_are_found(curated: DatasetLayout) -> None:
    found = find_rows(curated, [ID, "0" * 32], with_copies=False)
    assert {shard: len(ids) for shard, ids in found.by_shard.items()} == {"000000": 1, "000001": 1}
    assert found.known == {ID}
    assert (found.already, found.copies_left) == (0, 0)


def test_what_a_removal_does_not_concern_stays_byte_for_byte(curated: DatasetLayout) -> None:
    last = pq.read_table(str(curated.plan("000001"))).column("image_id")[0].as_py()
    before = files(curated)
    removed = tombstone(curated, {last: last}, with_copies=False)
    changed = {name for name, data in files(curated).items() if before.get(name) != data}
    assert (removed.rows, removed.images, removed.files) == (1, 1, 4)
    assert all("000001" in name or "tombstone" in name for name in changed)
    assert verify(curated).findings == ()


def files(layout: DatasetLayout) -> dict[str, bytes]:
    paths = (path for path in layout.root.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(layout.root)): path.read_bytes() for path in paths}


def test_receipts_count_again_and_keep_times(curated: DatasetLayout) -> None:
    before = read_receipt(curated, "annotate", "000000")
    tombstone(curated, {ID: URL}, with_copies=False)
    after = read_receipt(curated, "annotate", "000000")
    assert before is not None
    assert after is not None
    assert after.counts["ok"] == before.counts["ok"] - 1
    assert (after.counts["tombstoned"], after.counts["removed_on_request"]) == (1, 1)
    assert after.counts["text_ms"] == before.counts["text_ms"]
    assert (after.elapsed_s, after.version) == (before.elapsed_s, before.version)


def test_leftovers_of_killed_runs_go_with_the_image(curated: DatasetLayout) -> None:
    leftovers = [
        curated.root / ".fetch-000000-x" / "images.spool",
        curated.images("000000").with_name(".000000.tar.abc.tmp"),
        curated.annotations("000000").with_name(".000000.parquet.abc.tmp"),
    ]
    for path in leftovers:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"the image")
    tombstone(curated, {ID: URL}, with_copies=False)
    assert not any(path.exists() for path in leftovers)


def test_a_pass_that_was_planned_before_its_shard_was_done_is_no_obstacle(
    curated: DatasetLayout,
) -> None:
    rows = read_manifest(curated.fetch("000000")).to_pylist()[2:3]
    plan_pass(curated, "000000.1", pq.read_table(str(curated.plan("000000"))), rows, rows)
    curated.receipt("fetch", "000000").unlink()
    tombstone(curated, {rows[0]["image_id"]: "2"}, with_copies=False)
    (planned,) = pq.read_table(str(curated.plan("000000.1"))).to_pylist()
    assert (planned["status"], planned["url"], planned["history"]) == ("tombstoned", None, None)
    assert not curated.images("000000").exists()


def test_a_manifest_of_fetch_tables_that_are_gone_is_not_vouched_for(
    curated: DatasetLayout,
) -> None:
    second = replace(curated, annotation_set="second")
    typed = ["annotate", str(curated.root), "--annotation-set", "second"]
    assert main(typed) == 0
    # The shard's first pass was fetched again: its other image did not come this time.
    image_id = read_manifest(curated.fetch("000000")).column("image_id")[1].as_py()
    tar = curated.images("000000")
    with tarfile.open(tar) as old, tarfile.open(tar.with_suffix(".new"), "w") as new:
        for member in old:
            if not member.name.startswith(image_id):
                new.addfile(member, old.extractfile(member))
    tar.with_suffix(".new").replace(tar)
    rows = read_manifest(curated.fetch("000000")).to_pylist()
    gone = {"sha256": None, "shard": None, "offset": None, "length": None, "stage": "fetch"}
    rows[1] |= {**gone, "status": "failed", "failure_code": "http_404"}
    provenance = read_provenance(curated.fetch("000000"))
    write_manifest(curated.fetch("000000"), table_from_rows(rows), provenance)
    receipt = read_receipt(curated, "fetch", "000000")
    assert receipt is not None
    outputs = output_files(curated, [tar, curated.fetch("000000")])
    write_receipt(curated, replace(receipt, outputs=outputs))
    tombstone(curated, {ID: URL}, with_copies=False)
    assert read_receipt(second, "annotate", "000000") is None
    assert main(typed) == 0
    assert read_manifest(second.annotations("000000")).column("status").to_pylist()[:2] == [
        "tombstoned",
        "failed",
    ]


@pytest.mark.parametrize("text", ["{", "[]", '{"number": 0}'])
def test_a_damaged_receipt_of_a_removal_is_one_clear_line(
    curated: DatasetLayout, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    tombstone(curated, {ID: URL}, with_copies=False)
    curated.receipt("tombstone", "000000").write_text(text)
    assert main(["tombstone", str(curated.root), "--resume"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "000000.json: not a receipt of a removal" in line


def test_resume_without_anything_to_finish_does_nothing(curated: DatasetLayout) -> None:
    before = files(curated)
    assert resume(curated).rows == 0
    assert files(curated) == before


@pytest.mark.parametrize("more", [[], ["ids.txt", "--resume"]])
def test_ids_or_resume_and_not_both(
    curated: DatasetLayout, more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tombstone", str(curated.root), *more]) == 2
    assert "needs a file of ids, or --resume" in capsys.readouterr().err


def test_a_folder_that_is_no_dataset_is_misuse(tmp_path: Path) -> None:
    path = ids_file(tmp_path, ID)
    assert main(["tombstone", str(tmp_path / "none"), str(path)]) == 2
    assert not (tmp_path / "none").exists()
