"""Each test plants one corruption in a finished dataset and sees it found and named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from annotations_schema.errors import UsageError
from annotations_schema.layout import DatasetLayout, output_files, read_receipt, write_receipt
from annotations_schema.manifest import read_manifest
from curation.verify.verify import WHOLE_DATASET, Finding, verify

FIRST, SECOND = "000000", "000001"
ASTRONAUT, COFFEE, GONE = 0, 1, 2


def test_a_finished_dataset_is_clean_and_says_what_was_checked(curated: DatasetLayout) -> None:
    shards: list[str] = []
    result = verify(curated, lambda shard, num_shards: shards.append(f"{shard}/{num_shards}"))
    assert result.findings == ()
    assert result.checked == {
        "shards": 2,
        "files": 8,
        "rows": 6,
        "images": 3,
        "text_regions": 2,
        "faces": 1,
    }
    assert shards == [f"{FIRST}/2", f"{SECOND}/2"]
    assert result.to_json()["is_clean"] is True


def test_a_folder_that_is_no_dataset_is_misuse(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a planned dataset"):
        verify(DatasetLayout(tmp_path))


def test_a_flipped_byte_in_a_tar_is_found_in_file_and_row(curated: DatasetLayout) -> None:
    row = read_manifest(curated.annotations(FIRST)).slice(COFFEE, 1).to_pylist()[0]
    data = bytearray(curated.images(FIRST).read_bytes())
    data[row["offset"] + row["length"] // 2] ^= 1
    curated.images(FIRST).write_bytes(data)
    found = verify(curated).findings
    assert [(one.shard, one.row, one.column) for one in found] == [
        (FIRST, None, f"images/{FIRST}.tar"),
        (FIRST, COFFEE, "sha256"),
    ]
    assert found[1].rule == "the bytes at the address hash to sha256"


def test_a_truncated_tar_is_found(curated: DatasetLayout) -> None:
    data = curated.images(FIRST).read_bytes()
    row = read_manifest(curated.annotations(FIRST)).slice(COFFEE, 1).to_pylist()[0]
    curated.images(FIRST).write_bytes(data[: row["offset"] + 10])
    found = verify(curated).findings
    assert (FIRST, COFFEE, "offset", "the address lies inside the tar") in {
        one[:4] for one in found
    }
    assert f"images/{FIRST}.tar" in {one.column for one in found}


def test_an_absent_tar_is_found(curated: DatasetLayout) -> None:
    curated.images(FIRST).unlink()
    assert {one.column for one in verify(curated).findings} == {f"images/{FIRST}.tar"}


def test_an_edited_text_box_is_found(curated: DatasetLayout) -> None:
    def move(row: dict[str, Any]) -> None:
        row["text_regions"][0]["box_xyxy"][2] += 3

    _edit(curated, COFFEE, move)
    found = verify(curated).findings
    assert {(one.row, one.column) for one in found} == {(COFFEE, "text_regions")}
    assert "box is quad's hull" in {one.rule for one in found}
    assert "area_fraction is area / image area" in {one.rule for one in found}


def test_a_box_outside_the_image_is_found(curated: DatasetLayout) -> None:
    def push_out(row: dict[str, Any]) -> None:
        row["face_regions"][0]["box_xyxy"] = [-5.0, 30.0, 134.0, 92.0]

    _edit(curated, ASTRONAUT, push_out)
    rules = {one.rule for one in verify(curated).findings if one.column == "face_regions"}
    assert "boxes lie in the image" in rules


@pytest.mark.parametrize("by", [2e-6, -0.5])
def test_an_edited_transform_is_found(curated: DatasetLayout, by: float) -> None:
    def shift(row: dict[str, Any]) -> None:
        matrix = row["face_regions"][0]["crop_from_image"]
        matrix[0] += by * max(1.0, abs(matrix[0]))

    _edit(curated, ASTRONAUT, shift)
    (found,) = verify(curated).findings
    assert found[:4] == (
        FIRST,
        ASTRONAUT,
        "face_regions.crop_from_image",
        "crop_from_image is the fit of landmarks_5",
    )


def test_an_edited_landmark_is_found(curated: DatasetLayout) -> None:
    def push(row: dict[str, Any]) -> None:
        row["face_regions"][0]["landmarks_5"][0] += 4

    _edit(curated, ASTRONAUT, push)
    columns = {one.column for one in verify(curated).findings}
    assert columns == {"face_regions.crop_from_image", "face_regions.residual_px"}


def test_an_edited_verdict_and_residual_are_found(curated: DatasetLayout) -> None:
    def spoil(row: dict[str, Any]) -> None:
        row["face_regions"][0] |= {"is_valid": False, "residual_px": 9.0}

    _edit(curated, ASTRONAUT, spoil)
    columns = {one.column for one in verify(curated).findings}
    assert columns == {"face_regions.is_valid", "face_regions.residual_px"}


@pytest.mark.parametrize(
    ("column", "value"),
    [("num_text", 3), ("max_text_height_px", 12.5), ("text_area_fraction", None)],
)
def test_a_summary_that_does_not_follow_is_found(
    curated: DatasetLayout, column: str, value: float | None
) -> None:
    _edit(curated, COFFEE, lambda row: row.update({column: value}))
    (found,) = verify(curated).findings
    assert (found.shard, found.row, found.column) == (FIRST, COFFEE, column)
    assert found.rule == f"{column} follows from the regions"


def test_a_size_that_the_header_denies_is_found(curated: DatasetLayout) -> None:
    _edit(curated, COFFEE, lambda row: row.update(stored_width=301))
    found = verify(curated).findings
    assert (COFFEE, "stored_width") in {(one.row, one.column) for one in found}


def test_a_format_that_the_header_denies_is_found(curated: DatasetLayout) -> None:
    _edit(curated, COFFEE, lambda row: row.update(format="jpeg"))
    (found,) = verify(curated).findings
    assert (found.row, found.column, found.found) == (COFFEE, "format", "jpeg, header png")


def test_an_address_of_another_shard_is_found(curated: DatasetLayout) -> None:
    _edit(curated, COFFEE, lambda row: row.update(shard=SECOND))
    rules = {one.rule for one in verify(curated).findings}
    assert "an image lies in the tar of its own shard" in rules
    assert "shard is as fetch wrote it" in rules


def test_a_state_against_the_footer_is_found(curated: DatasetLayout) -> None:
    _edit(
        curated,
        ASTRONAUT,
        lambda row: row.update(
            text_state="not_run",
            text_regions=None,
            **dict.fromkeys(
                ("num_text", "text_area_fraction", "max_text_score", "max_text_height_px")
            ),
        ),
    )
    (found,) = verify(curated).findings
    assert (found.row, found.column, found.found) == (0, "text_state", "not_run")


def test_a_changed_fact_of_fetch_is_found(curated: DatasetLayout) -> None:
    _edit(curated, COFFEE, lambda row: row.update(caption="Another caption"))
    (found,) = verify(curated).findings
    assert (found.row, found.column) == (COFFEE, "caption")
    assert found.rule == "caption is as fetch wrote it"


def test_a_user_column_with_nan_is_as_fetch_wrote_it(curated: DatasetLayout) -> None:
    nan = float("nan")
    for path in (curated.fetch(FIRST), curated.annotations(FIRST)):
        table = read_manifest(path)
        pairs = pa.array([[nan, 1.0]] * len(table))
        table = table.append_column("input_n", pa.array([nan] * len(table)))
        pq.write_table(table.append_column("input_pair", pairs), str(path))
    found = {finding.column for finding in verify(curated).findings}
    assert found
    assert found & {"input_n", "input_pair"} == set()


def test_a_verdict_of_fetch_that_annotate_changed_is_found(curated: DatasetLayout) -> None:
    codes = read_manifest(curated.annotations(FIRST)).column("failure_code").to_pylist()
    number = codes.index("http_404")
    _edit(curated, number, lambda row: row.update(failure_code="http_410"))
    findings = verify(curated).findings
    assert [(one.row, one.column) for one in findings] == [(number, "failure_code")]
    assert findings[0].found == "'http_410', fetch wrote 'http_404'"


def test_a_deleted_row_is_found_and_named(curated: DatasetLayout) -> None:
    table = read_manifest(curated.annotations(FIRST))
    gone = table.column("image_id")[GONE].as_py()
    _replace(curated, pa.concat_tables([table.slice(0, GONE), table.slice(GONE + 1)]))
    found = verify(curated).findings
    missing = [
        one for one in found if one.rule == "every planned row stands in annotate exactly once"
    ]
    assert len(missing) == 1
    assert gone in missing[0].found
    assert (WHOLE_DATASET, "rows") in {(one.shard, one.column) for one in found}


def test_a_row_given_twice_is_found(curated: DatasetLayout) -> None:
    table = read_manifest(curated.annotations(FIRST))
    _replace(curated, pa.concat_tables([table, table.slice(GONE, 1)]))
    rules = {one.rule for one in verify(curated).findings}
    assert "annotate holds planned rows only, each once" in rules
    assert "unique in the dataset" in rules


def test_an_image_id_in_two_shards_is_found(curated: DatasetLayout) -> None:
    first = read_manifest(curated.annotations(FIRST)).column("image_id")[0].as_py()
    _edit(curated, 0, lambda row: row.update(image_id=first), shard=SECOND)
    found = [one for one in verify(curated).findings if one.rule == "unique in the dataset"]
    assert {(one.shard, one.row) for one in found} == {(FIRST, 0), (SECOND, 0)}


def test_a_stale_receipt_is_found(curated: DatasetLayout) -> None:
    table = read_manifest(curated.annotations(FIRST))
    pq.write_table(table, str(curated.annotations(FIRST)), compression="gzip")
    found = verify(curated).findings
    assert {(one.shard, one.column) for one in found} == {(FIRST, f"annotations/{FIRST}.parquet")}
    assert found[0].rule.startswith(f"receipts/annotate/{FIRST}.json says ")


def test_a_receipt_of_another_configuration_is_found(curated: DatasetLayout) -> None:
    _change_receipt(curated, "fetch", config_sha256="0" * 64)
    (found,) = verify(curated).findings
    assert found.column == f"receipts/fetch/{FIRST}.json"
    assert found.rule == "a receipt is of the dataset's configuration"


def test_a_footer_of_another_configuration_is_found(curated: DatasetLayout) -> None:
    table = read_manifest(curated.annotations(FIRST))
    metadata = {
        key: value.replace(b'"config_sha256": "', b'"config_sha256": "0')
        for key, value in table.schema.metadata.items()
    }
    _replace(curated, table.replace_schema_metadata(metadata))
    (found,) = verify(curated).findings
    assert (found.column, found.rule) == (
        "footer config_sha256",
        "the footer is of the dataset's configuration",
    )


def test_a_shard_without_manifest_is_found(curated: DatasetLayout) -> None:
    curated.annotations(SECOND).unlink()
    curated.receipt("annotate", SECOND).unlink()
    found = verify(curated).findings
    assert (SECOND, f"receipts/annotate/{SECOND}.json") == (found[0].shard, found[0].column)
    assert found[-1].found == "4 rows"


def test_a_shard_lost_from_plan_to_manifest_is_found(curated: DatasetLayout) -> None:
    for path in curated.root.rglob(f"{SECOND}.*"):
        path.unlink()
    columns = {one.column for one in verify(curated).findings if one.shard == SECOND}
    assert columns == {f"receipts/{stage}/{SECOND}.json" for stage in ("plan", "fetch", "annotate")}


def test_a_shard_too_many_is_found(curated: DatasetLayout) -> None:
    receipt = curated.receipt("annotate", SECOND)
    receipt.with_name("000002.json").write_bytes(receipt.read_bytes())
    (found,) = verify(curated).findings
    assert (found.shard, found.found) == ("000002", "one too many")


def test_a_shard_set_aside_is_found_with_its_reason(curated: DatasetLayout) -> None:
    _change_receipt(curated, "annotate", set_aside="3 attempts; the last: boom", outputs={})
    found = verify(curated).findings
    assert found[0].rule.startswith("no shard is set aside")
    assert found[0].found == "3 attempts; the last: boom"


def test_a_manifest_that_is_no_parquet_is_found(curated: DatasetLayout) -> None:
    curated.annotations(FIRST).write_bytes(b"not Parquet")
    rules = {one.rule for one in verify(curated).findings if one.shard == FIRST}
    assert "it can be read" in rules


def test_a_receipt_that_is_no_json_is_found(curated: DatasetLayout) -> None:
    curated.receipt("fetch", FIRST).write_text("{")
    (found,) = verify(curated).findings
    assert (found.column, found.rule) == (
        f"receipts/fetch/{FIRST}.json",
        "a receipt can be read",
    )


def test_a_finding_reads_as_one_line() -> None:
    finding = Finding(FIRST, 3, "sha256", "the bytes hash to sha256", "other bytes")
    assert str(finding) == (
        "shard 000000 row 3, sha256: other bytes (rule: the bytes hash to sha256)"
    )


def _edit(
    layout: DatasetLayout,
    number: int,
    change: Callable[[dict[str, Any]], object],
    shard: str = FIRST,
) -> None:
    """Change one row of a manifest, past every check of the writer."""
    table = read_manifest(layout.annotations(shard))
    rows = table.to_pylist()
    change(rows[number])
    _replace(layout, pa.Table.from_pylist(rows, schema=table.schema), shard)


def _replace(layout: DatasetLayout, table: pa.Table, shard: str = FIRST) -> None:
    """Put a table in a manifest's place, with a receipt that fits its bytes."""
    path = layout.annotations(shard)
    pq.write_table(table, str(path))
    _change_receipt(layout, "annotate", shard, outputs=output_files(layout, [path]))


def _change_receipt(layout: DatasetLayout, stage: str, shard: str = FIRST, **changes: Any) -> None:
    receipt = read_receipt(layout, stage, shard)
    assert receipt is not None
    write_receipt(layout, replace(receipt, **changes))
